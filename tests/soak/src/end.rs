//! One side of one connection: sends its stream, checks every byte of the peer's, and knows how each must end.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::plan::{Finish, PLAN_BYTES, Plan, Role};
use super::tape::Tape;

/// Reads and writes of one side before others have their turn.
const STEPS_MAX: usize = 4;

/// One side.
pub(super) struct End {
    stream: TcpStream,
    role: Role,
    /// In front of the streams: a TLS hello perhaps, then the plan. The client sends it, the server reads it.
    front: Vec<u8>,
    /// Bytes of `front` sent; for a server, bytes it must have.
    front_bytes: usize,
    plan: Option<Plan>,
    sent: u64,
    received: u64,
    has_ended: bool,
    peer_has_ended: bool,
}

/// What came of a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The kernel has to do something first.
    Blocked,
    /// There is more to do.
    More,
    /// It went as planned.
    Done,
    /// It did not.
    Failed(String),
}

impl End {
    /// A visitor, connecting; `hello` goes in front of everything.
    pub(super) fn client(stream: TcpStream, plan: Plan, hello: &[u8]) -> Self {
        let front = [hello, &plan.encode()].concat();
        Self { plan: Some(plan), front, ..Self::new(stream, Role::Client, 0) }
    }

    /// A service's side, which reads its plan from the peer, behind a hello of this length.
    pub(super) fn server(stream: TcpStream, hello_bytes: usize) -> Self {
        Self::new(stream, Role::Server, hello_bytes + PLAN_BYTES)
    }

    fn new(stream: TcpStream, role: Role, front_bytes: usize) -> Self {
        Self {
            stream,
            role,
            front: Vec::new(),
            front_bytes,
            plan: None,
            sent: 0,
            received: 0,
            has_ended: false,
            peer_has_ended: false,
        }
    }

    /// Its socket.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Which side it is.
    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// How the connection goes, once known.
    pub(super) fn plan(&self) -> Option<Plan> {
        self.plan
    }

    /// Bytes received that were what they had to be.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Moves bytes until the kernel stops it, its share is used up or it is over.
    pub(super) fn turn(&mut self, tape: &Tape, hello: &[u8], scratch: &mut [u8]) -> Turn {
        for _ in 0..STEPS_MAX {
            match self.step(tape, hello, scratch) {
                Ok(Turn::More) => {}
                Ok(turn) => return turn,
                Err(error) => return Turn::Failed(format!("{error:#} {}", self.place())),
            }
        }
        Turn::More
    }

    fn step(&mut self, tape: &Tape, hello: &[u8], scratch: &mut [u8]) -> anyhow::Result<Turn> {
        let Some(received) = self.receive(tape, hello, scratch)? else { return Ok(Turn::Done) };
        let Some(sent) = self.send(tape)? else { return Ok(Turn::Done) };
        Ok(match received || sent {
            _ if self.has_ended && self.peer_has_ended => Turn::Done,
            true => Turn::More,
            false => Turn::Blocked,
        })
    }

    /// Whether anything came. None: the peer has reset the connection, as it had to.
    fn receive(&mut self, tape: &Tape, hello: &[u8], scratch: &mut [u8]) -> anyhow::Result<Option<bool>> {
        if self.peer_has_ended {
            return Ok(Some(false));
        }
        match self.stream.read(scratch) {
            Ok(0) => self.take_end()?,
            Ok(count) => self.take(scratch.get(..count).unwrap_or_default(), tape, hello)?,
            Err(error) if is_later(&error) => return Ok(Some(false)),
            Err(error) => return self.take_error(error).map(|()| None),
        }
        Ok(Some(true))
    }

