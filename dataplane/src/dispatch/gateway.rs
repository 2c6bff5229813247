//! What l4 and http need from the rest of the edge, and how a connection is handed to http.
//!
//! Types and a trait only. `serve` implements it over real sessions, tests in memory.

use std::any::Any;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::event::RequestEvent;
use ebbgate_model::{AccountId, AppSessionId, EndpointUrl, ErrorCode, Host, Scheme};
use ebbgate_policy::identity::{Exchange, Exchanged, SessionFacts, SessionNote};
use ebbgate_policy::{AddressSource, Breaker, CallError, ConnFacts, Inspected, KeySet, Quota, TlsSettings};
use ebbgate_waf::protocol::Question;
use http::{HeaderValue, Request, Response, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Environment;
use crate::state::breakers::Permit;
use crate::state::endpoint::Endpoint;
use crate::state::pool::Pool;
use crate::state::shares::Shares;
use crate::tunnel::health::UpstreamAnswer;
use crate::tunnel::session::OpenError;

/// Why nothing is inspected where the operator gave no rules.
pub const NO_RULES: &str = "this edge has no Core Rule Set: its operator starts it with --waf-rules";

/// Why a policy asks no host of the internet where the operator did not allow it.
pub fn no_external_calls() -> CallError {
    let message =
        "this edge asks no host of the internet: its operator starts it with --http-request-external";
    CallError { code: ErrorCode::new(2300), message: message.to_owned() }
}

/// What the HTTP half needs from the rest of the edge. Clones share one shard and stay on its thread.
pub trait Gateway: Clone + 'static {
    /// A stream to an agent. Dropping it before both ends finished resets it.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// Members of the public endpoint for a host: exact before longest wildcard, online only.
    fn public(&self, scheme: Scheme, host: &Host, port: u16) -> Option<Pool>;

    /// Members of an internal endpoint of one account; exact before longest wildcard, online only.
    fn internal(&self, account: AccountId, url: &EndpointUrl) -> Option<Pool>;

    /// Waits a little, if an agent that served a URL before the edge started is on its way back. `account`: of an
    /// internal name; None: the name is public.
    fn returned(
        &self,
        account: Option<AccountId>,
        scheme: Scheme,
        host: &Host,
        port: u16,
    ) -> impl Future<Output = ()> {
        let _ = (account, scheme, host, port);
        std::future::ready(())
    }

    /// What a certificate authority is answered that asks for this token at a host in clear (RFC 8555 section 8.3).
    fn http_challenge(&self, host: &Host, token: &str) -> Option<String> {
        let _ = (host, token);
        None
    }

    /// Whether the account of a public endpoint lets visitors in from this address (its IP restriction of type `endpoints`).
    fn admits(&self, account: AccountId, source: IpAddr) -> bool;

    /// Opens one proxied stream, header (and PROXY header, if the agent wants one) already sent.
    fn open(
        &self,
        agent: &Endpoint,
        client: SocketAddr,
        server: SocketAddr,
        proto: Scheme,
    ) -> impl Future<Output = Result<Self::Stream, OpenError>>;

    /// Whether an endpoint's agent is heard: known from just now, or asked. Cloud endpoints always are.
    fn is_heard(&self, endpoint: &Endpoint) -> impl Future<Output = bool> {
        let _ = endpoint;
        std::future::ready(true)
    }

    /// Completes when nothing is heard from an endpoint's agent any more.
    fn silenced(&self, endpoint: &Endpoint) -> impl Future<Output = ()> {
        let _ = endpoint;
        std::future::pending()
    }

    /// Takes what a request to an endpoint's upstream came to. One that errs too often is ejected from its pool for a while.
    fn note_answer(&self, endpoint: &Endpoint, answer: UpstreamAnswer) {
        let _ = (endpoint, answer);
    }

    /// The key set at a URL of an account's policy, fetched or cached; or a sentence on why not. `fresh`: the cached one
    /// lacks a token's key.
    fn keys(
        &self,
        account: AccountId,
        url: &str,
        fresh: bool,
    ) -> impl Future<Output = Result<Arc<KeySet>, String>>;

    /// What a policy of the account makes visitors' sessions with.
    fn sessions(&self, account: AccountId) -> SessionFacts {
        let _ = account;
        SessionFacts::default()
    }

    /// Whether a visitor's session at endpoints of the account was ended before its time.
    fn is_ended(&self, account: AccountId, session: AppSessionId) -> bool {
        let _ = (account, session);
        false
    }

    /// A visitor signed in or out at an endpoint, from this address.
    fn note_session(&self, endpoint: &Endpoint, source: IpAddr, note: &SessionNote) {
        let _ = (endpoint, source, note);
    }

    /// What an identity provider answers a policy of the account; or a sentence on why nothing.
    fn exchange(
        &self,
        account: AccountId,
        exchange: Arc<Exchange>,
    ) -> impl Future<Output = Result<Exchanged, String>> {
        let _ = (account, exchange);
        std::future::ready(Err("no identity provider is asked here".into()))
    }

    /// Makes a request of an account's policy to a host of the internet: the address that answered, and its answer of at most
    /// `bytes_max` as it came.
    fn call_external(
        &self,
        account: AccountId,
        url: Uri,
        request: Request<Bytes>,
        bytes_max: usize,
    ) -> impl Future<Output = Result<(IpAddr, Response<Bytes>), CallError>> {
        let _ = (account, url, request, bytes_max);
        std::future::ready(Err(no_external_calls()))
    }

    /// Where abuse is reported, as requests of policies tell it.
    fn report_abuse(&self) -> Option<HeaderValue> {
        None
    }

    /// Counts a request at an endpoint against a quota of its policy, if it has room; otherwise how long until it has.
    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration>;

    /// Runs the Core Rule Set over a message of an account's endpoint; or a sentence on why it could not run. `body`: the start
    /// of the message's body, without content codings.
    fn inspect(
        &self,
        account: AccountId,
        question: Question,
        body: Bytes,
    ) -> impl Future<Output = Result<Inspected, String>> {
        let _ = (account, question, body);
        std::future::ready(Err(NO_RULES.to_owned()))
    }

    /// Whether there are rules to run; requests then keep for them what they say of their connection.
    fn has_core_rule_set(&self) -> bool {
        false
    }

    /// Whether a circuit of an endpoint's policy lets a request through; otherwise how long it is open at least.
    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration>;

    /// Counts a password that a client presents at an endpoint; otherwise how long until one of the client is judged.
    fn guessed(&self, endpoint: &Endpoint, client: IpAddr, is_right: bool) -> Option<Duration>;

    /// The requests that policies may have on their way at a time.
    fn calls(&self) -> &Shares;

    /// The bytes of bodies that may be held for policies at a time.
    fn held(&self) -> &Shares;

    /// The bytes of memory that decoders and encoders of changed bodies may use at a time.
    fn coders(&self) -> &Shares;

    /// Databases of addresses, for policies. None: there are none.
    fn addresses(&self) -> Option<Arc<dyn AddressSource>> {
        None
    }

    /// Milliseconds since the Unix epoch.
    fn now_unix_ms(&self) -> i64;

    /// A fresh random number.
    fn rng_seed(&self) -> u64;

    /// Takes the record of an answered request.
    fn request_done(&self, event: RequestEvent);

    /// Members of a pool were tried after another one failed.
    fn retried(&self, members: u64) {
        let _ = members;
    }

    /// A connection has left HTTP, until this is dropped.
    fn left_http(&self) -> Box<dyn Any> {
        Box::new(())
    }

    /// Completes when the edge begins to stop: finish what is in flight, take nothing new.
    fn draining(&self) -> impl Future<Output = ()> + 'static;

    /// Completes when connections of HTTP/2 are asked to come anew, which loses no request.
    fn leaving(&self) -> impl Future<Output = ()> + 'static {
        self.draining()
    }

    /// Whether a connection of HTTP/1 ends with its next answer. One at rest is kept: its client may be sending a request.
    fn is_leaving(&self) -> bool {
        false
    }
}

