//! Reading a connection into the bytes that the codec takes apart.

use std::io;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// Bytes asked of a connection at once while a head is read. They come by way of the stack, so that a connection that rests
/// holds no buffer.
const HEAD_READ_BYTES: usize = 8 * 1024;
/// Bytes asked of a connection at once while a body is read.
const BODY_READ_BYTES: usize = 32 * 1024;

/// Reads what is there at the back of `input`; 0 is the end.
pub(in crate::http) fn poll_read<IO: AsyncRead + Unpin>(
    io: &mut IO,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut bytes = [MaybeUninit::uninit(); HEAD_READ_BYTES];
    let mut buf = ReadBuf::uninit(&mut bytes);
    ready!(std::pin::Pin::new(io).poll_read(cx, &mut buf))?;
    input.extend_from_slice(buf.filled());
    Poll::Ready(Ok(buf.filled().len()))
}

/// The same for a body: its bytes stay where they are read to.
pub(in crate::http) fn poll_read_body<IO: AsyncRead + Unpin>(
    io: &mut IO,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    if input.capacity() - input.len() < HEAD_READ_BYTES {
        input.reserve(BODY_READ_BYTES);
    }
    let read = pin!(io.read_buf(input)).poll(cx);
    if read.is_pending() && input.is_empty() {
        // A body that is waited for holds no buffer.
        *input = BytesMut::new();
    }
    read
}
