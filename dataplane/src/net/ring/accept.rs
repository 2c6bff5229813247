//! Accepting by the ring: a batch of accept operations is pending, each answered with one connection.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::rc::Rc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// Accept operations in flight on one listener.
const ACCEPTS_MAX: usize = 16;

struct Accepted;

impl OneshotOutputTransform for Accepted {
    type Output = io::Result<TcpStream>;
    type StoredData = Rc<TcpListener>;

    fn transform_oneshot_output(self, _: Rc<TcpListener>, answer: cqueue::Entry) -> io::Result<TcpStream> {
        match answer.result() {
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            #[expect(unsafe_code, reason = "the ring hands out descriptors by number")]
            // SAFETY: the kernel made this descriptor for this operation and tells of it here, once.
            fd => Ok(unsafe { TcpStream::from_raw_fd(fd) }),
        }
    }
}

/// Accepts for ever, handing every connection, which does not block, to `take`. An error is the listener's.
pub async fn accept(listener: TcpListener, mut take: impl FnMut(TcpStream)) -> io::Result<()> {
    let listener = Rc::new(listener);
    let one = || {
        let fd = Fd(listener.as_raw_fd());
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build();
        UnsubmittedOneshot::new(Rc::clone(&listener), Accepted, entry).submit()
    };
    let mut accepts: FuturesUnordered<_> = (0..ACCEPTS_MAX).map(|_| one()).collect();
    while let Some(accepted) = accepts.next().await {
        accepts.push(one());
        take(accepted?);
    }
    Ok(())
}
