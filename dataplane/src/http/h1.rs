//! One visitor's HTTP/1.1 connection: hyper's server behind the gate, and what comes after hyper is done: a refusal, a
//! tunnel, a close that lets the visitor read the last answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{Body, Direction};
use super::framing::{Authority, FIELDS_MAX, HEAD_BYTES_MAX};
use super::gate::{Fault, Gate, Shared, Width};
use super::limits::{LINGER_BYTES_MIN, Limits};
use super::pace::Pace;
use super::upstream::fault_failure;
use super::visitor::{Answer, Tunnel, Visitor};
use crate::dispatch::gateway::{Gateway, HttpOutcome};
use crate::relay::{self, End, IdleLimits};

/// Bytes hyper may hold of a request head: what the gate lets through, and room for what follows it.
const BUFFER_BYTES_MAX: usize = HEAD_BYTES_MAX + 64 * 1024;

/// Bytes read at once of a body that nobody wants.
const LINGER_READ_BYTES: usize = 16 * 1024;

/// The connection is dropped without an answer, as a policy asked.
#[derive(Debug, thiserror::Error)]
#[error("a policy closed the connection")]
struct Closed;

/// hyper's view of a [`Visitor`].
struct Requests<G: Gateway> {
    visitor: Rc<Visitor<G>>,
    shared: Rc<Shared>,
    tunnel: Rc<RefCell<Option<Tunnel<G>>>>,
}

/// The request in hand is answered when this goes.
struct Answered(Rc<Shared>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl<G: Gateway> Service<Request<Incoming>> for Requests<G> {
    type Response = Response<Body>;
    type Error = Closed;
    type Future = LocalBoxFuture<'static, Result<Response<Body>, Closed>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (visitor, shared, tunnel) = (self.visitor.clone(), self.shared.clone(), self.tunnel.clone());
        let answered = Answered(shared.clone());
        Box::pin(async move {
            let upgrade = shared.upgrade_asked();
            // The gate lets no head through without exactly one valid Host.
            let host = request.headers().get(HOST).ok_or(Closed)?;
            let authority = Authority::parse(host.as_bytes()).map_err(|_| Closed)?;
            let request = in_origin_form(request.map(|body| Body::from_visitor(body, shared.clone())));
            match visitor.answer(request, &authority, upgrade, &shared.exchange()).await {
                Answer::Close => Err(Closed),
                Answer::Response(mut response) => {
                    if shared.is_last() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok(response.map(|body| body.guarded(answered)))
                }
                Answer::Switched(response, upstream) => {
                    tunnel.replace(Some(upstream));
                    Ok(response)
                }
            }
        })
    }
}

/// An absolute target named the same host as Host; from here on only Host counts.
fn in_origin_form(mut request: Request<Body>) -> Request<Body> {
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or(http::uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = http::Uri::from(path);
    }
    request
}

/// Serves the connection to its end.
pub(super) async fn serve<G, IO>(visitor: Rc<Visitor<G>>, io: IO) -> HttpOutcome
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Rc::new(Shared::default());
    let tunnel = Rc::new(RefCell::new(None));
    let limits = visitor.limits().clone();
    let draining = visitor.gateway().draining();
    let gate = Gate::new(io, shared.clone(), limits.clone(), visitor.patience());
    let requests = || Requests { visitor: visitor.clone(), shared: shared.clone(), tunnel: tunnel.clone() };
    let mut draining = std::pin::pin!(draining);
    let (mut gate, mut drains) = (gate, false);
    let (ended, read) = loop {
        let builder = builder(shared.width(), drains);
        let mut connection = builder.serve_connection(TokioIo::new(gate), requests());
        let ended = tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
            () = &mut draining, if !drains => {
                drains = true;
                Pin::new(&mut connection).graceful_shutdown();
                poll_fn(|cx| connection.poll_without_shutdown(cx)).await
            }
        };
        let parts = connection.into_parts();
        gate = parts.io.into_inner();
        if !shared.outgrew() {
            break (ended, parts.read_buf);
        }
    };
    let (mut io, rest) = gate.into_parts();
    let requests = shared.requests();
    if let Some(tunnel) = tunnel.take() {
        let mut read = BytesMut::from(read);
        read.extend_from_slice(&rest);
        let left = visitor.gateway().left_http();
        let outcome = relay(io, read, tunnel, &limits).await;
        drop(left);
        return HttpOutcome { requests, outcome, broken: false };
    }
    let outcome = match (shared.fault(), &ended) {
        (Some(fault), _) => {
            if let Some(fault) = shared.unanswered_fault() {
                let _ = timeout(limits.linger, refuse(&mut io, fault)).await;
            }
            fault.to_string()
        }
        (None, Ok(())) => "closed".to_owned(),
        (None, Err(error)) if is_policy_close(error) => {
            return HttpOutcome { requests, outcome: Closed.to_string(), broken: false };
        }
        (None, Err(error)) => error.to_string(),
    };
    // What broke inside an answer must look broken: no orderly end.
    if ended.is_ok() {
        let unread = shared.is_last() || !rest.is_empty();
        linger(&mut io, &limits, unread).await;
    }
    HttpOutcome { requests, outcome, broken: ended.is_err() && shared.is_version_1_0() }
}

