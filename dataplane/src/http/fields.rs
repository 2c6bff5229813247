//! Header rules of a gateway: what never leaves the hop it was meant for, what the edge adds, what only the edge may say
//! (RFC 9110 section 7.6, surface.md section 3.8).
//!
//! Framing headers are not rewritten here but dropped: the sender of a message writes its framing anew.

use std::io::Write as _;
use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, Entry, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// The edge's own error code towards visitors. An upstream's is removed.
pub(super) const ERROR_CODE: HeaderName = HeaderName::from_static("ngrok-error-code");

/// Names the operation of an answer that the edge made.
pub(super) const OPERATION: HeaderName = HeaderName::from_static("ngrok-operation-id");

/// Say that a policy asks, and which of its requests it is (`http-request`). A visitor's are removed.
pub(super) const CALL_TYPE: HeaderName = HeaderName::from_static("ngrok-req-type");
/// See [`CALL_TYPE`].
pub(super) const CALL_ID: HeaderName = HeaderName::from_static("ngrok-req-id");
/// Tells the asked where to report abuse.
pub(super) const REPORT_ABUSE: HeaderName = HeaderName::from_static("ngrok-report-abuse");

const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What only the edge may say.
const OURS: [HeaderName; 3] = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST];

/// Fields that only a policy may set on this hop: the edge writes X-Forwarded-* instead.
const OF_NOBODY: [HeaderName; 5] = [FORWARDED, REAL_IP, CALL_TYPE, CALL_ID, REPORT_ABUSE];

/// What never leaves its hop, whether nominated or not.
static HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, EXPECT, HTTP2_SETTINGS];

/// Bytes of the longest address as text.
const ADDRESS_BYTES_MAX: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();

/// Headers a Connection header cannot take away: the message would mean something else without them.
const NOT_NOMINABLE: [HeaderName; 2] = [HOST, CONTENT_LENGTH];

/// Removes what belongs to the visitor's (or upstream's) connection: Connection and what it nominates, its kin, and the
/// transfer coding. `TE: trailers` stays: it is true of the edge too.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages carry none of them; to look once is less than to remove each by name.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    for name in nominated(headers) {
        if !NOT_NOMINABLE.contains(&name) {
            headers.remove(name);
        }
    }
    let trailers = takes_trailers(headers);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// What [`strip_hop_by_hop`] takes away.
pub(super) fn hop_by_hop(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let nominated = nominated(headers);
    let goes = |name: &HeaderName| {
        HOP_BY_HOP.contains(name) || (nominated.contains(name) && !NOT_NOMINABLE.contains(name))
    };
    let fields = headers.iter().filter(|(name, _)| goes(name));
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let options = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    options
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .filter(|name| *name != TE)
        .collect()
}

/// Whether the sender takes a trailer section (RFC 9110 section 6.5.1).
pub(super) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(accepts_trailers)
}

fn accepts_trailers(value: &HeaderValue) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Whether a CGI gateway, which treats `_` and `-` alike, reads the name as this one.
fn reads_as(name: &HeaderName, own: &HeaderName) -> bool {
    let same = |(b, expect): (u8, u8)| b == expect || (b == b'_' && expect == b'-');
    let (name, own) = (name.as_str(), own.as_str());
    name.len() == own.len() && name.bytes().zip(own.bytes()).all(same)
}

/// Removes what a visitor says of where it comes from in the edge's place. X-Forwarded-* stay: the edge appends to them.
/// Done as a request comes in, so that policies may set these headers themselves.
pub(super) fn strip_origin(headers: &mut HeaderMap) {
    remove_all(headers, |name| OF_NOBODY.iter().any(|own| reads_as(name, own)));
}

