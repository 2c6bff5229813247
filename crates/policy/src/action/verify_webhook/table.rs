//! The reference's table of providers, made from the table that verifies: no provider is described otherwise than it is judged.

use std::fmt::Write as _;

use super::provider::{Encoding, Form, Hash, Hmac, PROVIDERS, Part, Scheme, UNSERVED};
use super::signature::tolerance_secs;

/// Markdown.
pub(super) fn markdown() -> String {
    let mut out =
        "| provider | shows itself by | of | a request may be as old as |\n|---|---|---|---|\n".to_owned();
    for (id, scheme) in PROVIDERS {
        let (shown, of) = columns(scheme);
        let age = match tolerance_secs(scheme) {
            Some(secs) => format!("{secs} s"),
            None => "no bound".to_owned(),
        };
        let _ = writeln!(out, "| `{id}` | {shown} | {of} | {age} |");
    }
    out.push_str("\nWithout a bound nothing keeps a request from being sent again.\n\nThese published providers are refused when a policy is saved:\n\n");
    for (id, reason) in UNSERVED {
        let _ = writeln!(out, "- `{id}`: {reason}.");
    }
    out
}

fn columns(scheme: &Scheme) -> (String, String) {
    let (shown, of) = match scheme {
        Scheme::Token(header) => return (format!("the secret in `{header}`"), "nothing else".to_owned()),
        Scheme::Hmac(hmac) => return (shown(hmac), of(hmac)),
        Scheme::Form(header) => {
            return (format!("HMAC-SHA1, base64, in `{header}`"), "URL, fields of the form".to_owned());
        }
        Scheme::Mailgun => ("HMAC-SHA256, hex, in the body", "time, token"),
        Scheme::SendGrid => (
            "ECDSA, base64, in `x-twilio-email-event-webhook-signature`; the secret is the public key",
            "time, body",
        ),
        Scheme::Contentful => (
            "HMAC-SHA256, hex, in `x-contentful-signature`",
            "method, path, the headers that `x-contentful-signed-headers` names, body",
        ),
        Scheme::Hygraph => ("HMAC-SHA256, base64, in `gcms-signature`", "body, environment, time"),
        Scheme::Plivo => (
            "HMAC-SHA256, base64, in `x-plivo-signature-v3` or `-ma-v3`",
            "URL, fields of the form, `x-plivo-signature-v3-nonce`",
        ),
        Scheme::Sns => (
            "RSA with SHA-1 or SHA-256, base64, in the body; no secret",
            "members of the body, time among them",
        ),
    };
    (shown.to_owned(), of.to_owned())
}

fn shown(hmac: &Hmac) -> String {
    let hash = match hmac.hash {
        Hash::Sha1 => "SHA1",
        Hash::Sha256 => "SHA256",
        Hash::Sha512 => "SHA512",
    };
    let encoding = match hmac.encoding {
        Encoding::Hex => "hex",
        Encoding::Base64 => "base64",
    };
    let behind = match hmac.form {
        Form::Prefix("") | Form::List { prefix: "", .. } => String::new(),
        Form::Prefix(prefix) | Form::List { prefix, .. } => format!(" behind `{prefix}`"),
        Form::Pairs { signature, .. } => format!(" behind `{signature}=`"),
    };
    format!("HMAC-{hash}, {encoding}{behind}, in `{}`", hmac.header)
}

fn of(hmac: &Hmac) -> String {
    let named = hmac.signed.iter().filter_map(|part| match part {
        Part::Text(_) => None,
        Part::Stamp => Some("time".to_owned()),
        Part::Header(name) => Some(format!("`{name}`")),
        Part::Method => Some("method".to_owned()),
        Part::Url => Some("URL".to_owned()),
        Part::Body => Some("body".to_owned()),
    });
    named.collect::<Vec<_>>().join(", ")
}
