//! A traffic event as a context for the engine, and which names it tells.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ebbgate_model::EndpointUrl;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RANGE, VIA,
};
use http::{HeaderName, HeaderValue, Method, Uri, header};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::facts::{ConnFacts, Context, EndpointFacts, TlsFacts};

/// Longest record as text.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a header that an event tells; a value of that length may have been cut.
const HEADER_BYTES_TOLD: usize = 256;
/// Bytes of a query that an event tells.
const QUERY_BYTES_TOLD: usize = 2 << 10;
/// What an event has in the place of a secret.
const MASK: &str = "(masked)";
/// Headers of requests that events tell.
const HEADERS: [HeaderName; 8] =
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RANGE, VIA];

/// Names of expressions that every event tells.
const TOLD: [&str; 16] = [
    "conn.client_ip",
    "conn.ts.start",
    "endpoint.addr",
    "endpoint.host",
    "endpoint.port",
    "endpoint.protocol",
    "endpoint.url",
    "req.host",
    "req.method",
    "req.url.authority",
    "req.url.host",
    "req.url.path",
    "req.url.port",
    "req.url.raw_path",
    "req.url.scheme",
    "time.now",
];

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(String);

impl RecordError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Record {
    client: IpAddr,
    server: SocketAddr,
    now_unix_ms: i64,
    start_unix_ms: i64,
    tls: Option<TlsFacts>,
    /// None: the event is of a connection.
    pub(super) request: Option<http::request::Parts>,
    /// Headers with values that may have been cut.
    cut: Vec<HeaderName>,
    is_query_whole: bool,
    /// Status that was answered. None: the event does not tell it.
    pub(super) status: Option<u16>,
}

fn text<'v>(object: &'v Value, pointer: &str) -> Option<&'v str> {
    object.pointer(pointer).and_then(Value::as_str)
}

fn unix_ms(text: Option<&str>) -> Option<i64> {
    let time = OffsetDateTime::parse(text?, &Rfc3339).ok()?;
    time.unix_timestamp().checked_mul(1000)
}

impl Record {
    /// Reads an event; None: it is of another endpoint or of another type.
    pub(super) fn read(line: &str, url: &EndpointUrl) -> Result<Option<Self>, RecordError> {
        if line.len() > RECORD_BYTES_MAX {
            return Err(RecordError::new(format!("a record is longer than {RECORD_BYTES_MAX} bytes")));
        }
        let event: Value =
            serde_json::from_str(line).map_err(|e| RecordError::new(format!("this is not an event: {e}")))?;
        let wanted =
            if url.scheme().is_http() { "http_request_complete.v0" } else { "tcp_connection_closed.v0" };
        let Some(kind) = text(&event, "/event_type") else {
            return Err(RecordError::new("this is not an event: it has no `event_type`"));
        };
        let object = event.get("object").filter(|object| object.is_object());
        let Some(object) = object.filter(|_| kind == wanted) else { return Ok(None) };
        if !is_of(object, url) {
            return Ok(None);
        }
        let missing = |field: &str| {
            RecordError::new(format!("the event has no `{field}`; subscribe to all fields of {wanted}"))
        };
        let client = text(object, "/conn/client_ip").and_then(|text| text.parse().ok());
        let client = client.ok_or_else(|| missing("conn.client_ip"))?;
        let now_unix_ms = unix_ms(text(&event, "/event_timestamp"));
        let now_unix_ms =
            now_unix_ms.ok_or_else(|| RecordError::new("the event has no `event_timestamp`"))?;
        let server_ip = text(object, "/conn/server_ip").and_then(|text| text.parse().ok());
        let port = object
            .pointer("/conn/server_port")
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok());
        let server =
            SocketAddr::new(server_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port.unwrap_or(url.port()));
        let own = |pointer: &str| text(object, pointer).unwrap_or_default().to_owned();
        let version = own("/tls/version");
        let tls = (!version.is_empty()).then(|| TlsFacts {
            version,
            cipher_suite: own("/tls/cipher_suite"),
            sni: own("/conn/server_name"),
            ja4: own("/ja4_fingerprint"),
            ..TlsFacts::default()
        });
        let (mut cut, mut is_query_whole) = (Vec::new(), true);
        let request = if url.scheme().is_http() {
            let request = request(object, &missing, &mut cut)?;
            let query = request.uri.query().unwrap_or_default();
            is_query_whole = !query.contains(MASK) && query.len() < QUERY_BYTES_TOLD;
            Some(request)
        } else {
            None
        };
        let start_unix_ms = unix_ms(text(object, "/conn/start_ts")).unwrap_or(now_unix_ms);
        let status = object.pointer("/http/response/status_code").and_then(Value::as_u64);
        let status = status.and_then(|status| u16::try_from(status).ok());
        Ok(Some(Self {
            client,
            server,
            now_unix_ms,
            start_unix_ms,
            tls,
            request,
            cut,
            is_query_whole,
            status,
        }))
    }

    /// The facts as the engine takes them.
    pub(super) fn context(&self, url: &EndpointUrl) -> Context {
        let conn = ConnFacts {
            client: SocketAddr::new(self.client, 0),
            server: self.server,
            region: String::new(),
            start_unix_ms: self.start_unix_ms,
            tls: None,
            traffic: None,
        };
        let endpoint = EndpointFacts::new(String::new(), url.clone());
        Context::new(Arc::new(conn), Arc::new(endpoint), self.now_unix_ms)
    }

    /// The handshake, as far as the event tells it.
    pub(super) fn handshake(&self) -> Arc<TlsFacts> {
        Arc::new(self.tls.clone().unwrap_or_default())
    }

    /// Whether the event tells what has this name in an expression.
    pub(super) fn tells(&self, name: &str) -> bool {
        let header = |name: &str| {
            HEADERS.iter().any(|told| told == name) && !self.cut.iter().any(|cut| cut == name)
                || (name == "user-agent" && !self.cut.contains(&header::USER_AGENT))
                || name == "host"
        };
        let inner = name.strip_prefix("has(").and_then(|name| name.strip_suffix(')')).unwrap_or(name);
        if let Some(rest) = inner.strip_prefix("req.headers['") {
            return header(rest.trim_end_matches("']"));
        }
        if let Some((name, _)) = inner.strip_prefix('\'').and_then(|rest| rest.split_once("' in req.headers"))
        {
            return header(name);
        }
        match inner {
            _ if TOLD.contains(&inner) => true,
            "conn.tls.version" | "conn.tls.cipher_suite" | "conn.tls.sni" => self.tls.is_some(),
            "conn.tls.ja4_fingerprint" => self.tls.as_ref().is_some_and(|tls| !tls.ja4.is_empty()),
            "conn.server_ip" | "conn.server_port" => !self.server.ip().is_unspecified(),
            "req.url" | "req.url.raw" | "req.url.uri" | "req.url.query" | "req.url.query_params" => {
                self.is_query_whole
            }
            "req.content_type" | "req.content_type.raw" | "req.content_type.parameters" => {
                header("content-type")
            }
            "req.content_encoding" => header("content-encoding"),
            _ if inner == "req.user_agent" || inner.starts_with("req.user_agent.") => header("user-agent"),
            _ => false,
        }
    }

    /// `GET /v1/visits from 203.0.113.9`.
    pub(super) fn summary(&self) -> String {
        match &self.request {
            Some(request) => format!("{} {} from {}", request.method, request.uri, self.client),
            None => format!("connection from {}", self.client),
        }
    }
}

