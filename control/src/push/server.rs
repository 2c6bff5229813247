//! Feeds over HTTP/2, and the listener that edges of this machine connect to: a Unix socket.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::EdgeId;
use ebbgate_model::feed::FEED_PATH;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::feed::Feeds;

/// Connections of edges served at once.
const FEEDS_MAX: usize = 256;
/// Bytes of a request or response that may be under way unread.
const WINDOW_BYTES: u32 = 1 << 20;
/// Pause after a failed accept, in milliseconds: without descriptors there is nothing to do but wait.
const ACCEPT_RETRY_MS: u64 = 100;

/// Binds the socket, with its mode set before anybody can connect. Removes what a killed process left.
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o660))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

/// Serves edges of this machine until dropped.
pub async fn serve_unix(listener: UnixListener, feeds: Arc<Feeds>) -> Infallible {
    let room = Arc::new(Semaphore::new(FEEDS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((io, _)) => {
                let feeds = feeds.clone();
                tasks.spawn(async move {
                    serve_connection(io, feeds).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an edge failed");
                sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

async fn serve_connection(io: UnixStream, feeds: Arc<Feeds>) {
    serve_http2(io, move |request| std::future::ready(answer(request, &feeds))).await;
}

/// Serves one connection of an edge.
pub async fn serve_http2<I, F>(io: I, answer: impl Fn(Request<Incoming>) -> F)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(1).initial_stream_window_size(WINDOW_BYTES);
    builder.initial_connection_window_size(WINDOW_BYTES);
    if let Err(error) = builder.serve_connection(TokioIo::new(io), service).await {
        tracing::debug!(%error, "a connection of an edge ended");
    }
}

/// What an edge is answered.
pub type Answer = Response<BoxBody<Bytes, Infallible>>;

fn answer(request: Request<Incoming>, feeds: &Arc<Feeds>) -> Answer {
    let refusal = match (request.method(), request.uri().path()) {
        (&Method::POST, FEED_PATH) => return Feeds::open(feeds, None, request),
        (_, FEED_PATH) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = refusal;
    response
}

impl Feeds {
    /// Begins a feed. `edge`: which one it must be of; None: whichever it says.
    pub fn open(feeds: &Arc<Self>, edge: Option<EdgeId>, request: Request<Incoming>) -> Answer {
        let feeds = Arc::clone(feeds);
        // One line waits here and up to a window in the connection: what an edge does not read holds its feed up.
        let (out, lines) = mpsc::channel::<Bytes>(1);
        tokio::spawn(async move { feeds.serve(edge, request.into_body(), out).await });
        let frames = stream::unfold(lines, |mut lines| async {
            let line = lines.recv().await?;
            Some((Ok(Frame::data(line)), lines))
        });
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }
}
