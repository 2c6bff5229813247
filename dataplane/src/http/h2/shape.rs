//! Shapes of HTTP/2 requests that h2 lets through and an HTTP/1.1 upstream could read differently (RFC 9113 sections
//! 8.2 and 8.3, RFC 9110).

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode, Uri};

use crate::http::answer::Failure;
use crate::http::framing::{
    Authority, FIELDS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX, is_field_value, is_target, length,
};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Shape {
    #[error("CONNECT is not served here")]
    Connect,
    #[error("the method is too long")]
    Method,
    #[error("the scheme is neither http nor https")]
    Scheme,
    #[error("the path is malformed")]
    Path,
    #[error("the path is too long")]
    PathTooLong,
    #[error("there is no valid authority")]
    Authority,
    #[error("the authority and the Host header disagree")]
    AuthorityDisagrees,
    #[error("too many header fields")]
    FieldCount,
    #[error("a header value has white space around it or a control byte in it")]
    FieldValue,
    #[error("a header that belongs to an HTTP/1 connection")]
    ConnectionSpecific,
    #[error("Content-Length is not one plain number")]
    Length,
    #[error("Content-Length without a body")]
    LengthWithoutBody,
    #[error("the expectation is not `100-continue`")]
    Expectation,
}

impl Shape {
    /// What the visitor is told.
    pub(super) fn failure(self) -> Failure {
        let status = match self {
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::PathTooLong => StatusCode::URI_TOO_LONG,
            Self::FieldCount => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        };
        Failure::plain(status, format!("The request was not accepted: {self}."))
    }
}

/// Judges a head and brings it into the form the walk knows: origin-form target, one Host, one Cookie.
pub(super) fn check(head: &mut Parts, over: bool) -> Result<Authority, Shape> {
    if head.method == Method::CONNECT {
        return Err(Shape::Connect);
    }
    if head.method.as_str().len() > METHOD_BYTES_MAX {
        return Err(Shape::Method);
    }
    if head.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Shape::Scheme);
    }
    check_path(head)?;
    let authority = check_authority(head)?;
    check_fields(&head.headers)?;
    check_length(&head.headers, over)?;
    join_cookies(&mut head.headers);
    Ok(authority)
}

fn check_path(head: &mut Parts) -> Result<(), Shape> {
    let path = head.uri.path_and_query().cloned().ok_or(Shape::Path)?;
    if path.as_str().len() > TARGET_BYTES_MAX {
        return Err(Shape::PathTooLong);
    }
    let asterisk = path.as_str() == "*" && head.method == Method::OPTIONS;
    if !asterisk && !is_target(path.as_str().as_bytes()) {
        return Err(Shape::Path);
    }
    Ok(())
}

fn check_authority(head: &mut Parts) -> Result<Authority, Shape> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Shape::AuthorityDisagrees);
    }
    let written = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let text = written.or(host.map(HeaderValue::as_bytes)).ok_or(Shape::Authority)?;
    let authority = Authority::parse(text).map_err(|_| Shape::Authority)?;
    if let Some(host) = host {
        let host = Authority::parse(host.as_bytes()).map_err(|_| Shape::Authority)?;
        let default = if head.uri.scheme_str() == Some("http") { 80 } else { 443 };
        if !host.agrees(&authority, default) {
            return Err(Shape::AuthorityDisagrees);
        }
    }
    let value = HeaderValue::from_bytes(text).map_err(|_| Shape::Authority)?;
    let path = head.uri.path_and_query().cloned().ok_or(Shape::Path)?;
    head.headers.insert(HOST, value);
    head.uri = Uri::from(path);
    Ok(authority)
}

fn check_fields(headers: &HeaderMap) -> Result<(), Shape> {
    // Cookie crumbs become one header (RFC 9113 section 8.2.3), so they count as one.
    if headers.len() - headers.get_all(COOKIE).iter().count() >= FIELDS_MAX {
        return Err(Shape::FieldCount);
    }
    let hop = ["keep-alive", "proxy-connection", "http2-settings", "content_length", "transfer_encoding"];
    let hop = hop.map(HeaderName::from_static);
    let forbidden = [CONNECTION, TRANSFER_ENCODING, UPGRADE];
    if forbidden.iter().chain(&hop).any(|name| headers.contains_key(name)) {
        return Err(Shape::ConnectionSpecific);
    }
    if headers.get_all(TE).iter().any(|te| te != "trailers") {
        return Err(Shape::ConnectionSpecific);
    }
    if headers.get_all(EXPECT).iter().any(|expect| !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Shape::Expectation);
    }
    if headers.values().all(|value| is_field_value(value.as_bytes())) {
        Ok(())
    } else {
        Err(Shape::FieldValue)
    }
}

