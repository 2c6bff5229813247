//! Acts on what a walk decides: ends TLS, opens the agent's stream on the shard where its session lives, relays, and
//! tries another member when one dies before it answered.

use std::io;
use std::sync::Arc;

use ebbgate_model::{ErrorCode, Host, Scheme};
use ebbgate_policy::{ConnFacts, TlsSettings};
use ebbgate_tunnel::{StreamError, reset_code};
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

use super::walk::{Next, Over, unmet};
use super::{Record, TLS_PORT, Visitor, Walk};
use crate::dispatch::gateway::HttpConn;
use crate::http::UpstreamPools;
use crate::net::detect::POSTGRES_SSL_REQUEST;
use crate::net::hello::{Hello, finish_handshake, refuse_name};
use crate::net::socket::{Socket, UNACKNOWLEDGED_SECS_MAX};
use crate::net::tls::{self, Protocols};
use crate::relay::{self, End, Ended, First, Side};
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::mailbox::Message;
use crate::state::metrics::Open;
use crate::state::shard::Shard;
use crate::tunnel::carrier::{CarrierStream, Origin, RawFailed};
use crate::tunnel::session::AgentRef;

/// Seconds an upstream may take to answer libpq's request for TLS.
const POSTGRES_SECS_MAX: u64 = 10;
/// Seconds a connection counts as new: one whose agent dies unanswered in this time is tried elsewhere. Its first bytes
/// may reach two upstreams then, so the time is short.
const NEW_CONNECTION_SECS: u64 = 2;

/// Links tried for one visitor, where each ended as it was claimed.
const LINK_TRIES_MAX: usize = 3;

/// What came of serving a connection through one member.
enum Served {
    /// It is over.
    Over(Over),
    /// The member took nothing; another may.
    Again,
    /// The link that was here is gone; the session's own shard can still reach the agent.
    Elsewhere,
}

/// Serves a TCP or TLS connection to its end, on whatever shard it has to be.
pub async fn go_on(shard: Shard, mut walk: Box<Walk>) {
    if let Err(error) = walk.visitor.attach() {
        return finish(*walk, over(None, format!("lost between shards: {error}")));
    }
    loop {
        let ended = match walk.next(&shard).await {
            Next::EndTls(settings) => end_tls(&shard, &mut walk, &settings, None, true).await.err(),
            Next::Open(endpoint) => {
                let Kind::Agent(agent) = &endpoint.kind else {
                    return finish(*walk, over(ErrorCode::OFFLINE, "there is no agent behind the endpoint"));
                };
                let raw = walk.hello.is_some() && !walk.visitor.is_tls();
                // What has gone to an agent that hangs, nobody can take back.
                if walk.has_other() && !shard.hears(agent).await {
                    shard.edge().metrics.retries.inc();
                    walk.failed();
                    continue;
                }
                if !shard.reaches(agent, raw) {
                    return move_to(&shard, walk, agent.session.shard);
                }
                match serve(&shard, &mut walk, &endpoint, agent).await {
                    Served::Over(over) => Some(over),
                    Served::Again => {
                        shard.edge().metrics.retries.inc();
                        walk.failed();
                        None
                    }
                    Served::Elsewhere => return move_to(&shard, walk, agent.session.shard),
                }
            }
            Next::End(over) => Some(over),
        };
        if let Some(over) = ended {
            return finish(*walk, over);
        }
    }
}

/// Serves an HTTPS connection: its policy, the handshake, then requests.
pub(super) async fn https(shard: Shard, upstreams: UpstreamPools, mut walk: Box<Walk>) {
    let endpoint = loop {
        match walk.next(&shard).await {
            Next::EndTls(settings) => {
                if let Err(over) = end_tls(&shard, &mut walk, &settings, Some(Protocols::Http), true).await {
                    return finish(*walk, over);
                }
            }
            Next::Open(_) if walk.is_forwarded() => {
                let outcome = "on_tcp_connect of an https endpoint cannot forward; use on_http_request";
                return finish(*walk, over(ErrorCode::OFFLINE, outcome));
            }
            Next::Open(endpoint) => break endpoint,
            Next::End(over) => return finish(*walk, over),
        }
    };
    if !walk.visitor.is_tls() {
        let settings = tls::default_settings();
        if let Err(over) = end_tls(&shard, &mut walk, &settings, Some(Protocols::Http), false).await {
            return finish(*walk, over);
        }
    }
    requests(shard, upstreams, walk, Some(endpoint)).await;
}

