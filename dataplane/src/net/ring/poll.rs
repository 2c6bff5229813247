//! The ring form of a kernel socket's readiness: one poll operation while, and only while, a task waits.
//!
//! A poll tells the state, not the edge, so a call that moved less than it might have withdraws the readiness without a
//! second call that finds nothing. While a sink is blocked its source has no poll in flight: it is muted.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{cqueue, opcode, squeue};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use crate::relay::{Kernel, Pipe, calls};

/// What a poll for reading waits for; errors and hang-ups are always reported.
const READ_EVENTS: libc::c_short = libc::POLLIN | libc::POLLRDHUP;
/// What a poll for writing waits for.
const WRITE_EVENTS: libc::c_short = libc::POLLOUT;

/// A socket whose readiness this thread's ring reports. Only on a shard whose runtime is a ring.
pub struct Polled {
    socket: Rc<TcpStream>,
    read: RefCell<Readiness>,
    write: RefCell<Readiness>,
}

/// Keeps the descriptor open until the kernel has answered.
type Operation = InFlightOneshot<Rc<TcpStream>, Answer>;

enum Readiness {
    /// A call may succeed.
    Ready,
    /// A call would find nothing; no task waits.
    Blocked,
    /// The kernel will tell.
    Waiting(Operation),
}

struct Answer;

impl OneshotOutputTransform for Answer {
    type Output = io::Result<()>;
    type StoredData = Rc<TcpStream>;

    fn transform_oneshot_output(self, _: Rc<TcpStream>, answer: cqueue::Entry) -> io::Result<()> {
        match answer.result() {
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            _ => Ok(()),
        }
    }
}

impl Polled {
    /// Takes a connected socket that does not block.
    pub fn new(socket: TcpStream) -> Self {
        Self::with(socket, Readiness::Ready)
    }

    /// Waits until a socket that does not block has connected or failed; the next call says
    /// which.
    pub async fn connected(socket: TcpStream) -> io::Result<Self> {
        let polled = Self::with(socket, Readiness::Blocked);
        poll_fn(|cx| polled.poll_writable(cx)).await?;
        Ok(polled)
    }

    fn with(socket: TcpStream, write: Readiness) -> Self {
        let read = RefCell::new(Readiness::Blocked);
        Self { socket: Rc::new(socket), read, write: RefCell::new(write) }
    }

    /// The socket, for its options.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn poll(
        &self,
        readiness: &RefCell<Readiness>,
        events: libc::c_short,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut readiness = readiness.borrow_mut();
        loop {
            match &mut *readiness {
                Readiness::Ready => return Poll::Ready(Ok(())),
                Readiness::Blocked => *readiness = Readiness::Waiting(self.wait_for(events)),
                Readiness::Waiting(operation) => match Pin::new(operation).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(answer) => {
                        *readiness = Readiness::Ready;
                        answer?;
                    }
                },
            }
        }
    }

    fn wait_for(&self, events: libc::c_short) -> Operation {
        let events = u32::from(events.cast_unsigned());
        self.submit(opcode::PollAdd::new(Fd(self.socket.as_raw_fd()), events).build())
    }

    fn submit(&self, entry: squeue::Entry) -> Operation {
        UnsubmittedOneshot::new(Rc::clone(&self.socket), Answer, entry).submit()
    }
}

impl Drop for Polled {
    /// A poll in flight would keep the connection open; the ring cancels it and answers at once.
    fn drop(&mut self) {
        let waiting = [&self.read, &self.write].map(|r| matches!(*r.borrow(), Readiness::Waiting(_)));
        if waiting.contains(&true) {
            let cancel = CancelBuilder::fd(Fd(self.socket.as_raw_fd())).all();
            drop(self.submit(opcode::AsyncCancel2::new(cancel).build()));
        }
    }
}

/// Notes what a call says about what is left: nothing, when it was blocked or moved less than it might have.
fn note(readiness: &RefCell<Readiness>, moved: io::Result<usize>, whole: usize) -> io::Result<usize> {
    let blocked = match &moved {
        Ok(n) => (1..whole).contains(n),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    if blocked {
        readiness.replace(Readiness::Blocked);
    }
    moved
}

impl Kernel for Polled {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(&self.read, READ_EVENTS, cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(&self.write, WRITE_EVENTS, cx)
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let whole = buffer.len();
        note(&self.read, calls::recv(&*self.socket, buffer), whole)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        note(&self.write, calls::send(&*self.socket, bytes), bytes.len())
    }

    fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
        note(&self.read, calls::fill(&*self.socket, pipe), pipe.bytes_max())
    }

    fn drain(&self, pipe: &Pipe, n: usize) -> io::Result<usize> {
        note(&self.write, calls::drain(&*self.socket, pipe, n), n)
    }

    fn finish(&self) -> io::Result<()> {
        calls::finish(&*self.socket)
    }

    fn is_connected(&self) -> bool {
        self.socket.peer_addr().is_ok()
    }
}
