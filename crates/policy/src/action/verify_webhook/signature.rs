//! Whether a request carries its provider's signature: a pure function of secret, request, body and time.
//!
//! Signatures are compared in constant time. A header that is there twice is no signature.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::{constant_time, digest, hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::provider::{Encoding, Form, Hmac, Key, Part, Scheme, Stamp, TOLERANCE_SECS, Unit};
use super::signed::{Defect, FIELDS_MAX, SIGNATURES_MAX, Signed, check_time, from_hex, header_text};
use super::{contentful, hygraph, plivo, sns};

/// Whether the request is the provider's.
pub(super) fn verify(scheme: &Scheme, secret: &str, request: &Signed) -> Result<(), Defect> {
    if secret.is_empty() {
        return Err(Defect::Secret);
    }
    match scheme {
        Scheme::Token(header) => {
            let given = header_text(request.headers, header)?;
            let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
            constant_time::verify_slices_are_equal(digest(given).as_ref(), digest(secret).as_ref())
                .map_err(|_| Defect::Wrong)
        }
        Scheme::Hmac(hmac) => keyed(hmac, secret, request),
        Scheme::Form(header) => form(header, secret, request),
        Scheme::Mailgun => mailgun(secret, request),
        Scheme::SendGrid => sendgrid(secret, request),
        Scheme::Contentful => contentful::verify(secret, request),
        Scheme::Hygraph => hygraph::verify(secret, request),
        Scheme::Plivo => plivo::verify(secret, request),
        // Has no secret; see `sns::verify`.
        Scheme::Sns => Err(Defect::Secret),
    }
}

/// Seconds by which the signed time may differ from ours; None: no time is signed.
pub(super) fn tolerance_secs(scheme: &Scheme) -> Option<u32> {
    match scheme {
        Scheme::Token(_) | Scheme::Form(_) | Scheme::Plivo => None,
        Scheme::Hmac(hmac) => hmac.stamp.map(|stamp| stamp.tolerance_secs),
        Scheme::Mailgun | Scheme::SendGrid | Scheme::Hygraph => Some(TOLERANCE_SECS),
        Scheme::Contentful => Some(contentful::TOLERANCE_SECS),
        Scheme::Sns => Some(sns::TOLERANCE_SECS),
    }
}

fn keyed(scheme: &Hmac, secret: &str, request: &Signed) -> Result<(), Defect> {
    let key = match scheme.key {
        Key::Text => secret.as_bytes().to_vec(),
        Key::Base64 => STANDARD.decode(secret).map_err(|_| Defect::Secret)?,
        Key::Behind(prefix) => {
            STANDARD.decode(secret.strip_prefix(prefix).unwrap_or(secret)).map_err(|_| Defect::Secret)?
        }
    };
    if key.is_empty() {
        return Err(Defect::Secret);
    }
    let (signatures, paired) = signatures(scheme, header_text(request.headers, scheme.header)?)?;
    let time = match scheme.stamp {
        Some(Stamp { header: Some(name), .. }) => header_text(request.headers, name)?,
        _ => paired.unwrap_or(""),
    };
    if let Some(stamp) = scheme.stamp {
        check_time(stamp.unit, stamp.tolerance_secs, time, request.now_unix_ms)?;
    }
    let key = hmac::Key::new(scheme.hash.algorithm(), &key);
    let mut signed = Vec::with_capacity(request.body.len() + 256);
    for part in scheme.signed {
        signed.extend_from_slice(match part {
            Part::Text(text) => text.as_bytes(),
            Part::Stamp => time.as_bytes(),
            Part::Header(name) => header_text(request.headers, name)?.as_bytes(),
            Part::Method => request.method.as_bytes(),
            Part::Url => request.url.as_bytes(),
            Part::Body => request.body,
        });
    }
    let is_right = |signature: &&[u8]| hmac::verify(&key, &signed, signature).is_ok();
    if signatures.iter().map(Vec::as_slice).any(|signature| is_right(&signature)) {
        Ok(())
    } else {
        Err(Defect::Wrong)
    }
}

