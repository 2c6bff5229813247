//! `Process`: one `ebbgate-waf`, and the socket by which it is asked.
//!
//! It gets that socket, the edge's standard error, and nothing else: no environment, no other descriptor. What it says is
//! believed within bounds and a time only.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ebbgate_waf::protocol::{self, Answer, FrameError, Greeting, Judgement, Loaded, Question};
use serde::de::DeserializeOwned;

use super::shared::{WafError, WafSettings};

/// See the module. Killed when it is dropped.
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
}

/// Why a question has no judgement.
#[derive(Debug)]
pub(super) enum AskError {
    /// The rules failed on this message; the process goes on.
    Message(String),
    /// The process is of no use any more.
    Process(String),
}

impl Process {
    /// Starts it, and waits until it has read the rules.
    pub(super) fn start(settings: &WafSettings, within: Duration) -> Result<(Self, Loaded), WafError> {
        let started = Self::spawn(settings);
        let start = |error: String| WafError::Start { program: settings.program.clone(), error };
        let process = started.map_err(|error| start(error.to_string()))?;
        match process.read(Instant::now() + within).map_err(|error| start(error.to_string()))? {
            Greeting::Ready(loaded) => Ok((process, loaded)),
            Greeting::Refused(why) => Err(WafError::Rules(why)),
        }
    }

    fn spawn(settings: &WafSettings) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new(&settings.program)
            .arg(&settings.rules)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok(Self { child, socket })
    }

    /// Asks about one message.
    pub(super) fn ask(
        &mut self,
        question: &Question,
        body: &[u8],
        within: Duration,
    ) -> Result<Judgement, AskError> {
        let until = Instant::now() + within;
        let broken = |error: FrameError| match error {
            FrameError::Socket(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                AskError::Process(format!("it did not answer within {} ms", within.as_millis()))
            }
            error => AskError::Process(error.to_string()),
        };
        let mut socket = Timed { socket: &self.socket, until };
        match protocol::write(&mut socket, question, body) {
            Ok(()) => {}
            // Nothing of it was written.
            Err(error @ (FrameError::TooLong(_) | FrameError::Malformed(_))) => {
                return Err(AskError::Message(format!(
                    "the head is too long for the Core Rule Set: {error}"
                )));
            }
            Err(error) => return Err(broken(error)),
        }
        match self.read(until).map_err(broken)? {
            Answer::Judged(judgement) => Ok(judgement),
            Answer::Failed(why) => Err(AskError::Message(format!("the Core Rule Set failed: {why}"))),
        }
    }

    fn read<M: DeserializeOwned>(&self, until: Instant) -> Result<M, FrameError> {
        let read = protocol::read(&mut Timed { socket: &self.socket, until })?;
        let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended");
        Ok(read.ok_or_else(gone)?.0)
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket for so long.
struct Timed<'a> {
    socket: &'a UnixStream,
    until: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(bytes)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
