//! What a policy may see of a connection and a request: filled in by the edge, read by expressions, changed by actions.
//!
//! Knows nothing of sockets. Time and randomness are fields, so that a run is a function of its [`Context`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ebbgate_body::EventReplacement;
use ebbgate_model::EndpointUrl;
use ebbgate_model::event::NotEnforced;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use crate::identity::{Addressed, is_same_cookie};
use crate::work::Work;

/// Log entries one context keeps; further ones are dropped.
pub const LOG_ENTRIES_MAX: usize = 64;

/// Log entries of one context that wait for the end of a body; further ones are dropped, and say so.
pub const LATE_LOGS_MAX: usize = 8;

/// The end of a message's body: nothing of the message follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// When it came, milliseconds since the Unix epoch.
    pub at_unix_ms: i64,
    /// The trailer section (RFC 9110 section 6.5).
    pub trailers: HeaderMap,
}

/// An event of an event stream (WHATWG HTML section 9.2), as `on_event_stream_message` sees it.
pub use ebbgate_body::Event;

/// Which rules run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// `on_tcp_connect`.
    TcpConnect,
    /// `on_http_request`.
    HttpRequest,
    /// `on_http_response`.
    HttpResponse,
    /// `on_event_stream_message`: once for each response that is an event stream, when its head is there. Rules that name the
    /// event are left for each event then.
    EventStream,
}

impl Phase {
    /// All phases, in the order they run.
    pub const ALL: [Self; 4] = [Self::TcpConnect, Self::HttpRequest, Self::HttpResponse, Self::EventStream];

    /// The document's key for this phase.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::TcpConnect => "on_tcp_connect",
            Self::HttpRequest => "on_http_request",
            Self::HttpResponse => "on_http_response",
            Self::EventStream => "on_event_stream_message",
        }
    }

    /// Whether it runs over a response.
    #[must_use]
    pub fn has_response(self) -> bool {
        matches!(self, Self::HttpResponse | Self::EventStream)
    }
}

/// A log entry that names what only the end of a body tells: it is made when the exchange is over.
#[derive(Debug, Clone)]
pub struct LateLog {
    entry: Arc<dyn LateEntry>,
    /// As it was when the action ran.
    cx: Box<Context>,
}

/// Makes a log entry of a context.
pub(crate) trait LateEntry: fmt::Debug + Send + Sync {
    /// The entry; or what it says instead.
    fn entry(&self, cx: &Context) -> Value;
}

impl LateLog {
    /// The entry, now that this is known of both bodies. None: all of a body never came.
    #[must_use]
    pub fn entry(mut self, request: Option<Arc<Received>>, response: Option<Arc<Received>>) -> Value {
        (self.cx.request_end, self.cx.response_end) = (request, response);
        self.cx.work.begin_evaluation();
        self.entry.entry(&self.cx)
    }
}

