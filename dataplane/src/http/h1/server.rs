//! One client's HTTP/1.1 connection: one task that reads a head, has it answered, writes the response and begins again.
//!
//! All waits on the client end here: for a head, for a body's pace, for rest between requests, for room to write. While a
//! request is answered the connection is watched, so that a client that goes away is noticed. Does not know routing or
//! policies.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use futures_util::future::Fuse;
use http::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::close::{linger, refuse, tunnel};
use super::conn::{Asked, Conn, End, gone};
use super::input::poll_read;
use crate::dispatch::gateway::{Gateway, HttpOutcome};
use crate::http::exchange::Exchange;
use crate::http::fault::{BodyFault, Fault};
use crate::http::fields;
use crate::http::framing::{Refusal, RequestHead};
use crate::http::min_rate::MinRate;
use crate::http::service::{Answer, HttpService, Tunnel};

/// Serves the connection to its end.
pub(in crate::http) async fn serve<G, IO>(service: Rc<HttpService<G>>, io: IO) -> HttpOutcome
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let limits = service.limits().clone();
    let mut conn = Conn::new(io, limits.clone(), service.patience());
    let mut draining = std::pin::pin!(service.gateway().draining().fuse());
    let end = loop {
        let head = match conn.next_head(draining.as_mut()).await {
            Ok(head) => head,
            Err(end) => break end,
        };
        match conn.exchange(&service, head, draining.as_mut()).await {
            Ok(None) => {}
            Ok(Some(switched)) => {
                let left = service.gateway().left_http();
                let outcome = tunnel(conn.io, conn.input, switched, &limits).await;
                drop(left);
                return HttpOutcome { requests: conn.requests, outcome, broken: false };
            }
            Err(end) => break end,
        }
    };
    let unread = conn.fault.is_some() || conn.arriving.is_some() || !conn.input.is_empty();
    let (broken, outcome) = match &end {
        End::Closed => (false, conn.fault.map_or_else(|| "closed".to_owned(), |fault| fault.to_string())),
        End::Refused(fault) => {
            refuse(&mut conn.io, *fault, &limits).await;
            (false, fault.to_string())
        }
        End::Broken(BodyFault::Visitor(fault)) => (true, fault.to_string()),
        End::Broken(fault) => (true, fault.to_string()),
        End::Policy => (false, "a policy closed the connection".to_owned()),
    };
    // What broke inside an answer must look broken: no orderly end.
    if matches!(end, End::Closed | End::Refused(_)) {
        linger(&mut conn.io, &limits, unread).await;
    }
    HttpOutcome { requests: conn.requests, outcome, broken: broken && conn.is_version_1_0() }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Conn<IO> {
    /// Waits for the next head.
    async fn next_head<D: Future<Output = ()>>(
        &mut self,
        mut draining: Pin<&mut Fuse<D>>,
    ) -> Result<RequestHead, End> {
        poll_fn(|cx| self.poll_head(cx, draining.as_mut())).await
    }

    fn poll_head<D: Future<Output = ()>>(
        &mut self,
        cx: &mut Context<'_>,
        draining: Pin<&mut Fuse<D>>,
    ) -> Poll<Result<RequestHead, End>> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(refusal) => return self.refused(Fault::Refused(refusal)),
            }
            let untouched = self.input.is_empty();
            if self.ended {
                return if untouched {
                    Poll::Ready(Err(End::Closed))
                } else {
                    self.refused(Fault::Refused(Refusal::Truncated))
                };
            }
            match poll_read(&mut self.io, cx, &mut self.input) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) if untouched => self.since = Instant::now(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return gone().map(Err),
                Poll::Pending => break,
            }
        }
        let (fault, wait) = match (self.input.is_empty(), self.requests) {
            (true, 0) => (Fault::Idle, self.limits.head),
            (true, _) => (Fault::Idle, self.limits.keep_alive),
            (false, _) => (Fault::HeadLate, self.limits.head),
        };
        if self.read_timer.poll(cx, self.since + wait).is_ready() {
            return self.refused(fault);
        }
        self.drains |= draining.poll(cx).is_ready();
        if self.drains { Poll::Ready(Err(End::Closed)) } else { Poll::Pending }
    }

    fn refused<T>(&mut self, fault: Fault) -> Poll<Result<T, End>> {
        self.fault = Some(fault);
        Poll::Ready(Err(End::Refused(fault)))
    }

    /// Has one request answered. The upstream, if the answer leaves HTTP.
    async fn exchange<G: Gateway, D: Future<Output = ()>>(
        &mut self,
        service: &HttpService<G>,
        head: RequestHead,
        mut draining: Pin<&mut Fuse<D>>,
    ) -> Result<Option<Tunnel<G>>, End> {
        self.requests += 1;
        self.version = head.parts.version;
        self.read_rate = MinRate::lenient(self.limits.pace, self.limits.pace_bytes_min, &self.patience);
        let exchange = if self.is_version_1_0() { Exchange::default() } else { Exchange::new(head.expects) };
        let body = self.take_body(head.framing, &exchange);
        let asked = Asked {
            head: head.parts.method == Method::HEAD,
            keep_alive: head.keep_alive,
            trailers: !self.is_version_1_0() && fields::takes_trailers(&head.parts.headers),
        };
        exchange.set_spelling(head.spelling);
        let request = Request::from_parts(head.parts, body);
        let answer = {
            // On the heap and for this long only, so that a connection that rests is small.
            let mut answer = Box::pin(service.answer(request, &head.authority, head.upgrade, &exchange));
            poll_fn(|cx| {
                loop {
                    if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                        self.drains |= draining.as_mut().poll(cx).is_ready();
                        return Poll::Ready(Ok(answer));
                    }
                    ready!(self.poll_beside(cx, &exchange))?;
                }
            })
            .await?
        };
        let (response, switched) = match answer {
            Answer::Response(response) => (response, None),
            Answer::Switched(response, upstream) => (response, Some(upstream)),
            Answer::Close => return Err(End::Policy),
        };
        self.drains |= service.gateway().is_leaving();
        let (mut sending, keep) =
            self.begin_response(response, &asked, &exchange, service.gateway().now_unix_ms());
        poll_fn(|cx| self.poll_send(cx, &mut sending)).await?;
        if switched.is_some() || keep { Ok(switched) } else { Err(End::Closed) }
    }

    /// What goes on while a request is answered: interim answers out, parts of the body in. Ready when there is reason to
    /// ask for the answer again.
    fn poll_beside(&mut self, cx: &mut Context<'_>, exchange: &Exchange) -> Poll<Result<(), End>> {
        loop {
            while let Some(interim) = exchange.take_interim(cx.waker()) {
                interim.write(self.out.text());
            }
            if self.out.is_empty() {
                break;
            }
            match self.out.poll_write(&mut self.io, cx) {
                Poll::Ready(wrote) => self.wrote(wrote)?,
                Poll::Pending => {
                    if let Poll::Ready(end) = self.poll_blocked(cx) {
                        return Poll::Ready(Err(end));
                    }
                    break;
                }
            }
        }
        if !self.flushed && self.out.is_empty() {
            let _ = self.poll_flush(cx)?;
        }
        if self.poll_arriving(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_watch(cx).map(Err)
    }
}
