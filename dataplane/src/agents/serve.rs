//! One agent's connection: TLS by the name it asked for, then the streams it opens, answered one task each.

mod endpoints;
pub(super) mod heard;

use std::cell::{OnceCell, RefCell};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use ebbgate_model::feed::{CommandRefusals, SessionReport};
use ebbgate_model::{AccountId, ErrorCode, TunnelSessionId};
use ebbgate_policy::AgentFacts;
use ebbgate_tunnel::driver::{self, DriverError, Stream};
use ebbgate_tunnel::heartbeat;
use ebbgate_tunnel::rpc_io::{read_request, write_object};
use ebbgate_wire::link::ALPN_LINK;
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{
    Auth, AuthReply, AuthReplyExtra, Bind, EndpointHealth, Outcome, PatchTunnelState, SrvInfo,
    StartTunnelWithLabelReply, StreamKind, Unbind, UnbindReply,
};
use ebbgate_wire::session::{AUTH_SECS_MAX, Admission, Gate};
use ebbgate_wire::ticket::Cookie;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::allowance::{self, Allowance, Counter, Permit};
use super::auth::{self, Accepted};
use super::elsewhere::others;
use super::links;
use super::quic::watch::watch_session;
use super::refusal::Refusal;
use super::registry::Agents;
use super::session::{AgentSession, Inner, Text};
use super::session_links::{SessionLinks, raw_key};
use heard::Heard;

use crate::net::handshakes::Busy;
use crate::net::hello::{read_hello, refuse_busy, refuse_name};
use crate::net::listen::ConnPermit;
use crate::net::socket::Socket;
use crate::net::tls::{self, HELLO_SECS_MAX, Protocols, TlsError};
use crate::state::edge::Stage;
use crate::state::metrics::GaugeGuard;
use crate::state::shard::Shard;
use crate::state::{clock, random};
use crate::tunnel::agent_liveness::AgentLiveness;
use crate::tunnel::quic::QuicTransport;
use crate::tunnel::session::SessionState;

/// The account has as many sessions as it may (wire.md section 2).
const CODE_SESSIONS: ErrorCode = ErrorCode::new(108);
/// Seconds an agent may take to send one request.
const REQUEST_SECS_MAX: u64 = 30;
/// Milliseconds between a refused Auth and the end, so that the refusal is read first.
const REFUSED_PAUSE_MS: u64 = 200;
/// Milliseconds between looks at whether a token has become known.
const CATCH_UP_LOOK_MS: u64 = 20;
/// Seconds a session may take to end once it was asked to.
const END_SECS_MAX: u64 = 2;
/// Seconds a cookie and a bind token are good for.
const TICKET_SECS: i64 = 90 * 24 * 3600;
/// Bytes of free text kept of an agent, per field.
const TEXT_BYTES_MAX: usize = 4096;
/// Longest name of an agent's process, in bytes.
const PROCESS_BYTES_MAX: usize = 64;

/// One agent's connection, authenticated or not.
struct Connection {
    shard: Shard,
    agents: Arc<Agents>,
    mux: driver::Session,
    gate: RefCell<Gate>,
    peer: IpAddr,
    ingress: Option<AccountId>,
    quic: Option<Arc<QuicTransport>>,
    liveness: Arc<AgentLiveness>,
    session: OnceCell<Arc<AgentSession>>,
}

