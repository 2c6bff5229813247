//! The response on its way to the client: the head and the first part of the body together, then the rest as there is room.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use http::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::conn::{Asked, Conn, End, gone};
use super::date;
use super::outbox::Sending;
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::fault::{BodyFault, Fault};
use crate::http::framing::{BodyFraming, Connection, response_head};
use crate::http::min_rate::MinRate;

impl<IO: AsyncRead + AsyncWrite + Unpin> Conn<IO> {
    /// Queues the head of the response. Its body, and whether another request may follow.
    pub(super) fn begin_response(
        &mut self,
        response: Response<Body>,
        asked: &Asked,
        exchange: &Exchange,
        now_unix_ms: i64,
    ) -> (Option<Sending>, bool) {
        while let Some(interim) = exchange.take_interim(Waker::noop()) {
            interim.write(self.out.text());
        }
        let (head, body) = response.into_parts();
        let framing = match body.length() {
            Some(0) => BodyFraming::None,
            Some(length) => BodyFraming::Length(length),
            None if self.is_version_1_0() => BodyFraming::UntilClose,
            None => BodyFraming::Chunked,
        };
        // An early answer ends the connection, unless the rest of the body is here (RFC 9112 section 9.3).
        let unread = self.arriving.as_mut().is_some_and(|arriving| !arriving.skip(&mut self.input));
        if !unread {
            self.arriving = None;
        }
        let keep = asked.keep_alive
            && !self.drains
            && !unread
            && self.fault.is_none()
            && framing != BodyFraming::UntilClose;
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let connection = match (keep, self.is_version_1_0()) {
            _ if switches => Connection::Unsaid,
            (true, true) => Connection::KeepAlive,
            (false, false) => Connection::Close,
            _ => Connection::Unsaid,
        };
        let bodiless = asked.head || head.status == StatusCode::NOT_MODIFIED;
        let version_1_0 = self.is_version_1_0();
        date::with(now_unix_ms, |date| {
            response_head(self.out.text(), &head, version_1_0, (framing, bodiless), connection, date);
        });
        (Sending::new(body, framing, asked.trailers), keep)
    }

    /// Writes the response to its end, while what is left of the request's body goes on.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        sending: &mut Option<Sending>,
    ) -> Poll<Result<(), End>> {
        let mut over = sending.is_none();
        loop {
            // The head waits for the first part of the body, as long as that is here.
            if let Some(body) = sending.as_mut().filter(|_| !over && self.out.has_room()) {
                match body.poll_next(cx, &mut self.out) {
                    Poll::Ready(Ok(last)) => {
                        if last {
                            // The guard of the body goes with it, and the upstream is free.
                            over = true;
                            *sending = None;
                        }
                    }
                    Poll::Ready(Err(fault)) => return self.broken(cx, fault),
                    Poll::Pending if self.out.is_empty() => {
                        let _ = self.poll_flush(cx)?;
                        if self.poll_arriving(cx).is_ready() {
                            continue;
                        }
                        return self.poll_watch(cx).map(Err);
                    }
                    Poll::Pending => {}
                }
            }
            if self.out.is_empty() {
                if over {
                    return self.poll_flush(cx);
                }
                continue;
            }
            match self.out.poll_write(&mut self.io, cx) {
                Poll::Ready(wrote) => self.wrote(wrote)?,
                Poll::Pending => {
                    if let Some(body) = sending {
                        body.body.poll_upload(cx);
                        if self.poll_arriving(cx).is_ready() {
                            continue;
                        }
                    }
                    if let Poll::Ready(end) = self.poll_watch(cx) {
                        return Poll::Ready(Err(end));
                    }
                    return self.poll_blocked(cx).map(Err);
                }
            }
        }
    }

    /// The response cannot be whole. What was written of it goes out first.
    fn broken(&mut self, cx: &mut Context<'_>, fault: BodyFault) -> Poll<Result<(), End>> {
        let _ = Pin::new(&mut self.io).poll_flush(cx);
        Poll::Ready(Err(End::Broken(self.fault.map_or(fault, BodyFault::Visitor))))
    }

    pub(super) fn wrote(&mut self, wrote: io::Result<usize>) -> Result<(), End> {
        self.flushed = false;
        let n = wrote.map_err(|_| End::Broken(BodyFault::Visitor(Fault::Gone)))?;
        let now = Instant::now();
        self.write_rate.moved(now, n);
        if self.ended {
            self.since = now;
        }
        Ok(())
    }

    pub(super) fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.flushed = false;
        ready!(self.write_rate.poll_stalled(cx, &mut self.write_timer));
        Poll::Ready(End::Broken(BodyFault::Visitor(Fault::WriteStalled)))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                if !self.flushed {
                    self.flushed = true;
                    if self.arriving.is_none() {
                        self.since = Instant::now();
                    }
                    self.write_rate =
                        MinRate::lenient(self.limits.write_pace, self.limits.pace_bytes_min, &self.patience);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => gone().map(Err),
            Poll::Pending => self.poll_blocked(cx).map(Err),
        }
    }
}