/// hyper, with room for as many fields as are needed; `last`: for one request.
fn builder(width: Width, last: bool) -> Builder {
    let mut builder = Builder::new();
    builder.max_buf_size(BUFFER_BYTES_MAX).header_read_timeout(None).writev(true).keep_alive(!last);
    if width == Width::Full {
        builder.max_headers(FIELDS_MAX);
    }
    builder
}

fn is_policy_close(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<Closed>)
}

/// Says why nothing after this will be answered. Only between messages: hyper has written every answer whole by then.
async fn refuse<IO: AsyncWrite + Unpin>(io: &mut IO, fault: Fault) {
    if !matches!(fault, Fault::Refused(_) | Fault::HeadLate) {
        return;
    }
    let failure = fault_failure(fault);
    let (status, text) = (failure.status, failure.text());
    let reason = status.canonical_reason().unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        status.as_u16(),
        text.len(),
    );
    let _ = io.write_all(answer.as_bytes()).await;
}

/// Ends our side and, if the visitor may have sent more than was read, reads on for a while: the reset that unread bytes
/// cause would consume the last answer (RFC 9112 section 9.6).
async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, limits: &Limits, unread: bool) {
    let until = Instant::now() + limits.drain;
    if !matches!(timeout(limits.linger, io.shutdown()).await, Ok(Ok(()))) || !unread {
        return;
    }
    let mut pace = Pace::new(limits.linger, LINGER_BYTES_MIN);
    let mut bytes = vec![0; LINGER_READ_BYTES];
    loop {
        let deadline = pace.wait(Instant::now()).min(until);
        match timeout_at(deadline, io.read(&mut bytes)).await {
            Ok(Ok(n @ 1..)) => pace.moved(Instant::now(), n),
            _ => return,
        }
    }
}

/// Carries bytes both ways until the tunnel ends.
async fn relay<G, IO>(io: IO, read: BytesMut, tunnel: Tunnel<G>, limits: &Limits) -> String
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut visitor = Rewound { first: read, io };
    let mut upstream = Rewound { first: tunnel.read, io: tunnel.stream };
    let idle_ms = u64::try_from(limits.idle.as_millis()).unwrap_or(u64::MAX);
    let idle = IdleLimits { open_ms: idle_ms, half_closed_ms: idle_ms };
    let ended = relay::copy(&mut visitor, &mut upstream, idle).await;
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    tunnel.record.progress.moved(Direction::In, bytes(ended.bytes_up));
    tunnel.record.progress.moved(Direction::Out, bytes(ended.bytes_down));
    match ended.end {
        End::Finished => "tunnel finished",
        End::Failed(_) => "tunnel broke",
        End::Idle => "tunnel idle",
        End::Expired => "tunnel expired",
    }
    .to_owned()
}

/// A stream some of whose bytes were read already.
struct Rewound<IO> {
    first: BytesMut,
    io: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(self.first.get(..n).unwrap_or_default());
        self.first.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
