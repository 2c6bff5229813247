//! Bodies of HTTP/2 streams, both roles: reading with flow control given back as it is used, and writing no faster than
//! the peer's window allows.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until};

use super::body::{Body, BodyFault};
use super::gate::Fault;
use super::pace::{Leisure, Pace};
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
    stream: RecvStream,
    sender: Sender,
    data_over: bool,
    /// What the sender is held to, and whether it is; none when it may rest as long as the exchange does.
    pace: Option<(Pace, Leisure)>,
    timer: Timer,
}

impl Reading {
    /// Reads the stream.
    pub(super) fn new(stream: RecvStream, sender: Sender, pace: Option<(Pace, Leisure)>) -> Self {
        Self { stream, sender, data_over: false, pace, timer: Timer::default() }
    }

    fn fault(&self, error: &h2::Error) -> BodyFault {
        match self.sender {
            Sender::Visitor => BodyFault::Visitor(Fault::Gone),
            Sender::Upstream => BodyFault::Upstream(error.to_string()),
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFault>>> {
        match self.stream.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                if let Some((pace, _)) = &mut self.pace {
                    pace.moved(Instant::now(), data.len());
                }
                let released = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(released.map(|()| data).map_err(|error| self.fault(&error))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.fault(&error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let held = self.pace.as_mut().filter(|(_, leisure)| !leisure.may_rest());
                let Some((pace, _)) = held else { return Poll::Pending };
                ready!(self.timer.poll(cx, pace.wait(Instant::now())));
                Poll::Ready(Some(Err(BodyFault::Visitor(Fault::BodyStalled))))
            }
        }
    }
}

impl http_body::Body for Reading {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if !self.data_over {
            match ready!(self.poll_data(cx)) {
                Some(data) => return Poll::Ready(Some(data.map(Frame::data))),
                None => self.data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(|error| self.fault(&error));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
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

/// Writes a body and ends the stream.
pub(super) async fn write(
    mut body: Body,
    stream: &mut SendStream<Bytes>,
    mut pace: Pace,
) -> Result<(), WriteError> {
    let result = write_frames(&mut body, stream, &mut pace).await;
    match &result {
        Err(WriteError::Body(BodyFault::Upstream(_))) => stream.send_reset(Reason::INTERNAL_ERROR),
        Err(WriteError::Body(_) | WriteError::Stalled) => stream.send_reset(Reason::CANCEL),
        Ok(()) | Err(WriteError::Ended) => {}
    }
    result
}

async fn write_frames(
    body: &mut Body,
    stream: &mut SendStream<Bytes>,
    pace: &mut Pace,
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
                write_data(data, last, stream, pace).await?;
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
    mut data: Bytes,
    last: bool,
    stream: &mut SendStream<Bytes>,
    pace: &mut Pace,
) -> Result<(), WriteError> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(RESERVE_BYTES));
        let room = match stream.capacity() {
            0 => wait_for_room(stream, pace).await?,
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

async fn wait_for_room(stream: &mut SendStream<Bytes>, pace: &mut Pace) -> Result<usize, WriteError> {
    let deadline = pace.wait(Instant::now());
    let room = poll_fn(|cx| {
        if stream.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        stream.poll_capacity(cx)
    });
    tokio::select! {
        room = room => match room {
            Some(Ok(room)) => {
                pace.moved(Instant::now(), room);
                Ok(room)
            }
            _ => Err(WriteError::Ended),
        },
        () = sleep_until(deadline) => Err(WriteError::Stalled),
    }
}
