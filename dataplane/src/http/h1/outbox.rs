//! `Outbox`: what waits to be written to a connection, and `Sending`: the body with the parts that follow.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// A stream that takes so many bytes of each write.
    struct Taken {
        writes: Vec<Vec<u8>>,
        bytes_max: usize,
    }

    impl AsyncWrite for Taken {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.bytes_max);
            self.writes.push(buf[..n].to_vec());
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn sent(body: Body, framing: BodyFraming, bytes_max: usize) -> (Result<(), BodyFault>, Vec<String>) {
        let mut out = Outbox::default();
        let mut io = Taken { writes: Vec::new(), bytes_max };
        let cx = &mut Context::from_waker(Waker::noop());
        let mut sending = Sending::new(body, framing, true);
        out.text().extend_from_slice(b"head ");
        let mut result = Ok(());
        while result.is_ok() && (sending.is_some() || !out.is_empty()) {
            if let Some(part) = sending.as_mut().filter(|_| out.has_room()) {
                match part.poll_next(cx, &mut out) {
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Ok(true)) => sending = None,
                    Poll::Ready(Err(fault)) => result = Err(fault),
                    Poll::Pending => panic!("nothing waits here"),
                }
            }
            assert!(out.poll_write(&mut io, cx).is_ready());
        }
        (result, io.writes.iter().map(|write| String::from_utf8(write.clone()).unwrap()).collect())
    }

    #[test]
    fn a_head_and_its_body_leave_in_one_write() {
        let check = |body: Body, framing, expect: &str| {
            assert_eq!(sent(body, framing, usize::MAX), (Ok(()), vec![expect.to_owned()]));
        };
        check(Body::full("hello".into()), BodyFraming::Length(5), "head hello");
        check(Body::full("hello".into()), BodyFraming::UntilClose, "head hello");
        check(Body::Empty, BodyFraming::None, "head ");
        check(Body::Empty, BodyFraming::Chunked, "head 0\r\n\r\n");
        let trailers = [("a".parse().unwrap(), "b".parse().unwrap())].into_iter().collect();
        check(Body::trailing(trailers), BodyFraming::Chunked, "head 0\r\na: b\r\n\r\n");
        let (whole, writes) = sent(Body::full("hello".into()), BodyFraming::Chunked, 3);
        assert_eq!((whole, writes.concat()), (Ok(()), "head 5\r\nhello\r\n0\r\n\r\n".to_owned()));
    }

    #[test]
    fn a_body_of_another_length_is_not_taken_for_a_whole_one() {
        for length in [4, 6] {
            let (result, _) = sent(Body::full("hello".into()), BodyFraming::Length(length), usize::MAX);
            assert_eq!(result, Err(BodyFault::Length), "{length}");
        }
    }
}