/// Serves a name that no endpoint is online for: an explanation for whoever speaks HTTP, if the name is ours.
pub(super) async fn no_endpoint(
    shard: Shard,
    upstreams: UpstreamPools,
    mut socket: Socket,
    hello: Hello,
    name: Host,
    record: Record,
) {
    let outcome = format!("no endpoint is online for {name}");
    let ours = shard.edge().tables.load().certificates.find(&name).is_some();
    let may_be_http = hello.tls.alpn.is_empty() || hello.tls.offers_http();
    if !ours || hello.postgres || !may_be_http {
        refuse_name(&mut socket).await;
        return record.refuse(Some(ErrorCode::OFFLINE), outcome);
    }
    let facts = super::facts(&shard, &socket, &record);
    let pool = crate::state::pool::Pool::new(Vec::new());
    let mut walk = Box::new(Walk::new(Visitor::clear(socket), facts, Some(hello), pool, record));
    match end_tls(&shard, &mut walk, &tls::default_settings(), Some(Protocols::Http), false).await {
        Ok(()) => requests(shard, upstreams, walk, None).await,
        Err(over) => finish(*walk, over),
    }
}

async fn requests(
    shard: Shard,
    upstreams: UpstreamPools,
    walk: Box<Walk>,
    first_endpoint: Option<Arc<Endpoint>>,
) {
    let mut walk = *walk;
    walk.record.event.policy_logs = walk.take_logs();
    let tls_settings = walk.ended();
    let Walk { mut visitor, facts, hello, record, .. } = walk;
    let conn = HttpConn {
        tls_settings,
        alpn_h2: facts.tls.as_ref().is_some_and(|tls| tls.alpn == "h2"),
        facts,
        scheme: Scheme::Https,
        port: TLS_PORT,
        sni: hello.and_then(|hello| hello.tls.sni),
        first_endpoint,
    };
    let open = Open::count(&shard.edge().metrics.http_connections_open);
    let outcome = crate::http::serve(shard.clone(), upstreams, &mut visitor, conn).await;
    if outcome.broken {
        visitor.abort_on_close();
    }
    drop((open, visitor));
    record.done(None, outcome.outcome);
}

/// Finishes the handshake with these settings. On failure the client has had its alert.
async fn end_tls(
    shard: &Shard,
    walk: &mut Walk,
    settings: &Arc<TlsSettings>,
    protocols: Option<Protocols>,
    asked: bool,
) -> Result<(), Over> {
    let (Some(hello), Some(socket)) = (&walk.hello, walk.visitor.take_clear()) else {
        return Err(over(None, "TLS cannot end here: the client sent no TLS hello"));
    };
    let protocols = protocols.unwrap_or_else(|| Protocols::for_raw(&hello.tls));
    let domain = {
        let tables = shard.edge().tables.load();
        hello.tls.sni.as_ref().and_then(|name| tables.certificates.find(name).cloned())
    };
    let config = shard.configs().borrow_mut().get(settings, domain.as_ref(), protocols);
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
            facts.server_leaf = tls::leaf(settings, domain.as_ref());
            walk.visitor = Visitor::tls(stream);
            walk.tls_ended(Arc::new(facts), settings, asked);
            Ok(())
        }
        Err(error) => {
            shard.edge().metrics.handshakes_failed.inc();
            walk.record.refused = true;
            Err(over(None, error.to_string()))
        }
    }
}

