//! A connection or request that is written down: the text of a case, and what the engine gets of it.
//!
//! Reads no file: PEM and key sets are in the text, or its reader put them there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_model::{EndpointUrl, ErrorCode};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::pem::Pem;

use crate::facts::{ConnFacts, Context, EndpointFacts, Event, Received, TlsFacts};
use crate::identity::Identity;
use crate::jwks::KeySet;
use crate::verdict::{CallAnswer, Inspected};

/// Longest body of a case in bytes.
pub const CASE_BODY_BYTES_MAX: usize = 8 << 20;

/// A case as people write it. All fields have defaults: `GET /` of the endpoint, from 203.0.113.1.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaseText {
    /// Address of the client.
    pub client_ip: Option<IpAddr>,
    /// Port of the client.
    pub client_port: Option<u16>,
    /// `GET` unless said.
    pub method: Option<String>,
    /// Path with query, such as `/v1/visits?day=1`; `/` unless said.
    pub path: Option<String>,
    /// A text or a list of texts each. `host` is the endpoint's unless said.
    pub headers: BTreeMap<String, Texts>,
    /// Body of the request.
    pub body: String,
    /// Trailers of the request: a text or a list of texts each.
    pub trailers: BTreeMap<String, Texts>,
    /// RFC 3339; 2026-01-01T00:00:00Z unless said.
    pub time: Option<String>,
    /// Seed of `rand`.
    pub seed: u64,
    /// The finished handshake, where TLS ends at the edge.
    pub tls: Option<HandshakeText>,
    /// Key sets by their URL, JSON each; a URL without one cannot be fetched.
    pub keys: BTreeMap<String, Value>,
    /// `forward-internal` fails with this code, such as `ERR_NGROK_3200`.
    pub forward_fails: Option<String>,
    /// Names of `rate-limit` actions with a bucket that has no room left.
    pub rate_limited: BTreeSet<String>,
    /// Visitors who are signed in, by the action's `auth_id` (`default` where it has none).
    pub signed_in: BTreeMap<String, SignedInText>,
    /// What the Core Rule Set says, of the request and of the response; unless said, it cannot run.
    pub waf: Option<InspectedText>,
    /// What endpoints answer to `http-request`, by URL; a URL without an answer is offline.
    pub calls: BTreeMap<String, AnswerText>,
    /// Whether circuits of `circuit-breaker` actions are open.
    pub circuit_open: bool,
    /// What the upstream answers; 200 unless said.
    pub response: ResponseText,
    /// An event of the response, if that is an event stream.
    pub event: EventText,
}

/// An event of an event stream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventText {
    /// `message` unless said.
    pub name: Option<String>,
    /// Its lines, with line feeds between them.
    pub data: String,
    /// Its id.
    pub id: String,
    /// Milliseconds.
    pub retry: Option<u64>,
}

/// Who a signed-in visitor is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignedInText {
    /// The person's id at the provider.
    pub provider_user_id: String,
    /// Address.
    pub email: String,
    /// Name.
    pub name: String,
}

/// What the Core Rule Set says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InspectedText {
    /// Sum of the scores of the rules that matched.
    pub anomaly_score: i64,
    /// Score at which a message is refused; 5 unless said.
    pub anomaly_score_threshold: Option<i64>,
    /// Whether the edge only detects.
    pub detect_only: bool,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

/// A finished handshake.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandshakeText {
    /// `1.2` or `1.3`.
    pub version: Option<String>,
    /// IANA name.
    pub cipher_suite: Option<String>,
    /// Server name; the endpoint's host unless said.
    pub sni: Option<String>,
    /// Negotiated protocol.
    pub alpn: Option<String>,
    /// JA4 fingerprint.
    pub ja4: Option<String>,
    /// The client's certificates, PEM, leaf first.
    pub client_certificates: String,
}

/// What an upstream answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseText {
    /// 200 unless said.
    pub status: Option<u16>,
    /// A text or a list of texts each.
    pub headers: BTreeMap<String, Texts>,
    /// A text or a list of texts each.
    pub trailers: BTreeMap<String, Texts>,
}

/// What an endpoint answers to a request of a policy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerText {
    /// 200 unless said.
    pub status: Option<u16>,
    /// A text or a list of texts each.
    pub headers: BTreeMap<String, Texts>,
    /// Body.
    pub body: String,
}

