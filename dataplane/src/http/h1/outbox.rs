//! `Outbox`: what waits to be written to a connection, and `Sending`: the body whose parts follow.
//!
//! A head and the first bytes of its body leave in one write; so do a chunk's size, its content and its end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body as _;
use tokio::io::AsyncWrite;

use crate::http::body::Body;
use crate::http::fault::BodyFault;
use crate::http::framing::{BodyFraming, chunk_size, last_chunk, trailer_section};
use crate::http::slices;

const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK_END: &[u8] = b"\r\n0\r\n\r\n";

/// Text, then content, then the end of its chunk.
#[derive(Debug, Default)]
pub(in crate::http) struct Outbox {
    text: BytesMut,
    content: Bytes,
    end: &'static [u8],
}

impl Outbox {
    /// Whether everything was written.
    pub(in crate::http) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.content.is_empty() && self.end.is_empty()
    }

    /// Whether text and content may be added.
    pub(in crate::http) fn has_room(&self) -> bool {
        self.content.is_empty() && self.end.is_empty()
    }

    /// For more text; only while there is room.
    pub(in crate::http) fn text(&mut self) -> &mut BytesMut {
        &mut self.text
    }

    /// Writes once. How many bytes went.
    pub(in crate::http) fn poll_write<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let slices = [IoSlice::new(&self.text), IoSlice::new(&self.content), IoSlice::new(self.end)];
        let wrote = ready!(slices::poll_write(io, cx, &slices))?;
        if wrote == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn advance(&mut self, mut n: usize) {
        let text = n.min(self.text.len());
        self.text.advance(text);
        if self.text.is_empty() {
            // Nothing is held for a connection that rests.
            self.text = BytesMut::new();
        }
        n -= text;
        let content = n.min(self.content.len());
        self.content.advance(content);
        self.end = self.end.get(n - content..).unwrap_or_default();
        if self.content.is_empty() {
            self.content = Bytes::new();
        }
    }
}

/// A body on its way out.
#[derive(Debug)]
pub(in crate::http) struct Sending {
    /// The body.
    pub(in crate::http) body: Body,
    framing: BodyFraming,
    left: u64,
    trailers: bool,
}

impl Sending {
    /// The body as `framing` delimits it; none if there is nothing to send. `trailers`: the peer takes a trailer section.
    pub(in crate::http) fn new(body: Body, framing: BodyFraming, trailers: bool) -> Option<Self> {
        let left = match framing {
            BodyFraming::None => return None,
            BodyFraming::Length(length) => length,
            BodyFraming::Chunked | BodyFraming::UntilClose => u64::MAX,
        };
        Some(Self { body, framing, left, trailers })
    }

    /// Whether the head has to wait for the end of the body: it says that there is none, and that may be wrong.
    pub(in crate::http) fn holds_head(&self) -> bool {
        self.framing == BodyFraming::Length(0)
    }

    /// Puts the next part into `out`, which must have room. True: it was the last.
    pub(in crate::http) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Poll<Result<bool, BodyFault>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(self.over(out, None));
            };
            let frame = match frame?.into_data() {
                Ok(data) if data.is_empty() => continue,
                Ok(data) => return Poll::Ready(self.data(data, out)),
                Err(frame) => frame,
            };
            let trailers = frame.into_trailers().ok().filter(|_| self.trailers);
            return Poll::Ready(self.over(out, trailers.as_ref()));
        }
    }

    fn data(&mut self, data: Bytes, out: &mut Outbox) -> Result<bool, BodyFault> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(length).ok_or(BodyFault::Length)?;
        let over = self.body.is_end_stream();
        if self.framing == BodyFraming::Chunked {
            chunk_size(&mut out.text, data.len());
            out.end = if over { LAST_CHUNK_END } else { CHUNK_END };
        } else if over {
            self.check_whole()?;
        }
        out.content = data;
        Ok(over || self.left == 0)
    }

    fn over(&self, out: &mut Outbox, trailers: Option<&http::HeaderMap>) -> Result<bool, BodyFault> {
        self.check_whole()?;
        if self.framing == BodyFraming::Chunked {
            last_chunk(&mut out.text);
            match trailers {
                Some(trailers) => trailer_section(&mut out.text, trailers),
                None => out.text.extend_from_slice(CHUNK_END),
            }
        }
        Ok(true)
    }

    /// A body that ends before its length is none.
    fn check_whole(&self) -> Result<(), BodyFault> {
        let short = matches!(self.framing, BodyFraming::Length(_)) && self.left > 0;
        if short { Err(BodyFault::Length) } else { Ok(()) }
    }
}
