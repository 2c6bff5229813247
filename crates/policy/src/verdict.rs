//! What a run asks of its caller and what it decides: effects, their outcomes, verdicts.
//!
//! Plain data. The engine performs none of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::{AppSessionId, EndpointUrl, ErrorCode};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::balancing::Balancing;
use crate::facts::TlsFacts;
use crate::identity::{Exchange, Exchanged, SessionFacts, SessionNote};
use crate::jwks::KeySet;

/// The result of one step of a run.
#[derive(Debug, Clone)]
pub enum Step {
    /// Perform this, `resume` with the outcome, and step again.
    Need(Effect),
    /// The run has worked for a while: let others run, then step again.
    Pause,
    /// The phase is over (see [`Verdict::Forward`] for the one way on).
    Done(Verdict),
}

/// Something only the edge can do.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Finish a TLS handshake as server with these settings; answer [`Outcome::Tls`]. On failure drop the connection.
    TerminateTls(Arc<TlsSettings>),
    /// Fetch (or take from the cache) the key set at this URL; answer [`Outcome::Keys`].
    Keys {
        /// An `https://` URL from the policy, never from a token.
        url: String,
        /// Whether the set served before lacks a token's key: fetch anew, unless that was done a moment ago. This is
        /// how a rotated key becomes known at once. The caller bounds how often.
        fresh: bool,
    },
    /// Read the whole request body, keeping it for the upstream; answer [`Outcome::Body`].
    Body {
        /// Longest body to accept.
        bytes_max: usize,
    },
    /// What sessions of visitors are made with; answer [`Outcome::Sessions`].
    Sessions,
    /// Whether a visitor's session was ended before its time; answer [`Outcome::Ended`].
    IsEnded(AppSessionId),
    /// Tell that a visitor signed in or out; answer [`Outcome::Noted`].
    Note(Arc<SessionNote>),
    /// Ask an identity provider; answer [`Outcome::Exchanged`].
    Exchange(Arc<Exchange>),
    /// Count a request, if its bucket has room; answer [`Outcome::Counted`].
    Count(Quota),
    /// Ask whether a circuit lets a request through, and tell the circuit later what became of the request; answer
    /// [`Outcome::Admitted`].
    Breaker(Breaker),
    /// Make a request; answer [`Outcome::Called`].
    Call(Box<Call>),
    /// Count a password that the client presents, if its address may guess now; answer [`Outcome::Guessed`].
    Guess {
        /// Whether it is the right one.
        is_right: bool,
    },
    /// Run the Core Rule Set over the message of the phase, a request or a response; answer [`Outcome::Inspected`].
    Inspect(Inspection),
}

/// A request to an internal endpoint of the policy's account, or to a host of the internet.
#[derive(Clone)]
pub struct Call {
    /// The endpoint, or the host with scheme and port; see [`Call::is_external`].
    pub url: EndpointUrl,
    /// Path and query.
    pub path: PathAndQuery,
    /// Method.
    pub method: Method,
    /// Headers as the policy wrote them; framing and what tells of the visitor are the edge's.
    pub headers: HeaderMap,
    /// Whole body.
    pub body: Bytes,
    /// Wait so long first.
    pub after: Duration,
    /// Longest time for the wait and the answer with its body.
    pub timeout: Duration,
    /// Longest body of the answer that is taken, decoded.
    pub answer_bytes_max: usize,
}

impl Call {
    /// Whether a host of the internet is meant, and no endpoint.
    #[must_use]
    pub fn is_external(&self) -> bool {
        !self.url.host().is_internal()
    }

    /// The endpoint's name as a Host header says it: with its port, where it is not the scheme's own.
    #[must_use]
    pub fn host(&self) -> String {
        let url = self.url.to_string();
        url.split_once("://").map_or_else(String::new, |(_, host)| host.to_owned())
    }

    /// The URL with path and query.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}{}", self.url, self.path)
    }
}

/// Headers and body may hold secrets.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("url", &self.url).field("method", &self.method).finish_non_exhaustive()
    }
}

/// What came of a [`Call`].
#[derive(Debug, Clone)]
pub struct Called {
    /// How long it took, the wait included.
    pub took: Duration,
    /// The answer, or why there is none.
    pub answer: Result<CallAnswer, CallError>,
}