/// Serves a connection of the agent listener to its end.
pub async fn serve(shard: Shard, agents: Arc<Agents>, mut socket: Socket, admitted: ConnPermit) {
    let peer = socket.peer().ip();
    let open = GaugeGuard::new(&shard.edge().metrics.agent_connections_open);
    match timeout(Duration::from_secs(HELLO_SECS_MAX), links::begins_raw(&mut socket)).await {
        Ok(true) => return links::serve_raw(shard, &agents, socket, admitted, open).await,
        Ok(false) => {}
        Err(_) => return tracing::debug!(%peer, "an agent said nothing in time"),
    }
    let hello = match read_hello(&mut socket).await {
        Ok(hello) if !hello.postgres => hello,
        Ok(_) => return,
        Err(refusal) => {
            shard.edge().note_no_hello(&refusal);
            return tracing::debug!(%peer, %refusal, "no agent");
        }
    };
    let name = shard.edge().tables.load().connect.find(hello.tls.sni.as_ref());
    let Some(name) = name else {
        if shard.edge().refusal_has_line(peer) {
            tracing::info!(%peer, name = ?hello.tls.sni, "an agent dialled a name that this edge does not serve");
        }
        return refuse_name(&mut socket).await;
    };
    let is_link = hello.tls.offers(ALPN_LINK);
    let protocols = if is_link { Protocols::Link } else { Protocols::Raw };
    let config =
        shard.configs().borrow_mut().get(&tls::default_settings(), Some(&name.certificate), protocols);
    let Ok(config) = config else { return refuse_name(&mut socket).await };
    // A link belongs to a session that had its turn.
    if !is_link && let Err(busy) = turn(&shard, peer).await {
        return refuse_busy(&mut socket, busy.retry_after).await;
    }
    let Ok(socket) = (if is_link { socket.for_link() } else { socket.for_agent() }) else { return };
    let failed = |error: TlsError| {
        shard.edge().metrics.handshakes_failed.inc();
        if shard.edge().refusal_has_line(peer) {
            tracing::info!(%peer, %error, "an agent's handshake failed");
        }
    };
    if is_link {
        return match tls::link_handshake(socket, config).await {
            Ok(stream) => links::serve(shard, &agents, Box::new(stream), name.account, admitted, open).await,
            Err(error) => failed(error),
        };
    }
    let stream = match tls::handshake(socket, config).await {
        Ok(stream) => stream,
        Err(error) => return failed(error),
    };
    run(shard, agents, stream, Arrival { peer, ingress: name.account, quic: None }).await;
    drop((admitted, open));
}

/// Waits until a handshake from `peer` may begin. Err: there are too many before it.
pub(super) async fn turn(shard: &Shard, peer: IpAddr) -> Result<(), Busy> {
    let edge = shard.edge();
    let waiting = GaugeGuard::new(&edge.metrics.agent_handshakes_waiting);
    let turn = edge.handshakes.turn(peer).await;
    drop(waiting);
    match turn {
        Ok(()) => drop(edge.metrics.agent_handshakes.inc()),
        Err(busy) => {
            edge.metrics.agent_handshakes_refused.inc();
            if edge.refusal_has_line(peer) {
                tracing::info!(%peer, %busy, "an agent is to come again");
            }
        }
    }
    turn
}

/// How an agent connected.
pub(super) struct Arrival {
    /// From where.
    pub(super) peer: IpAddr,
    /// Only sessions of this account may use the name it asked for; None: any.
    pub(super) ingress: Option<AccountId>,
    /// The connection below, if it is a QUIC one: it takes the session's streams too.
    pub(super) quic: Option<Arc<QuicTransport>>,
}

/// Runs an agent's session over any transport, to its end.
pub(super) async fn run<IO>(shard: Shard, agents: Arc<Agents>, io: IO, arrival: Arrival)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let liveness = Arc::<AgentLiveness>::default();
    let io = Heard { io, liveness: Arc::clone(&liveness) };
    let (mux, mut incoming, driver) = driver::connect(io, Role::Server, Limits::STRANGER);
    let connection = Rc::new(Connection {
        mux,
        gate: RefCell::default(),
        peer: arrival.peer,
        ingress: arrival.ingress,
        quic: arrival.quic,
        session: OnceCell::new(),
        liveness,
        shard,
        agents,
    });
    let mut driver = spawn_local(Rc::clone(&connection).drive(driver));
    let ending = connection.shard.edge().reached(Stage::Ending);
    tokio::pin!(ending);
    let authenticate_by = sleep(Duration::from_secs(AUTH_SECS_MAX));
    tokio::pin!(authenticate_by);
    let reason = loop {
        tokio::select! {
            stream = incoming.accept() => match stream {
                Some(stream) => drop(spawn_local(Rc::clone(&connection).stream(stream))),
                None => break "the agent's connection ended",
            },
            () = &mut authenticate_by, if connection.session.get().is_none() => break "not authenticated in time",
            () = &mut ending => break "the edge is restarting",
        }
    };
    connection.end(Code::NONE, reason);
    if timeout(Duration::from_secs(END_SECS_MAX), &mut driver).await.is_err() {
        driver.abort();
    }
}

