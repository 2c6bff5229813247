//! The newer process's side: does what `taking` decides. Each step blocks until the older process has said what follows.

use std::io;
use std::time::{Duration, Instant};

use super::error::HandOverError;
use super::handed::Handed;
use super::message::{FORMAT, FromNewer, FromOlder};
use super::taking::{Act, Taking, WAIT_SECS_MAX};
use crate::net::channel::Channel;

/// Longest reason that is told, in characters.
const REASON_CHARS_MAX: usize = 1024;
/// Seconds the older process may take to read a word.
const SEND_SECS_MAX: u64 = 5;

/// This process has what it needs to get ready.
pub struct Prepared {
    /// What it was given.
    pub handed: Handed,
    /// Generation of the Program in the directory.
    pub generation: u64,
    /// Generation for connection ids of QUIC.
    pub quic_generation: u8,
    /// The edge's incarnation, if the process before said it.
    pub incarnation: Option<String>,
    /// What it goes on with.
    pub hand: Hand,
}

/// This process is to serve now.
pub struct Taken {
    /// What was opened since it began to get ready.
    pub late: Handed,
    /// TCP ports that were closed since.
    pub closed: Vec<u16>,
    hand: Hand,
}

/// The channel and how far it has come.
pub struct Hand {
    channel: Channel,
    taking: Taking,
    start: Instant,
}

/// Greets the process that started this one, and takes what it gives.
///
/// # Errors
/// It gives nothing.
pub fn take(channel: Channel) -> Result<Prepared, HandOverError> {
    let hello = FromNewer::Hello {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        takes_filter: true,
    };
    let mut hand = Hand { channel, taking: Taking::new(Duration::ZERO), start: Instant::now() };
    hand.say(&hello)?;
    let mut handed = Handed::default();
    match hand.next(&mut handed)? {
        Act::Prepare { generation, quic_generation, incarnation } => {
            Ok(Prepared { handed, generation, quic_generation, incarnation, hand })
        }
        act => Err(HandOverError::Peer(format!("{act:?} came too early"))),
    }
}

/// Says that this process cannot serve.
pub fn failed(channel: &Channel, reason: &str) {
    let reason = reason.chars().take(REASON_CHARS_MAX).collect();
    // The other end notices in any case that this process ends.
    let _ = channel.send(&FromNewer::Failed { reason }, &[], Duration::from_secs(SEND_SECS_MAX));
}

impl Hand {
    /// Says that this process could serve, and waits until it is to.
    ///
    /// # Errors
    /// It is not to.
    pub fn ready(mut self) -> Result<Taken, HandOverError> {
        let ready = self.taking.ready(self.start.elapsed());
        self.say(&ready)?;
        let mut late = Handed::default();
        match self.next(&mut late)? {
            Act::Serve { closed } => Ok(Taken { late, closed, hand: self }),
            act => Err(HandOverError::Peer(format!("{act:?} came too early"))),
        }
    }

    fn say(&self, message: &FromNewer) -> io::Result<()> {
        self.channel.send(message, &[], Duration::from_secs(SEND_SECS_MAX))
    }

    /// Keeps descriptors until something else is to be done.
    fn next(&mut self, handed: &mut Handed) -> Result<Act, HandOverError> {
        loop {
            let now = self.start.elapsed();
            let wait = self.taking.deadline().saturating_sub(now);
            let heard = self.channel.receive::<FromOlder>(wait);
            let Some((heard, descriptors)) = heard.map_err(|error| HandOverError::Peer(error.to_string()))?
            else {
                return Err(HandOverError::Peer(format!("it said nothing for {WAIT_SECS_MAX} s")));
            };
            if let FromOlder::Refused { reason } = heard {
                return Err(HandOverError::Refused(reason));
            }
            match self.taking.take(heard, descriptors.len(), self.start.elapsed()) {
                Act::Keep(items, received) => {
                    handed.keep(items.into_iter().zip(descriptors));
                    self.say(&received)?;
                }
                Act::Fail(reason) => return Err(HandOverError::Peer(reason)),
                act => return Ok(act),
            }
        }
    }
}

impl Taken {
    /// Says that this process serves, and waits until it is the edge for everybody. It serves too if the older process is gone.
    ///
    /// # Errors
    /// It was too late: the older process goes on.
    pub fn serving(mut self) -> Result<(), HandOverError> {
        if self.hand.say(&FromNewer::Serving).is_err() {
            return Ok(());
        }
        match self.hand.next(&mut Handed::default()) {
            Err(error @ HandOverError::Refused(_)) => Err(error),
            _ => Ok(()),
        }
    }
}
