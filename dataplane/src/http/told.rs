//! What a traffic event tells of a request's own words: bounded, and without what is likely to be secret. Pure.

use http::HeaderMap;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName,
    RANGE, VARY, VIA,
};

/// Bytes of a query that are told.
const QUERY_BYTES_MAX: usize = 2 << 10;
/// Bytes of a header's value that are told.
const VALUE_BYTES_MAX: usize = 256;
/// What stands in a secret's place.
const MASK: &str = "(masked)";

/// Headers of requests that are told: none that carries credentials, names a person or holds a URL.
const REQUEST_HEADERS: &[HeaderName] =
    &[ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RANGE, VIA];
/// Headers of responses that are told.
const RESPONSE_HEADERS: &[HeaderName] = &[AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY, VIA];

/// Names of parameters that hold secrets.
const SECRET_NAMES: &[&str] = &["code", "jwt", "key", "otp", "pin", "pw", "sid", "sig", "state"];
/// Parts of names of parameters that hold secrets.
const SECRET_PARTS: &[&str] = &[
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "accesskey",
    "assertion",
    "auth",
    "credential",
    "nonce",
    "passw",
    "pwd",
    "secret",
    "session",
    "signature",
    "ticket",
    "token",
];

/// A query with its secrets masked by the names of their parameters.
pub(super) fn query(text: &str) -> String {
    let mut told = String::new();
    for part in text.split('&') {
        if !told.is_empty() {
            told.push('&');
        }
        match part.split_once('=') {
            Some((name, value)) if !value.is_empty() && is_secret(name) => {
                told.extend([name, "=", MASK]);
            }
            _ => told.push_str(part),
        }
        if told.len() > QUERY_BYTES_MAX {
            break;
        }
    }
    cut(told, QUERY_BYTES_MAX)
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // An encoded name may say anything.
    name.contains('%')
        || SECRET_NAMES.contains(&name.as_str())
        || SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// The headers of a request that are told.
pub(super) fn request_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    chosen(headers, REQUEST_HEADERS)
}

/// The headers of a response that are told.
pub(super) fn response_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    chosen(headers, RESPONSE_HEADERS)
}

fn chosen(headers: &HeaderMap, names: &[HeaderName]) -> Vec<(String, String)> {
    let told = names.iter().filter_map(|name| Some((name.to_string(), value(headers, name)?)));
    told.collect()
}

/// The first value of a header as text, cut to its longest told length.
pub(super) fn value(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.as_bytes();
    let first = value.get(..VALUE_BYTES_MAX).unwrap_or(value);
    Some(short(String::from_utf8_lossy(first).into_owned()))
}

/// A text cut to the longest told length of a value.
pub(super) fn short(text: String) -> String {
    cut(text, VALUE_BYTES_MAX)
}

fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::{AUTHORIZATION, COOKIE, REFERER, SET_COOKIE, USER_AGENT};

    #[test]
    fn secrets_in_a_query_are_masked_by_their_names() {
        let check = |text: &str, expect: &str| assert_eq!(query(text), expect, "{text}");
        check("a=1&page=2&flag&empty=", "a=1&page=2&flag&empty=");
        check("access_token=x&a=1", "access_token=(masked)&a=1");
        check(
            "API_KEY=x&Sig=y&code=z&password=p",
            "API_KEY=(masked)&Sig=(masked)&code=(masked)&password=(masked)",
        );
        check("X-Amz-Signature=x&X-Amz-Credential=y", "X-Amz-Signature=(masked)&X-Amz-Credential=(masked)");
        check("%74oken=x", "%74oken=(masked)");
        check("postcode=1&design=2", "postcode=1&design=2");
        check("token=", "token=");
        check("", "");
        let long = format!("a={}&token=secret", "é".repeat(QUERY_BYTES_MAX));
        assert!(query(&long).len() <= QUERY_BYTES_MAX && !query(&long).contains("secret"));
        let many = "a=1&".repeat(QUERY_BYTES_MAX) + "token=secret";
        assert!(query(&many).len() <= QUERY_BYTES_MAX && !query(&many).contains("secret"));
    }

    #[test]
    fn headers_are_those_of_the_list_and_short() {
        let mut headers = HeaderMap::new();
        for name in
            [AUTHORIZATION, COOKIE, SET_COOKIE, REFERER, USER_AGENT, HeaderName::from_static("x-api-key")]
        {
            headers.insert(name, HeaderValue::from_static("secret"));
        }
        assert!(request_headers(&headers).is_empty() && response_headers(&headers).is_empty());
        headers.insert(ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(ACCEPT, HeaderValue::from_static("second"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(&[0xe9; 1000]).unwrap());
        let told = request_headers(&headers);
        assert_eq!(told[0], ("accept".to_owned(), "text/html".to_owned()));
        assert!(told[1].0 == "content-type" && told[1].1.len() <= VALUE_BYTES_MAX);
        assert_eq!(value(&headers, &USER_AGENT).as_deref(), Some("secret"));
    }
}
