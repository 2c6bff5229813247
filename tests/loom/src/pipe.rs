//! tokio's in-memory pipe as far as a crossing uses it, over a lock that loom sees.
//!
//! One lock a pipe, as in tokio, whose own is invisible here; what a lock orders there it orders here.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One direction.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    room: usize,
    is_closed: bool,
    waiting: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct DuplexStream {
    read: Arc<Mutex<Way>>,
    write: Arc<Mutex<Way>>,
}

/// Both ends, with room for so many bytes each way.
pub(crate) fn duplex(room: usize) -> (DuplexStream, DuplexStream) {
    let way = || Arc::new(Mutex::new(Way { room, ..Way::default() }));
    let (a, b) = (way(), way());
    (DuplexStream { read: Arc::clone(&a), write: Arc::clone(&b) }, DuplexStream { read: b, write: a })
}

fn close(way: &Mutex<Way>) {
    let mut way = way.lock().expect("a model does not poison");
    way.is_closed = true;
    way.wake();
}

impl AsyncRead for DuplexStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut way = self.read.lock().expect("a model does not poison");
        if way.bytes.is_empty() && !way.is_closed {
            way.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while buf.remaining() > 0
            && let Some(byte) = way.bytes.pop_front()
        {
            buf.put_slice(&[byte]);
        }
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for DuplexStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = self.write.lock().expect("a model does not poison");
        if way.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(way.room - way.bytes.len());
        if count == 0 {
            way.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        way.bytes.extend(bytes.iter().take(count));
        way.wake();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        close(&self.write);
        Poll::Ready(Ok(()))
    }
}

impl Drop for DuplexStream {
    fn drop(&mut self) {
        // Both directions, as tokio's does: the peer's reads end and its writes fail.
        close(&self.write);
        close(&self.read);
    }
}
