//! Traffic events as objects with the published fields, as far as an edge tells them; what it does not tell is null.

use ebbgate_model::event::{ConnectionEvent, RequestEvent};
use serde_json::{Map, Value, json};

use crate::api::timestamp;
use crate::clock::UnixSecs;

use super::types::{HTTP, TCP};

/// Published fields of `tcp_connection_closed.v0`, and whether edges tell them. docs/events.md says why some are not told.
const TCP_FIELDS: &[(&str, bool)] = &[
    ("conn.bytes_in", true),
    ("conn.bytes_out", true),
    ("conn.client_ip", true),
    ("conn.end_ts", true),
    ("conn.server_ip", true),
    ("conn.server_name", true),
    ("conn.server_port", true),
    ("conn.start_ts", true),
    ("ip_policy.decision", true),
    ("ja4_fingerprint", true),
    ("traffic_policy.logs", true),
    ("traffic_policy.not_enforced", true),
];
/// Published fields of `http_request_complete.v0`, and whether edges tell them.
const HTTP_FIELDS: &[(&str, bool)] = &[
    ("backend.connection_reused", true),
    ("basic_auth.decision", true),
    ("basic_auth.username", true),
    ("circuit_breaker.decision", true),
    ("compression.algorithm", false),
    ("compression.bytes_saved", false),
    ("conn.client_ip", true),
    ("conn.server_ip", true),
    ("conn.server_name", true),
    ("conn.server_port", true),
    ("conn.start_ts", true),
    ("http.request.body_length", true),
    ("http.request.headers", true),
    ("http.request.method", true),
    ("http.request.url.host", true),
    ("http.request.url.path", true),
    ("http.request.url.query", true),
    ("http.request.url.raw", true),
    ("http.request.url.scheme", true),
    ("http.request.user_agent", true),
    ("http.response.body_length", true),
    ("http.response.headers", true),
    ("http.response.status_code", true),
    ("ip_policy.decision", true),
    ("ja4_fingerprint", true),
    ("oauth.app_client_id", false),
    ("oauth.decision", false),
    ("oauth.user.id", false),
    ("oauth.user.name", false),
    ("tls.cipher_suite", true),
    ("tls.client_cert.serial_number", true),
    ("tls.client_cert.subject.cn", true),
    ("tls.version", true),
    ("traffic_policy.logs", true),
    ("traffic_policy.not_enforced", true),
    ("webhook_verification.decision", true),
];
/// Fields that a filter may look at.
const FILTERABLE: &[&str] = &["conn.client_ip", "conn.server_ip", "conn.server_name", "conn.server_port"];

/// What happened, as an edge tells it.
#[derive(Debug)]
pub enum Traffic {
    /// A connection ended.
    Connection(Box<ConnectionEvent>),
    /// A request was answered.
    Request(Box<RequestEvent>),
}

/// The published fields of a traffic event; none of another type.
pub fn fields(kind: &str) -> &'static [(&'static str, bool)] {
    match kind {
        TCP => TCP_FIELDS,
        HTTP => HTTP_FIELDS,
        _ => &[],
    }
}

/// An object with every field a filter may look at, for checking filters.
pub fn example() -> Value {
    json!({"conn": {"client_ip": "192.0.2.1", "server_ip": "192.0.2.2", "server_name": "example.com", "server_port": 443}})
}

/// What a filter sees of an object.
pub fn filterable(object: &Value) -> Value {
    let names: Vec<String> = FILTERABLE.iter().map(|name| (*name).to_owned()).collect();
    select(object, &names)
}

/// The object with these fields alone, each in its place; missing ones are null.
pub fn select(object: &Value, fields: &[String]) -> Value {
    let mut chosen = Value::Object(Map::new());
    for field in fields {
        let pointer = format!("/{}", field.replace('.', "/"));
        place(&mut chosen, field, object.pointer(&pointer).cloned().unwrap_or_default());
    }
    chosen
}

fn place(into: &mut Value, path: &str, value: Value) {
    let Value::Object(fields) = into else { return };
    match path.split_once('.') {
        None => drop(fields.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let below = fields.entry(first).or_insert_with(|| Value::Object(Map::new()));
            place(below, rest, value);
        }
    }
}

impl Traffic {
    /// Type of the event.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connection(_) => TCP,
            Self::Request(_) => HTTP,
        }
    }

    /// Owner of the endpoint reached.
    pub fn account(&self) -> Option<ebbgate_model::AccountId> {
        match self {
            Self::Connection(event) => event.account,
            Self::Request(event) => event.account,
        }
    }

    /// Id of the operation, or "".
    pub fn operation(&self) -> &str {
        match self {
            Self::Connection(event) => &event.operation,
            Self::Request(event) => &event.operation,
        }
    }

    /// When it ended.
    pub fn at(&self) -> UnixSecs {
        let (started, lasted) = match self {
            Self::Connection(event) => (event.started_at_ms, event.duration_ms),
            Self::Request(event) => (event.started_at_ms, event.duration_ms),
        };
        ended(started, lasted) / 1000
    }

    /// All that is known, in the published places.
    pub fn object(&self) -> Value {
        match self {
            Self::Connection(event) => connection(event),
            Self::Request(event) => request(event),
        }
    }
}

fn ended(started_ms: i64, lasted_ms: u64) -> i64 {
    started_ms.saturating_add(i64::try_from(lasted_ms).unwrap_or(i64::MAX))
}

/// Address and port of `ip:port`; null where it is none.
fn split(address: &str) -> (Value, Value) {
    match address.parse::<std::net::SocketAddr>() {
        Ok(address) => (ebbgate_model::canonical_ip(address.ip()).to_string().into(), address.port().into()),
        Err(_) => (Value::Null, Value::Null),
    }
}