/// Everything one run of a phase may read or change. One per connection (tcp phase) or request (http phases).
#[derive(Debug, Clone)]
pub struct Context {
    /// The connection. After a `terminate-tls` its `tls` is set here too.
    pub conn: Arc<ConnFacts>,
    /// The endpoint whose policy runs.
    pub endpoint: Arc<EndpointFacts>,
    /// Wall-clock time, milliseconds since the Unix epoch.
    pub now_unix_ms: i64,
    /// Seed of `rand.double` and `rand.int`; draw it anew for every request.
    pub rng_seed: u64,
    /// The work done so far. Contexts of one connection or request share it, so that a chain of endpoints costs no more
    /// than one.
    pub work: Work,
    /// The request, in the http phases. `add-headers` and `remove-headers` change it in place.
    pub request: Option<http::request::Parts>,
    /// The response, in the phases of responses.
    pub response: Option<http::response::Parts>,
    /// The event, in `on_event_stream_message`. None: the response's head alone is there.
    pub event: Option<Event>,
    /// The end of the request's body. None: all of it has not come yet.
    pub request_end: Option<Arc<Received>>,
    /// The end of the response's body. None: all of it has not come yet.
    pub response_end: Option<Arc<Received>>,
    /// Databases of addresses. None: there are none.
    pub addresses: Option<Arc<dyn AddressSource>>,
    /// What `log` actions recorded, oldest first, at most [`LOG_ENTRIES_MAX`].
    pub logs: Vec<Value>,
    /// What `log` actions recorded that name what only the end of a body tells, at most [`LATE_LOGS_MAX`].
    pub late_logs: Vec<LateLog>,
    /// `Set-Cookie` headers for whatever answers the request, at most one of each cookie.
    pub cookies: Vec<HeaderValue>,
    /// What phases came to of a policy that is not enforced, oldest first. The caller takes them.
    pub not_enforced: Vec<NotEnforced>,
    /// Where the rules of such a policy run.
    pub(crate) trial: Option<Box<Trial>>,
    /// What the request asks of an action that signs visitors in.
    pub(crate) addressed: Option<Addressed>,
    /// What actions replace in the event.
    pub(crate) replaced_in_event: Vec<EventReplacement>,
    pub(crate) vars: Map<String, Value>,
    pub(crate) results: Map<String, Value>,
}

impl Context {
    /// A context without request, response or randomness.
    #[must_use]
    pub fn new(conn: Arc<ConnFacts>, endpoint: Arc<EndpointFacts>, now_unix_ms: i64) -> Self {
        Self {
            conn,
            endpoint,
            now_unix_ms,
            rng_seed: 0,
            work: Work::default(),
            request: None,
            response: None,
            event: None,
            request_end: None,
            response_end: None,
            addresses: None,
            logs: Vec::new(),
            late_logs: Vec::new(),
            replaced_in_event: Vec::new(),
            cookies: Vec::new(),
            not_enforced: Vec::new(),
            trial: None,
            addressed: None,
            vars: Map::new(),
            results: Map::new(),
        }
    }

    /// What an earlier action left behind, by its name with underscores: `restrict_ips`, `jwt_validation`.
    pub fn result(&self, action: &str) -> Option<&Value> {
        self.results.get(action)
    }

    pub(crate) fn set_result(&mut self, action: &str, value: Value) {
        self.results.insert(action.to_owned(), value);
    }

    pub(crate) fn set_cookie(&mut self, cookie: HeaderValue) {
        self.cookies.retain(|other| !is_same_cookie(other, &cookie));
        self.cookies.push(cookie);
    }

    pub(crate) fn push_log(&mut self, entry: Value) {
        if self.logs.len() < LOG_ENTRIES_MAX {
            self.logs.push(entry);
        }
    }

    /// Records an entry that is made at the end of the exchange.
    pub(crate) fn push_late_log(&mut self, entry: Arc<dyn LateEntry>) {
        if self.late_logs.len() >= LATE_LOGS_MAX {
            return self.push_log(
                json!({ "dropped": format!("more than {LATE_LOGS_MAX} entries wait for the end") }),
            );
        }
        let mut cx = self.clone();
        (cx.logs, cx.late_logs) = (Vec::new(), Vec::new());
        self.late_logs.push(LateLog { entry, cx: Box::new(cx) });
    }
}

/// The run of a policy that is not enforced: its own context, and what it came to.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// What its actions read and change instead of the context of the traffic.
    pub(crate) cx: Context,
    /// Whether a phase would have ended the traffic, so that later phases would not run.
    pub(crate) has_ended: bool,
    /// What the phase came to.
    pub(crate) found: Option<NotEnforced>,
    /// Whether the caller has it.
    pub(crate) is_told: bool,
    /// Places of the phase's actions that were not judged.
    pub(crate) not_judged: Vec<String>,
}

/// Databases of addresses.
pub trait AddressSource: fmt::Debug + Send + Sync {
    /// The value of one of [`ADDRESS_NAMES`](crate::ADDRESS_NAMES) for an address: text, except a number for `as.number`, true or
    /// false for `is_...`, a list of text for `categories`. None: no database has it.
    fn look_up(&self, address: IpAddr, name: &str) -> Option<Value>;
}

