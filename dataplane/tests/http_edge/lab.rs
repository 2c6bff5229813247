//! The lab: a `Gateway` in memory, visitors' connections, and upstreams that read with a strict parser of their own.
//!
//! The upstream's parser shares no code with the edge: what it calls dirty is what a server behind the edge could read
//! in two ways.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ebbgate_edge::dispatch::gateway::{Gateway, HttpConn, HttpOutcome, no_external_calls};
use ebbgate_edge::http::UpstreamPools;
use ebbgate_edge::http::limits::{KEPT_UPSTREAM_SECS_MAX, Limits};
use ebbgate_edge::state::breakers::{Breakers, Permit};
use ebbgate_edge::state::endpoint::{Endpoint, Kind};
use ebbgate_edge::state::guesses::Guesses;
use ebbgate_edge::state::metrics::Metrics;
use ebbgate_edge::state::pool::Pool;
use ebbgate_edge::state::rate_limits::RateLimits;
use ebbgate_edge::state::shares::{Share, Shares};
use ebbgate_edge::tunnel::load::Load;
use ebbgate_edge::tunnel::session::{AgentRef, OpenError, ProxyProtocol, SessionState, Slot};
use ebbgate_model::event::RequestEvent;
use ebbgate_model::{
    AccountId, EndpointId, EndpointUrl, Host, Ksuid, Scheme, TrafficPolicy, TunnelSessionId,
};
use ebbgate_policy::{
    Breaker, CallError, ConnFacts, EndpointFacts, Engine, Inspected, KeySet, Quota, References,
};
use ebbgate_tunnel::driver::SessionHandle;
use ebbgate_waf::protocol::Question;
use http::{HeaderValue, Request, Response, Uri};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::Instant;

/// Bytes a lab's stream holds.
pub(crate) const PIPE_BYTES: usize = 64 * 1024;

/// Bytes of bodies that the lab holds for policies; half of them for one account.
pub(crate) const HELD_BYTES: usize = 8 << 20;

/// Bytes of memory for decoders and encoders in the lab; half of them for one account.
pub(crate) const CODER_BYTES: usize = 64 << 20;

/// How long the lab's pools keep an idle connection.
pub(crate) const KEPT_UPSTREAM: Duration = Duration::from_secs(KEPT_UPSTREAM_SECS_MAX);

type Rules = Box<dyn Fn(&Question, &Bytes) -> i64>;
type Serve = Rc<dyn Fn(DuplexStream)>;
type Outside = Box<dyn Fn(&Uri, &Request<Bytes>) -> Result<Response<Bytes>, CallError>>;

/// See the module.
#[derive(Clone)]
pub(crate) struct Lab(Rc<Inner>);

impl Default for Lab {
    fn default() -> Self {
        let metrics = Metrics::new();
        Self(Rc::new(Inner {
            upstream_pools: UpstreamPools::new(&metrics, KEPT_UPSTREAM),
            breakers: Breakers::new(&metrics.circuits_opened),
            guesses: Guesses::default(),
            calls: Shares::new(8, 4, &metrics.calls_refused),
            held: Shares::new(HELD_BYTES, HELD_BYTES / 2, &metrics.bodies_refused),
            coders: Shares::told(CODER_BYTES, CODER_BYTES / 2, &metrics.coders_refused, &metrics.coder_bytes),
            metrics,
            rate_limits: RateLimits::default(),
            public: RefCell::default(),
            internal: RefCell::default(),
            pools: RefCell::default(),
            upstreams: RefCell::default(),
            events: RefCell::default(),
            opened: Cell::default(),
            made: Cell::default(),
            drain: tokio::sync::watch::Sender::default(),
            rules: RefCell::default(),
            outside: RefCell::default(),
            closed: RefCell::default(),
        }))
    }
}