/// A text; null where there is none.
fn given(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// Headers by name, each with its values.
fn headers(told: &[(String, String)]) -> Value {
    let named = told.iter().map(|(name, value)| (name.clone(), json!([value])));
    Value::Object(named.collect())
}

fn connection(event: &ConnectionEvent) -> Value {
    let ((client, _), (server, port)) = (split(&event.client), split(&event.server));
    json!({
        "conn": {
            "bytes_in": event.bytes_in, "bytes_out": event.bytes_out, "client_ip": client,
            "end_ts": timestamp(ended(event.started_at_ms, event.duration_ms) / 1000),
            "server_ip": server, "server_name": event.server_name, "server_port": port,
            "start_ts": timestamp(event.started_at_ms / 1000),
        },
        "ip_policy": {"decision": given(&event.decisions.ip_policy)},
        "ja4_fingerprint": given(&event.ja4),
        "traffic_policy": {"logs": event.policy_logs, "not_enforced": event.not_enforced},
    })
}

fn request(event: &RequestEvent) -> Value {
    let ((client, _), (server, port)) = (split(&event.client), split(&event.server));
    let host = event.host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let scheme = event.url.split_once("://").map(|(scheme, _)| scheme);
    let query = if event.query.is_empty() { String::new() } else { format!("?{}", event.query) };
    let raw = scheme.map(|scheme| format!("{scheme}://{}{}{query}", event.host, event.path));
    let decisions = &event.decisions;
    json!({
        "backend": {"connection_reused": event.connection_reused},
        "basic_auth": {
            "decision": given(&decisions.basic_auth), "username": given(&decisions.basic_auth_user),
        },
        "circuit_breaker": {"decision": given(&decisions.circuit_breaker)},
        "conn": {
            "client_ip": client, "server_ip": server, "server_name": event.server_name, "server_port": port,
            "start_ts": timestamp(event.started_at_ms / 1000),
        },
        "http": {
            "request": {
                "body_length": event.bytes_in, "headers": headers(&event.request_headers), "method": event.method,
                "url": {
                    "host": host.map_or(event.host.as_str(), |(host, _)| host), "path": event.path,
                    "query": given(&event.query), "raw": raw, "scheme": scheme,
                },
                "user_agent": given(&event.user_agent),
            },
            "response": {
                "body_length": event.bytes_out, "headers": headers(&event.response_headers),
                "status_code": event.status,
            },
        },
        "ip_policy": {"decision": given(&decisions.ip_policy)},
        "ja4_fingerprint": given(&event.ja4),
        "tls": {
            "cipher_suite": given(&event.cipher_suite),
            "client_cert": {
                "serial_number": given(&event.client_cert_serial),
                "subject": {"cn": given(&event.client_cert_cn)},
            },
            "version": given(&event.tls_version),
        },
        "traffic_policy": {"logs": event.policy_logs, "not_enforced": event.not_enforced},
        "webhook_verification": {"decision": given(&decisions.webhook)},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_chosen_in_their_places() {
        let event = ConnectionEvent {
            client: "[::ffff:192.0.2.7]:1234".into(),
            server: "198.51.100.1:443".into(),
            started_at_ms: 1_767_225_600_000,
            duration_ms: 2_500,
            bytes_in: 7,
            ..ConnectionEvent::default()
        };
        let traffic = Traffic::Connection(Box::new(event));
        let object = traffic.object();
        let wanted = ["conn.client_ip", "conn.end_ts", "ip_policy.decision"].map(str::to_owned);
        assert_eq!(
            select(&object, &wanted),
            json!({"conn": {"client_ip": "192.0.2.7", "end_ts": "2026-01-01T00:00:02Z"}, "ip_policy": {"decision": null}})
        );
        assert_eq!(filterable(&object)["conn"]["server_port"], 443);
        assert_eq!(traffic.at(), 1_767_225_602);
    }

    /// The page names each field that is null, with its reason.
    #[test]
    fn what_is_not_told_stands_on_the_page() {
        let page = include_str!("../../../docs/events.md");
        for (name, known) in TCP_FIELDS.iter().chain(HTTP_FIELDS) {
            let row = format!("| `{name}` |");
            let whole = format!("| `{}.*` |", name.split('.').next().unwrap());
            assert_eq!(page.contains(&row) || page.contains(&whole), !*known, "{name}");
        }
    }

    #[test]
    fn a_request_is_told_in_the_published_places() {
        let event = RequestEvent {
            url: "https://a.example.com".into(),
            host: "a.example.com:8443".into(),
            path: "/x".into(),
            query: "a=1&token=(masked)".into(),
            request_headers: vec![("accept".into(), "text/html".into())],
            user_agent: "curl/8".into(),
            connection_reused: Some(true),
            ..RequestEvent::default()
        };
        let object = Traffic::Request(Box::new(event)).object();
        let url = json!({"host": "a.example.com", "path": "/x", "query": "a=1&token=(masked)", "scheme": "https",
                         "raw": "https://a.example.com:8443/x?a=1&token=(masked)"});
        assert_eq!(object["http"]["request"]["url"], url);
        assert_eq!(object["http"]["request"]["headers"], json!({"accept": ["text/html"]}));
        assert_eq!(object["backend"]["connection_reused"], true);
        assert_eq!(object["ip_policy"]["decision"], Value::Null);
    }

    #[test]
    fn what_is_called_known_is_in_the_object() {
        for traffic in [Traffic::Connection(Box::default()), Traffic::Request(Box::default())] {
            let object = traffic.object();
            for (name, known) in fields(traffic.kind()) {
                let found = object.pointer(&format!("/{}", name.replace('.', "/"))).is_some();
                assert_eq!(found, *known, "{name}");
            }
        }
    }
}
