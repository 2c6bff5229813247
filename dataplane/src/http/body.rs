//! `Body`: what flows in one direction of an exchange, whatever carries it.
//!
//! Streams are pulled, never pushed: nothing is read from one side before the other has room. A body that streams is one
//! allocation: its source, with the counters and the guard beside it. Also the counters of an exchange ([`Progress`]) and
//! the rule that ends one when nothing moves either way.

use std::any::Any;
use std::cell::{Cell, RefCell};
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

use super::fault::BodyFault;
use super::timer::Timer;

/// The next part of a body; none: it is over.
pub(super) type Polled = Poll<Option<Result<Frame<Bytes>, BodyFault>>>;

/// Where the parts of a body come from.
pub(super) trait Source {
    /// The next part.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled;

    /// Whether it is known that no part follows.
    fn is_over(&self) -> bool {
        false
    }

    /// The trailer section, if all parts are here already.
    fn known_trailers(&self) -> Option<HeaderMap> {
        None
    }

    /// Goes on with what must not wait until this body is read: the response of an upstream may be held up while the
    /// request's body is still on its way there.
    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
}

/// See the module.
#[derive(Default)]
pub(super) enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// These bytes.
    Full(Bytes),
    /// Bytes as they come.
    Stream(Box<Stream<dyn Source>>),
}

/// A body that streams.
pub(super) struct Stream<S: ?Sized> {
    /// What was read already and goes first. It was counted when it was read.
    front: Bytes,
    length: Option<u64>,
    counter: Option<Counter>,
    guard: Option<Rc<dyn Any>>,
    source: S,
}

struct Counter {
    progress: Rc<Progress>,
    direction: Direction,
    timer: Timer,
}

impl Body {
    /// These bytes.
    pub(super) fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }

    /// A stream with a length known from a header.
    pub(super) fn stream(source: impl Source + 'static, length: Option<u64>) -> Self {
        if source.is_over() { Self::Empty } else { Self::boxed(source, length) }
    }

    fn boxed(source: impl Source + 'static, length: Option<u64>) -> Self {
        Self::Stream(Box::new(Stream { front: Bytes::new(), length, counter: None, guard: None, source }))
    }

    /// The number of bytes, when it is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => u64::try_from(bytes.len()).ok(),
            Self::Stream(stream) => stream.length,
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
        let mut stream = self.into_stream();
        stream.front = if stream.front.is_empty() { front } else { [front, stream.front].concat().into() };
        stream.length = length;
        Self::Stream(stream)
    }

    /// These bytes, and behind them these trailers.
    pub(super) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        match trailers {
            None => Self::full(bytes),
            Some(trailers) if bytes.is_empty() => Self::trailing(trailers),
            Some(trailers) => Self::begun(Frame::data(bytes), Self::trailing(trailers), None),
        }
    }

    /// The trailer section, if all of the body is here already; it is empty if there is none.
    pub(super) fn known_trailers(&self) -> Option<HeaderMap> {
        match self {
            Self::Empty | Self::Full(_) => Some(HeaderMap::new()),
            Self::Stream(stream) => stream.source.known_trailers(),
        }
    }

    /// A body that is over but for these trailers.
    pub(super) fn trailing(trailers: HeaderMap) -> Self {
        Self::boxed(Once(Some(Frame::trailers(trailers))), None)
    }

    /// Reads the whole body if it fits, and keeps what was read either way.
    #[cfg(test)]
    async fn buffer(&mut self, bytes_max: usize) -> Result<Bytes, NotBuffered> {
        self.buffer_within(bytes_max, |_| true).await
    }

    /// The same; `room` is asked for each further so many bytes, and may refuse them.
    pub(super) async fn buffer_within(
        &mut self,
        bytes_max: usize,
        mut room: impl FnMut(usize) -> bool,
    ) -> Result<Bytes, NotBuffered> {
        match self {
            Self::Empty => return Ok(Bytes::new()),
            Self::Full(bytes) if bytes.len() > bytes_max => return Err(NotBuffered::TooLong),
            Self::Full(bytes) if !room(bytes.len()) => return Err(NotBuffered::NoRoom),
            Self::Full(bytes) => return Ok(bytes.clone()),
            Self::Stream(_) => {}
        }
        let (mut read, mut trailers) = (BytesMut::new(), None);
        while let Some(frame) = self.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(fault) => {
                    // Nothing that sends the body on must take a truncated one for a whole one.
                    *self = Self::boxed(Broken(fault.clone()), None);
                    return Err(NotBuffered::Broken(fault));
                }
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    trailers = frame.into_trailers().ok();
                    continue;
                }
            };
            read.extend_from_slice(&data);
            let refused = match () {
                () if read.len() > bytes_max => NotBuffered::TooLong,
                () if !room(data.len()) => NotBuffered::NoRoom,
                () => continue,
            };
            let length = self.length();
            *self = std::mem::take(self).preceded(read.freeze(), length);
            return Err(refused);
        }
        let whole = read.freeze();
        *self = Self::whole(whole.clone(), trailers);
        Ok(whole)
    }

    /// Reads the start of the body: this many bytes, or all of a shorter one. All of the body can be read afterwards.
    pub(super) async fn start(&mut self, bytes_max: usize) -> Result<Bytes, BodyFault> {
        let first = |bytes: &Bytes| bytes.slice(..bytes.len().min(bytes_max));
        match self {
            Self::Empty => return Ok(Bytes::new()),
            Self::Full(bytes) => return Ok(first(bytes)),
            Self::Stream(_) => {}
        }
        let length = self.length();
        let (mut read, mut rest) = (BytesMut::new(), None);
        while read.len() < bytes_max {
            match self.frame().await {
                None => {
                    rest = Some(Self::Empty);
                    break;
                }
                Some(Err(fault)) => {
                    *self = Self::boxed(Broken(fault.clone()), None);
                    return Err(fault);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => read.extend_from_slice(&data),
                    Err(frame) => {
                        rest = frame.into_trailers().ok().map(Self::trailing);
                        break;
                    }
                },
            }
        }
        let read = read.freeze();
        let start = first(&read);
        *self = match rest.unwrap_or_else(|| std::mem::take(self)) {
            Self::Empty => Self::full(read),
            rest if read.is_empty() => rest,
            rest => Self::begun(Frame::data(read), rest, length),
        };
        Ok(start)
    }

    /// A body with its first part taken already. It is counted when it goes out, as the rest is.
    pub(super) fn begun(first: Frame<Bytes>, rest: Self, length: Option<u64>) -> Self {
        Self::boxed(Begun { first: Some(first), rest }, length)
    }

    /// The same body, holding `guard` until it is over or dropped.
    pub(super) fn guarded(self, guard: Rc<dyn Any>) -> Self {
        let mut stream = self.into_stream();
        stream.guard = Some(match stream.guard.take() {
            None => guard,
            Some(other) => Rc::new((other, guard)),
        });
        Self::Stream(stream)
    }

    /// The same body, counted by `progress`.
    pub(super) fn counted(self, progress: Rc<Progress>, direction: Direction) -> Self {
        if matches!(self, Self::Empty) {
            progress.ended(direction, HeaderMap::new());
            return Self::Empty;
        }
        let mut stream = self.into_stream();
        stream.counter = Some(Counter { progress, direction, timer: Timer::default() });
        Self::Stream(stream)
    }

    /// See [`Source::poll_upload`].
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Self::Stream(stream) = self {
            stream.source.poll_upload(cx);
        }
    }

    fn into_stream(self) -> Box<Stream<dyn Source>> {
        let length = self.length();
        let whole = match self {
            Self::Stream(stream) => return stream,
            Self::Full(bytes) => Once(Some(Frame::data(bytes))),
            Self::Empty => Once(None),
        };
        Box::new(Stream { front: Bytes::new(), length, counter: None, guard: None, source: whole })
    }
}