struct Inner {
    upstream_pools: UpstreamPools,
    metrics: Metrics,
    rate_limits: RateLimits,
    breakers: Breakers,
    guesses: Guesses,
    calls: Shares,
    held: Shares,
    coders: Shares,
    public: RefCell<HashMap<String, Vec<Arc<Endpoint>>>>,
    internal: RefCell<HashMap<String, Vec<Arc<Endpoint>>>>,
    pools: RefCell<HashMap<String, Pool>>,
    upstreams: RefCell<HashMap<EndpointId, Serve>>,
    events: RefCell<Vec<RequestEvent>>,
    opened: Cell<usize>,
    made: Cell<u8>,
    drain: tokio::sync::watch::Sender<bool>,
    /// The score of a message: its question and the start of its body.
    rules: RefCell<Option<Rules>>,
    /// The hosts of the internet, all at 203.0.113.80.
    outside: RefCell<Option<Outside>>,
    /// Accounts that let nobody in.
    closed: RefCell<HashSet<AccountId>>,
}

impl Gateway for Lab {
    type Stream = Held;

    fn public(&self, scheme: Scheme, host: &Host, port: u16) -> Option<Pool> {
        let find = |host: &str| {
            let url = format!("{}://{host}:{port}", scheme.as_str()).parse::<EndpointUrl>().ok()?;
            self.pool(&self.0.public, &url.to_string())
        };
        let wildcard = || find(&format!("*.{}", host.as_str().split_once('.')?.1));
        find(host.as_str()).or_else(wildcard)
    }

    fn internal(&self, account: AccountId, url: &EndpointUrl) -> Option<Pool> {
        self.pool(&self.0.internal, &format!("{account} {url}"))
    }

    fn admits(&self, account: AccountId, _: IpAddr) -> bool {
        !self.0.closed.borrow().contains(&account)
    }

    async fn open(
        &self,
        agent: &Endpoint,
        _: SocketAddr,
        _: SocketAddr,
        _: Scheme,
    ) -> Result<Held, OpenError> {
        let Kind::Agent(to) = &agent.kind else { return Err(OpenError::NoAgent(agent.id)) };
        let session = &to.session;
        session.make_room().await;
        let slot = session.slot()?;
        let serve = self.0.upstreams.borrow().get(&agent.id).cloned();
        let serve = serve.ok_or(OpenError::SessionEnded(session_id(0)))?;
        self.0.opened.set(self.0.opened.get() + 1);
        let (near, far) = duplex(PIPE_BYTES);
        serve(far);
        Ok(Held { io: near, _slot: slot })
    }

    async fn keys(&self, _: AccountId, _: &str, _: bool) -> Result<Arc<KeySet>, String> {
        Err("the lab has no keys".into())
    }

    async fn call_external(
        &self,
        _: AccountId,
        url: Uri,
        request: Request<Bytes>,
        bytes_max: usize,
    ) -> Result<(IpAddr, Response<Bytes>), CallError> {
        let asked = self.0.outside.borrow().as_ref().map(|outside| outside(&url, &request));
        let answer = asked.unwrap_or_else(|| Err(no_external_calls()))?;
        assert!(answer.body().len() <= bytes_max, "the lab's answers fit");
        Ok(("203.0.113.80".parse().unwrap(), answer))
    }

    fn report_abuse(&self) -> Option<HeaderValue> {
        self.0.outside.borrow().as_ref().map(|_| HeaderValue::from_static("https://ops.example.com/abuse"))
    }

    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration> {
        self.0.rate_limits.count(endpoint.account, &endpoint.url.to_string(), quota, Instant::now())
    }

    fn has_core_rule_set(&self) -> bool {
        true
    }

    async fn inspect(&self, _: AccountId, question: Question, body: Bytes) -> Result<Inspected, String> {
        let found = self.0.rules.borrow().as_ref().map(|rules| rules(&question, &body));
        let score = found.ok_or("the lab has no rules")?;
        Ok(Inspected { score, threshold: 5, enforced: true, matched_rules: Vec::new() })
    }

    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration> {
        self.0.breakers.ask(endpoint, breaker, Instant::now())
    }

    fn guessed(&self, endpoint: &Endpoint, client: IpAddr, is_right: bool) -> Option<Duration> {
        self.0.guesses.judge(endpoint, client, is_right, Instant::now())
    }

    fn calls(&self) -> &Shares {
        &self.0.calls
    }

    fn held(&self) -> &Shares {
        &self.0.held
    }

    fn coders(&self) -> &Shares {
        &self.0.coders
    }

