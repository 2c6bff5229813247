//! Plivo, version 3: an HMAC-SHA256 of the URL, the sorted fields of the form, and a nonce.
//!
//! Version 2 signs neither fields nor query. A person with one signed request could write others, so version 2 is not taken.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::signed::{Defect, FIELDS_MAX, Signed, header_text, is_tag};

const SIGNATURE: &str = "x-plivo-signature-v3";
/// The same, made with the token of the main account, where a sub-account's made the other.
const MAIN_SIGNATURE: &str = "x-plivo-signature-ma-v3";
const NONCE: &str = "x-plivo-signature-v3-nonce";

pub(super) fn verify(secret: &str, request: &Signed) -> Result<(), Defect> {
    let headers = [SIGNATURE, MAIN_SIGNATURE].into_iter().filter(|name| request.headers.contains_key(*name));
    let mut tags = Vec::new();
    for name in headers {
        let texts = header_text(request.headers, name)?.split(',');
        tags.extend(texts.filter_map(|text| STANDARD.decode(text.trim()).ok()));
    }
    if tags.is_empty() {
        return Err(Defect::Header(SIGNATURE));
    }
    let nonce = header_text(request.headers, NONCE)?;
    let text = format!("{}.{nonce}", signed(request)?);
    is_tag(secret, text.as_bytes(), tags)
}

/// `URL?QUERY.FIELDS`, both sorted by name and value, decoded; a lone `?` where there are fields and no query.
fn signed(request: &Signed) -> Result<String, Defect> {
    let (url, query) = request.url.split_once('?').unwrap_or((request.url, ""));
    let query = pairs(query.as_bytes())?;
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let fields = if request.method == "GET" { Vec::new() } else { pairs(request.body)? };
    let mut signed = url.to_owned();
    if !query.is_empty() || !fields.is_empty() {
        signed.push('?');
        signed.push_str(&query.join("&"));
    }
    if !query.is_empty() && !fields.is_empty() {
        signed.push('.');
    }
    signed.extend(fields.into_iter().flat_map(|(name, value)| [name, value]));
    Ok(signed)
}

fn pairs(text: &[u8]) -> Result<Vec<(String, String)>, Defect> {
    let mut pairs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (count, (name, value)) in form_urlencoded::parse(text).enumerate() {
        if count >= FIELDS_MAX {
            return Err(Defect::Body);
        }
        pairs.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    let sorted = pairs.into_iter().flat_map(|(name, mut values)| {
        values.sort_unstable();
        values.into_iter().map(move |value| (name.clone(), value))
    });
    Ok(sorted.collect())
}
