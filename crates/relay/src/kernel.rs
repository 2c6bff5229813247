//! `Kernel`: a stream socket of the kernel that never blocks and whose readiness somebody tells; and its form on tokio's
//! epoll. Knows nothing of relays.

use std::io;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::pipe::Pipe;

/// One end of a spliced relay. Methods take `&self`: both directions use the socket in turn, on one thread at a time.
///
/// `WouldBlock` from a call withdraws the readiness; poll then waits for the next. A poll that says ready promises
/// nothing. Every call is counted by what it returns, so a wrapper can keep account of bytes.
pub trait Kernel {
    /// Whether reading may give something: bytes, the end or an error. Remembers the caller for when it does.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether writing may take something, or fail.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads into `buffer`; 0 is the end.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some of `bytes`.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Moves what was received into an empty pipe; 0 is the end.
    fn fill(&self, pipe: &Pipe) -> io::Result<usize>;

    /// Sends up to `n` of the bytes in a pipe, which holds at least as many.
    fn drain(&self, pipe: &Pipe, n: usize) -> io::Result<usize>;

    /// Sends the end of the stream; reading goes on.
    fn finish(&self) -> io::Result<()>;

    /// Whether the kernel still has a peer for it. A reset takes the peer away; an end does not, as long as we have not
    /// sent ours.
    fn is_connected(&self) -> bool;
}

/// The system calls behind [`Kernel`], for those who implement it. None blocks on a socket that does not.
pub mod calls {
    use std::io;
    use std::os::fd::AsFd;

    use rustix::net::{self, RecvFlags, SendFlags};
    use rustix::pipe::{SpliceFlags, splice};

    use crate::pipe::Pipe;

    /// `recv(2)`.
    pub fn recv(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(again(|| net::recv(&socket, &mut *buffer, RecvFlags::DONTWAIT))?.0)
    }

    /// `send(2)`.
    pub fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
        Ok(again(|| net::send(&socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))?)
    }

    /// `splice(2)` from a socket into an empty pipe.
    pub fn fill(socket: impl AsFd, pipe: &Pipe) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(again(|| splice(&socket, None, pipe.write_end(), None, pipe.bytes_max(), flags))?)
    }

    /// `splice(2)` of `n` bytes from a pipe into a socket. Raises SIGPIPE on a closed one, which every program in Rust
    /// ignores from its start.
    pub fn drain(socket: impl AsFd, pipe: &Pipe, n: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(again(|| splice(pipe.read_end(), None, &socket, None, n, flags))?)
    }

    /// `shutdown(2)` of the sending half.
    pub fn finish(socket: impl AsFd) -> io::Result<()> {
        Ok(net::shutdown(socket, net::Shutdown::Write)?)
    }

    /// Repeats what a signal interrupted before it did anything.
    fn again<R>(mut call: impl FnMut() -> rustix::io::Result<R>) -> rustix::io::Result<R> {
        loop {
            match call() {
                Err(rustix::io::Errno::INTR) => {}
                done => return done,
            }
        }
    }
}

/// The epoll form.
impl Kernel for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let whole = buffer.len();
        partly(self, Interest::READABLE, whole, || calls::recv(self, buffer))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        partly(self, Interest::WRITABLE, bytes.len(), || calls::send(self, bytes))
    }

    fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
        // A pipe may be full of small pieces, so what came says nothing about what is left.
        self.try_io(Interest::READABLE, || calls::fill(self, pipe))
    }

    fn drain(&self, pipe: &Pipe, n: usize) -> io::Result<usize> {
        partly(self, Interest::WRITABLE, n, || calls::drain(self, pipe, n))
    }

    fn finish(&self) -> io::Result<()> {
        calls::finish(self)
    }

    fn is_connected(&self) -> bool {
        self.peer_addr().is_ok()
    }
}

/// A call that emptied or filled the socket whenever it moved less than it was asked to. epoll tells by an edge when there
/// is more to read or room to write, so the call that would find neither is saved: the readiness goes with the short one.
/// It must go inside `try_io`, which knows of an edge that came meanwhile.
fn partly(
    socket: &TcpStream,
    interest: Interest,
    whole: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut short = None;
    let moved = socket.try_io(interest, || {
        let n = call()?;
        if n > 0 && n < whole {
            short = Some(n);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    short.map_or(moved, Ok)
}
