//! One agent's connection: TLS by the name it came for, then the streams it opens, answered one task each.

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use ebbgate_model::feed::{AgentEndpointReport, SessionReport};
use ebbgate_model::{AccountId, EndpointId, EndpointUrl, ErrorCode, TunnelSessionId};
use ebbgate_policy::{CheckContext, EndpointFacts, Engine, Owner, check};
use ebbgate_wire::driver::{self, Stream};
use ebbgate_wire::heartbeat;
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{
    Auth, AuthReply, AuthReplyExtra, Bind, BindReply, Outcome, PatchTunnelState, SrvInfo,
    StartTunnelWithLabelReply, StreamKind, Unbind, UnbindReply,
};
use ebbgate_wire::rpc_io::{read_request, write_object};
use ebbgate_wire::session::{AUTH_SECS_MAX, Admission, Gate};
use ebbgate_wire::ticket::{BindToken, Cookie};
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::auth::{self, Accepted};
use super::bind::{self, Place, Refusal, Wanted};
use super::{AgentSession, Bound, ENDPOINTS_MAX, Inner, Managed};
use crate::carrier::Carrier;
use crate::conn::{Open, hello_refused, read_hello};
use crate::gateway::{AgentRef, Endpoint, Gateway as _, Kind, SessionState};
use crate::listen::Admitted;
use crate::shard::{Shard, Stage};
use crate::socket::Socket;
use crate::tls::{self, Protocols};

/// Seconds an agent may take to send one request.
const REQUEST_SECS_MAX: u64 = 30;
/// Milliseconds between a refused Auth and the end, so that the refusal is read first.
const REFUSED_PAUSE_MS: u64 = 200;
/// Seconds a session may take to end once it was told to.
const END_SECS_MAX: u64 = 2;
/// Seconds a cookie and a bind token are good for.
const TICKET_SECS: i64 = 90 * 24 * 3600;
/// Bytes of free text kept of an agent, per field.
const TEXT_BYTES_MAX: usize = 4096;
/// Random names tried before giving up.
const RANDOM_TRIES_MAX: usize = 8;

/// One agent's connection, authenticated or not.
struct Connection {
    shard: Shard,
    mux: driver::Session,
    gate: RefCell<Gate>,
    peer: IpAddr,
    ingress: Option<AccountId>,
    session: OnceCell<Arc<AgentSession>>,
}

/// Serves a connection of the agent listener to its end.
pub async fn serve(shard: Shard, mut socket: Socket, admitted: Admitted) {
    let peer = socket.peer().ip();
    let open = Open::count(&shard.edge().metrics.agent_connections_open);
    let hello = match read_hello(&mut socket).await {
        Ok(hello) if !hello.postgres => hello,
        Ok(_) => return,
        Err(refusal) => return tracing::debug!(%peer, %refusal, "no agent"),
    };
    let name = shard.edge().tables.load().connect.find(hello.tls.sni.as_ref());
    let Some(name) = name else {
        tracing::info!(%peer, name = ?hello.tls.sni, "an agent came for a name nobody answers to");
        return hello_refused(&mut socket).await;
    };
    let config =
        shard.configs().borrow_mut().get(&tls::default_settings(), Some(&name.certificate), Protocols::Raw);
    let Ok(config) = config else { return hello_refused(&mut socket).await };
    let stream = match tls::handshake(socket.with_quick_ack(), config).await {
        Ok(stream) => stream,
        Err(error) => {
            shard.edge().metrics.handshakes_failed.inc();
            return tracing::info!(%peer, %error, "an agent's handshake failed");
        }
    };
    let (mux, mut incoming, driver) = driver::connect(stream, Role::Server, Limits::STRANGER);
    let mut driver = spawn_local(driver);
    let connection = Rc::new(Connection {
        mux,
        gate: RefCell::default(),
        peer,
        ingress: name.account,
        session: OnceCell::new(),
        shard,
    });
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
    drop((admitted, open));
}