fn check_length(headers: &HeaderMap, over: bool) -> Result<(), Shape> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(Shape::Length),
        (Some(one), None) => match length(one.as_bytes()) {
            Err(_) => Err(Shape::Length),
            Ok(0) => Ok(()),
            Ok(_) if over => Err(Shape::LengthWithoutBody),
            Ok(_) => Ok(()),
        },
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn judged(uri: &str, fields: &[(&str, &str)], over: bool) -> Result<(String, String), Shape> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let authority = check(&mut head, over)?;
        assert_eq!(head.headers.get_all(HOST).iter().count(), 1);
        Ok((head.uri.to_string(), authority.host.to_string()))
    }

    #[test]
    fn good_shapes() {
        let ok = |path: &str| Ok((path.to_owned(), "a.example".to_owned()));
        assert_eq!(judged("https://a.example/x?y", &[], true), ok("/x?y"));
        assert_eq!(judged("/x", &[("host", "A.example:80")], true), ok("/x"));
        assert_eq!(judged("https://a.example/", &[("host", "a.example")], true), ok("/"));
        assert_eq!(judged("https://a.example/", &[("host", "a.example:443")], true), ok("/"));
        assert_eq!(judged("https://a.example:443/", &[("host", "a.example:")], true), ok("/"));
        assert_eq!(judged("http://a.example/", &[("host", "a.example:80")], true), ok("/"));
        assert_eq!(
            judged("https://a.example/", &[("content-length", "5"), ("te", "trailers")], false),
            ok("/")
        );
        assert_eq!(judged("https://a.example/", &[("content-length", "0")], true), ok("/"));
    }

    #[test]
    fn bad_shapes() {
        let check = |uri: &str, fields: &[(&str, &str)], expect: Shape| {
            assert_eq!(judged(uri, fields, true), Err(expect), "{uri} {fields:?}");
        };
        check("/", &[], Shape::Authority);
        check("ftp://a.example/", &[], Shape::Scheme);
        check("https://u@a.example/", &[], Shape::Authority);
        check("https://a.example/", &[("host", "b.example")], Shape::AuthorityDisagrees);
        check(
            "https://a.example/",
            &[("host", "a.example"), ("host", "a.example")],
            Shape::AuthorityDisagrees,
        );
        check("https://a.example:444/", &[("host", "a.example")], Shape::AuthorityDisagrees);
        check("https://a.example/", &[("host", "a.example:80")], Shape::AuthorityDisagrees);
        check("https://a.example/\u{e9}", &[], Shape::Path);
        check("https://a.example/", &[("connection", "close")], Shape::ConnectionSpecific);
        check("https://a.example/", &[("transfer-encoding", "chunked")], Shape::ConnectionSpecific);
        check("https://a.example/", &[("te", "gzip")], Shape::ConnectionSpecific);
        check("https://a.example/", &[("content_length", "1")], Shape::ConnectionSpecific);
        check("https://a.example/", &[("content-length", "1"), ("content-length", "1")], Shape::Length);
        check("https://a.example/", &[("content-length", "+1")], Shape::Length);
        check("https://a.example/", &[("content-length", "1")], Shape::LengthWithoutBody);
        check("https://a.example/", &[("x", " a")], Shape::FieldValue);
        check("https://a.example/", &[("x", "a\t")], Shape::FieldValue);
        check("https://a.example/", &[("expect", "x")], Shape::Expectation);
        check("https://a.example/", &vec![("x", "y"); FIELDS_MAX + 1], Shape::FieldCount);
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        let mut headers: HeaderMap = HeaderMap::new();
        for crumb in ["a=1", "b=2"] {
            headers.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