/// Why a body was not buffered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotBuffered {
    /// Longer than allowed. The body is whole again and can still be streamed.
    TooLong,
    /// There is no room for it. All of the body can still be read.
    NoRoom,
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

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match &mut *self {
            Self::Stream(stream) => stream.poll_frame(cx),
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
            Self::Stream(stream) => stream.front.is_empty() && stream.source.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Stream<dyn Source> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if !self.front.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.front)))));
        }
        let polled = self.source.poll_frame(cx);
        let Some(counter) = &mut self.counter else { return polled };
        match &polled {
            Poll::Ready(None) => counter.progress.ended(counter.direction, HeaderMap::new()),
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) => counter.progress.ended(counter.direction, trailers.clone()),
                None if self.source.is_over() => counter.progress.ended(counter.direction, HeaderMap::new()),
                None => {}
            },
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        counter.counted(cx, polled)
    }
}

impl Counter {
    fn counted(&mut self, cx: &mut Context<'_>, polled: Polled) -> Polled {
        if let Poll::Ready(frame) = polled {
            if let Some(Ok(frame)) = &frame {
                self.progress.moved(self.direction, frame.data_ref().map_or(0, Bytes::len));
            }
            return Poll::Ready(frame);
        }
        // The other direction may have moved since the timer was set: ask again until it has not.
        loop {
            let deadline = self.progress.idle_deadline();
            ready!(self.timer.poll(cx, deadline));
            if self.progress.idle_deadline() <= deadline {
                return Poll::Ready(Some(Err(BodyFault::Idle)));
            }
        }
    }
}

/// One part, or none.
struct Once(Option<Frame<Bytes>>);

impl Source for Once {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Polled {
        Poll::Ready(self.0.take().map(Ok))
    }

    fn is_over(&self) -> bool {
        self.0.is_none()
    }

