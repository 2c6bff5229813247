//! A program between two processes of an edge at a hand-over: it passes their messages on with the descriptors, notes each, and at
//! one of them kills one of the two. The edge starts it as the program that is to take over; it starts that program itself.
//!
//! The process that it kills has ended before the message is passed on: one that said it says no more, one that was to hear it never
//! does.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Bytes of a message at most.
const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// Descriptors in one message at most (`SCM_MAX_FD`, unix(7)).
const DESCRIPTORS_MAX: usize = 253;

/// The verb's flags.
#[derive(clap::Args)]
pub struct Args {
    /// Program that takes over
    #[arg(long)]
    edge: PathBuf,
    /// File to which a line is added for each message: which process says it, and what; after the first one the newer process's number
    #[arg(long)]
    steps: PathBuf,
    /// Number of the message to kill at, from 0
    #[arg(long, requires = "kill")]
    at: Option<usize>,
    /// Which process to kill
    #[arg(long, requires = "at")]
    kill: Option<Side>,
    /// What the program is started with
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// One of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// The one that takes over.
    Newer,
    /// The one that hands over.
    Older,
}

impl Side {
    /// The flag's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newer => "newer",
            Self::Older => "older",
        }
    }
}

/// A message with its descriptors.
struct Message {
    text: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Passes messages on until one of the two ends.
///
/// # Errors
/// The program does not start, or what is said is no message.
pub fn run(args: &Args) -> Result<()> {
    let pid_older = getppid().context("the process that hands over")?;
    let older = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (newer, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
    let started = Command::new(&args.edge)
        .args(&args.arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .status()
        .with_context(|| format!("run {}", args.edge.display()))?;
    ensure!(started.success(), "{} ended: {started}", args.edge.display());
    let mut steps = OpenOptions::new().create(true).append(true).open(&args.steps)?;
    let (mut count, mut pid_newer) = (0, None);
    loop {
        for side in spoken(&newer, &older)? {
            let (from, to) = match side {
                Side::Newer => (&newer, &older),
                Side::Older => (&older, &newer),
            };
            // The end of either closes the channel of the other one, as it would without this program.
            let Some(message) = receive(from)? else { return Ok(()) };
            let about: Value = serde_json::from_slice(&message.text)?;
            if let Some(pid) = about.get("pid").and_then(Value::as_i64) {
                pid_newer = Pid::from_raw(i32::try_from(pid)?);
            }
            note(&mut steps, side, &about)?;
            if args.at == Some(count) {
                let pid = if args.kill == Some(Side::Newer) { pid_newer } else { Some(pid_older) };
                kill(pid.context("the newer process has not said its number")?)?;
            }
            count += 1;
            // Nobody may be left to hear it.
            let _ = send(to, &message);
        }
    }
}

/// Which processes have said something, or have ended.
fn spoken(newer: &Socket, older: &Socket) -> Result<Vec<Side>> {
    let mut both = [PollFd::new(newer, PollFlags::IN), PollFd::new(older, PollFlags::IN)];
    poll(&mut both, None)?;
    let sides = [Side::Newer, Side::Older].into_iter().zip(&both);
    Ok(sides.filter(|(_, polled)| !polled.revents().is_empty()).map(|(side, _)| side).collect())
}

fn note(steps: &mut File, side: Side, about: &Value) -> Result<()> {
    let kind = about.get("type").and_then(Value::as_str).context("a message has a type")?;
    let pid = about.get("pid").map(|pid| format!(" {pid}")).unwrap_or_default();
    writeln!(steps, "{} {kind}{pid}", side.as_str())?;
    Ok(())
}

/// SIGKILL; returns when the process and all that it had open are gone.
fn kill(pid: Pid) -> Result<()> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_send_signal(&process, Signal::KILL)?;
    poll(&mut [PollFd::new(&process, PollFlags::IN)], None)?;
    Ok(())
}

/// None: the other end is closed.
fn receive(from: &Socket) -> Result<Option<Message>> {
    let mut text = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut text)];
    let received = match recvmsg(from, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        Ok(received) if received.bytes > 0 => received,
        Ok(_) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    ensure!(!received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC), "a message is cut off");
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    text.truncate(received.bytes);
    Ok(Some(Message { text, descriptors }))
}

fn send(to: &Socket, message: &Message) -> Result<()> {
    let descriptors: Vec<_> = message.descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    ensure!(fits, "there is no room for so many descriptors");
    sendmsg(to, &[IoSlice::new(&message.text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
