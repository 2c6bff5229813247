//! The older process's side: does what `giving` decides.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::error::HandOverError;
use super::giving::{ANSWER_SECS_MAX, Act, Giving, Input};
use super::message::{FromNewer, FromOlder, Item};
use crate::net::channel::{Channel, borrowed};

/// Longest message of a failure that is passed on, in characters.
const REASON_CHARS_MAX: usize = 1024;

/// A descriptor, and what it is.
pub type Given = (Item, OwnedFd);

/// What the process has that is handed over.
pub trait Host {
    /// Leaves the directory as it is, and gives copies of all that is handed over.
    ///
    /// # Errors
    /// There are not enough descriptors.
    fn freeze(&mut self) -> io::Result<Frozen>;

    /// Accepts no more. Gives what was opened since [`Host::freeze`], and the ports that were closed. `takes_filter`: whether the
    /// newer process takes the filter in the kernel over.
    ///
    /// # Errors
    /// There are not enough descriptors, or the filter is being written for too long.
    fn stop(&mut self, takes_filter: bool) -> io::Result<Stopped>;

    /// Goes on as if nothing had been.
    fn resume(&mut self);
}

/// What is handed over.
pub struct Frozen {
    /// Descriptors.
    pub given: Vec<Given>,
    /// Generation of the Program in the directory.
    pub generation: u64,
    /// Generation for the newer process's connection ids of QUIC.
    pub quic_generation: u8,
    /// The edge's incarnation.
    pub incarnation: Option<String>,
}

/// What came about since.
#[derive(Default)]
pub struct Stopped {
    /// Further descriptors.
    pub given: Vec<Given>,
    /// Ports that were closed.
    pub closed: Vec<u16>,
}

/// Hands over to the process at the other end of a channel, which was just started; blocks until it serves. Gives its number.
///
/// # Errors
/// It does not serve. Nothing has changed then.
pub fn give(channel: &Channel, host: &mut impl Host) -> Result<u32, HandOverError> {
    let start = Instant::now();
    let mut giving = Giving::new(Duration::ZERO);
    let (all, frozen, closed) = (Vec::new(), None, Vec::new());
    let mut hand = Hand { channel, host, takes_filter: false, all, frozen, closed };
    let mut pid = 0;
    let mut input = None;
    loop {
        let now = start.elapsed();
        let next = match input.take() {
            Some(input) => input,
            None => hear(channel, giving.deadline().saturating_sub(now)),
        };
        if let Input::Heard(FromNewer::Hello { pid: said, takes_filter, .. }) = next {
            (pid, hand.takes_filter) = (said, takes_filter);
        }
        let Some(act) = giving.take(next, start.elapsed()) else { continue };
        match act {
            Act::Succeed => return Ok(pid),
            Act::Fail(reason) => {
                let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
                // It may be gone.
                let _ = channel.send(&FromOlder::Refused { reason: reason.clone() }, &[], wait());
                hand.host.resume();
                return Err(HandOverError::Peer(reason));
            }
            act => match hand.perform(act) {
                Ok(done) => input = done,
                Err(error) => input = Some(Input::Broken(error.to_string())),
            },
        }
    }
}

/// Tells the newer process that it is the edge.
pub fn done(channel: &Channel) {
    // It serves, whether it hears that or not.
    let _ = channel.send(&FromOlder::Done, &[], wait());
}

fn wait() -> Duration {
    Duration::from_secs(ANSWER_SECS_MAX)
}

fn hear(channel: &Channel, wait: Duration) -> Input {
    match channel.receive::<FromNewer>(wait) {
        Ok(Some((heard, _))) => Input::Heard(heard),
        Ok(None) => Input::Time,
        Err(error) => Input::Ended(error.to_string()),
    }
}

struct Hand<'a, H> {
    channel: &'a Channel,
    host: &'a mut H,
    takes_filter: bool,
    all: Vec<Given>,
    frozen: Option<(u64, u8, Option<String>)>,
    closed: Vec<u16>,
}

impl<H: Host> Hand<'_, H> {
    /// Does it; what that leads to at once.
    fn perform(&mut self, act: Act) -> io::Result<Option<Input>> {
        match act {
            Act::Freeze => {
                let Frozen { given, generation, quic_generation, incarnation } = self.host.freeze()?;
                self.frozen = Some((generation, quic_generation, incarnation));
                self.all = given;
                Ok(Some(Input::Frozen(self.all.len())))
            }
            Act::SendDescriptors(range) => {
                let batch = self.all.get(range).unwrap_or_default();
                let items = batch.iter().map(|(item, _)| item.clone()).collect();
                let descriptors: Vec<_> = batch.iter().map(|(_, fd)| fd).collect();
                self.send(&FromOlder::Descriptors { items }, &borrowed(&descriptors))
            }
            Act::Prepare => {
                let (generation, quic_generation, incarnation) = self.frozen.clone().unwrap_or_default();
                self.send(&FromOlder::Prepare { generation, quic_generation, incarnation }, &[])
            }
            Act::Stop => {
                let Stopped { given, closed } = self.host.stop(self.takes_filter)?;
                let late = given.len();
                self.all.extend(given);
                self.closed = closed;
                Ok(Some(Input::Stopped(late)))
            }
            Act::Go => self.send(&FromOlder::Go { closed: self.closed.clone() }, &[]),
            Act::Succeed | Act::Fail(_) => Ok(None),
        }
    }

    fn send(
        &self,
        message: &FromOlder,
        descriptors: &[std::os::fd::BorrowedFd<'_>],
    ) -> io::Result<Option<Input>> {
        self.channel.send(message, descriptors, wait()).map(|()| None)
    }
}

#[cfg(test)]
mod tests;
