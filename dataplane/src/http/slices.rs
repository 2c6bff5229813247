//! Several small buffers as one write, for streams that take one buffer at a time: a head and the start of its body then
//! share a TLS record and a frame of the agent's mux.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, ReadBuf};

/// Bytes joined into one write. Larger buffers go as they are.
const JOINED_BYTES_MAX: usize = 8 * 1024;

/// Writes the buffers, or the first of them.
pub(super) fn poll_write<IO: AsyncWrite + Unpin>(
    io: &mut IO,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if io.is_write_vectored() {
        return Pin::new(io).poll_write_vectored(cx, bufs);
    }
    let mut full = bufs.iter().filter(|buf| !buf.is_empty());
    let Some(first) = full.next() else { return Pin::new(io).poll_write(cx, &[]) };
    if first.len() >= JOINED_BYTES_MAX || full.next().is_none() {
        return Pin::new(io).poll_write(cx, first);
    }
    let mut bytes = [MaybeUninit::uninit(); JOINED_BYTES_MAX];
    let mut joined = ReadBuf::uninit(&mut bytes);
    for buf in bufs {
        joined.put_slice(buf.get(..joined.remaining()).unwrap_or(buf));
    }
    Pin::new(io).poll_write(cx, joined.filled())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// A stream that takes everything, one buffer at a time.
    #[derive(Default)]
    struct Taken(Vec<Vec<u8>>);

    impl AsyncWrite for Taken {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.to_vec());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_buffers_are_joined_and_large_ones_go_alone() {
        let check = |bufs: &[Vec<u8>], expect: &[u8]| {
            let mut taken = Taken::default();
            let slices: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
            let wrote = poll_write(&mut taken, &mut Context::from_waker(Waker::noop()), &slices);
            assert!(matches!(wrote, Poll::Ready(Ok(n)) if n == expect.len()));
            assert_eq!(taken.0, [expect]);
        };
        check(&[b"head".to_vec(), vec![], b"body".to_vec()], b"headbody");
        check(&[vec![], b"alone".to_vec()], b"alone");
        let large = vec![7; JOINED_BYTES_MAX];
        check(&[large.clone(), b"tail".to_vec()], &large);
        let joined = [&b"head"[..], &large[4..]].concat();
        check(&[b"head".to_vec(), large], &joined);
    }
}
