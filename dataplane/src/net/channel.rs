//! Messages with descriptors over a pair of sockets that keeps messages apart.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, Socket, Type};

/// Descriptors in one message; the kernel takes 253 (`SCM_MAX_FD`, unix(7)).
pub const DESCRIPTORS_MAX: usize = 128;
/// Bytes of a message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Shortest wait the system takes.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// One end.
#[derive(Debug)]
pub struct Channel(Socket);

impl Channel {
    /// Both ends. Neither is inherited by programs that are started, unless given.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that this process was given.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// The same end once more.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The end, for a program that is started.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// Sends a message and copies of descriptors.
    ///
    /// # Errors
    /// The other end is gone or does not read in time, or too many descriptors are on their way.
    pub fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
        wait: Duration,
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message).map_err(io::Error::other)?;
        if text.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::other("a message between two processes is too long"));
        }
        self.0.set_write_timeout(Some(wait.max(WAIT_MIN)))?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("there is no room for so many descriptors"));
        }
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message and its descriptors. None: nothing came in time.
    ///
    /// # Errors
    /// The other end is gone, or sent what is no message.
    pub fn receive<M: DeserializeOwned>(&self, wait: Duration) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        self.0.set_read_timeout(Some(wait.max(WAIT_MIN)))?;
        let mut text = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let received = match received {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let descriptors = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended"));
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other(
                "a message did not arrive whole; is the limit of open files reached?",
            ));
        }
        let text = text.get(..received.bytes).unwrap_or_default();
        Ok(Some((serde_json::from_slice(text).map_err(io::Error::other)?, descriptors)))
    }
}

/// Descriptors, borrowed.
pub fn borrowed<F: AsFd>(descriptors: &[F]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read as _;

    const WAIT: Duration = Duration::from_secs(10);

    #[test]
    fn descriptors_come_with_their_message_and_an_end_is_told() {
        let (one, other) = Channel::pair().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"through").unwrap();
        let files: Vec<File> = (0..DESCRIPTORS_MAX).map(|_| File::open(file.path()).unwrap()).collect();
        one.send(&"many", &borrowed(&files), WAIT).unwrap();
        one.send(&"none", &[], WAIT).unwrap();
        let (text, fds) = other.receive::<String>(WAIT).unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("many", DESCRIPTORS_MAX));
        let mut read = String::new();
        File::from(fds.into_iter().next().unwrap()).read_to_string(&mut read).unwrap();
        assert_eq!(read, "through");
        let (text, fds) = other.receive::<String>(WAIT).unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("none", 0));
        assert!(other.receive::<String>(Duration::ZERO).unwrap().is_none());
        assert!(one.send(&"x".repeat(MESSAGE_BYTES_MAX), &[], WAIT).is_err());
        drop(one);
        assert_eq!(other.receive::<String>(WAIT).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(other.send(&"x", &[], WAIT).is_err());
    }

    #[test]
    fn nonsense_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&17, &[], WAIT).unwrap();
        assert!(other.receive::<String>(WAIT).is_err());
    }
}