impl Connection {
    /// Runs the session's I/O, and notes an end in silence before anybody hears of the end.
    async fn drive(self: Rc<Self>, driver: impl Future<Output = Result<(), DriverError>>) {
        let mut driver = Box::pin(driver);
        let result = driver.as_mut().await;
        if let Err(error) = &result {
            tracing::info!(peer = %self.peer, %error, "an agent's connection failed");
        }
        let unheard = match &result {
            // On a TCP user timeout the kernel may report the last ICMP error instead of ETIMEDOUT.
            Err(DriverError::Io(error))
                if matches!(
                    error.kind(),
                    ErrorKind::TimedOut
                        | ErrorKind::NetworkUnreachable
                        | ErrorKind::HostUnreachable
                        | ErrorKind::NetworkDown
                ) =>
            {
                true
            }
            Err(DriverError::WriteTimeout) => true,
            _ => self.quic.as_ref().is_some_and(|way| way.timed_out()),
        };
        if let Some(session) = self.session.get().filter(|_| unheard) {
            session.state.end_timed_out();
        }
    }

    fn end(&self, code: Code, message: &str) {
        if let Some(session) = self.session.get() {
            self.agents.end(session, code, message);
        }
        self.mux.goaway(code, message);
    }

    async fn stream(self: Rc<Self>, mut stream: Stream) {
        let Ok(kind) = stream.kind().await else { return };
        let admission = self.gate.borrow_mut().admit(kind);
        match admission {
            Admission::Serve => {}
            Admission::Refuse(refusal) => {
                tracing::debug!(peer = %self.peer, %kind, %refusal, "a stream of an agent is refused");
                return stream.reset(Code::REFUSED);
            }
            Admission::End(refusal) => return self.end(Code::ENHANCE_CALM, &refusal.to_string()),
        }
        if kind == StreamKind::Heartbeat {
            // It ends when the agent or the session ends it.
            let _ = heartbeat::echo(stream, || {}).await;
        } else if let Err(error) = self.answer(kind, stream).await {
            tracing::debug!(peer = %self.peer, %kind, error, "a request of an agent failed");
        }
        self.gate.borrow_mut().done(kind);
    }

    async fn answer(self: &Rc<Self>, kind: StreamKind, mut stream: Stream) -> Result<(), String> {
        let limit = Duration::from_secs(REQUEST_SECS_MAX);
        let read = timeout(limit, read_request(&mut stream, kind))
            .await
            .map_err(|_| "no request in time".to_owned());
        let request = match read.and_then(|r| r.map_err(|e| e.to_string())) {
            Ok(request) => request,
            Err(error) => {
                if kind == StreamKind::Auth {
                    self.gate.borrow_mut().decided(None);
                }
                return Err(error);
            }
        };
        let text = |e: ebbgate_wire::rpc::RpcError| e.to_string();
        let sent = match (kind, self.session.get()) {
            (StreamKind::Auth, _) => match Auth::decode(request) {
                Ok(auth) => return self.auth(auth, stream).await,
                Err(error) => {
                    self.gate.borrow_mut().decided(None);
                    write_object(&mut stream, &AuthReply::refused(error.to_string())).await
                }
            },
            (StreamKind::SrvInfo, _) => {
                let region = self.shard.edge().tables.load().settings.region.clone();
                write_object(&mut stream, &SrvInfo { region }).await
            }
            (StreamKind::Bind, Some(session)) => {
                let bind = Bind::decode(request).map_err(text)?;
                let reply = self.bind(session, &bind).await;
                write_object(&mut stream, &reply).await
            }
            (StreamKind::Unbind, Some(session)) => {
                let unbind = Unbind::decode(request).map_err(text)?;
                let removed = session.remove(self.shard.edge(), &unbind.id);
                let error = removed
                    .map_or_else(|| format!("no endpoint is bound as {:?}", unbind.id), |_| String::new());
                write_object(&mut stream, &UnbindReply { error, extra: None }).await
            }
            (StreamKind::PatchTunnelState, Some(session)) => {
                let patch = PatchTunnelState::decode(request).map_err(text)?;
                let error = self.patch(session, &patch).await.err().map_or_else(String::new, |r| r.text());
                write_object(&mut stream, &Outcome { error }).await
            }
            (StreamKind::EndpointHealth, Some(session)) => {
                let said = EndpointHealth::decode(request).map_err(text)?;
                let error = if session.checked(self.shard.edge(), &said) {
                    String::new()
                } else {
                    format!("no endpoint is bound as {:?}", said.id)
                };
                write_object(&mut stream, &Outcome { error }).await
            }
            (StreamKind::StartTunnelWithLabel, Some(_)) => {
                let message = "labels need edges, which this server does not have; bind a URL instead";
                let error = Refusal::new(ErrorCode::ACL_LABEL, message).text();
                write_object(&mut stream, &StartTunnelWithLabelReply { id: String::new(), error }).await
            }
            _ => return Err("not a request of agents".into()),
        };
        sent.map_err(|e| e.to_string())
    }

