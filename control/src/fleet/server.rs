//! The listener for edges of other machines: HTTP/2 over mutual TLS. A peer without a certificate may join and no more.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::feed::{
    BEAT_SECS, Enrolled, FEED_PATH, FLEET_BYTES_MAX, FleetRefusal, JOIN_PATH, RENEW_PATH,
};
use ebbgate_model::{EdgeId, Host};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::membership::{self, FleetError};
use super::tls::{self, FleetTlsError};
use crate::App;
use crate::counts::{Counted, Counts};
use crate::error_chain::ErrorChain;
use crate::listen::{SOURCE_CONNECTIONS_MAX, source_of};
use crate::push::{Answer, Feeds, serve_http2};
use crate::record::fleet::FleetEdge;

/// Connections at once of peers that have not shown which edge they are; those of edges do not count here.
const STRANGERS_MAX: usize = 1024;
/// Connections of one edge at once: a feed, one that takes its place, and renewals.
pub(super) const EDGE_CONNECTIONS_MAX: usize = 8;
/// Seconds for a TLS handshake.
const HANDSHAKE_SECS_MAX: u64 = 10;
/// Seconds that a connection without a certificate may last: time to join.
const STRANGER_SECS_MAX: u64 = 30;
/// Seconds for the body of a request to join or for a certificate.
const BODY_SECS_MAX: u64 = 10;
/// Pause after a failed accept, in milliseconds: without descriptors there is nothing to do but wait.
const ACCEPT_RETRY_MS: u64 = 100;

/// What the listener serves with.
pub struct Fleet {
    app: App,
    /// What edges are to trust, PEM.
    authorities_pem: String,
    feeds: Arc<Feeds>,
    acceptor: TlsAcceptor,
    /// Connections of strangers, by their source.
    sources: Arc<Counts<IpAddr>>,
    edges: Arc<Counts<EdgeId>>,
}

impl Fleet {
    /// A fleet that reaches this control at `host`.
    pub fn new(
        app: App,
        host: &Host,
        authorities_pem: String,
        feeds: Arc<Feeds>,
    ) -> Result<Self, FleetTlsError> {
        let config = tls::config(&app, host, &authorities_pem)?;
        Ok(Self {
            app,
            authorities_pem,
            feeds,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            sources: Counts::new(SOURCE_CONNECTIONS_MAX),
            edges: Counts::new(EDGE_CONNECTIONS_MAX),
        })
    }
}

/// Its place among the connections of strangers.
type Stranger = (OwnedSemaphorePermit, Counted<IpAddr>);

/// Serves edges of other machines until dropped.
pub async fn serve(listener: TcpListener, fleet: Arc<Fleet>) -> Infallible {
    let room = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((io, peer)) => {
                // Closed at once: it must not keep others waiting.
                let Some(counted) = fleet.sources.admit(source_of(peer.ip())) else { continue };
                tasks.spawn(serve_connection(io, peer, Arc::clone(&fleet), (permit, counted)));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an edge failed");
                sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

/// Serves a connection, which counts among strangers until it shows which edge it is of.
async fn serve_connection(io: TcpStream, peer: SocketAddr, fleet: Arc<Fleet>, stranger: Stranger) {
    let handshake = timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), fleet.acceptor.accept(io)).await;
    let io = match handshake {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return tracing::warn!(%peer, %error, "an edge was refused: its certificate or TLS"),
        Err(_) => return tracing::debug!(%peer, "a handshake took too long"),
    };
    let certificate = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(certificate) = certificate else {
        let serving = serve_http2(io, move |request| answer_stranger(Arc::clone(&fleet), request));
        // The end of its time is all that can be said of it.
        let _ = timeout(Duration::from_secs(STRANGER_SECS_MAX), serving).await;
        return;
    };
    let Some(edge) = tls::edge_of(certificate) else {
        return tracing::warn!(%peer, "an edge was refused: its certificate names no edge");
    };
    let Some(_counted) = fleet.edges.admit(edge) else {
        return tracing::warn!(%peer, %edge, "an edge was refused: it has {EDGE_CONNECTIONS_MAX} connections");
    };
    drop(stranger);
    let member = Arc::clone(&fleet);
    let serving = serve_http2(io, move |request| answer_edge(Arc::clone(&member), edge, request));
    tokio::select! {
        () = serving => {}
        error = removed(&fleet.app, edge) => {
            // Another control may have removed it.
            fleet.app.presence.remove(edge);
            tracing::warn!(%peer, %edge, error = %ErrorChain(&error), "an edge was refused");
        }
    }
}

