//! Webhook: HTTPS POST of a batch, signed as Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`).

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Uri};

use super::contract::{Sink, SinkError, judge};
use crate::clock::UnixSecs;
use crate::events::http::Client;
use crate::events::net::{Guard, tls_config};
use crate::secret::hash_hex;

/// Begins a secret in text form.
pub(super) const SECRET_PREFIX: &str = "whsec_";
/// Characters of the batch's hash in its id.
const ID_CHARS: usize = 32;

pub(super) struct Webhook {
    url: Uri,
    key: Vec<u8>,
    client: Client,
}

impl Webhook {
    pub(super) fn new(url: &str, secret: &str, ca_pem: &str, guard: Guard) -> Result<Self, SinkError> {
        let url = url.parse().map_err(|_| SinkError::new(format_args!("`{url}` is no URL")))?;
        let key =
            secret_bytes(secret).ok_or_else(|| SinkError::new("the secret of the webhook is damaged"))?;
        Ok(Self { url, key, client: Client::new(guard, tls_config(ca_pem)?) })
    }
}

/// The bytes of a secret: `whsec_` and base64.
pub(crate) fn secret_bytes(secret: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()
}

/// The value of `webhook-signature` for a body.
pub fn signature(key: &[u8], id: &str, timestamp: UnixSecs, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)))
}

impl Sink for Webhook {
    fn send<'a>(&'a mut self, batch: &'a [Bytes], now: UnixSecs) -> BoxFuture<'a, Result<u64, SinkError>> {
        let body = Bytes::from([b"{\"events\":[", &batch.join(&b","[..])[..], b"]}"].concat());
        // The same batch has the same id however often it is sent.
        let id: String = "msg_".chars().chain(hash_hex(&body).chars().take(ID_CHARS)).collect();
        let signature = signature(&self.key, &id, now, &body);
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "ebbgate")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature)
            .body(body);
        async move {
            let answer = self.client.send(request.map_err(SinkError::new)?).await?;
            judge(&answer, now).map(|()| 0)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signs_as_the_specification_shows() {
        let key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let made = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
