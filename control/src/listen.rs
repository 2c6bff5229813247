//! Serves a router over HTTP/1.1, in clear or over TLS, with every wait bounded. Knows no routes.

mod source;
mod writes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub(crate) use self::source::{SOURCE_CONNECTIONS_MAX, source_of};
use self::writes::Writes;
use crate::counts::Counts;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Connections served at once on one listener.
const CONNECTIONS_MAX: usize = 512;
/// Seconds for a TLS handshake.
const HANDSHAKE_SECS_MAX: u64 = 10;
/// Seconds for a request's header to arrive, and for a connection to be idle.
const HEADER_SECS_MAX: u64 = 30;
/// Bytes of a request's header.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Seconds for a request to be read and answered.
const REQUEST_SECS_MAX: u64 = 30;
/// Seconds that requests under way are waited for when stopping.
const DRAIN_SECS_MAX: u64 = 5;
/// Pause after a failed accept, in milliseconds: without descriptors there is nothing to do but wait.
const ACCEPT_RETRY_MS: u64 = 100;

/// Who sent a request: the other end of its connection, no header believed. An extension of every request served here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Becomes true when the process is to stop.
pub type Stop = watch::Receiver<bool>;

/// Resolves when the process is to stop.
pub async fn stopped(stop: &mut Stop) {
    // A sender that is gone stops us too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves until told to stop, then lets requests under way finish.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router, mut stop: Stop) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let sources = Counts::new(SOURCE_CONNECTIONS_MAX);
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let accepted = async {
            let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((io, peer)) => {
                // Closed at once: it must not keep others waiting.
                let Some(counted) = sources.admit(source_of(peer.ip())) else { continue };
                let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                tasks.spawn(async move {
                    serve_accepted(io, Peer(peer), tls, router, stop).await;
                    drop((permit, counted));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
    drop(listener);
    let finished = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(Duration::from_secs(DRAIN_SECS_MAX), finished).await;
}

async fn serve_accepted(
    io: tokio::net::TcpStream,
    peer: Peer,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: Stop,
) {
    let Some(tls) = tls else { return serve_connection(io, peer, router, stop).await };
    if let Ok(Ok(io)) = timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), tls.accept(io)).await {
        serve_connection(io, peer, router, stop).await;
    }
}

async fn serve_connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    mut stop: Stop,
) {
    let service = service_fn(move |request| answer(router.clone(), peer, request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(HEADER_SECS_MAX));
    builder.max_buf_size(HEADER_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Writes::new(io)), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A client that sends its body too slowly is answered and closed.
async fn answer(
    router: Router,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(peer);
    let answered = router.oneshot(request.map(Body::new));
    if let Ok(answer) = timeout(Duration::from_secs(REQUEST_SECS_MAX), answered).await {
        return answer;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::writes::WRITE_SECS_MAX;
    use super::*;
    use axum::Extension;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    struct Server {
        at: SocketAddr,
        stop: watch::Sender<bool>,
        ended: JoinHandle<()>,
    }

    async fn server(router: Router) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        Server { at, stop, ended: tokio::spawn(serve(listener, None, router, stopping)) }
    }

    fn router() -> Router {
        let slow = || async {
            sleep(Duration::from_secs(2)).await;
            "slow"
        };
        Router::new().route("/", post(|body: String| async move { body })).route("/slow", get(slow))
    }

    /// What the server answers to bytes that are all that ever comes, and after how many seconds it closes.
    async fn answer_to(at: SocketAddr, bytes: &str) -> (String, u64) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let start = Instant::now();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        (answer, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_clients_are_closed() {
        let server = server(router()).await;
        let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n";
        for (bytes, expect, secs) in [
            ("", "", HEADER_SECS_MAX),
            ("POST / HTT", "", HEADER_SECS_MAX),
            (post, "", HEADER_SECS_MAX),
            (&format!("{post}\r\n12345"), "HTTP/1.1 408", REQUEST_SECS_MAX),
            (&format!("{post}\r\n1234567890"), "HTTP/1.1 200", HEADER_SECS_MAX),
        ] {
            let (answer, took) = answer_to(server.at, bytes).await;
            assert!(answer.starts_with(expect) && took <= secs + 1, "{bytes:?}: {answer:?} after {took} s");
        }
    }

    /// A client that asks for much and reads nothing.
    #[tokio::test(start_paused = true)]
    async fn clients_that_do_not_read_are_closed() {
        let large = || async { "x".repeat(64 << 20) };
        let server = server(Router::new().route("/", get(large))).await;
        let mut stream = TcpStream::connect(server.at).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        sleep(Duration::from_secs(3 * WRITE_SECS_MAX)).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 64 << 20, "{} bytes came after all", answer.len());
    }

    #[tokio::test]
    async fn one_source_has_so_many_connections() {
        let server = server(router()).await;
        let mut open = Vec::new();
        for _ in 0..SOURCE_CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(server.at).await.unwrap();
            stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx").await.unwrap();
            assert!(stream.read(&mut [0; 16]).await.unwrap() > 0);
            open.push(stream);
        }
        let mut refused = TcpStream::connect(server.at).await.unwrap();
        assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)), "closed at once");
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_finishes_what_is_under_way_and_takes_nothing_new() {
        let Server { at, stop, ended } = server(router()).await;
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        stop.send_replace(true);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("slow"), "{answer}");
        ended.await.unwrap();
        assert!(TcpStream::connect(at).await.is_err());
    }

    #[tokio::test]
    async fn handlers_learn_who_sent_the_request() {
        let tell = |Extension(peer): Extension<Peer>| async move { peer.0.to_string() };
        let server = server(Router::new().route("/", get(tell))).await;
        let mut stream = TcpStream::connect(server.at).await.unwrap();
        let own = stream.local_addr().unwrap().to_string();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(&own), "{answer}");
    }

    #[tokio::test]
    async fn a_header_too_large_is_refused() {
        let server = server(router()).await;
        let header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(4 * HEADER_BYTES_MAX));
        let (answer, _) = answer_to(server.at, &header).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}
