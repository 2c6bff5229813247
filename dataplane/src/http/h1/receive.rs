//! The client's side of an exchange while it lasts: the request's body as it is asked for, and whether the client is there.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::conn::{Arriving, Conn, End, gone};
use super::input::{poll_read, poll_read_body};
use super::request_body::{BodySlot, RequestBody};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::fault::{BodyFault, Fault};
use crate::http::framing::{BodyDecoder, BodyFraming, BodyPart};
use crate::http::limits::READ_AHEAD_BYTES_MAX;

impl<IO: AsyncRead + AsyncWrite + Unpin> Conn<IO> {
    /// The body of the request in hand: at once if it is here already.
    pub(super) fn take_body(&mut self, framing: BodyFraming, exchange: &Exchange) -> Body {
        let length = match framing {
            BodyFraming::None => return Body::Empty,
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked | BodyFraming::UntilClose => None,
        };
        if let Some(length) = length.and_then(|length| usize::try_from(length).ok())
            && length <= self.input.len()
        {
            exchange.body_begun();
            return Body::Full(self.input.split_to(length).freeze());
        }
        let slot = Rc::<BodySlot>::default();
        let decoder = BodyDecoder::new(framing);
        self.arriving = Some(Arriving { decoder, slot: slot.clone(), exchange: exchange.clone() });
        Body::stream(RequestBody::new(slot), length)
    }

    /// Hands on the next part of the request's body if it is asked for. Ready when one was.
    pub(super) fn poll_arriving(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(arriving) = self.arriving.as_mut().filter(|arriving| arriving.slot.is_asked(cx)) else {
                return Poll::Pending;
            };
            match arriving.decoder.decode(&mut self.input) {
                Ok(BodyPart::Data(data)) => {
                    arriving.exchange.body_begun();
                    self.read_rate.moved(Instant::now(), data.len());
                    let over = arriving.decoder.is_over(&mut self.input);
                    arriving.slot.put(cx, Some(Ok(Frame::data(data))), over);
                    if over {
                        self.arrived();
                    }
                    return Poll::Ready(());
                }
                Ok(BodyPart::Trailers(trailers)) => {
                    arriving.slot.put(cx, Some(Ok(Frame::trailers(trailers))), true);
                    self.arrived();
                    return Poll::Ready(());
                }
                Ok(BodyPart::End) => {
                    arriving.slot.put(cx, None, true);
                    self.arrived();
                    return Poll::Ready(());
                }
                Err(refusal) => return self.body_failed(cx, Fault::Refused(refusal)),
                Ok(BodyPart::More) => {}
            }
            match poll_read_body(&mut self.io, cx, &mut self.input) {
                Poll::Ready(Ok(0) | Err(_)) => return self.body_failed(cx, Fault::Gone),
                // Framing is not what the client is waited for: only content counts.
                Poll::Ready(Ok(_)) => self.read_rate.moved(Instant::now(), 0),
                Poll::Pending => {
                    if arriving.exchange.may_rest() {
                        return Poll::Pending;
                    }
                    ready!(self.read_rate.poll_stalled(cx, &mut self.read_timer));
                    return self.body_failed(cx, Fault::BodyStalled);
                }
            }
        }
    }

    fn arrived(&mut self) {
        (self.arriving, self.since) = (None, Instant::now());
    }

    /// The body broke off: it says so where it is read, and the connection ends with the answer.
    fn body_failed(&mut self, cx: &mut Context<'_>, fault: Fault) -> Poll<()> {
        if let Some(arriving) = self.arriving.take() {
            arriving.slot.put(cx, Some(Err(BodyFault::Visitor(fault))), true);
        }
        self.fault = Some(fault);
        Poll::Ready(())
    }

    /// Watches the client while its request is answered: reads ahead a little, so that a reset is noticed.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.arriving.is_some() || self.fault.is_some() {
            return Poll::Pending;
        }
        while !self.ended && self.input.len() < READ_AHEAD_BYTES_MAX {
            match poll_read(&mut self.io, cx, &mut self.input) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => (self.ended, self.since) = (true, Instant::now()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return gone(),
            }
        }
        if self.ended {
            ready!(self.read_timer.poll(cx, self.since + self.limits.half_closed));
            return gone();
        }
        Poll::Pending
    }
}
