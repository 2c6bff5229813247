//! Carries out the steps of a connection's dispatch: ends TLS, opens the agent's stream, and relays. Tells the dispatch if
//! an agent fails before it answered, so that another member may serve.

use std::io;
use std::sync::Arc;

use ebbgate_model::{ErrorCode, Host, Scheme};
use ebbgate_policy::{ConnFacts, TlsSettings};
use ebbgate_tunnel::{StreamError, reset_code};
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

use super::client_conn::ClientConn;
use super::conn::{Conn, ConnLog};
use crate::dispatch::gateway::HttpConn;
use crate::dispatch::{Dispatch, Failure, Step};
use crate::http::UpstreamPools;
use crate::net::detect::POSTGRES_SSL_REQUEST;
use crate::net::hello::{Hello, finish_handshake, refuse_name};
use crate::net::socket::{Socket, UNACKNOWLEDGED_SECS_MAX};
use crate::net::tls::{self, Protocols};
use crate::relay::{self, End, Ended, Side};
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::metrics::GaugeGuard;
use crate::state::pool::Pool;
use crate::state::shard::Shard;
use crate::tunnel::origin::Origin;
use crate::tunnel::raw_link::RawFailed;
use crate::tunnel::session::{AgentRef, OpenError};
use crate::tunnel::stream::AgentStream;

/// Port of `https://` and `tls://` endpoints, whatever the socket is bound to.
pub(super) const TLS_PORT: u16 = 443;
/// Seconds an upstream may take to answer libpq's request for TLS.
const POSTGRES_SECS_MAX: u64 = 10;
/// Seconds a connection counts as new: one whose agent dies unanswered in this time is tried elsewhere. Its first bytes
/// may reach two upstreams then, so the time is short.
const NEW_CONNECTION_SECS: u64 = 2;

/// Links tried for one visitor, where each ended as it was claimed.
const LINK_TRIES_MAX: usize = 3;

/// Why a connection is over.
struct Over {
    /// Published code.
    code: Option<ErrorCode>,
    /// One sentence.
    outcome: String,
}

/// What came of serving a connection through one member.
enum Served {
    /// It is over.
    Over(Over),
    /// The member took nothing; another may.
    Again(Failure),
}

/// What a connection comes to when policies have run.
enum Next {
    /// It is let through to the endpoint.
    Open(Arc<Endpoint>),
    /// It is over.
    Over(Over),
}

impl Conn {
    /// Runs policies and ends TLS until there is something to open.
    async fn next(&mut self, shard: &Shard, protocols: Option<Protocols>) -> Next {
        loop {
            match self.dispatch.drive(shard, shard, &self.log).await {
                Step::EndTls(settings) => {
                    if let Err(over) = end_tls(shard, self, settings, protocols).await {
                        return Next::Over(over);
                    }
                }
                Step::Open(endpoint) => return Next::Open(endpoint),
                Step::Fail(failure) => return Next::Over(failed(&failure)),
                Step::Close { code, detail } => return Next::Over(over(code, detail)),
                // Steps of requests, and those that `drive` carries out.
                _ => return Next::Over(over(None, "closed by the policy: a connection cannot be answered")),
            }
        }
    }
}

/// Serves a TCP or TLS connection to its end.
pub async fn go_on(shard: Shard, mut conn: Box<Conn>) {
    loop {
        let endpoint = match conn.next(&shard, None).await {
            Next::Open(endpoint) => endpoint,
            Next::Over(over) => return finish(*conn, over),
        };
        let Kind::Agent(agent) = &endpoint.kind else {
            return finish(*conn, over(ErrorCode::OFFLINE, "there is no agent behind the endpoint"));
        };
        match serve(&shard, &mut conn, &endpoint, agent).await {
            Served::Over(over) => return finish(*conn, over),
            Served::Again(failure) => conn.dispatch.failed(failure, true),
        }
    }
}

