//! `Conn`: one client's HTTP/1.1 connection between its reader and its writer. Holds what both share: the bytes read and
//! not taken apart yet, the bytes that wait to be written, and the waits on the client.

use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use http::Version;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::outbox::Outbox;
use super::request_body::BodySlot;
use crate::http::exchange::Exchange;
use crate::http::fault::{BodyFault, Fault};
use crate::http::framing::{BodyDecoder, BodyPart, RequestDecoder};
use crate::http::limits::Limits;
use crate::http::min_rate::{MinRate, SlowAllowance};
use crate::http::timer::Timer;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum End {
    /// In order, between two messages.
    Closed,
    /// Between two messages, for the client's fault: it is told, and nothing after it is answered.
    Refused(Fault),
    /// Inside a message.
    Broken(BodyFault),
    /// A policy asked for it.
    Policy,
}

/// The connection broke.
pub(super) fn gone() -> Poll<End> {
    Poll::Ready(End::Broken(BodyFault::Visitor(Fault::Gone)))
}

/// What of a request decides how its response is sent.
pub(super) struct Asked {
    /// The method is HEAD.
    pub(super) head: bool,
    pub(super) keep_alive: bool,
    /// A trailer section is taken.
    pub(super) trailers: bool,
}

/// The request's body, as far as it has not all arrived.
pub(super) struct Arriving {
    pub(super) decoder: BodyDecoder,
    pub(super) slot: Rc<BodySlot>,
    pub(super) exchange: Exchange,
}

impl Arriving {
    /// Takes what is left of a body that nothing reads any more from `input`. False: it is read still, it has not all
    /// arrived, or it is malformed.
    pub(super) fn skip(&mut self, input: &mut BytesMut) -> bool {
        while Rc::strong_count(&self.slot) == 1 {
            match self.decoder.decode(input) {
                Ok(BodyPart::Data(_) | BodyPart::Trailers(_)) => {}
                Ok(BodyPart::End) => return true,
                Ok(BodyPart::More) | Err(_) => return false,
            }
        }
        false
    }
}

/// See the module.
pub(super) struct Conn<IO> {
    pub(super) io: IO,
    /// What was read and not taken apart yet.
    pub(super) input: BytesMut,
    /// The client has ended its side.
    pub(super) ended: bool,
    pub(super) decoder: RequestDecoder,
    pub(super) arriving: Option<Arriving>,
    /// Why nothing that the client sends counts any more.
    pub(super) fault: Option<Fault>,
    pub(super) out: Outbox,
    pub(super) flushed: bool,
    pub(super) drains: bool,
    /// Of the request in hand.
    pub(super) version: Version,
    pub(super) requests: u64,
    /// When the current wait for a head, for the next request or for more of a half-closed client's answer began.
    pub(super) since: Instant,
    pub(super) limits: Rc<Limits>,
    pub(super) patience: Rc<SlowAllowance>,
    pub(super) read_rate: MinRate,
    pub(super) write_rate: MinRate,
    pub(super) read_timer: Timer,
    pub(super) write_timer: Timer,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Conn<IO> {
    /// `patience` is what the client's source has.
    pub(super) fn new(io: IO, limits: Rc<Limits>, patience: Rc<SlowAllowance>) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            ended: false,
            decoder: RequestDecoder::default(),
            arriving: None,
            fault: None,
            out: Outbox::default(),
            flushed: true,
            drains: false,
            version: Version::HTTP_11,
            requests: 0,
            since: Instant::now(),
            read_rate: MinRate::lenient(limits.pace, limits.pace_bytes_min, &patience),
            write_rate: MinRate::lenient(limits.write_pace, limits.pace_bytes_min, &patience),
            limits,
            patience,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
        }
    }

    pub(super) fn is_version_1_0(&self) -> bool {
        self.version == Version::HTTP_10
    }
}