/// Whether an event is of an endpoint, by what the visitor asked for.
fn is_of(object: &Value, url: &EndpointUrl) -> bool {
    let scheme = text(object, "/http/request/url/scheme");
    if url.scheme().is_http() {
        let host =
            text(object, "/http/request/url/host").and_then(|host| host.to_ascii_lowercase().parse().ok());
        return scheme == Some(url.scheme().as_str()) && host.is_some_and(|host| url.host().covers(&host));
    }
    let name = text(object, "/conn/server_name").filter(|name| !name.is_empty());
    match name.map(|name| name.to_ascii_lowercase().parse()) {
        Some(Ok(name)) => url.host().covers(&name),
        Some(Err(_)) => false,
        None => object.pointer("/conn/server_port").and_then(Value::as_u64) == Some(url.port().into()),
    }
}

fn request(
    object: &Value,
    missing: &dyn Fn(&str) -> RecordError,
    cut: &mut Vec<HeaderName>,
) -> Result<http::request::Parts, RecordError> {
    let bad = |what: &str| RecordError::new(format!("the event's {what} cannot be read"));
    let (mut parts, ()) = http::Request::new(()).into_parts();
    let method = text(object, "/http/request/method").ok_or_else(|| missing("http.request.method"))?;
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| bad("method"))?;
    let path = text(object, "/http/request/url/path").ok_or_else(|| missing("http.request.url.path"))?;
    let query = text(object, "/http/request/url/query").map(|query| format!("?{query}")).unwrap_or_default();
    parts.uri = format!("{path}{query}").parse::<Uri>().map_err(|_| bad("path"))?;
    let headers = object.pointer("/http/request/headers").and_then(Value::as_object);
    let headers = headers.ok_or_else(|| missing("http.request.headers"))?;
    let told = headers.iter().filter_map(|(name, values)| Some((name.as_str(), values.get(0)?.as_str()?)));
    let agent = text(object, "/http/request/user_agent").map(|agent| ("user-agent", agent));
    let host = text(object, "/http/request/url/raw").and_then(|raw| raw.parse::<Uri>().ok());
    let host = host.and_then(|raw| raw.authority().map(ToString::to_string));
    let host = host.as_deref().or(text(object, "/http/request/url/host")).map(|host| ("host", host));
    for (name, value) in told.chain(agent).chain(host) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("header"))?;
        if value.len() + char::MAX.len_utf8() > HEADER_BYTES_TOLD {
            cut.push(name.clone());
        }
        parts.headers.insert(name, HeaderValue::from_str(value).map_err(|_| bad("header"))?);
    }
    Ok(parts)
}
