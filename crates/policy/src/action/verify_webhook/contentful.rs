//! Contentful: an HMAC-SHA256 of method, path, chosen headers and body, a line each.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::provider::Unit;
use super::signed::{Defect, Signed, check_time, from_hex, header_text, is_tag};

const SIGNATURE: &str = "x-contentful-signature";
const TIME: &str = "x-contentful-timestamp";
const NAMES: &str = "x-contentful-signed-headers";
/// Most headers that one signature is of.
const NAMES_MAX: usize = 64;
/// Seconds that the provider's own verifier lets pass.
pub(super) const TOLERANCE_SECS: u32 = 30;

/// What JavaScript's `encodeURIComponent` leaves alone.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');
/// What its `encodeURI` leaves alone.
const URI: &AsciiSet = &COMPONENT
    .remove(b';')
    .remove(b',')
    .remove(b'/')
    .remove(b'?')
    .remove(b':')
    .remove(b'@')
    .remove(b'&')
    .remove(b'=')
    .remove(b'+')
    .remove(b'$')
    .remove(b'#');

pub(super) fn verify(secret: &str, request: &Signed) -> Result<(), Defect> {
    let tag = from_hex(header_text(request.headers, SIGNATURE)?).ok_or(Defect::Form(SIGNATURE))?;
    check_time(Unit::Millis, TOLERANCE_SECS, header_text(request.headers, TIME)?, request.now_unix_ms)?;
    let mut names: Vec<&str> = header_text(request.headers, NAMES)?.split(',').collect();
    names.sort_unstable();
    names.dedup();
    // Both are signed always; a list without them would let the time be replaced.
    if names.len() > NAMES_MAX || ![TIME, NAMES].iter().all(|name| names.contains(name)) {
        return Err(Defect::Form(NAMES));
    }
    let mut lines = format!("{}\n{}\n", request.method, path(request.url));
    for (at, name) in names.iter().enumerate() {
        let value = match *name {
            NAMES => names.join(","),
            name => single(request, name)?.to_owned(),
        };
        let separator = if at == 0 { "" } else { ";" };
        lines.extend([separator, name, ":", value.trim()]);
    }
    lines.push('\n');
    let text = [lines.as_bytes(), request.body].concat();
    is_tag(secret, &text, [tag])
}

/// A header that the sender chose to sign.
fn single<'r>(request: &Signed<'r>, name: &str) -> Result<&'r str, Defect> {
    let mut values = request.headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Defect::Form(NAMES)) };
    value.to_str().map_err(|_| Defect::Form(NAMES))
}

/// Path and query as the provider's library writes them: the query escaped twice, and nothing behind a second `?`.
fn path(url: &str) -> String {
    let behind = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = behind.find('/').and_then(|at| behind.get(at..)).unwrap_or("/");
    let mut pieces = path.split('?');
    let path = pieces.next().unwrap_or_default();
    match pieces.next().filter(|query| !query.is_empty()) {
        None => utf8_percent_encode(path, URI).to_string(),
        Some(query) => {
            let query = utf8_percent_encode(query, COMPONENT);
            utf8_percent_encode(&format!("{path}?{query}"), URI).to_string()
        }
    }
}