    fn now_unix_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn rng_seed(&self) -> u64 {
        7
    }

    fn request_done(&self, event: RequestEvent) {
        self.0.events.borrow_mut().push(event);
    }

    fn draining(&self) -> impl Future<Output = ()> + 'static {
        let mut drained = self.0.drain.subscribe();
        async move {
            let _ = drained.wait_for(|drained| *drained).await;
        }
    }
}

/// A stream, and its place in the agent's session.
pub(crate) struct Held {
    io: DuplexStream,
    _slot: Slot,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

pub(crate) fn account(n: u8) -> AccountId {
    AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
}

fn session_id(n: u8) -> TunnelSessionId {
    TunnelSessionId::new(Ksuid::new(1_700_000_000, [n; 16]))
}

/// An endpoint to be made.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) account: u8,
    pub(crate) policy: Option<&'static str>,
    pub(crate) http2: bool,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    pub(crate) shows_client: bool,
    /// Streams that its agent's session takes.
    pub(crate) streams_max: usize,
}

/// Upstream connections as the edge counts them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) opened: u64,
    pub(crate) reused: u64,
    pub(crate) idle: i64,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            account: 1,
            policy: None,
            http2: false,
            proxy_protocol: None,
            shows_client: false,
            streams_max: 1_000,
        }
    }
}

impl Lab {
    fn pool(&self, table: &RefCell<HashMap<String, Vec<Arc<Endpoint>>>>, key: &str) -> Option<Pool> {
        let members = table.borrow().get(key).cloned()?;
        let mut pools = self.0.pools.borrow_mut();
        Some(pools.entry(key.to_owned()).or_insert_with(|| Pool::new(members)).clone())
    }

    /// Lets policies ask hosts of the internet, which answer so.
    pub(crate) fn outside(
        &self,
        answers: impl Fn(&Uri, &Request<Bytes>) -> Result<Response<Bytes>, CallError> + 'static,
    ) {
        *self.0.outside.borrow_mut() = Some(Box::new(answers));
    }

    /// A cloud endpoint.
    pub(crate) fn cloud(&self, url: &str, made: Made) -> Arc<Endpoint> {
        self.endpoint(url, Kind::Cloud, made)
    }

    /// An agent's endpoint, served by `serve`.
    pub(crate) fn agent(
        &self,
        url: &str,
        made: Made,
        serve: impl Fn(DuplexStream) + 'static,
    ) -> Arc<Endpoint> {
        let session = Arc::new(SessionState::new(
            session_id(self.0.made.get()),
            SessionHandle::ended(),
            Arc::default(),
            made.streams_max,
        ));
        self.agent_of(session, url, made, serve)
    }

    /// Another endpoint of an agent's session.
    pub(crate) fn agent_of(
        &self,
        session: Arc<SessionState>,
        url: &str,
        made: Made,
        serve: impl Fn(DuplexStream) + 'static,
    ) -> Arc<Endpoint> {
        let agent = AgentRef {
            session,
            bind: "bind".into(),
            proxy_protocol: made.proxy_protocol,
            tls_termination: None,
            health: Arc::default(),
            shows_client: made.shows_client,
            identity: format!("process-{}", self.0.made.get()).into(),
            load: Arc::default(),
            elsewhere: None,
        };
        let endpoint = self.endpoint(url, Kind::Agent(agent), made);
        self.0.upstreams.borrow_mut().insert(endpoint.id, Rc::new(serve));
        endpoint
    }

    fn endpoint(&self, url: &str, kind: Kind, made: Made) -> Arc<Endpoint> {
        self.0.made.set(self.0.made.get() + 1);
        let id = EndpointId::new(Ksuid::new(1_700_000_000, [self.0.made.get(); 16]));
        let url: EndpointUrl = url.parse().unwrap();
        let endpoint = Arc::new(Endpoint {
            id,
            account: account(made.account),
            binding: url.implied_binding(),
            facts: Arc::new(EndpointFacts {
                member: matches!(kind, Kind::Agent(_)).then(Box::default),
                ..EndpointFacts::new(id.to_string(), url.clone())
            }),
            engine: made.policy.map(engine),
            kind,
            upstream_http2: made.http2,
            pooling_enabled: true,
            own_load: Load::default(),
            url: url.clone(),
        });
        let (table, key) = if url.host().is_internal() {
            (&self.0.internal, format!("{} {url}", endpoint.account))
        } else {
            (&self.0.public, url.to_string())
        };
        table.borrow_mut().entry(key).or_default().push(endpoint.clone());
        self.0.pools.borrow_mut().clear();
        endpoint
    }