impl<G: Gateway> Environment for G {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn now_unix_ms(&self) -> i64 {
        Gateway::now_unix_ms(self)
    }

    fn rng_seed(&self) -> u64 {
        Gateway::rng_seed(self)
    }

    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration> {
        Gateway::count(self, endpoint, quota)
    }

    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration> {
        Gateway::admitted(self, endpoint, breaker)
    }

    fn guessed(&self, endpoint: &Endpoint, client: IpAddr, is_right: bool) -> Option<Duration> {
        Gateway::guessed(self, endpoint, client, is_right)
    }

    fn sessions(&self, account: AccountId) -> SessionFacts {
        Gateway::sessions(self, account)
    }

    fn is_ended(&self, account: AccountId, session: AppSessionId) -> bool {
        Gateway::is_ended(self, account, session)
    }

    fn note_session(&self, endpoint: &Endpoint, source: IpAddr, note: &SessionNote) {
        Gateway::note_session(self, endpoint, source, note);
    }

    fn addresses(&self) -> Option<Arc<dyn AddressSource>> {
        Gateway::addresses(self)
    }

    fn admits(&self, account: AccountId, source: IpAddr) -> bool {
        Gateway::admits(self, account, source)
    }
}

/// A connection handed to the HTTP half, TLS (if any) already done.
#[derive(Debug, Clone)]
pub struct HttpConn {
    /// The connection as policies see it.
    pub facts: Arc<ConnFacts>,
    /// `Http` or `Https`: what the listener speaks.
    pub scheme: Scheme,
    /// Port visitors use in URLs: 80 or 443, whatever the socket is bound to.
    pub port: u16,
    /// Server name of the handshake.
    pub sni: Option<Host>,
    /// Whether the handshake chose HTTP/2.
    pub alpn_h2: bool,
    /// What TLS ended with.
    pub tls_settings: Option<Arc<TlsSettings>>,
    /// The endpoint of the `on_tcp_connect` that ran (and chose the TLS settings). None: run it when the first request names
    /// one.
    pub first_endpoint: Option<Arc<Endpoint>>,
}

/// How an HTTP connection ended, for its event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpOutcome {
    /// Requests answered.
    pub requests: u64,
    /// One word or sentence.
    pub outcome: String,
    /// Whether the last answer broke off although its end is the end of the connection: that must not be an orderly one.
    pub broken: bool,
}