/// Serves an HTTPS connection: its policy, the handshake, then requests.
pub(super) async fn https(shard: Shard, upstreams: UpstreamPools, mut conn: Box<Conn>) {
    // The policy and the handshake give their memory back before requests begin.
    let endpoint = match Box::pin(conn.next(&shard, Some(Protocols::Http))).await {
        Next::Open(endpoint) => endpoint,
        Next::Over(over) => return finish(*conn, over),
    };
    if !conn.client.is_tls() {
        let handshake = end_tls(&shard, &mut conn, tls::default_settings(), Some(Protocols::Http));
        if let Err(over) = Box::pin(handshake).await {
            return finish(*conn, over);
        }
    }
    requests(shard, upstreams, conn, Some(endpoint)).await;
}

/// Serves a name that no endpoint is online for: a client that speaks HTTP gets an explanation, if the name is ours.
pub(super) async fn no_endpoint(
    shard: Shard,
    upstreams: UpstreamPools,
    mut socket: Socket,
    hello: Hello,
    name: Host,
    log: ConnLog,
) {
    let outcome = format!("no endpoint is online for {name}");
    let ours = shard.edge().tables.load().certificates.find(&name).is_some();
    let may_be_http = hello.tls.alpn.is_empty() || hello.tls.offers_http();
    if !ours || hello.postgres || !may_be_http {
        refuse_name(&mut socket).await;
        return log.refuse(Some(ErrorCode::OFFLINE), outcome);
    }
    let facts = facts(&shard, &socket, &log);
    let nobody = Dispatch::connection(facts, Pool::new(Vec::new()));
    let mut conn = Box::new(Conn::new(socket, Some(hello), log, nobody));
    match Box::pin(end_tls(&shard, &mut conn, tls::default_settings(), Some(Protocols::Http))).await {
        Ok(()) => requests(shard, upstreams, conn, None).await,
        Err(over) => finish(*conn, over),
    }
}

async fn requests(
    shard: Shard,
    upstreams: UpstreamPools,
    conn: Box<Conn>,
    first_endpoint: Option<Arc<Endpoint>>,
) {
    let Conn { mut client, hello, log, dispatch } = *conn;
    let facts = Arc::clone(dispatch.facts());
    let conn = HttpConn {
        tls_settings: dispatch.tls().cloned(),
        alpn_h2: facts.tls.as_ref().is_some_and(|tls| tls.alpn == "h2"),
        facts,
        scheme: Scheme::Https,
        port: TLS_PORT,
        sni: hello.and_then(|hello| hello.tls.sni),
        first_endpoint,
    };
    let open = GaugeGuard::new(&shard.edge().metrics.http_connections_open);
    let outcome = crate::http::serve(shard.clone(), upstreams, &mut client, conn).await;
    if outcome.broken {
        client.abort_on_close();
    }
    drop((open, client));
    log.done(None, outcome.outcome);
}

/// Finishes the handshake with these settings. On failure the client has had its alert.
async fn end_tls(
    shard: &Shard,
    conn: &mut Conn,
    settings: Arc<TlsSettings>,
    protocols: Option<Protocols>,
) -> Result<(), Over> {
    let (Some(hello), Some(socket)) = (&conn.hello, conn.client.take_clear()) else {
        return Err(over(None, "TLS cannot end here: the client sent no TLS hello"));
    };
    let protocols = protocols.unwrap_or_else(|| Protocols::for_raw(&hello.tls));
    let domain = {
        let tables = shard.edge().tables.load();
        hello.tls.sni.as_ref().and_then(|name| tables.certificates.find(name).cloned())
    };
    let config = shard.configs().borrow_mut().get(&settings, domain.as_ref(), protocols);
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let mut socket = socket;
            refuse_name(&mut socket).await;
            return Err(over(None, error.to_string()));
        }
    };
    match finish_handshake(socket, config).await {
        Ok(stream) => {
            let mut facts = tls::facts(&stream, &hello.tls);
            facts.server_leaf = tls::leaf(&settings, domain.as_ref());
            conn.client = ClientConn::tls(stream);
            {
                let mut event = conn.log.event_mut();
                event.tls_version.clone_from(&facts.version);
                event.ja4.clone_from(&facts.ja4);
            }
            conn.dispatch.tls_ended(Arc::new(facts), settings);
            Ok(())
        }
        Err(error) => {
            shard.edge().metrics.handshakes_failed.inc();
            conn.log.sink().refused.set(true);
            Err(over(None, error.to_string()))
        }
    }
}

