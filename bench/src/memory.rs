//! The HTTP half of the edge between a visitor and an upstream that are byte streams in this process.
//!
//! Measured with it, because a request cannot do without them: the pipes' copies and the few lines of upstream and
//! visitor below. Not in it: sockets, TLS, the agent protocol, the log.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ebbgate_edge::dispatch::gateway::{Gateway, HttpConn};
use ebbgate_edge::http::limits::KEPT_UPSTREAM_SECS_MAX;
use ebbgate_edge::http::{self, UpstreamPools};
use ebbgate_edge::state::breakers::{Breakers, Permit};
use ebbgate_edge::state::endpoint::Endpoint;
use ebbgate_edge::state::metrics::Metrics;
use ebbgate_edge::state::pool::Pool;
use ebbgate_edge::state::rate_limits::RateLimits;
use ebbgate_edge::state::shares::Shares;
use ebbgate_edge::tunnel::session::OpenError;
use ebbgate_model::event::RequestEvent;
use ebbgate_model::{AccountId, EndpointUrl, Host, Scheme};
use ebbgate_policy::{Breaker, ConnFacts, KeySet, Quota};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant};

use crate::endpoints;

/// Bytes a pipe holds.
const PIPE_BYTES: usize = 64 << 10;
/// Milliseconds since the Unix epoch, always.
const NOW_UNIX_MS: i64 = 1_700_000_000_000;
const REQUEST: &[u8] =
    b"GET /patients?page=1 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
const HEAD_END: &[u8] = b"\r\n\r\n";
const BODY: &[u8] = b"hello";

/// One public endpoint, and one internal one for it to forward to.
#[derive(Clone)]
pub struct Memory {
    public: Pool,
    internal: Pool,
    upstreams: UpstreamPools,
    rate_limits: Arc<RateLimits>,
    breakers: Breakers,
    calls: Shares,
    held: Shares,
    coders: Shares,
}

impl Memory {
    /// Serves `public` as `http://api.example.com`.
    pub fn new(public: Arc<Endpoint>) -> Self {
        let internal = Pool::new(vec![endpoints::agent(2, "https://rest.clinic1.internal")]);
        let kept = Duration::from_secs(KEPT_UPSTREAM_SECS_MAX);
        let metrics = Metrics::new();
        let upstreams = UpstreamPools::new(&metrics, kept);
        let breakers = Breakers::new(&metrics.circuits_opened);
        let calls = Shares::new(1, 1, &metrics.calls_refused);
        let held = Shares::new(1 << 20, 1 << 20, &metrics.bodies_refused);
        let coders = Shares::new(64 << 20, 64 << 20, &metrics.coders_refused);
        let public = Pool::new(vec![public]);
        Self { public, internal, upstreams, rate_limits: Arc::default(), breakers, calls, held, coders }
    }

    /// A visitor's connection. Call it inside a `LocalSet`.
    pub fn visit(&self) -> Visitor {
        let (near, far) = duplex(PIPE_BYTES);
        let facts = ConnFacts {
            client: SocketAddr::from(([192, 0, 2, 7], 40_000)),
            server: SocketAddr::from(([192, 0, 2, 1], 80)),
            region: "lab".into(),
            start_unix_ms: NOW_UNIX_MS,
            tls: None,
            traffic: None,
        };
        let conn = HttpConn {
            facts: Arc::new(facts),
            scheme: Scheme::Http,
            port: 80,
            sni: None,
            alpn_h2: false,
            tls_settings: None,
            first_endpoint: None,
        };
        spawn_local(http::serve(self.clone(), self.upstreams.clone(), far, conn));
        Visitor { io: near, answer: Vec::new() }
    }
}

impl Gateway for Memory {
    type Stream = DuplexStream;

    fn public(&self, _: Scheme, _: &Host, _: u16) -> Option<Pool> {
        Some(self.public.clone())
    }

    fn internal(&self, _: AccountId, _: &EndpointUrl) -> Option<Pool> {
        Some(self.internal.clone())
    }

    async fn open(
        &self,
        _: &Endpoint,
        _: SocketAddr,
        _: SocketAddr,
        _: Scheme,
    ) -> Result<DuplexStream, OpenError> {
        let (near, far) = duplex(PIPE_BYTES);
        spawn_local(upstream(far));
        Ok(near)
    }

    async fn keys(&self, _: AccountId, _: &str, _: bool) -> Result<Arc<KeySet>, String> {
        Err("there are no keys in here".into())
    }

    fn admits(&self, _: AccountId, _: IpAddr) -> bool {
        true
    }

    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration> {
        self.rate_limits.count(endpoint.account, &endpoint.url.to_string(), quota, Instant::now())
    }

    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration> {
        self.breakers.ask(endpoint, breaker, Instant::now())
    }

    fn guessed(&self, _: &Endpoint, _: IpAddr, _: bool) -> Option<Duration> {
        None
    }

    fn calls(&self) -> &Shares {
        &self.calls
    }

    fn held(&self) -> &Shares {
        &self.held
    }

    fn coders(&self) -> &Shares {
        &self.coders
    }

    fn now_unix_ms(&self) -> i64 {
        NOW_UNIX_MS
    }

    fn rng_seed(&self) -> u64 {
        7
    }

    fn request_done(&self, _: RequestEvent) {}

    fn draining(&self) -> impl Future<Output = ()> + 'static {
        std::future::pending()
    }
}

/// Answers every request of a connection with the same five bytes.
async fn upstream(mut io: DuplexStream) {
    let mut head = Vec::new();
    while matches!(io.read_buf(&mut head).await, Ok(1..)) {
        if head.ends_with(HEAD_END) {
            head.clear();
            if io.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

/// A connection to the edge that is kept alive.
pub struct Visitor {
    io: DuplexStream,
    answer: Vec<u8>,
}

impl Visitor {
    /// One request and its whole answer, which must be the upstream's.
    pub async fn get(&mut self) {
        self.io.write_all(REQUEST).await.expect("the edge reads");
        self.answer.clear();
        while !self.answer.ends_with(BODY) {
            let read = self.io.read_buf(&mut self.answer).await.expect("the edge answers");
            assert!(read > 0, "the edge closed after {:?}", String::from_utf8_lossy(&self.answer));
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&self.answer));
    }
}