async fn serve(shard: &Shard, walk: &mut Walk, endpoint: &Endpoint, agent: &AgentRef) -> Served {
    match &agent.tls_termination {
        Some(settings) if !walk.meets(settings) => return Served::Over(unmet(endpoint)),
        Some(settings) if !walk.visitor.is_tls() => {
            if let Err(over) = end_tls(shard, walk, settings, None, false).await {
                return Served::Over(over);
            }
        }
        _ => {}
    }
    let passthrough = walk.hello.is_some() && !walk.visitor.is_tls();
    let postgres = passthrough && walk.hello.as_ref().is_some_and(|hello| hello.postgres);
    let origin = origin(&walk.facts, endpoint.url.scheme(), passthrough);
    if passthrough {
        walk.visitor.for_handshake_behind();
    }
    if passthrough
        && !postgres
        && agent.session.quic().is_none()
        && let Some(served) = through_raw(shard, walk, agent, origin).await
    {
        return served;
    }
    for _ in 0..LINK_TRIES_MAX {
        let Ok(mut stream) = open(shard, agent, origin, postgres).await else {
            let far = agent.session.shard != shard.index();
            return if far { Served::Elsewhere } else { Served::Again };
        };
        let untouched = if walk.has_other() { walk.visitor.untouched() } else { None };
        walk.visitor.keep();
        let left = async {
            agent.session.liveness.silenced().await;
            if !untouched.is_some_and(|untouched| untouched()) {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = relay::copy(&mut walk.visitor, &mut stream, shard.edge().waits.idle()) => ended,
            // Neither side has said a word.
            () = left => return if walk.visitor.rewind() { Served::Again } else { Served::Over(silent()) },
        };
        if ended.end == End::Failed(Side::Agent) {
            let is_new = walk.record.started.elapsed()
                < new_connection(agent.session.is_unheard() || stream.is_unheard());
            let error = ended.error.as_ref();
            let only_it_ended = session_ended(error) && agent.session.is_alive() && stream.is_apart();
            if (is_refused(error) || is_new && session_ended(error)) && walk.visitor.rewind() {
                if only_it_ended {
                    continue;
                }
                return Served::Again;
            }
        }
        return Served::Over(closed(walk, &ended));
    }
    Served::Again
}

/// Serves the visitor's own TLS over a raw link, if there is one: both sockets are spliced. None: no byte came of it, so
/// another carrier may be tried.
async fn through_raw(shard: &Shard, walk: &mut Walk, agent: &AgentRef, origin: Origin) -> Option<Served> {
    let hello = walk.visitor.unread().filter(|hello| !hello.is_empty())?;
    let mut stream = match shard.open_raw(agent, origin, &hello).await? {
        Ok(stream) => stream,
        Err(RawFailed::Refused(Code::REFUSED)) => return Some(Served::Again),
        Err(RawFailed::Lost)
            if walk.record.started.elapsed() < new_connection(agent.session.is_unheard()) =>
        {
            return None;
        }
        Err(failed) => {
            walk.visitor.abort_on_close();
            let outcome = format!("the agent's raw link failed: {failed:?}");
            return Some(Served::Over(over(ErrorCode::AGENT_STREAM, outcome)));
        }
    };
    let visitor = walk.visitor.passed_on()?;
    let limits = shard.edge().waits.idle();
    let by_ring = visitor.by_ring().and_then(|visitor| Ok(visitor.zip(stream.by_ring()?)));
    let join = async {
        match &by_ring {
            Ok(Some((visitor, agent))) => {
                let ended = relay::splice(visitor, agent, First::default(), limits).await;
                if ended.end == End::Finished {
                    visitor.finished();
                    agent.finished();
                }
                ended
            }
            // A socket that belongs to no runtime fails at its first call.
            Ok(None) | Err(_) => relay::splice(visitor, stream.socket(), First::default(), limits).await,
        }
    };
    let ended = tokio::select! {
        ended = join => ended,
        () = stream.ended() => {
            walk.visitor.abort_on_close();
            return Some(Served::Over(over(ErrorCode::AGENT_STREAM, "the agent's session ended")));
        }
    };
    if ended.end != End::Finished {
        stream.socket().abort_on_close();
    }
    Some(Served::Over(closed(walk, &ended)))
}

/// What a relay's end is called, and whether the client hears an abort.
fn closed(walk: &mut Walk, ended: &Ended) -> Over {
    let words = |what: &str| match &ended.error {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    match ended.end {
        End::Finished => return over(None, "closed"),
        End::Failed(Side::Client) => return over(None, words("the client went away")),
        _ => walk.visitor.abort_on_close(),
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
async fn open(shard: &Shard, agent: &AgentRef, origin: Origin, postgres: bool) -> Result<CarrierStream, ()> {
    let mut stream = shard.open_here(agent, origin).await.map_err(drop)?;
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
        _ => shard.open_here(agent, origin).await.map_err(drop),
    }
}

fn move_to(shard: &Shard, mut walk: Box<Walk>, index: usize) {
    if let Err(error) = walk.visitor.detach() {
        return finish(*walk, over(None, format!("the client went away: {error}")));
    }
    if let Err(Message::Moved(walk)) = shard.edge().mailboxes.send(index, Message::Moved(walk))
        && let Ok(walk) = walk.downcast::<Walk>()
    {
        finish(*walk, over(ErrorCode::AGENT_STREAM, "the agent's shard takes no more connections"));
    }
}

fn silent() -> Over {
    over(ErrorCode::AGENT_STREAM, "nothing is heard from the agent")
}

fn over(code: impl Into<Option<ErrorCode>>, outcome: impl Into<String>) -> Over {
    Over { code: code.into(), outcome: outcome.into() }
}

fn finish(mut walk: Walk, over: Over) {
    walk.record.event.policy_logs = walk.take_logs();
    walk.record.done(over.code, over.outcome);
}
