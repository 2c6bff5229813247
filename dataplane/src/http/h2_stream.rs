//! Bodies of HTTP/2 streams, both roles: reading with flow control given back as it is used, and writing no faster than
//! the peer's window allows.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::body::{Body, Polled, Source};
use super::exchange::Exchange;
use super::fault::{BodyFault, Fault};
use super::limits::{LINGER_BYTES_MIN, Limits};
use super::min_rate::MinRate;
use super::timer::Timer;

/// Bytes of window asked for at once.
const RESERVE_BYTES: usize = 64 * 1024;

/// Who sends the body that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The visitor.
    Visitor,
    /// The upstream.
    Upstream,
}

/// The receiving half of a stream.
pub(super) struct Reading {
    stream: Rc<Shared>,
    sender: Sender,
    data_over: bool,
    /// What the sender is held to, and whether it is; none when it may rest as long as the exchange does.
    pace: Option<(MinRate, Exchange)>,
    timer: Timer,
}

struct Shared {
    stream: RefCell<RecvStream>,
    /// The body is not read any more.
    dropped: Notify,
}

/// What is left of a body when its [`Reading`] is dropped.
pub(super) struct Rest(Rc<Shared>);

impl Rest {
    /// Reads on, so that the visitor is not stopped before it has read its answer: for a while, and only as long as the
    /// body comes.
    pub(super) async fn drain(&self, limits: &Limits) {
        self.0.dropped.notified().await;
        let until = Instant::now() + limits.drain;
        let mut pace = MinRate::new(limits.linger, LINGER_BYTES_MIN);
        loop {
            let deadline = pace.wait(Instant::now()).min(until);
            let data = timeout_at(deadline, poll_fn(|cx| self.0.stream.borrow_mut().poll_data(cx))).await;
            let Ok(Some(Ok(data))) = data else { return };
            pace.moved(Instant::now(), data.len());
            let released = self.0.stream.borrow_mut().flow_control().release_capacity(data.len());
            if released.is_err() {
                return;
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stream.dropped.notify_one();
    }
}

impl Reading {
    /// Reads the stream.
    pub(super) fn new(stream: RecvStream, sender: Sender, pace: Option<(MinRate, Exchange)>) -> Self {
        let stream = Rc::new(Shared { stream: RefCell::new(stream), dropped: Notify::new() });
        Self { stream, sender, data_over: false, pace, timer: Timer::default() }
    }

    /// What will be left of the body.
    pub(super) fn rest(&self) -> Rest {
        Rest(self.stream.clone())
    }

    fn fault(&self, error: &h2::Error) -> BodyFault {
        match self.sender {
            Sender::Visitor => BodyFault::Visitor(Fault::Gone),
            Sender::Upstream => BodyFault::Upstream(error.to_string()),
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFault>>> {
        let polled = self.stream.stream.borrow_mut().poll_data(cx);
        match polled {
            Poll::Ready(Some(Ok(data))) => {
                if let Some((pace, exchange)) = &mut self.pace {
                    exchange.body_begun();
                    pace.moved(Instant::now(), data.len());
                }
                let released = self.stream.stream.borrow_mut().flow_control().release_capacity(data.len());
                Poll::Ready(Some(released.map(|()| data).map_err(|error| self.fault(&error))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.fault(&error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let held = self.pace.as_mut().filter(|(_, exchange)| !exchange.may_rest());
                let Some((pace, _)) = held else { return Poll::Pending };
                ready!(pace.poll_stalled(cx, &mut self.timer));
                Poll::Ready(Some(Err(BodyFault::Visitor(Fault::BodyStalled))))
            }
        }
    }
}

impl Source for Reading {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if !self.data_over {
            match ready!(self.poll_data(cx)) {
                Some(data) => return Poll::Ready(Some(data.map(Frame::data))),
                None => self.data_over = true,
            }
        }
        let polled = self.stream.stream.borrow_mut().poll_trailers(cx);
        let trailers = ready!(polled).map_err(|error| self.fault(&error));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_over(&self) -> bool {
        self.stream.stream.borrow().is_end_stream()
    }
}

/// Why a body could not be written whole. The stream is reset by then.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The body itself broke off.
    #[error(transparent)]
    Body(BodyFault),
    /// The peer reset the stream or is gone.
    #[error("the peer ended the stream")]
    Ended,
    /// The peer gives no window.
    #[error("the peer stopped reading")]
    Stalled,
}

/// Writes a body and ends the stream. `waiting` counts the writers of the connection that wait for a window.
pub(super) async fn write(
    mut body: Body,
    stream: &mut SendStream<Bytes>,
    mut pace: MinRate,
    waiting: &Cell<usize>,
) -> Result<(), WriteError> {
    let result = write_frames(&mut body, stream, &mut pace, waiting).await;
    match &result {
        Err(WriteError::Body(BodyFault::Upstream(_) | BodyFault::Edit(_))) => {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        Err(WriteError::Body(_) | WriteError::Stalled) => stream.send_reset(Reason::CANCEL),
        Ok(()) | Err(WriteError::Ended) => {}
    }
    result
}

async fn write_frames(
    body: &mut Body,
    stream: &mut SendStream<Bytes>,
    pace: &mut MinRate,
    waiting: &Cell<usize>,
) -> Result<(), WriteError> {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Err(WriteError::Ended),
        };
        let Some(frame) = frame else {
            return stream.send_data(Bytes::new(), true).map_err(|_| WriteError::Ended);
        };
        match frame.map_err(WriteError::Body)?.into_data() {
            Ok(data) => {
                let last = http_body::Body::is_end_stream(body);
                write_data(body, data, last, stream, pace, waiting).await?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_else(|_| HeaderMap::new());
                return stream.send_trailers(trailers).map_err(|_| WriteError::Ended);
            }
        }
    }
}

async fn write_data(
    body: &mut Body,
    mut data: Bytes,
    last: bool,
    stream: &mut SendStream<Bytes>,
    pace: &mut MinRate,
    waiting: &Cell<usize>,
) -> Result<(), WriteError> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(RESERVE_BYTES));
        let room = match stream.capacity() {
            0 => {
                let _waits = Waits::count(waiting);
                wait_for_room(body, stream, pace).await?
            }
            room => room,
        };
        let part = data.split_to(room.min(data.len()));
        let over = last && data.is_empty();
        stream.send_data(part, over).map_err(|_| WriteError::Ended)?;
        if over {
            return Ok(());
        }
    }
    if last { stream.send_data(Bytes::new(), true).map_err(|_| WriteError::Ended) } else { Ok(()) }
}

/// Counts one writer that waits.
struct Waits<'a>(&'a Cell<usize>);

impl<'a> Waits<'a> {
    fn count(waiting: &'a Cell<usize>) -> Self {
        waiting.update(|writers| writers + 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.update(|writers| writers.saturating_sub(1));
    }
}

async fn wait_for_room(
    body: &mut Body,
    stream: &mut SendStream<Bytes>,
    pace: &mut MinRate,
) -> Result<usize, WriteError> {
    let mut timer = Timer::default();
    let room = poll_fn(|cx| {
        body.poll_upload(cx);
        if stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(WriteError::Ended));
        }
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(room))) => Poll::Ready(Ok(room)),
            Poll::Ready(_) => Poll::Ready(Err(WriteError::Ended)),
            Poll::Pending => pace.poll_stalled(cx, &mut timer).map(|()| Err(WriteError::Stalled)),
        }
    });
    let room = room.await?;
    pace.moved(Instant::now(), room);
    Ok(room)
}