    fn take(&mut self, mut bytes: &[u8], tape: &Tape, hello: &[u8]) -> anyhow::Result<()> {
        if self.plan.is_none() {
            let (front, rest) = bytes.split_at((self.front_bytes - self.front.len()).min(bytes.len()));
            self.front.extend(front);
            bytes = rest;
            if self.front.len() == self.front_bytes {
                let plan = self.front.strip_prefix(hello).and_then(Plan::decode);
                anyhow::ensure!(plan.is_some(), "the first bytes are not those that were sent");
                self.plan = plan;
            }
        }
        let Some(plan) = self.plan else { return Ok(()) };
        let peer = self.role.peer();
        let expected = tape.read(plan.stream_of(peer), self.received, bytes.len() as u64);
        let room = plan.bytes_of(peer) - self.received;
        anyhow::ensure!(bytes.len() as u64 <= room, "more bytes came than were sent");
        if expected != bytes {
            let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            anyhow::bail!("byte {} is another one", self.received + same as u64);
        }
        self.received += bytes.len() as u64;
        Ok(())
    }

    fn take_end(&mut self) -> anyhow::Result<()> {
        let Some(plan) = self.plan else { anyhow::bail!("it ended before its plan was whole") };
        let peer = self.role.peer();
        let resets = plan.pattern.part(peer).finish == Finish::Reset;
        anyhow::ensure!(!resets, "the peer broke off, and that looks like an orderly end");
        anyhow::ensure!(self.received == plan.bytes_of(peer), "it ended early");
        self.peer_has_ended = true;
        Ok(())
    }

    /// An error is right only from a peer that breaks off.
    fn take_error(&self, error: io::Error) -> anyhow::Result<()> {
        let peer = self.role.peer();
        let resets = self.plan.is_some_and(|plan| plan.pattern.part(peer).finish == Finish::Reset);
        // After the first word of a reset the kernel says only that there is no connection.
        let is_reset = matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
        );
        if resets && is_reset { Ok(()) } else { Err(error.into()) }
    }

    /// Whether anything went. None: the peer has reset the connection, as it had to.
    fn send(&mut self, tape: &Tape) -> anyhow::Result<Option<bool>> {
        let Some(plan) = self.plan.filter(|_| !self.has_ended) else { return Ok(Some(false)) };
        let part = plan.pattern.part(self.role);
        let whole = plan.bytes_of(self.role);
        let most = if part.finish == Finish::Reset { whole / 2 } else { whole };
        let may = if part.waits && !self.peer_has_ended { 0 } else { most - self.sent };
        let front = if self.role == Role::Client { self.front.get(self.front_bytes..) } else { None };
        let front = front.unwrap_or_default();
        if may > 0 || !front.is_empty() {
            let bytes = tape.read(plan.stream_of(self.role), self.sent, may.min(plan.piece.into()));
            return match self.stream.write_vectored(&[IoSlice::new(front), IoSlice::new(bytes)]) {
                Ok(count) => {
                    let of_front = count.min(front.len());
                    self.front_bytes += of_front;
                    self.sent += (count - of_front) as u64;
                    Ok(Some(true))
                }
                Err(error) if is_later(&error) => Ok(Some(false)),
                Err(error) => self.take_error(error).map(|()| None),
            };
        }
        let is_time = match part.finish {
            Finish::Sent => !part.waits || self.peer_has_ended,
            Finish::Later => self.peer_has_ended,
            // A byte of the peer's shows that the whole way is open.
            Finish::Reset => self.received > 0 || self.role == Role::Server,
        };
        if !is_time {
            return Ok(Some(false));
        }
        self.has_ended = true;
        if part.finish == Finish::Reset {
            socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
            // Nothing more is expected of the peer; closing sends the reset.
            self.peer_has_ended = true;
        } else if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            return self.take_error(error).map(|()| None);
        }
        Ok(Some(true))
    }

    /// Where it stands, for a report.
    pub(super) fn place(&self) -> String {
        let Some(plan) = self.plan else { return format!("({:?} without a plan)", self.role) };
        let (mine, peers) = (plan.bytes_of(self.role), plan.bytes_of(self.role.peer()));
        format!(
            "({:?} of {:?}: sent {} of {mine}{}, received {} of {peers}{})",
            self.role,
            plan.pattern,
            self.sent,
            if self.has_ended { " and ended" } else { "" },
            self.received,
            if self.peer_has_ended { " and its end" } else { "" },
        )
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