    /// The endpoint has a new policy from now on.
    pub(crate) fn change(&self, endpoint: &Endpoint, policy: &'static str) {
        let changed = Arc::new(Endpoint {
            id: endpoint.id,
            account: endpoint.account,
            url: endpoint.url.clone(),
            binding: endpoint.binding,
            facts: endpoint.facts.clone(),
            engine: Some(engine(policy)),
            kind: Kind::Cloud,
            upstream_http2: endpoint.upstream_http2,
            pooling_enabled: endpoint.pooling_enabled,
            own_load: Load::default(),
        });
        self.0.public.borrow_mut().insert(endpoint.url.to_string(), vec![changed]);
        self.0.pools.borrow_mut().clear();
    }

    /// The endpoint object is another one from now on, as after a change of its account's objects.
    pub(crate) fn replace(&self, endpoint: &Endpoint) {
        let Kind::Agent(agent) = &endpoint.kind else { panic!("an agent's endpoint") };
        let replaced = Arc::new(Endpoint {
            id: endpoint.id,
            account: endpoint.account,
            url: endpoint.url.clone(),
            binding: endpoint.binding,
            facts: endpoint.facts.clone(),
            engine: endpoint.engine.clone(),
            kind: Kind::Agent(agent.clone()),
            upstream_http2: endpoint.upstream_http2,
            pooling_enabled: endpoint.pooling_enabled,
            own_load: Load::default(),
        });
        self.0.public.borrow_mut().insert(endpoint.url.to_string(), vec![replaced]);
        self.0.pools.borrow_mut().clear();
    }

    /// Messages have these scores from now on; 5 is refused.
    pub(crate) fn inspect_with(&self, rules: impl Fn(&Question, &Bytes) -> i64 + 'static) {
        self.0.rules.replace(Some(Box::new(rules)));
    }

    /// The account lets nobody in from now on.
    pub(crate) fn close(&self, account: AccountId) {
        self.0.closed.borrow_mut().insert(account);
    }

    /// The agent is gone: nothing can be opened.
    pub(crate) fn unplug(&self, endpoint: &Endpoint) {
        self.0.upstreams.borrow_mut().remove(&endpoint.id);
    }

    /// The edge begins to stop.
    pub(crate) fn drain(&self) {
        self.0.drain.send_replace(true);
    }

    /// Streams opened to agents so far.
    pub(crate) fn opened(&self) -> usize {
        self.0.opened.get()
    }

    /// Upstream connections as the edge counts them.
    pub(crate) fn counted(&self) -> Counted {
        let metrics = &self.0.metrics;
        Counted {
            opened: metrics.upstream_connections_opened.get(),
            reused: metrics.upstream_connections_reused.get(),
            idle: metrics.upstream_connections_idle.get(),
        }
    }

    /// Requests of policies that wait for an answer.
    pub(crate) fn calls_on_their_way(&self) -> usize {
        self.0.calls.used()
    }

    /// Bytes of bodies that are held for policies.
    pub(crate) fn held_bytes(&self) -> usize {
        self.0.held.used()
    }

    /// Bytes of memory that decoders and encoders use, and bodies that were refused theirs.
    pub(crate) fn coders(&self) -> (usize, u64) {
        let metrics = &self.0.metrics;
        assert_eq!(usize::try_from(metrics.coder_bytes.get()).unwrap(), self.0.coders.used());
        (self.0.coders.used(), metrics.coders_refused.get())
    }

    /// Takes bytes as decoders and encoders do.
    pub(crate) fn code(&self, account: AccountId, bytes: usize) -> Option<Share> {
        self.0.coders.take(account, bytes)
    }