/// Whether a response is an event stream: its events have a phase of their own.
#[must_use]
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"text/event-stream")
}

/// The client connection, as the kernel and the TLS handshake report it. Headers never change it.
#[derive(Debug, Clone)]
pub struct ConnFacts {
    /// The peer of the socket.
    pub client: SocketAddr,
    /// The address the peer connected to.
    pub server: SocketAddr,
    /// Name of the region this edge belongs to.
    pub region: String,
    /// When the connection was accepted, milliseconds since the Unix epoch.
    pub start_unix_ms: i64,
    /// The finished handshake, when TLS ends at this edge.
    pub tls: Option<Arc<TlsFacts>>,
    /// What it has carried so far. None: it is not known, as of a case that is only explained.
    pub traffic: Option<Arc<dyn Traffic>>,
}

/// What a connection has carried so far, encryption included.
pub trait Traffic: fmt::Debug + Send + Sync {
    /// Bytes from the client.
    fn bytes_in(&self) -> u64;
    /// Bytes to the client.
    fn bytes_out(&self) -> u64;
}

/// A finished TLS handshake.
#[derive(Debug, Clone, Default)]
pub struct TlsFacts {
    /// `1.2` or `1.3`.
    pub version: String,
    /// IANA name, as in `TLS13_AES_128_GCM_SHA256`.
    pub cipher_suite: String,
    /// Server name the client asked for.
    pub sni: String,
    /// Negotiated protocol, or empty.
    pub alpn: String,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// The client's certificates, leaf first, DER.
    pub client_chain: Vec<Vec<u8>>,
    /// The certificate this edge presented, DER.
    pub server_leaf: Vec<u8>,
    /// JA4 fingerprint of the `ClientHello`, or empty.
    pub ja4: String,
}

/// The endpoint whose policy runs.
#[derive(Debug, Clone)]
pub struct EndpointFacts {
    /// `ep_...`.
    pub id: String,
    /// Its canonical URL.
    pub url: EndpointUrl,
    /// What its agent says of it. None: it is a cloud endpoint.
    pub member: Option<Box<MemberFacts>>,
}

impl EndpointFacts {
    /// Those of a cloud endpoint.
    #[must_use]
    pub fn new(id: String, url: EndpointUrl) -> Self {
        Self { id, url, member: None }
    }
}

/// What an agent says of an endpoint and of itself: selectors of `forward-internal` read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberFacts {
    /// The endpoint's name, or empty.
    pub name: String,
    /// The endpoint's description, or empty.
    pub description: String,
    /// The endpoint's metadata, or empty.
    pub metadata: String,
    /// The agent.
    pub agent: Arc<AgentFacts>,
}

/// What an agent says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentFacts {
    /// The metadata of its session, or empty.
    pub metadata: String,
    /// Its version, or empty.
    pub version: String,
    /// Its operating system, or empty.
    pub os: String,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An https connection from 203.0.113.42 to `api.example.com`, at 2026-01-02T03:04:05.678Z.
    pub(crate) fn context() -> Context {
        let conn = ConnFacts {
            client: "203.0.113.42:50000".parse().unwrap(),
            server: "192.0.2.1:443".parse().unwrap(),
            region: "lab".into(),
            start_unix_ms: 1_767_323_045_000,
            tls: None,
            traffic: None,
        };
        let endpoint = EndpointFacts::new("ep_test".into(), "https://api.example.com".parse().unwrap());
        Context::new(Arc::new(conn), Arc::new(endpoint), 1_767_323_045_678)
    }

    /// The same with a request: `GET`, a URI and headers.
    pub(crate) fn request(uri: &str, headers: &[(&str, &str)]) -> Context {
        let mut builder = http::Request::builder().uri(uri).header("host", "api.example.com");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let mut cx = context();
        cx.request = Some(builder.body(()).unwrap().into_parts().0);
        cx
    }
}