/// Resolves when the edge belongs no longer. While the store does not answer, it does.
async fn removed(app: &App, edge: EdgeId) -> FleetError {
    let beat = Duration::from_secs(BEAT_SECS);
    let mut often = interval_at(Instant::now() + beat, beat);
    loop {
        often.tick().await;
        match membership::member(app, edge).await {
            Err(error @ FleetError::NoEdge(_)) => return error,
            // Another control may have drained it.
            Ok(stored) => told(app, &stored.record),
            Err(_) => {}
        }
    }
}

/// Answers a peer without a certificate.
async fn answer_stranger(fleet: Arc<Fleet>, request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::POST, JOIN_PATH) => match body(request).await {
            Ok(asked) => enrolled(membership::join(&fleet.app, &fleet.authorities_pem, &asked).await),
            Err(refused) => refused,
        },
        (_, FEED_PATH | RENEW_PATH) => refusal(
            StatusCode::UNAUTHORIZED,
            "this edge shows no certificate: let it join with a string of `ebbgate-control edge join`",
        ),
        _ => refusal(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// What the operator wants of an edge.
fn told(app: &App, edge: &FleetEdge) {
    app.presence.set_drained(edge.id, edge.drained);
    app.presence.set_canary(edge.id, edge.canary);
}

/// Answers a peer with the certificate of an edge.
async fn answer_edge(fleet: Arc<Fleet>, edge: EdgeId, request: Request<Incoming>) -> Answer {
    // Asked at each request, so that an edge that was removed is told so; `removed` ends what is open.
    match membership::member(&fleet.app, edge).await {
        Ok(stored) => told(&fleet.app, &stored.record),
        Err(error) => return enrolled(Err(error)),
    }
    match (request.method(), request.uri().path()) {
        (&Method::POST, FEED_PATH) => Feeds::open(&fleet.feeds, Some(edge), request),
        (&Method::POST, RENEW_PATH) => match body(request).await {
            Ok(asked) => enrolled(membership::renew(&fleet.app, &fleet.authorities_pem, edge, &asked).await),
            Err(refused) => refused,
        },
        (&Method::POST, JOIN_PATH) => {
            refusal(StatusCode::CONFLICT, "this edge has joined already: remove its identity to join anew")
        }
        _ => refusal(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Answer> {
    let reading = Limited::new(request.into_body(), FLEET_BYTES_MAX).collect();
    let bad = |reason: String| refusal(StatusCode::BAD_REQUEST, reason);
    let read = timeout(Duration::from_secs(BODY_SECS_MAX), reading).await;
    let read = read.map_err(|_| bad("the request took too long".to_owned()))?;
    let read = read.map_err(|error| bad(format!("the request cannot be read: {error}")))?;
    serde_json::from_slice(&read.to_bytes()).map_err(|error| bad(format!("the request: {error}")))
}

fn enrolled(result: Result<Enrolled, FleetError>) -> Answer {
    let error = match result {
        Ok(enrolled) => return json(StatusCode::OK, &enrolled),
        Err(error) => error,
    };
    let status = match &error {
        FleetError::Token | FleetError::NoEdge(_) => StatusCode::FORBIDDEN,
        FleetError::Name | FleetError::Base64 | FleetError::Csr(_) => StatusCode::BAD_REQUEST,
        FleetError::Conflict | FleetError::TooMany => StatusCode::CONFLICT,
        FleetError::Authority(_) | FleetError::Record(_) => {
            tracing::error!(error = %ErrorChain(&error), "an edge could not be served");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "control cannot do this now; its log says why");
        }
    };
    refusal(status, error.to_string())
}

fn refusal(status: StatusCode, error: impl Into<String>) -> Answer {
    json(status, &FleetRefusal { error: error.into() })
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("strings and numbers are JSON");
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    response
}