/// A case that cannot be read. Names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct CaseError {
    /// Such as `headers.host`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// A case ready to run.
#[derive(Debug, Clone)]
pub struct Case {
    pub(super) endpoint: Arc<EndpointFacts>,
    pub(super) conn: Arc<ConnFacts>,
    pub(super) now_unix_ms: i64,
    pub(super) seed: u64,
    /// None at an endpoint without requests.
    pub(super) request: Option<http::request::Parts>,
    pub(super) body: Bytes,
    pub(super) request_end: Arc<Received>,
    pub(super) response_end: Arc<Received>,
    pub(super) tls: Arc<TlsFacts>,
    pub(super) keys: BTreeMap<String, Arc<KeySet>>,
    pub(super) forward_fails: Option<ErrorCode>,
    pub(super) rate_limited: BTreeSet<String>,
    pub(super) signed_in: BTreeMap<String, Identity>,
    pub(super) waf: Option<Inspected>,
    pub(super) circuit_open: bool,
    pub(super) calls: BTreeMap<String, CallAnswer>,
    pub(super) response: http::response::Parts,
    pub(super) event: Event,
}

fn error(field: impl Into<String>, message: impl std::fmt::Display) -> CaseError {
    CaseError { field: field.into(), message: message.to_string() }
}

impl CaseText {
    /// Reads the texts for an endpoint.
    pub fn read(&self, url: &EndpointUrl) -> Result<Case, CaseError> {
        let now = match &self.time {
            Some(text) => {
                OffsetDateTime::parse(text, &Rfc3339).map_err(|e| error("time", e))?.unix_timestamp_nanos()
            }
            None => 1_767_225_600_000_000_000,
        };
        let now_unix_ms = i64::try_from(now / 1_000_000).map_err(|e| error("time", e))?;
        if self.body.len() > CASE_BODY_BYTES_MAX {
            return Err(error("body", format!("it has more than {CASE_BODY_BYTES_MAX} bytes")));
        }
        let host = url.host().to_string();
        let tls = self.tls.clone().unwrap_or_default().read(&host)?;
        let client = self.client_ip.unwrap_or(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)));
        let conn = ConnFacts {
            client: SocketAddr::new(client, self.client_port.unwrap_or(50_000)),
            server: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), url.port()),
            region: "local".into(),
            start_unix_ms: now_unix_ms,
            tls: None,
            traffic: None,
        };
        let keys = self.keys.iter().map(|(url, set)| {
            let set =
                KeySet::parse(set.to_string().as_bytes()).map_err(|e| error(format!("keys.{url}"), e))?;
            Ok((url.clone(), Arc::new(set)))
        });
        let forward_fails = match &self.forward_fails {
            Some(text) => Some(text.parse().map_err(|_| {
                error("forward_fails", format!("`{text}` is no code such as ERR_NGROK_3200"))
            })?),
            None => None,
        };
        Ok(Case {
            endpoint: Arc::new(EndpointFacts::new("ep_case".into(), url.clone())),
            conn: Arc::new(conn),
            now_unix_ms,
            seed: self.seed,
            request: url.scheme().is_http().then(|| self.request(&host)).transpose()?,
            body: Bytes::from(self.body.clone()),
            request_end: received(&self.trailers, "trailers", now_unix_ms)?,
            response_end: received(&self.response.trailers, "response.trailers", now_unix_ms)?,
            tls: Arc::new(tls),
            keys: keys.collect::<Result<_, CaseError>>()?,
            forward_fails,
            rate_limited: self.rate_limited.clone(),
            signed_in: self.signed_in.iter().map(|(id, who)| (id.clone(), who.read())).collect(),
            waf: self.waf.as_ref().map(InspectedText::read),
            circuit_open: self.circuit_open,
            calls: self.calls.iter().map(read_answer).collect::<Result<_, CaseError>>()?,
            response: self.response.read()?,
            event: Event {
                name: self.event.name.clone().unwrap_or_else(|| "message".to_owned()),
                data: self.event.data.clone(),
                id: self.event.id.clone(),
                retry: self.event.retry,
            },
        })
    }

    fn request(&self, host: &str) -> Result<http::request::Parts, CaseError> {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        if let Some(method) = &self.method {
            parts.method = Method::from_bytes(method.as_bytes()).map_err(|e| error("method", e))?;
        }
        let path = self.path.as_deref().unwrap_or("/");
        if !path.starts_with('/') {
            return Err(error("path", "it begins with `/`"));
        }
        parts.uri = path.parse::<Uri>().map_err(|e| error("path", e))?;
        read_headers(&self.headers, "headers", &mut parts.headers)?;
        if !parts.headers.contains_key(header::HOST) {
            parts.headers.insert(header::HOST, host.parse().map_err(|e| error("headers.host", e))?);
        }
        if !self.body.is_empty() {
            parts.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(self.body.len()));
        }
        Ok(parts)
    }
}