    /// Takes bytes as a held body does.
    pub(crate) fn hold(&self, account: AccountId, bytes: usize) -> Option<Share> {
        self.0.held.take(account, bytes)
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<RequestEvent> {
        self.0.events.borrow().clone()
    }

    /// A visitor's connection; the task ends with it.
    pub(crate) fn visit(&self, conn: HttpConn, limits: Limits) -> (DuplexStream, JoinHandle<HttpOutcome>) {
        let (near, far) = duplex(PIPE_BYTES);
        (near, spawn_local(self.serve(far, conn, limits)))
    }

    /// Serves a visitor's connection.
    pub(crate) fn serve(
        &self,
        io: DuplexStream,
        conn: HttpConn,
        limits: Limits,
    ) -> impl Future<Output = HttpOutcome> + use<> {
        ebbgate_edge::http::serve_with(self.clone(), self.0.upstream_pools.clone(), io, conn, limits)
    }

    /// A clear-text visitor's connection with the documented limits.
    pub(crate) fn visit_http(&self) -> (DuplexStream, JoinHandle<HttpOutcome>) {
        self.visit(http_conn(), Limits::default())
    }

    /// What a visitor reads that sends `bytes`, ends its side and reads to the end.
    pub(crate) async fn talk(&self, bytes: &[u8]) -> String {
        let (mut io, serving) = self.visit_http();
        let (mut read, mut write) = tokio::io::split(&mut io);
        let mut text = Vec::new();
        let sent = async {
            // The edge may close before it has read everything.
            let _ = write.write_all(bytes).await;
            let _ = write.shutdown().await;
        };
        let ((), _) = tokio::join!(sent, read.read_to_end(&mut text));
        serving.await.unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn engine(policy: &'static str) -> Arc<Engine> {
    let policy: TrafficPolicy = serde_json::from_str(policy).unwrap();
    Arc::new(Engine::compile(&policy, &References::default()).unwrap())
}

/// A clear-text connection.
pub(crate) fn http_conn() -> HttpConn {
    http_conn_from("192.0.2.7:40000")
}

/// A clear-text connection from this address.
pub(crate) fn http_conn_from(client: &str) -> HttpConn {
    let facts = ConnFacts {
        client: client.parse().unwrap(),
        server: "192.0.2.1:80".parse().unwrap(),
        region: "lab".into(),
        start_unix_ms: 1_700_000_000_000,
        tls: None,
        traffic: None,
    };
    HttpConn {
        facts: Arc::new(facts),
        scheme: Scheme::Http,
        port: 80,
        sni: None,
        alpn_h2: false,
        tls_settings: None,
        first_endpoint: None,
    }
}

/// A TLS connection admitted by an endpoint.
pub(crate) fn https_conn(first: &Arc<Endpoint>, alpn_h2: bool) -> HttpConn {
    HttpConn {
        scheme: Scheme::Https,
        port: 443,
        sni: Some(first.url.host().clone()),
        alpn_h2,
        first_endpoint: Some(first.clone()),
        ..http_conn()
    }
}

/// Runs a test that spawns local tasks.
pub(crate) async fn local<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(test).await
}

/// What a strict upstream saw: whole requests, and why it stopped reading when it had to.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Vec<SeenRequest>,
    pub(crate) dirty: Vec<String>,
    /// Requests cut off before their end: refused on the way, and no server takes them for whole.
    pub(crate) cut: usize,
}

/// One request as the upstream read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenRequest {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl SeenRequest {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// An upstream that answers 200 with a fixed body and records what it saw.
pub(crate) fn strict_upstream() -> (Rc<RefCell<Seen>>, impl Fn(DuplexStream) + Clone + 'static) {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let record = seen.clone();
    let serve = move |io: DuplexStream| {
        let seen = record.clone();
        spawn_local(async move {
            match answer_strictly(io, &seen).await {
                Err(dirty) if dirty.starts_with(CUT) => seen.borrow_mut().cut += 1,
                Err(dirty) => seen.borrow_mut().dirty.push(dirty),
                Ok(()) => {}
            }
        });
    };
    (seen, serve)
}

const CUT: &str = "cut off";

async fn answer_strictly(mut io: DuplexStream, seen: &RefCell<Seen>) -> Result<(), String> {
    let mut input = Vec::new();
    while let Some(request) = read_strictly(&mut io, &mut input).await? {
        let head = request.line.starts_with("HEAD ");
        seen.borrow_mut().requests.push(request);
        let body = if head { "" } else { "hello" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}");
        if io.write_all(answer.as_bytes()).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads one request; none at an orderly end. An error is what a second parser could read differently.
pub(crate) async fn read_strictly(
    io: &mut DuplexStream,
    input: &mut Vec<u8>,
) -> Result<Option<SeenRequest>, String> {
    let end = loop {
        if let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if !more(io, input).await {
            return if input.is_empty() {
                Ok(None)
            } else {
                Err(format!("{CUT} in a head: {:?}", text(input)))
            };
        }
    };
    let head: Vec<u8> = input.drain(..end + 4).collect();
    let head = &head[..end];
    for (n, b) in head.iter().enumerate() {
        let in_line_end = (*b == b'\r' && head.get(n + 1) == Some(&b'\n'))
            || (*b == b'\n' && n > 0 && head[n - 1] == b'\r');
        if (*b < 0x20 && *b != b'\t' && !in_line_end) || *b == 0x7f {
            return Err(format!("control byte {b:#x} in {:?}", text(head)));
        }
    }
    let head = text(head);
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    if line.split(' ').count() != 3 || !line.ends_with(" HTTP/1.1") {
        return Err(format!("request line {line:?}"));
    }
    let mut fields = Vec::new();
    for field in lines {
        let (name, value) = field.split_once(':').ok_or(format!("field without colon {field:?}"))?;
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err(format!("field name {name:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let all =
        |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    if all("host").len() != 1 || all("host")[0].is_empty() {
        return Err(format!("hosts {:?}", all("host")));
    }
    for odd in ["content_length", "transfer_encoding"] {
        if !all(odd).is_empty() {
            return Err(format!("{odd} forwarded"));
        }
    }
    let body = match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
        ([], []) => Vec::new(),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) && !length.is_empty() => {
            let length: usize = length.parse().map_err(|_| format!("length {length}"))?;
            take(io, input, length).await?
        }
        ([], [coding]) if coding == "chunked" => read_chunks(io, input).await?,
        framing => return Err(format!("framing {framing:?}")),
    };
    Ok(Some(SeenRequest { line, fields, body }))
}

async fn read_chunks(io: &mut DuplexStream, input: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = input.windows(2).position(|w| w == b"\r\n") {
                break end;
            }
            if !more(io, input).await {
                return Err(format!("{CUT} in a chunk line"));
            }
        };
        let line: Vec<u8> = input.drain(..end + 2).collect();
        let line = text(&line[..end]);
        if line.is_empty() || !line.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("chunk line {line:?}"));
        }
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("chunk size {line:?}"))?;
        if size == 0 {
            break;
        }
        body.extend(take(io, input, size).await?);
        if take(io, input, 2).await? != b"\r\n" {
            return Err("chunk end".into());
        }
    }
    if take(io, input, 2).await? == b"\r\n" { Ok(body) } else { Err("trailers forwarded".into()) }
}

async fn take(io: &mut DuplexStream, input: &mut Vec<u8>, n: usize) -> Result<Vec<u8>, String> {
    while input.len() < n {
        if !more(io, input).await {
            return Err(format!("{CUT} in a body"));
        }
    }
    Ok(input.drain(..n).collect())
}

async fn more(io: &mut DuplexStream, input: &mut Vec<u8>) -> bool {
    matches!(io.read_buf(input).await, Ok(1..))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads until the text ends with `end`, or to the end of the stream.
pub(crate) async fn read_until(io: &mut DuplexStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        if !matches!(io.read_buf(&mut read).await, Ok(1..)) {
            break;
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// An upstream that runs a script per stream.
pub(crate) fn scripted<F, S>(script: S) -> impl Fn(DuplexStream) + 'static
where
    F: Future<Output = ()> + 'static,
    S: Fn(DuplexStream) -> F + 'static,
{
    move |io| {
        spawn_local(script(io));
    }
}