impl Connection {
    fn end(&self, code: Code, message: &str) {
        if let Some(session) = self.session.get() {
            self.shard.remove_carrier(session.state.id);
            session.end(self.shard.edge(), code, message);
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
                let region = self.shard.edge().tables.load().program.settings.region.clone();
                write_object(&mut stream, &SrvInfo { region }).await
            }
            (StreamKind::Bind, Some(session)) => {
                let bind = Bind::decode(request).map_err(text)?;
                let reply = self.bind(session, &bind);
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
                let error = self.patch(session, &patch).err().map_or_else(String::new, |r| r.text());
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
        let now_s = self.shard.now_unix_ms() / 1000;
        let judged = auth::judge(&auth, &edge.tables.load(), self.ingress, &edge.tickets, now_s);
        match judged {
            Ok(accepted) => {
                let reply = self.accept(&auth, accepted);
                write_object(&mut stream, &reply).await.map_err(|e| e.to_string())
            }
            Err(refusal) => {
                let wait = edge.auth_failures.note(self.peer, Instant::now());
                edge.metrics.auth_failed.inc();
                tracing::info!(peer = %self.peer, code = ?refusal.code, reason = refusal.message, "an agent is refused");
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
    fn accept(self: &Rc<Self>, auth: &Auth, accepted: Accepted) -> AuthReply {
        let edge = self.shard.edge();
        let id = TunnelSessionId::new(edge.ksuid());
        let client_id = accepted.client_id.unwrap_or_else(|| edge.ksuid().to_string());
        let family = auth.family();
        let streams_max = family.in_flight_streams_max();
        let now_s = self.shard.now_unix_ms() / 1000;
        let extra = &auth.extra;
        let session = Arc::new(AgentSession {
            state: Arc::new(SessionState::new(id, self.shard.index(), streams_max)),
            client_id: client_id.clone(),
            mux: self.mux.clone(),
            managed: Managed {
                stop: extra.stop_unsupported.clone(),
                restart: extra.restart_unsupported.clone(),
                update: extra.update_unsupported.clone(),
            },
            inner: Mutex::new(Inner {
                report: SessionReport {
                    account: accepted.account,
                    credential: accepted.credential,
                    agent_version: short(&extra.version),
                    user_agent: short(&extra.user_agent),
                    os: short(&extra.os),
                    ip: self.peer.to_string(),
                    metadata: short(&extra.metadata),
                    started_at: now_s,
                    endpoints: std::collections::BTreeMap::new(),
                },
                bound: Vec::new(),
                over: false,
            }),
        });
        // Our own streams beside the proxied ones: the heartbeat and requests to the agent.
        self.mux.set_limits(Limits { local_streams_max: streams_max + 16, ..Limits::EDGE });
        if self.session.set(Arc::clone(&session)).is_err() {
            return AuthReply::refused("the session is authenticated already");
        }
        self.shard.add_carrier(id, Carrier::Mux(self.mux.clone()));
        edge.metrics.sessions.inc();
        if let Some(stale) = edge.sessions.insert(Arc::clone(&session)) {
            stale.end(edge, Code::NONE, "the agent came back on another connection");
        }
        session.publish(edge);
        self.gate.borrow_mut().decided(Some(family));
        spawn_local(Rc::clone(self).beat());
        tracing::info!(session = %id, account = %accepted.account, peer = %self.peer, ?family, "agent session online");
        let cookie = Cookie {
            client_id: client_id.clone(),
            credential_id: accepted.credential.to_string(),
            expires_unix_s: now_s + TICKET_SECS,
        };
        AuthReply {
            version: auth.version().to_owned(),
            client_id,
            error: String::new(),
            extra: AuthReplyExtra {
                version: env!("CARGO_PKG_VERSION").into(),
                region: edge.tables.load().program.settings.region.clone(),
                cookie: cookie.seal(&edge.tickets),
                account_name: accepted.account_name,
                plan_name: String::new(),
                agent_session_id: id.to_string(),
                ..AuthReplyExtra::default()
            },
        }
    }

    /// Heartbeats towards the agent; a missed one ends the session.
    async fn beat(self: Rc<Self>) {
        let Ok(stream) = self.mux.open(StreamKind::Heartbeat).await else { return };
        let interval = Duration::from_secs(heartbeat::HEARTBEAT_SECS);
        let tolerance = Duration::from_secs(heartbeat::TOLERANCE_SECS);
        let error = heartbeat::run(stream, interval, tolerance, |_| {}).await;
        if !self.mux.is_closed() {
            tracing::info!(peer = %self.peer, %error, "an agent's heartbeat stopped");
            self.end(Code::NONE, "no heartbeat");
        }
    }

    fn bind(&self, session: &Arc<AgentSession>, bind: &Bind) -> BindReply {
        match self.try_bind(session, bind) {
            Ok(reply) => reply,
            Err(refusal) => {
                self.shard.edge().metrics.binds_refused.inc();
                tracing::info!(session = %session.state.id, code = ?refusal.code, reason = refusal.message, "bind refused");
                BindReply::refused(bind, refusal.text())
            }
        }
    }

    fn try_bind(&self, session: &Arc<AgentSession>, bind: &Bind) -> Result<BindReply, Refusal> {
        let edge = self.shard.edge();
        let now_s = self.shard.now_unix_ms() / 1000;
        let tables = edge.tables.load_full();
        let identity = session.identity();
        let credential = tables.program.credentials.get(&identity.credential);
        let credential = credential.filter(|c| c.account == identity.account).ok_or_else(|| {
            Refusal::new(ErrorCode::CREDENTIAL_REVOKED, "the authtoken of this session was revoked")
        })?;
        if session.bound().len() >= ENDPOINTS_MAX {
            return Err(Refusal {
                code: None,
                message: format!("a session serves at most {ENDPOINTS_MAX} endpoints"),
            });
        }
        let token = BindToken::open(bind.extra.token.expose(), &edge.tickets, now_s).ok();
        let token = token.filter(|token| token.client_id == session.client_id);
        let wanted = bind::decide(bind, &tables, credential, token.as_ref())?;
        let references = tables.references(identity.account);
        let engine = wanted.policy.as_ref().map(|policy| Engine::compile(policy, &references)).transpose()?;
        let engine = engine.map(Arc::new);
        let bind_id = if bind.id.is_empty() { edge.ksuid().to_string() } else { short(&bind.id) };
        session.remove(edge, &bind_id);
        let make = |url: EndpointUrl| {
            self.endpoint(session, bind, &bind_id, &identity, &wanted, engine.clone(), url)
        };
        let (endpoint, lent_port) = self.put_in_service(&wanted.place, make)?;
        let bound = Bound {
            id: bind_id.clone(),
            endpoint: Arc::clone(&endpoint),
            lent_port,
            report: report(bind, &wanted, &endpoint, now_s),
            policy: wanted.policy,
        };
        if !session.add(edge, bound.clone()) {
            super::release(edge, &bound);
            return Err(Refusal { code: None, message: "the session has ended".into() });
        }
        tracing::info!(session = %session.state.id, endpoint = %endpoint.id, url = %endpoint.url, "endpoint online");
        let token = BindToken {
            client_id: session.client_id.clone(),
            bind_id: bind_id.clone(),
            url: endpoint.url.to_string(),
            expires_unix_s: now_s + TICKET_SECS,
        };
        let tunnel_id = format!("tn_{}", endpoint.id.ksuid());
        Ok(bind.reply(bind_id, &endpoint.url, token.seal(&edge.tickets), tunnel_id))
    }

    /// Adds the endpoint to the routes, under a free random name or port if that is what is wanted.
    fn put_in_service(
        &self,
        place: &Place,
        make: impl Fn(EndpointUrl) -> Arc<Endpoint>,
    ) -> Result<(Arc<Endpoint>, Option<u16>), Refusal> {
        let edge = self.shard.edge();
        let try_url = |url: EndpointUrl| {
            let endpoint = make(url);
            let taken = |e: crate::route::AlreadyOnline| {
                Refusal::new(ErrorCode::ALREADY_ONLINE, format!("{}: {e}", endpoint.url))
            };
            edge.routes.bind(Arc::clone(&endpoint)).map_err(taken).map(|()| Arc::clone(&endpoint))
        };
        let none =
            |what: &str| Refusal::new(bind::CODE_NO_RANDOM, format!("this server has no {what} to give"));
        match place {
            Place::LentAgain(url) if url.scheme() == ebbgate_model::Scheme::Tcp => {
                let port = edge.lend_port(Some(url.port())).ok_or_else(|| none("such port"))?;
                let bound = try_url(url.clone()).inspect_err(|_| edge.give_port_back(port));
                Ok((bound?, Some(port)))
            }
            Place::At(url) | Place::LentAgain(url) => Ok((try_url(url.clone())?, None)),
            Place::RandomName(scheme, domain) => (0..RANDOM_TRIES_MAX)
                .filter_map(|_| bind::random_name(*scheme, domain, edge.random()))
                .find_map(|url| try_url(url).ok())
                .map(|endpoint| (endpoint, None))
                .ok_or_else(|| none("random name")),
            Place::RandomPort => {
                let host = edge.tables.load().program.settings.tcp_host.clone();
                let host = host.ok_or_else(|| none("random port"))?;
                let port = edge.lend_port(None).ok_or_else(|| none("random port"))?;
                let url = EndpointUrl::new(ebbgate_model::Scheme::Tcp, host, port)
                    .map_err(|_| none("random port"))?;
                try_url(url).map(|endpoint| (endpoint, Some(port))).inspect_err(|_| edge.give_port_back(port))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an endpoint is made of all of these, once")]
    fn endpoint(
        &self,
        session: &AgentSession,
        bind: &Bind,
        bind_id: &str,
        identity: &SessionReport,
        wanted: &Wanted,
        engine: Option<Arc<Engine>>,
        url: EndpointUrl,
    ) -> Arc<Endpoint> {
        let id = EndpointId::new(self.shard.edge().ksuid());
        Arc::new(Endpoint {
            id,
            account: identity.account,
            binding: wanted.binding,
            facts: Arc::new(EndpointFacts { id: id.to_string(), url: url.clone() }),
            url,
            engine,
            kind: Kind::Agent(AgentRef {
                session: Arc::clone(&session.state),
                bind: bind_id.into(),
                proxy_protocol: wanted.proxy_protocol,
                tls_termination: wanted.tls_termination.clone(),
            }),
            upstream_http2: bind.upstream_is_http2(),
            pooling_enabled: bind.extra.pooling_enabled,
        })
    }

    /// Changes a served endpoint; all or nothing.
    fn patch(&self, session: &AgentSession, patch: &PatchTunnelState) -> Result<(), Refusal> {
        let edge = self.shard.edge();
        let is_it = |b: &Bound| format!("tn_{}", b.endpoint.id.ksuid()) == patch.tunnel_id;
        let Some(mut bound) = session.bound().into_iter().find(is_it) else {
            return Err(Refusal {
                code: None,
                message: format!("no endpoint {} is bound here", patch.tunnel_id),
            });
        };
        let mut engine = bound.endpoint.engine.clone();
        if let Some(text) = &patch.traffic_policy {
            let context = CheckContext {
                scheme: bound.endpoint.url.scheme(),
                binding: bound.endpoint.binding,
                owner: Owner::Agent,
            };
            bound.policy = if text.trim().is_empty() { None } else { Some(check(text, &context)?.policy) };
            let references = edge.tables.load().references(bound.endpoint.account);
            let compiled =
                bound.policy.as_ref().map(|policy| Engine::compile(policy, &references)).transpose()?;
            engine = compiled.map(Arc::new);
            bound.report.traffic_policy.clone_from(text);
        }
        let mut endpoint = super::with_engine(&bound.endpoint, engine);
        if let Some(pooling_enabled) = patch.pooling_enabled {
            endpoint.pooling_enabled = pooling_enabled;
            bound.report.pooling_enabled = pooling_enabled;
        }
        for (field, new) in [
            (&mut bound.report.name, &patch.name),
            (&mut bound.report.description, &patch.description),
            (&mut bound.report.metadata, &patch.metadata),
        ] {
            if let Some(new) = new {
                *field = short(new);
            }
        }
        let endpoint = Arc::new(endpoint);
        let taken = |e: crate::route::AlreadyOnline| Refusal::new(ErrorCode::ALREADY_ONLINE, e.to_string());
        edge.routes.bind(Arc::clone(&endpoint)).map_err(taken)?;
        bound.endpoint = Arc::clone(&endpoint);
        if !session.add(edge, bound) {
            edge.routes.remove(&endpoint);
        }
        Ok(())
    }
}

/// Free text of an agent, cut to what is kept.
fn short(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

fn report(bind: &Bind, wanted: &Wanted, endpoint: &Endpoint, now_s: i64) -> AgentEndpointReport {
    AgentEndpointReport {
        url: endpoint.url.clone(),
        binding: endpoint.binding,
        name: short(&bind.extra.name),
        description: short(&bind.extra.description),
        metadata: short(&bind.extra.metadata),
        pooling_enabled: endpoint.pooling_enabled,
        forwards_to: short(&bind.forwards_to),
        upstream_protocol: if endpoint.upstream_http2 { "http2" } else { "http1" }.into(),
        traffic_policy: wanted.policy_text.clone(),
        created_at: now_s,
    }
}
