//! Starts the program that takes over. It has its end of the channel as standard input.
//!
//! What is started first starts the edge itself and ends, so that the new process is nobody's child here: the service manager,
//! which adopts it, hears of its end even while this process still has streams.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::error::HandOverError;
use crate::net::channel::Channel;

/// Milliseconds to wait for the status of a program that has closed its channel.
const STATUS_MS_MAX: u64 = 500;
/// Milliseconds between looks.
const LOOK_MS: u64 = 5;
/// The verb by which a program takes over.
pub const SUCCESSOR: &str = "successor";
/// Its flag for the process that does.
pub const DETACHED: &str = "--detached";

/// A program that was started to take over.
pub struct Started {
    /// This process's end.
    pub channel: Channel,
    child: Child,
}

/// Starts a program with the arguments of this process.
///
/// # Errors
/// It cannot be executed.
pub fn start(program: &Path, arguments: &[OsString]) -> Result<Started, HandOverError> {
    let failed = |source| HandOverError::Start { program: program.display().to_string(), source };
    let (channel, other) = Channel::pair().map_err(failed)?;
    let mut command = Command::new(program);
    // In a group of its own, so that all of it ends if it does not come about.
    command.arg(SUCCESSOR).arg("--").args(arguments).stdin(Stdio::from(other.into_fd())).process_group(0);
    let child = command.spawn().map_err(failed)?;
    Ok(Started { channel, child })
}

/// Starts the process that takes over, from the program that [`start`] started.
///
/// # Errors
/// The system refuses.
pub fn detach(arguments: &[OsString]) -> io::Result<()> {
    let program = std::env::current_exe()?;
    Command::new(program)
        .args([SUCCESSOR, DETACHED, "--"])
        .args(arguments)
        .stdin(Stdio::inherit())
        .spawn()?;
    Ok(())
}

impl Started {
    /// It serves; what only started it has ended or will at once.
    pub fn keep(mut self) {
        let wait = move || drop(self.child.wait());
        // Without a thread it stays in the process table until this process ends.
        let _ = std::thread::Builder::new().name("reaper".into()).spawn(wait);
    }

    /// Ends all of it. Gives how it ended by itself, if it did with an error.
    pub fn end(mut self) -> Option<String> {
        // Its channel may be closed a moment before its status is there.
        let deadline = Instant::now() + Duration::from_millis(STATUS_MS_MAX);
        while self.runs() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
        let ended = !self.runs();
        // Not waited for yet: its number, which is the group's, is nobody else's.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let status = self.child.wait().ok()?;
        (ended && !status.success()).then(|| status.to_string())
    }

    /// Whether it has not ended. It stays in the process table.
    fn runs(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(Pid::from_child(&self.child)), options), Ok(None))
    }
}
