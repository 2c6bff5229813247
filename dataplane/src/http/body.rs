//! `Body`: what flows in one direction of an exchange, whatever carries it.
//!
//! Streams are pulled, never pushed: nothing is read from one side before the other has room. Also the counters of an
//! exchange ([`Progress`]) and the rule that ends one when nothing moves either way.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::gate::{Fault, Shared};
use super::timer::Timer;

/// Why a body broke off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyFault {
    /// The visitor's side.
    #[error("request body: {0}")]
    Visitor(Fault),
    /// The upstream's side.
    #[error("response body: {0}")]
    Upstream(String),
    /// Nothing moved either way for too long.
    #[error("nothing moved either way")]
    Idle,
}

type Stream = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyFault>>>;

/// See the module.
#[derive(Default)]
pub(super) enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// These bytes.
    Full(Bytes),
    /// Bytes as they come, and their number when it is known.
    Stream(Stream, Option<u64>),
}

impl Body {
    /// These bytes.
    pub(super) fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }

    /// A stream with a length known from a header.
    pub(super) fn stream<B>(body: B, length: Option<u64>) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BodyFault> + 'static,
    {
        if body.is_end_stream() { Self::Empty } else { Self::Stream(Box::pin(body), length) }
    }

    /// The body of a visitor's HTTP/1 request, as hyper decoded it.
    pub(super) fn from_visitor(incoming: hyper::body::Incoming, shared: Rc<Shared>) -> Self {
        let length = incoming.size_hint().exact();
        let fault = move |_| BodyFault::Visitor(shared.fault().unwrap_or(Fault::Gone));
        Self::stream(incoming.map_err(fault), length)
    }

    /// The number of bytes, when it is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => u64::try_from(bytes.len()).ok(),
            Self::Stream(_, length) => *length,
        }
    }

    /// Whether it can be sent a second time.
    pub(super) fn is_replayable(&self) -> bool {
        !matches!(self, Self::Stream(..))
    }

    /// A second copy of a replayable body.
    pub(super) fn replay(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Stream(..) => None,
        }
    }

    /// The same body with `front` before it: what was read of it already.
    pub(super) fn preceded(self, front: Bytes, length: Option<u64>) -> Self {
        let rest = match self {
            Self::Stream(rest, _) => rest,
            rest => Box::pin(rest),
        };
        Self::Stream(Box::pin(Prefixed { prefix: front, rest }), length)
    }

    /// A body that is over but for these trailers.
    pub(super) fn trailing(trailers: HeaderMap) -> Self {
        let frames = std::iter::once(Ok(Frame::trailers(trailers)));
        Self::Stream(Box::pin(http_body_util::StreamBody::new(futures_util::stream::iter(frames))), None)
    }

    /// Reads the whole body if it fits, and keeps what was read either way.
    pub(super) async fn buffer(&mut self, bytes_max: usize) -> Result<Bytes, NotBuffered> {
        let (mut stream, length) = match std::mem::take(self) {
            Self::Empty => return Ok(Bytes::new()),
            Self::Full(bytes) => {
                *self = Self::Full(bytes.clone());
                return if bytes.len() > bytes_max { Err(NotBuffered::TooLong) } else { Ok(bytes) };
            }
            Self::Stream(stream, length) => (stream, length),
        };
        let mut read = BytesMut::new();
        while let Some(frame) = stream.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(fault) => {
                    // Whoever sends the body on must not take a truncated one for a whole one.
                    *self = Self::Stream(Box::pin(Broken(fault.clone())), None);
                    return Err(NotBuffered::Broken(fault));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            read.extend_from_slice(&data);
            if read.len() > bytes_max {
                *self = Self::Stream(Box::pin(Prefixed { prefix: read.freeze(), rest: stream }), length);
                return Err(NotBuffered::TooLong);
            }
        }
        *self = Self::full(read.freeze());
        Ok(match self {
            Self::Full(bytes) => bytes.clone(),
            _ => Bytes::new(),
        })
    }

    /// The same body, holding `guard` until it is over or dropped.
    pub(super) fn guarded(self, guard: impl Any) -> Self {
        let length = self.length();
        Self::Stream(Box::pin(Guarded { body: self, _guard: Box::new(guard) }), length)
    }

    /// The same body, counted by `progress`.
    pub(super) fn counted(self, progress: Rc<Progress>, direction: Direction) -> Self {
        match self {
            Self::Empty => Self::Empty,
            body => {
                let length = body.length();
                let counted = Counted { body, progress, direction, timer: Timer::default() };
                Self::Stream(Box::pin(counted), length)
            }
        }
    }
}