/// An answer with all of its body, decoded.
#[derive(Debug, Clone)]
pub struct CallAnswer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Address of the host that answered. None: it is an internal endpoint.
    pub resolved_ip: Option<IpAddr>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// By number.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
}

/// A circuit of an endpoint: when it opens, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Where the action stands in its policy.
    pub place: String,
    /// Share of errors at which the circuit opens, in parts of a million. At 0 the volume alone does.
    pub error_ppm: u32,
    /// Fewest requests in a window that open it.
    pub volume: u32,
    /// Length of the rolling window.
    pub window: Duration,
    /// How long it stays open before one request is let through to try.
    pub tripped: Duration,
}

/// What of a message the Core Rule Set sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Whether it sees the start of the body too; the body stays for the receiver.
    pub process_body: bool,
    /// Rules that are not run.
    pub exclude_rule_ids: Arc<[u32]>,
}

/// What the Core Rule Set says of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Sum of the scores of the rules that matched.
    pub score: i64,
    /// Score at which a message is refused.
    pub threshold: i64,
    /// Whether this edge refuses, and does not only detect.
    pub enforced: bool,
    /// The rules that matched and have a score.
    pub matched_rules: Vec<MatchedRule>,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedRule {
    /// Its number.
    pub id: u32,
    /// What it looks for.
    pub message: String,
    /// Such as `CRITICAL`.
    pub severity: String,
    /// What it found and where. May hold what the visitor sent.
    pub data: String,
}

/// So many requests of one bucket in any window, as near as two counters tell: requests of the window before count by the
/// part of it that still overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The action's name; an endpoint counts each name apart.
    pub name: String,
    /// What the counted requests have in common.
    pub bucket: String,
    /// Most requests in a window.
    pub capacity: u32,
    /// Length of the window.
    pub window: Duration,
}

/// What came of an [`Effect`], or of a [`Verdict::Forward`] that failed.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The handshake finished.
    Tls(Arc<TlsFacts>),
    /// The key set, or one sentence on why it could not be had.
    Keys(Result<Arc<KeySet>, String>),
    /// The body.
    Body(Result<Bytes, BodyError>),
    /// What sessions of visitors are made with.
    Sessions(Box<SessionFacts>),
    /// Whether the session was ended.
    Ended(bool),
    /// It was told.
    Noted,
    /// The provider's answer, or one sentence on why there is none.
    Exchanged(Result<Exchanged, String>),
    /// None: the request is counted. Otherwise it is not, and this is how long until its bucket has room.
    Counted(Option<Duration>),
    /// What the rules say, or one sentence on why they could not run.
    Inspected(Result<Inspected, String>),
    /// None: the circuit lets the request through. Otherwise it is open, and this is how long at least.
    Admitted(Option<Duration>),
    /// What came of the request.
    Called(Called),
    /// It cannot be had, and nothing is to fail for it: the policy is not enforced.
    NotJudged,
    /// None: the password counts as what it is. Otherwise the client has guessed wrong too often, and this is how long
    /// until one is judged.
    Guessed(Option<Duration>),
    /// Forwarding failed before a byte was sent, and `on_error` was [`OnError::Continue`].
    ForwardFailed {
        /// Why, by number.
        code: ErrorCode,
        /// Why, in words.
        message: String,
    },
}

/// Why a request body is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than asked for.
    #[error("the request body is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit that was exceeded.
        bytes_max: usize,
    },
    /// The client stopped sending.
    #[error("the request body ended early")]
    Incomplete,
}

/// What the caller does once a phase is over.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Nothing terminated the phase: agent endpoints go to their upstream.
    Continue,
    /// Hand the traffic to an internal endpoint of the same account. If that fails before a byte was sent and
    /// `on_error` is [`OnError::Continue`], resume with [`Outcome::ForwardFailed`] and step again.
    Forward {
        /// The internal endpoint.
        url: EndpointUrl,
        /// What a failure means.
        on_error: OnError,
        /// How a member of its pool is chosen. None: all take turns.
        balancing: Option<Arc<Balancing>>,
    },
    /// Answer the request. On `on_tcp_connect` this does not occur.
    Respond(Reply),
    /// Drop the connection without a reply.
    Close {
        /// For the log.
        code: Option<ErrorCode>,
    },
    /// The policy failed at run time: answer 500, or close.
    Failed {
        /// For the answer's `ngrok-error-code` header and the log.
        code: ErrorCode,
        /// For the log; may quote configuration, never secrets.
        message: String,
    },
}