/// The signatures of a header, decoded, and the time that stands beside them.
fn signatures<'h>(scheme: &Hmac, header: &'h str) -> Result<(Vec<Vec<u8>>, Option<&'h str>), Defect> {
    let (mut texts, mut time) = (Vec::new(), None);
    match scheme.form {
        Form::Prefix(prefix) => texts.extend(header.strip_prefix(prefix)),
        Form::List { separator, prefix } => {
            texts.extend(header.split(separator).filter_map(|one| one.trim().strip_prefix(prefix)));
        }
        Form::Pairs { time: time_name, signature } => {
            for (name, value) in header.split(',').filter_map(|pair| pair.trim().split_once('=')) {
                if name == signature {
                    texts.push(value);
                } else if name == time_name && time.replace(value).is_some() {
                    return Err(Defect::Form(scheme.header));
                }
            }
        }
    }
    let signatures: Vec<Vec<u8>> = texts
        .into_iter()
        .take(SIGNATURES_MAX)
        .filter_map(|text| match scheme.encoding {
            Encoding::Hex => from_hex(text),
            Encoding::Base64 => STANDARD.decode(text).ok(),
        })
        .collect();
    if signatures.is_empty() { Err(Defect::Form(scheme.header)) } else { Ok((signatures, time)) }
}

/// The URL and the form's fields, sorted by name, without anything between. A body that is no form is hashed into the URL.
fn form(header: &'static str, secret: &str, request: &Signed) -> Result<(), Defect> {
    let given = STANDARD.decode(header_text(request.headers, header)?).map_err(|_| Defect::Form(header))?;
    let mut signed = request.url.to_owned();
    let hashed = request.url.split_once('?').and_then(|(_, query)| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "bodySHA256")
            .map(|(_, value)| value)
    });
    if let Some(hash) = hashed {
        let expected = from_hex(&hash).ok_or(Defect::Body)?;
        let actual = digest::digest(&digest::SHA256, request.body);
        constant_time::verify_slices_are_equal(actual.as_ref(), &expected).map_err(|_| Defect::Wrong)?;
    } else {
        add_fields(&mut signed, request.body)?;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    hmac::verify(&key, signed.as_bytes(), &given).map_err(|_| Defect::Wrong)
}

/// Adds a form's fields, sorted, each once.
fn add_fields(signed: &mut String, body: &[u8]) -> Result<(), Defect> {
    let mut fields: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (count, (name, value)) in form_urlencoded::parse(body).enumerate() {
        if count >= FIELDS_MAX {
            return Err(Defect::Body);
        }
        fields.entry(name.into_owned()).or_default().insert(value.into_owned());
    }
    for (name, values) in &fields {
        for value in values {
            signed.extend([name.as_str(), value.as_str()]);
        }
    }
    Ok(())
}

fn mailgun(secret: &str, request: &Signed) -> Result<(), Defect> {
    #[derive(Deserialize)]
    struct Body {
        signature: Signed,
    }
    #[derive(Deserialize)]
    struct Signed {
        timestamp: String,
        token: String,
        #[serde(rename = "signature")]
        tag: String,
    }
    let body: Body = serde_json::from_slice(request.body).map_err(|_| Defect::Body)?;
    let Signed { timestamp, token, tag } = body.signature;
    check_time(Unit::Secs, TOLERANCE_SECS, &timestamp, request.now_unix_ms)?;
    let given = from_hex(&tag).ok_or(Defect::Body)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, format!("{timestamp}{token}").as_bytes(), &given).map_err(|_| Defect::Wrong)
}

fn sendgrid(secret: &str, request: &Signed) -> Result<(), Defect> {
    const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
    const TIME: &str = "x-twilio-email-event-webhook-timestamp";
    /// Bytes of a `SubjectPublicKeyInfo` of P-256 before the point (RFC 5480).
    const SPKI_BYTES: usize = 26;
    let key = STANDARD.decode(secret).map_err(|_| Defect::Secret)?;
    let point = key.get(SPKI_BYTES..).ok_or(Defect::Secret)?;
    let given = STANDARD.decode(header_text(request.headers, SIGNATURE)?);
    let given = given.map_err(|_| Defect::Form(SIGNATURE))?;
    let time = header_text(request.headers, TIME)?;
    check_time(Unit::Secs, TOLERANCE_SECS, time, request.now_unix_ms)?;
    let signed = [time.as_bytes(), request.body].concat();
    let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point);
    key.verify(&signed, &given).map_err(|_| Defect::Wrong)
}
