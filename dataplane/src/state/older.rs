//! `OlderProcesses`: processes of this edge that have handed over and still have sessions of agents, as ways to connect to them.
//! Knows no session.
//!
//! Each is reached over the channel that it gave at the hand-over: one end of a new pair of sockets is sent there for each
//! connection. What has a copy of the channel's end is a process of this edge; there is no other proof, and no address.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::net::channel::Channel;

/// Seconds an older process may take to make room for a connection.
const CONNECT_SECS_MAX: u64 = 5;

/// What a connection to an older process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// It carries streams of visitors.
    Carry,
    /// The older process tells of its sessions there, and is asked.
    Follow,
    /// What another release connects for.
    #[serde(other)]
    Unknown,
}

/// A process that has handed over.
#[derive(Debug)]
pub struct OlderProcess {
    /// None: this process has handed over itself, and connects no more.
    channel: Mutex<Option<Channel>>,
}

impl OlderProcess {
    /// The process at the other end of a channel.
    pub fn new(channel: Channel) -> Self {
        Self { channel: Mutex::new(Some(channel)) }
    }

    /// Connects, with what is said first; blocks until the other process has room for the connection.
    ///
    /// # Errors
    /// The process is gone or takes no connection, or this one has handed over itself.
    pub fn connect(&self, purpose: Purpose, first: &[u8]) -> io::Result<UnixStream> {
        let (mut own, other) = UnixStream::pair()?;
        own.write_all(first)?;
        own.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        let channel = self.copy()?.ok_or_else(|| io::Error::other("this process has handed over"))?;
        channel.send(&purpose, &[other.as_fd()], Duration::from_secs(CONNECT_SECS_MAX))?;
        Ok(own)
    }

    /// The channel once more, for a process that takes over. None: it has been given away.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn copy(&self) -> io::Result<Option<Channel>> {
        self.locked().as_ref().map(Channel::try_clone).transpose()
    }

    fn locked(&self) -> MutexGuard<'_, Option<Channel>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. Newest first.
#[derive(Debug, Default)]
pub struct OlderProcesses(Mutex<Vec<Arc<OlderProcess>>>);

impl OlderProcesses {
    /// One more.
    pub fn add(&self, process: Arc<OlderProcess>) {
        self.locked().push(process);
    }

    /// A process has ended.
    pub fn remove(&self, process: &Arc<OlderProcess>) {
        self.locked().retain(|other| !Arc::ptr_eq(other, process));
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.locked().len()
    }

    /// The channels of all, for a process that takes over.
    ///
    /// # Errors
    /// There are not enough descriptors.
    pub fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        let copies: Vec<_> = self.locked().iter().map(|process| process.copy()).collect::<io::Result<_>>()?;
        Ok(copies.into_iter().flatten().map(Channel::into_fd).collect())
    }

    /// Another process has taken over: connections go on, and no more are made. An older process notices when nobody is left
    /// that could connect.
    pub fn leave(&self) {
        for process in self.locked().iter() {
            *process.locked() = None;
        }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Arc<OlderProcess>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_connection_comes_with_its_purpose_and_a_process_that_nobody_can_reach_is_told() {
        let (channel, own) = Channel::pair().unwrap();
        let processes = OlderProcesses::default();
        let process = Arc::new(OlderProcess::new(channel));
        processes.add(Arc::clone(&process));
        for purpose in [Purpose::Carry, Purpose::Follow] {
            let mut stream = process.connect(purpose, b"first ").unwrap();
            let (heard, fds) = own.receive::<Purpose>(WAIT).unwrap().unwrap();
            assert_eq!((heard, fds.len()), (purpose, 1));
            let mut other = UnixStream::from(fds.into_iter().next().unwrap());
            stream.write_all(b"x").unwrap();
            drop(stream);
            other.set_nonblocking(false).unwrap();
            let mut said = String::new();
            other.read_to_string(&mut said).unwrap();
            assert_eq!(said, "first x");
        }
        processes.copies().unwrap().into_iter().for_each(|copy| {
            Channel::from_fd(copy).send(&"dance", &[], WAIT).unwrap();
        });
        assert_eq!(own.receive::<Purpose>(WAIT).unwrap().unwrap().0, Purpose::Unknown);
        // The process that takes over has copies, and this one connects no more.
        let copies = processes.copies().unwrap();
        assert_eq!((copies.len(), processes.count()), (1, 1));
        processes.leave();
        assert!(process.connect(Purpose::Carry, &[]).is_err() && processes.copies().unwrap().is_empty());
        assert!(own.receive::<Purpose>(Duration::ZERO).unwrap().is_none(), "another can still connect");
        drop(copies);
        assert_eq!(own.receive::<Purpose>(WAIT).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let (channel, own) = Channel::pair().unwrap();
        drop(own);
        assert!(OlderProcess::new(channel).connect(Purpose::Follow, &[]).is_err());
    }
}