impl InspectedText {
    fn read(&self) -> Inspected {
        Inspected {
            score: self.anomaly_score,
            threshold: self.anomaly_score_threshold.unwrap_or(5),
            enforced: !self.detect_only,
            matched_rules: Vec::new(),
        }
    }
}

impl HandshakeText {
    fn read(self, host: &str) -> Result<TlsFacts, CaseError> {
        let version = self.version.unwrap_or_else(|| "1.3".into());
        if version != "1.2" && version != "1.3" {
            return Err(error("tls.version", format!("it is 1.2 or 1.3, not `{version}`")));
        }
        let pems = Pem::iter_from_buffer(self.client_certificates.as_bytes());
        let chain = pems.map(|pem| pem.map(|pem| pem.contents)).collect::<Result<Vec<_>, _>>();
        let client_chain = chain.map_err(|e| error("tls.client_certificates", e))?;
        if client_chain.is_empty() && !self.client_certificates.trim().is_empty() {
            return Err(error("tls.client_certificates", "there is no PEM certificate in it"));
        }
        Ok(TlsFacts {
            version,
            cipher_suite: self.cipher_suite.unwrap_or_else(|| "TLS13_AES_128_GCM_SHA256".into()),
            sni: self.sni.unwrap_or_else(|| host.to_owned()),
            alpn: self.alpn.unwrap_or_default(),
            ja4: self.ja4.unwrap_or_default(),
            client_chain,
            ..TlsFacts::default()
        })
    }
}

fn read_answer((url, text): (&String, &AnswerText)) -> Result<(String, CallAnswer), CaseError> {
    let (status, field) = (text.status.unwrap_or(200), format!("calls.{url}"));
    let status = StatusCode::from_u16(status).map_err(|e| error(format!("{field}.status"), e))?;
    let mut headers = http::HeaderMap::new();
    read_headers(&text.headers, &format!("{field}.headers"), &mut headers)?;
    Ok((url.clone(), CallAnswer { status, headers, body: Bytes::from(text.body.clone()), resolved_ip: None }))
}

impl SignedInText {
    fn read(&self) -> Identity {
        let Self { provider_user_id, email, name } = self.clone();
        Identity { provider_user_id, email, name }
    }
}

impl ResponseText {
    fn read(&self) -> Result<http::response::Parts, CaseError> {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        if let Some(status) = self.status {
            parts.status = StatusCode::from_u16(status).map_err(|e| error("response.status", e))?;
        }
        read_headers(&self.headers, "response.headers", &mut parts.headers)?;
        Ok(parts)
    }
}

fn received(
    texts: &BTreeMap<String, Texts>,
    field: &str,
    at_unix_ms: i64,
) -> Result<Arc<Received>, CaseError> {
    let mut trailers = http::HeaderMap::new();
    read_headers(texts, field, &mut trailers)?;
    Ok(Arc::new(Received { at_unix_ms, trailers }))
}

fn read_headers(
    texts: &BTreeMap<String, Texts>,
    field: &str,
    headers: &mut http::HeaderMap,
) -> Result<(), CaseError> {
    for (name, values) in texts {
        let at = |e: &dyn ToString| error(format!("{field}.{name}"), e.to_string());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|e| at(&e))?;
        for value in values.iter() {
            headers.append(&header, HeaderValue::from_str(value).map_err(|e| at(&e))?);
        }
    }
    Ok(())
}

impl Texts {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
        .iter()
        .map(String::as_str)
    }
}

impl Case {
    pub(super) fn context(&self) -> Context {
        let mut cx = Context::new(Arc::clone(&self.conn), Arc::clone(&self.endpoint), self.now_unix_ms);
        cx.rng_seed = self.seed;
        // A body that comes is there once an action has read it.
        let is_over = self.body.is_empty() && self.request_end.trailers.is_empty();
        cx.request_end = is_over.then(|| Arc::clone(&self.request_end));
        cx
    }
}