    async fn auth(self: &Rc<Self>, auth: Auth, mut stream: Stream) -> Result<(), String> {
        let edge = self.shard.edge();
        let now_s = clock::unix_ms() / 1000;
        let judge = || auth::judge(&auth, &edge.tables.load(), self.ingress, self.peer, &edge.tickets, now_s);
        let mut judged = judge();
        let is_unknown = |judged: &Result<Accepted, Refusal>| matches!(judged, Err(refusal) if refusal.code == Some(ErrorCode::AUTHTOKEN_INVALID));
        if is_unknown(&judged)
            && auth::may_be_known_soon(auth.extra.authtoken.expose(), now_s)
            && let Some(_room) = self.agents.waiting_logins.room(self.peer)
        {
            let deadline = Instant::now() + Duration::from_secs(auth::CATCH_UP_SECS_MAX);
            while is_unknown(&judged) && Instant::now() < deadline {
                sleep(Duration::from_millis(CATCH_UP_LOOK_MS)).await;
                judged = judge();
            }
        }
        match judged.and_then(|accepted| self.accept(&auth, accepted)) {
            Ok(reply) => {
                if let Some(session) = self.session.get() {
                    // The Program may have changed since it was judged, too early for this session to be seen.
                    self.agents.recheck_session(session, &edge.tables.load());
                    if edge.stage() > Stage::Serving {
                        self.agents.leave_session(Arc::clone(session));
                    }
                }
                write_object(&mut stream, &reply).await.map_err(|e| e.to_string())
            }
            Err(refusal) => {
                let wait = self.agents.auth_failures.note(self.peer, Instant::now());
                edge.metrics.auth_failed.inc();
                if self.shard.edge().refusal_has_line(self.peer) {
                    tracing::info!(peer = %self.peer, code = ?refusal.code, reason = refusal.message, "an agent is refused");
                }
                sleep(wait).await;
                self.gate.borrow_mut().decided(None);
                let sent = write_object(&mut stream, &AuthReply::refused(refusal.text())).await;
                sleep(Duration::from_millis(REFUSED_PAUSE_MS)).await;
                self.end(Code::NONE, "not authenticated");
                sent.map_err(|e| e.to_string())
            }
        }
    }

    /// Puts the session in service; a session of the same client that lingers makes room.
    fn accept(self: &Rc<Self>, auth: &Auth, accepted: Accepted) -> Result<AuthReply, Refusal> {
        let edge = self.shard.edge();
        let id = TunnelSessionId::new(random::ksuid());
        let from_elsewhere = || {
            let is_known = self.agents.peers.knows(accepted.credential, &auth.client_id);
            is_known.then(|| auth.client_id.clone())
        };
        let client_id = accepted.client_id.or_else(from_elsewhere);
        let client_id = client_id.unwrap_or_else(|| random::ksuid().to_string());
        let family = auth.family();
        let streams_max = family.in_flight_streams_max();
        let now_s = clock::unix_ms() / 1000;
        let extra = &auth.extra;
        let report = SessionReport {
            account: accepted.account,
            credential: accepted.credential,
            agent_version: short(&extra.version),
            user_agent: short(&extra.user_agent),
            os: short(&extra.os),
            ip: self.peer.to_string(),
            metadata: short(&extra.metadata),
            started_at: now_s,
            transport: if self.quic.is_some() { "quic" } else { "muxado" }.to_owned(),
            refusals: CommandRefusals {
                stop: refusal(extra.stop_unsupported.as_deref()),
                restart: refusal(extra.restart_unsupported.as_deref()),
                update: refusal(extra.update_unsupported.as_deref()),
            },
            endpoints: std::collections::BTreeMap::new(),
        };
        let allowance = self.agents.sessions.allowances.of(accepted.account);
        let text_bytes = Counter::new(allowance::SESSION_TEXT_BYTES_MAX);
        let taken = place(&allowance, &text_bytes, &report)?;
        let raw_key = {
            let tables = edge.tables.load();
            raw_key(auth, tables.credential_spec(accepted.credential), random::bytes())
        };
        let state = SessionState::new(id, self.mux.handle(), Arc::clone(&self.liveness), streams_max);
        state.allow_raw(raw_key.is_some());
        let session = Arc::new(AgentSession {
            state: Arc::new(state),
            several_edges: extra.several_edges,
            process: process(&extra.process),
            client_id: client_id.clone(),
            labels: Arc::new(AgentFacts {
                metadata: report.metadata.clone(),
                version: report.agent_version.clone(),
                os: report.os.clone(),
            }),
            mux: self.mux.clone(),
            moves: extra.moves,
            inner: Mutex::new(Inner { report, bound: Vec::new(), over: false }),
            allowance,
            text_bytes,
            links: SessionLinks::new(raw_key),
            _taken: taken,
        });
        // Our own streams beside the proxied ones: the heartbeat and requests to the agent.
        self.mux.set_limits(Limits { local_streams_max: streams_max + 16, ..Limits::EDGE });
        if self.session.set(Arc::clone(&session)).is_err() {
            return Err(Refusal { code: None, message: "the session is authenticated already".into() });
        }
        if let Some(way) = &self.quic {
            ebbgate_tunnel::quic::admit(way.connection());
            session.state.attach(way);
            spawn_local(watch_session(Arc::clone(&self.agents), Arc::clone(&session), Arc::clone(way)));
        }
        edge.metrics.sessions.inc();
        if let Some(stale) = self.agents.sessions.insert(Arc::clone(&session)) {
            self.agents.end(&stale, Code::NONE, "the agent came back on another connection");
        }
        self.agents.peers.came_back(accepted.credential, &client_id);
        session.publish(edge);
        self.gate.borrow_mut().decided(Some(family));
        spawn_local(Rc::clone(self).beat());
        tracing::info!(session = %id, account = %accepted.account, peer = %self.peer, ?family, "agent session online");
        let carriers = links::offer(auth, &session, edge, now_s);
        let cookie = Cookie {
            client_id: client_id.clone(),
            credential_id: accepted.credential.to_string(),
            expires_unix_s: now_s + TICKET_SECS,
        };
        Ok(AuthReply {
            version: auth.version().to_owned(),
            client_id,
            error: String::new(),
            extra: AuthReplyExtra {
                version: env!("CARGO_PKG_VERSION").into(),
                region: edge.tables.load().settings.region.clone(),
                cookie: cookie.seal(&edge.tickets),
                account_name: accepted.account_name,
                plan_name: String::new(),
                agent_session_id: id.to_string(),
                carriers,
                edge_id: if extra.several_edges { edge.visitors.edge.clone() } else { String::new() },
                connect_addresses: extra.several_edges.then(|| others(&edge.peers.list(), random::number())),
                ..AuthReplyExtra::default()
            },
        })
    }