/// What a failing forward means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The failure is the answer.
    #[default]
    Halt,
    /// The next action runs.
    Continue,
}

/// An answer made by the policy.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers; framing headers are the edge's.
    pub headers: HeaderMap,
    /// Whole body.
    pub body: Bytes,
    /// Becomes the `ngrok-error-code` header.
    pub code: Option<ErrorCode>,
    /// Whether `on_http_response` runs over this answer (custom-response only, surface.md section 4.1).
    pub response_phase: bool,
}

impl Reply {
    /// An empty answer.
    #[must_use]
    pub fn empty(status: StatusCode, code: Option<ErrorCode>) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new(), code, response_phase: false }
    }

    /// The same, with the seconds after which another try is worth it (RFC 9110 section 10.2.3).
    #[must_use]
    pub(crate) fn after(mut self, wait: Duration) -> Self {
        let wait_secs = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::try_from(wait_secs.to_string()) {
            self.headers.insert(header::RETRY_AFTER, value);
        }
        self
    }
}

/// Lowest and highest protocol version of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// How client certificates are asked for, strictest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verification {
    /// A certificate that chains to one of the authorities is required.
    RequireAndVerify,
    /// Any certificate is required; it is not verified.
    RequireAny,
    /// A certificate is asked for and, if given, not verified.
    Request,
}

/// A server certificate from a policy.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    /// PEM, leaf first.
    pub chain_pem: String,
    /// PEM. Secret: absent from `Debug`.
    pub key_pem: String,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// Settings of one `terminate-tls` action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Lowest version accepted.
    pub min: TlsVersion,
    /// Highest version offered.
    pub max: TlsVersion,
    /// The policy's own certificate; otherwise the domain's.
    pub certificate: Option<ServerCertificate>,
    /// Authorities of client certificates, PEM each; empty means no client certificate is asked for.
    pub client_authorities: Vec<String>,
    /// Meaningful only with authorities.
    pub verification: Verification,
}

impl TlsSettings {
    /// Whether a handshake that was finished with the settings `done` gives what these demand of the client: the lowest
    /// version, and a certificate asked for by the same authorities and as strictly.
    #[must_use]
    pub fn are_met_by(&self, done: &Self, facts: &TlsFacts) -> bool {
        let version = if facts.version == "1.3" { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
        let clients = self.client_authorities.is_empty()
            || (self.client_authorities == done.client_authorities && self.verification >= done.verification);
        self.min <= version && clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_meets_what_demands_no_more_than_it_did() {
        let settings = |min, authorities: &[&str], verification| TlsSettings {
            min,
            max: TlsVersion::V1_3,
            certificate: None,
            client_authorities: authorities.iter().map(ToString::to_string).collect(),
            verification,
        };
        let (v12, v13) = (TlsVersion::V1_2, TlsVersion::V1_3);
        let (verify, any, request) =
            (Verification::RequireAndVerify, Verification::RequireAny, Verification::Request);
        let check = |asked: TlsSettings, done: TlsSettings, version: &str, expect| {
            let facts = TlsFacts { version: version.into(), ..TlsFacts::default() };
            assert_eq!(asked.are_met_by(&done, &facts), expect, "{asked:?} by {done:?}");
        };
        let plain = || settings(v12, &[], request);
        check(plain(), plain(), "1.2", true);
        check(plain(), settings(v13, &["a"], verify), "1.3", true);
        check(settings(v13, &[], request), plain(), "1.3", true);
        check(settings(v13, &[], request), plain(), "1.2", false);
        check(settings(v12, &["a"], verify), plain(), "1.3", false);
        check(settings(v12, &["a"], request), plain(), "1.3", false);
        check(settings(v12, &["a"], verify), settings(v12, &["a"], verify), "1.3", true);
        check(settings(v12, &["a"], any), settings(v12, &["a"], verify), "1.3", true);
        check(settings(v12, &["a"], verify), settings(v12, &["a"], any), "1.3", false);
        check(settings(v12, &["a"], any), settings(v12, &["a"], request), "1.3", false);
        check(settings(v12, &["a"], verify), settings(v12, &["b"], verify), "1.3", false);
        check(settings(v12, &["a"], verify), settings(v12, &["a", "b"], verify), "1.3", false);
    }
}
