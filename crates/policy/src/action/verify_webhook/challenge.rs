//! What some providers ask when a webhook is set up, and the answer: it proves that the receiver has the secret.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::signed::Signed;
use crate::hex::hex;
use crate::verdict::Reply;

/// Longest challenge, in bytes.
const CHALLENGE_BYTES_MAX: usize = 1024;

/// The answer to a challenge that comes before any signature.
pub(super) fn unsigned(provider: &str, secret: &str, request: &Signed) -> Option<Reply> {
    if request.method != Method::GET.as_str() || secret.is_empty() {
        return None;
    }
    match provider {
        "twitter" => {
            let query = request.url.split_once('?')?.1;
            let (_, given) =
                form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "crc_token")?;
            let tag = STANDARD.encode(sign(secret, token(&given)?));
            Some(answer("application/json", json!({ "response_token": format!("sha256={tag}") }).to_string()))
        }
        "worldline" => {
            let given = request.headers.get("x-gcs-webhooks-endpoint-verification")?.to_str().ok()?;
            Some(answer("text/plain", token(given)?.to_owned()))
        }
        _ => None,
    }
}

/// The answer to a challenge with a right signature.
pub(super) fn signed(provider: &str, secret: &str, body: &[u8]) -> Option<Reply> {
    let body: Value = match provider {
        "xero" | "zoom" => serde_json::from_slice(body).ok()?,
        _ => return None,
    };
    match provider {
        "zoom" if body.get("event")? == "endpoint.url_validation" => {
            let plain = token(body.pointer("/payload/plainToken")?.as_str()?)?;
            let reply = json!({ "plainToken": plain, "encryptedToken": hex(sign(secret, plain)) });
            Some(answer("application/json", reply.to_string()))
        }
        "xero" if body.get("events")?.as_array().is_some_and(Vec::is_empty) => {
            Some(Reply::empty(StatusCode::OK, None))
        }
        _ => None,
    }
}

/// A challenge that no webhook's body can be: these have braces or blanks. Else anybody could have a body signed here.
fn token(text: &str) -> Option<&str> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-_.+/=".contains(&b);
    (text.len() <= CHALLENGE_BYTES_MAX && text.bytes().all(is_token)).then_some(text)
}

fn sign(secret: &str, text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes())
}

fn answer(kind: &'static str, body: String) -> Reply {
    let mut reply = Reply::empty(StatusCode::OK, None);
    reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply.body = Bytes::from(body);
    reply
}