    /// Heartbeats towards the agent, also when a stream waits for a sign of life; a missed one ends the session.
    async fn beat(self: Rc<Self>) {
        let Ok(stream) = self.mux.open(StreamKind::Heartbeat).await else { return };
        let interval = Duration::from_secs(heartbeat::HEARTBEAT_SECS);
        let tolerance = Duration::from_secs(heartbeat::TOLERANCE_SECS);
        let error = heartbeat::run_asked(stream, interval, tolerance, || self.liveness.asked(), |_| {}).await;
        if !self.mux.is_closed() {
            tracing::info!(peer = %self.peer, %error, "an agent's heartbeat stopped");
            self.end(Code::NONE, "no heartbeat");
        }
    }
}

/// A session's permits: one of its account's sessions, and the bytes of its text.
fn place(
    allowance: &Allowance,
    text_bytes: &Arc<Counter>,
    report: &SessionReport,
) -> Result<(Permit, Text), Refusal> {
    let SessionReport { agent_version, user_agent, os, metadata, refusals, .. } = report;
    let reasons = [&refusals.stop, &refusals.restart, &refusals.update].into_iter().flatten();
    let bytes = [agent_version, user_agent, os, metadata].into_iter().chain(reasons).map(String::len).sum();
    let taken = || {
        let text = (text_bytes.take(bytes)?, allowance.text_bytes.take(bytes)?);
        Some((allowance.sessions.take(1)?, text))
    };
    taken().ok_or_else(|| {
        let message = format!(
            "the account has as many agents on this server as it may ({}); stop some first",
            allowance::ACCOUNT_SESSIONS_MAX
        );
        Refusal::new(CODE_SESSIONS, message)
    })
}

/// Why an agent does not take a request, from what it says at its hello: nothing is too old, text is why not.
fn refusal(said: Option<&str>) -> Option<String> {
    match said {
        None => Some("it is too old to be asked".to_owned()),
        Some("") => None,
        Some(why) => Some(short(why)),
    }
}

/// The name of an agent's process; empty if it is none.
fn process(name: &str) -> String {
    let is_name = name.len() <= PROCESS_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_name { name.to_owned() } else { String::new() }
}

/// Free text of an agent, cut to what is kept.
fn short(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}
