//! Requests and responses taken apart for expressions: URLs, query strings, cookies, media types. Pure text work.

use std::collections::BTreeMap;

use http::header::{self, HeaderMap, HeaderName};
use serde_json::{Map, Value, json};

use crate::facts::Context;

/// All headers: lower-case name to list of values. Values that are not text are shown with their odd bytes replaced.
pub(super) fn headers(headers: Option<&HeaderMap>) -> Value {
    let mut map: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, value) in headers.into_iter().flatten() {
        map.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into());
    }
    map.into_iter()
        .map(|(name, values)| (name.to_owned(), Value::Array(values)))
        .collect::<Map<_, _>>()
        .into()
}

/// All values of one header, by a name in any case.
pub(super) fn header_values(headers: Option<&HeaderMap>, name: &str) -> Vec<String> {
    let values = headers.into_iter().flat_map(|headers| headers.get_all(name));
    values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

pub(super) fn first(headers: Option<&HeaderMap>, name: &HeaderName) -> String {
    let value = headers.and_then(|headers| headers.get(name));
    value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}

/// The comma-separated elements of a header, all its lines together (RFC 9110 section 5.6.1).
pub(super) fn listed(headers: Option<&HeaderMap>, name: &HeaderName) -> Value {
    let lines = header_values(headers, name.as_str());
    let elements =
        lines.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty());
    elements.collect::<Vec<_>>().into()
}

pub(super) fn content_length(headers: Option<&HeaderMap>) -> i64 {
    first(headers, &header::CONTENT_LENGTH).parse().unwrap_or(0)
}

/// `text/html` of `text/HTML; charset=utf-8`.
pub(super) fn media_type(headers: Option<&HeaderMap>) -> String {
    let raw = first(headers, &header::CONTENT_TYPE);
    raw.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) fn media_parameters(headers: Option<&HeaderMap>) -> Value {
    let raw = first(headers, &header::CONTENT_TYPE);
    let parameters = raw.split(';').skip(1).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').into()))
    });
    parameters.collect::<Map<String, Value>>().into()
}

/// Cookies of a request: name to list of `{name, value}`, in the order sent (RFC 6265 section 4.2.1).
pub(super) fn request_cookies(headers: Option<&HeaderMap>) -> Value {
    let mut cookies = Map::new();
    for line in header_values(headers, header::COOKIE.as_str()) {
        for pair in line.split(';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let name = name.trim();
            push(&mut cookies, name, json!({ "name": name, "value": value.trim().trim_matches('"') }));
        }
    }
    cookies.into()
}

fn push(map: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Array(list) = map.entry(name).or_insert_with(|| json!([])) {
        list.push(value);
    }
}

/// A cookie's attribute, and what an absent one reads as.
type Attribute = (&'static str, fn() -> Value);
const ATTRIBUTES: &[Attribute] = &[
    ("domain", || "".into()),
    ("expires", || "".into()),
    ("http_only", || false.into()),
    ("max_age", || 0.into()),
    ("path", || "".into()),
    ("same_site", || "".into()),
    ("secure", || false.into()),
];

/// Cookies a response sets: name to list of their attributes (RFC 6265 section 5.2).
pub(super) fn response_cookies(headers: Option<&HeaderMap>) -> Value {
    let mut cookies = Map::new();
    for line in header_values(headers, header::SET_COOKIE.as_str()) {
        let mut parts = line.split(';');
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
        let name = name.trim();
        let mut cookie = Map::new();
        cookie.insert("name".to_owned(), name.into());
        cookie.insert("value".to_owned(), value.trim().trim_matches('"').into());
        for (key, default) in ATTRIBUTES {
            cookie.insert((*key).to_owned(), default());
        }
        let mut unparsed: Vec<Value> = Vec::new();
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let value = value.trim();
            let (key, value): (&str, Value) = match key.trim().to_ascii_lowercase().as_str() {
                "domain" => ("domain", value.into()),
                "expires" => ("expires", value.into()),
                "httponly" => ("http_only", true.into()),
                "max-age" => ("max_age", value.parse::<i64>().unwrap_or(0).into()),
                "path" => ("path", value.into()),
                "samesite" => ("same_site", value.into()),
                "secure" => ("secure", true.into()),
                _ => {
                    unparsed.push(attribute.trim().into());
                    continue;
                }
            };
            cookie.insert(key.to_owned(), value);
        }
        cookie.insert("unparsed_attributes".to_owned(), unparsed.into());
        push(&mut cookies, name, cookie.into());
    }
    cookies.into()
}

/// Host and port as the client wrote them.
pub(super) fn host(cx: &Context) -> String {
    let Some(request) = &cx.request else { return String::new() };
    let authority = request.uri.authority().map(|authority| authority.as_str().to_owned());
    authority.unwrap_or_else(|| first(Some(&request.headers), &header::HOST))
}

/// The host without its port.
pub(super) fn host_name(cx: &Context) -> String {
    let host = host(cx);
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
        _ => host,
    }
}

pub(super) fn port(cx: &Context) -> u16 {
    let port = host(cx).rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.unwrap_or_else(|| cx.endpoint.url.scheme().default_port().unwrap_or(0))
}

pub(super) fn raw_path(cx: &Context) -> &str {
    cx.request.as_ref().map_or("", |request| request.uri.path())
}

/// The path with percent escapes decoded; bytes that are no UTF-8 are replaced.
pub(super) fn decoded_path(cx: &Context) -> String {
    percent_encoding::percent_decode_str(raw_path(cx)).decode_utf8_lossy().into_owned()
}

pub(super) fn query(cx: &Context) -> &str {
    cx.request.as_ref().and_then(|request| request.uri.query()).unwrap_or("")
}

pub(super) fn path_and_query(cx: &Context) -> String {
    match query(cx) {
        "" => raw_path(cx).to_owned(),
        query => format!("{}?{query}", raw_path(cx)),
    }
}

/// The whole URL a visitor asked for.
pub(crate) fn url(cx: &Context) -> String {
    format!("{}://{}{}", cx.endpoint.url.scheme(), host(cx), path_and_query(cx))
}

/// A query string as name to list of values, percent escapes and `+` decoded.
pub(super) fn parameters(query: &str) -> Value {
    let mut map = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        push(&mut map, &name, value.into_owned().into());
    }
    map.into()
}

/// A map of values (or lists of values) as a query string, names sorted.
pub(super) fn encode_parameters(map: &Map<String, Value>) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    let sorted: BTreeMap<_, _> = map.iter().collect();
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (name, value) in sorted {
        match value {
            Value::Array(values) => values.iter().for_each(|value| {
                pairs.append_pair(name, &plain(value));
            }),
            value => {
                pairs.append_pair(name, &plain(value));
            }
        }
    }
    pairs.finish()
}

pub(super) fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        http::Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}