/// Why a body was not buffered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotBuffered {
    /// Longer than allowed. The body is whole again and can still be streamed.
    TooLong,
    /// It broke off.
    Broken(BodyFault),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("length", &self.length()).finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Self::Stream(stream, _) => stream.as_mut().poll_frame(cx),
            body => Poll::Ready(match std::mem::take(body) {
                Self::Full(bytes) => Some(Ok(Frame::data(bytes))),
                _ => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Stream(stream, _) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

struct Prefixed {
    prefix: Bytes,
    rest: Stream,
}

impl http_body::Body for Prefixed {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if self.prefix.is_empty() {
            return self.rest.as_mut().poll_frame(cx);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.prefix)))))
    }
}

struct Broken(BodyFault);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        Poll::Ready(Some(Err(self.0.clone())))
    }
}

struct Guarded {
    body: Body,
    _guard: Box<dyn Any>,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes moved in an exchange and when the last did.
#[derive(Debug)]
pub(super) struct Progress {
    /// Body bytes from the visitor.
    pub(super) bytes_in: Cell<u64>,
    /// Body bytes to the visitor.
    pub(super) bytes_out: Cell<u64>,
    last: Cell<Instant>,
    idle: Duration,
}

/// Which way a body flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the visitor.
    In,
    /// To the visitor.
    Out,
}

impl Progress {
    /// Nothing moved yet; `idle` is how long that may last.
    pub(super) fn new(idle: Duration) -> Rc<Self> {
        Rc::new(Self {
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            last: Cell::new(Instant::now()),
            idle,
        })
    }

    /// When the exchange has been idle for too long, if nothing moves.
    pub(super) fn idle_deadline(&self) -> Instant {
        self.last.get() + self.idle
    }

    /// Something moved.
    pub(super) fn touch(&self) {
        self.last.set(Instant::now());
    }

    /// Bytes moved.
    pub(super) fn moved(&self, direction: Direction, bytes: usize) {
        self.touch();
        let counter = if direction == Direction::In { &self.bytes_in } else { &self.bytes_out };
        counter.set(counter.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }
}

struct Counted {
    body: Body,
    progress: Rc<Progress>,
    direction: Direction,
    timer: Timer,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(Ok(frame)) = &frame {
                this.progress.moved(this.direction, frame.data_ref().map_or(0, Bytes::len));
            }
            return Poll::Ready(frame);
        }
        // The other direction may have moved since the timer was set: ask again until it has not.
        loop {
            let deadline = this.progress.idle_deadline();
            ready!(this.timer.poll(cx, deadline));
            if this.progress.idle_deadline() <= deadline {
                return Poll::Ready(Some(Err(BodyFault::Idle)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::collections::VecDeque;

    /// A body of these frames.
    struct Frames(VecDeque<Result<&'static str, BodyFault>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = BodyFault;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
            let frame = self.0.pop_front();
            Poll::Ready(frame.map(|frame| frame.map(|data| Frame::data(Bytes::from_static(data.as_bytes())))))
        }
    }

    fn body(frames: &[Result<&'static str, BodyFault>]) -> Body {
        Body::stream(Frames(frames.iter().cloned().collect()), None)
    }

    fn read(body: Body) -> Result<Bytes, BodyFault> {
        let whole = body.collect().now_or_never().unwrap();
        whole.map(http_body_util::Collected::to_bytes)
    }

    #[test]
    fn a_buffered_body_can_be_sent_again() {
        let mut whole = body(&[Ok("he"), Ok("llo")]);
        assert!(!whole.is_replayable());
        assert_eq!(whole.buffer(5).now_or_never().unwrap(), Ok(Bytes::from("hello")));
        assert_eq!((whole.length(), whole.is_replayable()), (Some(5), true));
        assert_eq!(read(whole.replay().unwrap()), Ok(Bytes::from("hello")));
        assert_eq!(whole.buffer(4).now_or_never().unwrap(), Err(NotBuffered::TooLong));
        assert_eq!(read(whole), Ok(Bytes::from("hello")));
    }

    #[test]
    fn a_body_too_long_to_buffer_is_still_whole() {
        let mut long = body(&[Ok("he"), Ok("llo"), Ok(" world")]);
        assert_eq!(long.buffer(4).now_or_never().unwrap(), Err(NotBuffered::TooLong));
        assert_eq!(read(long), Ok(Bytes::from("hello world")));
    }

    #[test]
    fn a_body_that_broke_is_never_taken_for_a_whole_one() {
        let fault = BodyFault::Visitor(Fault::Gone);
        let mut broken = body(&[Ok("he"), Err(fault.clone())]);
        assert_eq!(broken.buffer(9).now_or_never().unwrap(), Err(NotBuffered::Broken(fault.clone())));
        assert_eq!((read(broken.replay().unwrap_or(broken))), Err(fault));
    }
}