fn remove_all(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// What the edge tells the upstream about the visitor.
pub(super) fn add_forwarded(headers: &mut HeaderMap, client: IpAddr, proto: &'static str) {
    remove_all(headers, |name| OURS.iter().any(|own| name != own && reads_as(name, own)));
    append_to_list(headers, FORWARDED_FOR, address_value(client));
    append_to_list(headers, FORWARDED_PROTO, HeaderValue::from_static(proto));
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Tells a host outside the visitor's address, and nothing else of the visitor.
pub(super) fn add_client(headers: &mut HeaderMap, client: IpAddr) {
    headers.insert(FORWARDED_FOR, address_value(client));
}

/// An address as a header says it.
fn address_value(address: IpAddr) -> HeaderValue {
    let mut text = [0; ADDRESS_BYTES_MAX];
    let mut room = text.as_mut_slice();
    let written = write!(room, "{}", address.to_canonical());
    let length = ADDRESS_BYTES_MAX - room.len();
    let value = written.ok().and_then(|()| HeaderValue::from_bytes(text.get(..length)?).ok());
    value.unwrap_or(HeaderValue::from_static("unknown"))
}

/// One header with one more item at its end.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, item: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(entry) => drop(entry.insert(item)),
        Entry::Occupied(mut entry) => {
            let mut list = Vec::new();
            for value in entry.iter() {
                list.extend_from_slice(value.as_bytes());
                list.extend_from_slice(b", ");
            }
            list.extend_from_slice(item.as_bytes());
            entry.insert(HeaderValue::from_bytes(&list).unwrap_or(item));
        }
    }
}

/// Whether the message is a gRPC call.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"))
}

/// Makes a visitor's headers ready for an upstream that speaks HTTP/1.1: its sender frames the body.
pub(super) fn for_http1(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TE, TRAILER] {
        headers.remove(name);
    }
}

/// Makes an upstream's response headers the edge's own.
pub(super) fn clean_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(TE);
    headers.remove(ERROR_CODE);
    headers.remove(OPERATION);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let fields = text.split('|').filter_map(|line| line.split_once(": "));
        fields
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    fn text(headers: &HeaderMap) -> String {
        let mut fields: Vec<_> =
            headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        fields.sort();
        fields.join("|")
    }

    #[test]
    fn hop_by_hop_headers_stay_on_their_hop() {
        let check = |input: &str, expect: &str| {
            let mut headers = headers(input);
            strip_hop_by_hop(&mut headers);
            assert_eq!(text(&headers), expect, "{input}");
        };
        check("connection: close, x-a|x-a: 1|x-b: 2", "x-b: 2");
        check("connection: x-a|connection: X-B|x-a: 1|x-b: 2", "");
        check("connection: host, content-length|host: a|content-length: 1", "content-length: 1|host: a");
        check(
            "keep-alive: 5|proxy-connection: a|upgrade: h2c|http2-settings: x|transfer-encoding: chunked",
            "",
        );
        check("te: trailers, deflate|connection: te", "te: trailers");
        check("te: deflate|expect: 100-continue", "");
        check("connection: \"bad(|cookie: a", "cookie: a");
    }

    #[test]
    fn forwarded_headers_are_appended() {
        let mut map = headers("host: a.example|x-forwarded-for: 9.9.9.9|x-forwarded-for: 8.8.8.8");
        add_forwarded(&mut map, "::ffff:192.0.2.1".parse().unwrap(), "https");
        assert_eq!(
            text(&map),
            "host: a.example|x-forwarded-for: 9.9.9.9, 8.8.8.8, 192.0.2.1|x-forwarded-host: a.example|x-forwarded-proto: https"
        );
        let mut map = headers(
            "host: a.example|x_forwarded_for: 9.9.9.9|X-Forwarded_For: 9.9.9.9|x_forwarded-proto: ftp|x-forwarded-host: b.example|x-forwarded-proto: http",
        );
        add_forwarded(&mut map, "2001:db8::1".parse().unwrap(), "https");
        assert_eq!(
            text(&map),
            "host: a.example|x-forwarded-for: 2001:db8::1|x-forwarded-host: b.example|x-forwarded-proto: http, https"
        );
    }

    #[test]
    fn a_visitor_does_not_say_where_it_comes_from() {
        let mut map = headers(
            "ngrok-req-type: http-request|ngrok-req-id: op_1|forwarded: for=9.9.9.9|X-Real-IP: 9.9.9.9|x_real_ip: 9.9.9.9|x-real-ip-2: a|x-forwarded-for: 8.8.8.8",
        );
        strip_origin(&mut map);
        assert_eq!(text(&map), "x-forwarded-for: 8.8.8.8|x-real-ip-2: a");
    }

    #[test]
    fn an_upstream_cannot_speak_for_the_edge() {
        let mut map = headers("ngrok-error-code: ERR_NGROK_1|connection: x-a|x-a: 1|server: s");
        clean_response(&mut map);
        assert_eq!(text(&map), "server: s");
    }
}