async fn serve(shard: &Shard, conn: &mut Conn, endpoint: &Endpoint, agent: &AgentRef) -> Served {
    let passthrough = conn.hello.is_some() && !conn.client.is_tls();
    if let Some(hello) = conn.hello.as_ref().filter(|_| passthrough) {
        conn.log.event_mut().ja4 = hello.tls.ja4();
    }
    let postgres = passthrough && conn.hello.as_ref().is_some_and(|hello| hello.postgres);
    let origin = origin(conn.dispatch.facts(), endpoint.url.scheme(), passthrough);
    if passthrough {
        conn.client.for_handshake_behind();
    }
    // A claim that is not confirmed is sent again: early data would be served twice.
    let has_early_data = conn.hello.as_ref().is_some_and(|hello| hello.tls.offers_early_data());
    if passthrough
        && !postgres
        && !has_early_data
        && agent.session.quic().is_none()
        && let Some(served) = through_raw(shard, conn, agent, origin).await
    {
        return served;
    }
    for _ in 0..LINK_TRIES_MAX {
        let mut stream = match open(shard, agent, origin, postgres).await {
            Ok(stream) => stream,
            Err(error) => return Served::Again(Failure::agent_stream(error.to_string())),
        };
        let untouched = if conn.dispatch.has_other() { conn.client.untouched() } else { None };
        conn.client.keep();
        let left = async {
            agent.session.liveness.silenced().await;
            if !untouched.is_some_and(|untouched| untouched()) {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = relay::copy(&mut conn.client, &mut stream, shard.edge().waits.idle()) => ended,
            // Neither side has said a word.
            () = left => {
                let silent = Failure::agent_silent();
                return if conn.client.rewind() { Served::Again(silent) } else { Served::Over(failed(&silent)) };
            }
        };
        if ended.end == End::Failed(Side::Agent) {
            let is_new = conn.log.elapsed() < new_connection(agent.session.timed_out() || stream.timed_out());
            let error = ended.error.as_ref();
            let only_it_ended = session_ended(error) && agent.session.is_alive() && stream.is_apart();
            if (is_refused(error) || is_new && session_ended(error)) && conn.client.rewind() {
                if only_it_ended {
                    continue;
                }
                return Served::Again(why(is_refused(error)));
            }
        }
        return Served::Over(closed(conn, &ended));
    }
    Served::Again(why(false))
}

/// Serves the visitor's own TLS over a raw link, or over a raw connection to the agent's edge, if there is one: both sockets are
/// spliced. None: no byte came of it, so another carrier may be tried.
async fn through_raw(shard: &Shard, conn: &mut Conn, agent: &AgentRef, origin: Origin) -> Option<Served> {
    let hello = conn.client.unread().filter(|hello| !hello.is_empty())?;
    let mut stream = match shard.dialer().open_raw(agent, origin, &hello).await? {
        Ok(stream) => stream,
        Err(RawFailed::Refused(Code::REFUSED)) => return Some(Served::Again(why(true))),
        // The other edge has confirmed nothing.
        Err(RawFailed::Lost) if agent.elsewhere.is_some() => {
            let has_better = agent.session.is_silent() && conn.dispatch.has_other();
            return has_better.then(|| Served::Again(Failure::agent_silent()));
        }
        Err(RawFailed::Lost) if conn.log.elapsed() < new_connection(agent.session.timed_out()) => {
            return None;
        }
        Err(failed) => {
            conn.client.abort_on_close();
            let outcome = format!("the agent's raw link failed: {failed:?}");
            return Some(Served::Over(over(ErrorCode::AGENT_STREAM, outcome)));
        }
    };
    let client = conn.client.passed_on()?;
    let Some(ended) = stream.join(client, shard.edge().waits.idle()).await else {
        conn.client.abort_on_close();
        return Some(Served::Over(over(ErrorCode::AGENT_STREAM, "the agent's session ended")));
    };
    Some(Served::Over(closed(conn, &ended)))
}

/// What a relay's end is called, and whether the client hears an abort.
fn closed(conn: &mut Conn, ended: &Ended) -> Over {
    let words = |what: &str| match &ended.error {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    match ended.end {
        End::Finished => return over(None, "closed"),
        End::Failed(Side::Client) => return over(None, words("the client went away")),
        _ => conn.client.abort_on_close(),
    }
    match ended.end {
        End::Idle => over(None, "closed: nothing moved for too long"),
        End::Expired => over(None, "closed: it lasted as long as a connection may"),
        _ => over(ErrorCode::AGENT_STREAM, words("the agent's stream failed")),
    }
}

fn origin(facts: &ConnFacts, proto: Scheme, passthrough: bool) -> Origin {
    Origin { client: facts.client, server: facts.server, proto, passthrough, instead: 0 }
}

/// Whether the agent could not reach its upstream (wire.md section 2, code 5): nothing behind it has seen a byte.
fn is_refused(error: Option<&io::Error>) -> bool {
    error.and_then(reset_code) == Some(Code::REFUSED)
}

/// How old a connection may be to be tried elsewhere. One that was opened after the agent's machine fell silent was not
/// heard there at all.
fn new_connection(unheard: bool) -> Duration {
    // The kernel notices up to a second late.
    let unheard_secs = UNACKNOWLEDGED_SECS_MAX + 1;
    Duration::from_secs(if unheard { unheard_secs } else { NEW_CONNECTION_SECS })
}

/// Whether the whole session died, rather than the agent ending this one stream.
fn session_ended(error: Option<&io::Error>) -> bool {
    error
        .and_then(|e| e.get_ref()?.downcast_ref::<StreamError>())
        .is_some_and(|e| matches!(e, StreamError::SessionEnded))
}

/// A stream to the agent. When the client's TLS passes through and libpq announced it, the upstream is asked in the same
/// words; an upstream that only knows TLS gets a new stream without them.
async fn open(
    shard: &Shard,
    agent: &AgentRef,
    origin: Origin,
    postgres: bool,
) -> Result<AgentStream, OpenError> {
    let mut stream = shard.dialer().open(agent, origin).await?;
    if !postgres {
        return Ok(stream);
    }
    let asked = timeout(Duration::from_secs(POSTGRES_SECS_MAX), async {
        stream.write_all(&POSTGRES_SSL_REQUEST).await?;
        stream.flush().await?;
        stream.read_u8().await
    });
    match asked.await {
        Ok(Ok(b'S')) => Ok(stream),
        _ => shard.dialer().open(agent, origin).await,
    }
}

/// Why a member took nothing; `is_refused`: its upstream is down, else its session ended.
fn why(is_refused: bool) -> Failure {
    if is_refused {
        Failure::upstream_unreachable()
    } else {
        Failure::agent_stream("the agent's session ended")
    }
}

fn failed(failure: &Failure) -> Over {
    over(failure.code, failure.detail())
}

fn over(code: impl Into<Option<ErrorCode>>, outcome: impl Into<String>) -> Over {
    Over { code: code.into(), outcome: outcome.into() }
}

fn finish(conn: Conn, over: Over) {
    conn.log.done(over.code, over.outcome);
}

/// What is known of a connection before any of its bytes.
pub(super) fn facts(shard: &Shard, socket: &Socket, log: &ConnLog) -> Arc<ConnFacts> {
    Arc::new(ConnFacts {
        client: socket.peer(),
        server: socket.local(),
        region: shard.edge().tables.load().settings.region.clone(),
        start_unix_ms: log.event().started_at_ms,
        tls: None,
        traffic: Some(socket.traffic()),
    })
}