    fn known_trailers(&self) -> Option<HeaderMap> {
        let trailers = self.0.as_ref().and_then(Frame::trailers_ref);
        Some(trailers.cloned().unwrap_or_default())
    }
}

/// See [`Body::begun`].
struct Begun {
    first: Option<Frame<Bytes>>,
    rest: Body,
}

impl Source for Begun {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.first.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_over(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn known_trailers(&self) -> Option<HeaderMap> {
        self.rest.known_trailers()
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        self.rest.poll_upload(cx);
    }
}

/// A body that broke off before it was sent.
struct Broken(BodyFault);

impl Source for Broken {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Polled {
        Poll::Ready(Some(Err(self.0.clone())))
    }
}

/// Bytes moved in an exchange and when the last did.
#[derive(Debug)]
pub(super) struct Progress {
    /// Body bytes from the visitor.
    pub(super) bytes_in: Cell<u64>,
    /// Body bytes to the visitor.
    pub(super) bytes_out: Cell<u64>,
    /// Whether the request went over a connection to the upstream that was open before; None: it went to none yet.
    pub(super) reused: Cell<Option<bool>>,
    /// When the last part of the request's body came, and its trailers; the same of the response's.
    ends: RefCell<[Option<(Instant, HeaderMap)>; 2]>,
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
            reused: Cell::new(None),
            ends: RefCell::default(),
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

    /// All of a body has come.
    pub(super) fn ended(&self, direction: Direction, trailers: HeaderMap) {
        let mut ends = self.ends.borrow_mut();
        let [request, response] = &mut *ends;
        let end = if direction == Direction::In { request } else { response };
        end.get_or_insert_with(|| (Instant::now(), trailers));
    }

    /// The end of a body: how long ago it came, and its trailers. None: all of it has not come yet.
    pub(super) fn end(&self, direction: Direction) -> Option<(Duration, HeaderMap)> {
        let ends = self.ends.borrow();
        let [request, response] = &*ends;
        let (at, trailers) = if direction == Direction::In { request } else { response }.as_ref()?;
        Some((at.elapsed(), trailers.clone()))
    }

    /// Bytes moved.
    pub(super) fn moved(&self, direction: Direction, bytes: usize) {
        self.touch();
        let counter = if direction == Direction::In { &self.bytes_in } else { &self.bytes_out };
        counter.set(counter.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fault::Fault;
    use futures_util::FutureExt;
    use std::collections::VecDeque;

    /// A body of these frames.
    struct Frames(VecDeque<Result<&'static str, BodyFault>>);

    impl Source for Frames {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Polled {
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
    fn the_start_of_a_body_is_read_and_the_whole_goes_on() {
        let parts = [Ok("he"), Ok("llo"), Ok(" world")];
        for (bytes_max, start) in
            [(0, ""), (1, "h"), (2, "he"), (4, "hell"), (11, "hello world"), (99, "hello world")]
        {
            let mut long = body(&parts);
            assert_eq!(long.start(bytes_max).now_or_never().unwrap(), Ok(Bytes::from(start)));
            assert_eq!(long.is_replayable(), bytes_max > 11, "what was read to its end can be sent again");
            assert_eq!(long.start(3).now_or_never().unwrap(), Ok(Bytes::from("hel")), "and again");
            assert_eq!(read(long), Ok(Bytes::from("hello world")));
        }
        let fault = BodyFault::Visitor(Fault::Gone);
        let mut broken = body(&[Ok("he"), Err(fault.clone())]);
        assert_eq!(broken.start(2).now_or_never().unwrap(), Ok(Bytes::from("he")), "nobody asked for more");
        assert_eq!(broken.start(3).now_or_never().unwrap(), Err(fault.clone()));
        assert_eq!(read(broken), Err(fault));
    }

    #[test]
    fn trailers_stay_behind_a_body_whose_start_was_read() {
        let trailers: HeaderMap = [("t".parse().unwrap(), "v".parse().unwrap())].into_iter().collect();
        let mut body = Body::begun(Frame::data(Bytes::from("hello")), Body::trailing(trailers.clone()), None);
        assert_eq!(body.start(99).now_or_never().unwrap(), Ok(Bytes::from("hello")));
        let whole = body.collect().now_or_never().unwrap().unwrap();
        assert_eq!(whole.trailers(), Some(&trailers));
        assert_eq!(whole.to_bytes(), Bytes::from("hello"));
    }

    #[test]
    fn a_body_that_broke_is_never_taken_for_a_whole_one() {
        let fault = BodyFault::Visitor(Fault::Gone);
        let mut broken = body(&[Ok("he"), Err(fault.clone())]);
        assert_eq!(broken.buffer(9).now_or_never().unwrap(), Err(NotBuffered::Broken(fault.clone())));
        assert_eq!((read(broken.replay().unwrap_or(broken))), Err(fault));
    }
}
