//! `Relay`: two byte streams joined, as a state machine: who may be read, who must be written or closed, when it is over.
//!
//! Sans-IO: no sockets, no clock, no buffers; it counts bytes that its driver holds. A side is read only while the other
//! side takes what was read (so a blocked sink mutes its source), and an end of stream travels on as an end of stream
//! while the other direction keeps running.

use std::io;

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who connected.
    Client,
    /// Who is served from.
    Agent,
}

impl Side {
    /// The other stream.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Agent,
            Self::Agent => Self::Client,
        }
    }
}

/// How long a relay may carry nothing, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleLimits {
    /// While both directions are open.
    pub open_ms: u64,
    /// Once one direction has ended.
    pub half_closed_ms: u64,
}

/// How long a relay may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// While nothing moves.
    pub idle: IdleLimits,
    /// In all, in milliseconds, whatever moves; `None` is without end.
    pub lifetime_ms: Option<u64>,
}

impl From<IdleLimits> for Limits {
    fn from(idle: IdleLimits) -> Self {
        Self { idle, lifetime_ms: None }
    }
}

/// Why a relay is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both directions ended and were passed on.
    Finished,
    /// This side failed or was reset; the other must be reset.
    Failed(Side),
    /// Nothing moved for too long.
    Idle,
    /// It lasted as long as a relay may.
    Expired,
}

/// How a relay ended. Whoever drops the streams afterwards resets what did not finish.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub end: End,
    /// Bytes written to the agent.
    pub bytes_up: u64,
    /// Bytes written to the client.
    pub bytes_down: u64,
    /// The error behind [`End::Failed`].
    pub error: Option<io::Error>,
}

/// What the driver does next; in this order of preference for one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Write what is held to this side.
    Write(Side),
    /// Everything was written and its source has ended: pass the end on to this side.
    Finish(Side),
    /// Read from this side.
    Read(Side),
    /// This direction has ended.
    Nothing,
}

#[derive(Debug, Clone, Copy, Default)]
struct Direction {
    held: usize,
    source_ended: bool,
    sink_finished: bool,
    bytes: u64,
}

/// The state of one pair of streams.
#[derive(Debug, Clone)]
pub struct Relay {
    /// From the client to the agent.
    up: Direction,
    /// From the agent to the client.
    down: Direction,
    idle: IdleLimits,
    moved_at_ms: u64,
    expires_at_ms: u64,
    failed: Option<Side>,
}

impl Relay {
    /// Two open streams.
    pub fn new(limits: impl Into<Limits>, now_ms: u64) -> Self {
        let Limits { idle, lifetime_ms } = limits.into();
        Self {
            up: Direction::default(),
            down: Direction::default(),
            idle,
            moved_at_ms: now_ms,
            expires_at_ms: lifetime_ms.map_or(u64::MAX, |lifetime| now_ms.saturating_add(lifetime)),
            failed: None,
        }
    }

    /// What the direction that is read from `source` does next.
    pub fn next(&self, source: Side) -> Next {
        let direction = self.direction(source);
        match direction {
            _ if self.failed.is_some() => Next::Nothing,
            Direction { held: 1.., .. } => Next::Write(source.other()),
            Direction { source_ended: false, .. } => Next::Read(source),
            Direction { sink_finished: false, .. } => Next::Finish(source.other()),
            _ => Next::Nothing,
        }
    }

    /// `n` bytes were read from this side and are held; 0 is its end.
    pub fn read(&mut self, source: Side, n: usize, now_ms: u64) {
        self.moved_at_ms = now_ms;
        let direction = self.direction_mut(source);
        if n == 0 {
            direction.source_ended = true;
        } else {
            direction.held += n;
        }
    }

    /// `n` of the bytes held for this side were written to it.
    pub fn wrote(&mut self, sink: Side, n: usize, now_ms: u64) {
        self.moved_at_ms = now_ms;
        let direction = self.direction_mut(sink.other());
        let n = n.min(direction.held);
        direction.held -= n;
        direction.bytes += n as u64;
    }

    /// Whether the end was passed on to this side.
    pub fn has_finished(&self, sink: Side) -> bool {
        self.direction(sink.other()).sink_finished
    }

    /// The end was passed on to this side.
    pub fn finished(&mut self, sink: Side, now_ms: u64) {
        self.moved_at_ms = now_ms;
        self.direction_mut(sink.other()).sink_finished = true;
    }

    /// Reading from or writing to this side failed.
    pub fn fail(&mut self, side: Side) {
        self.failed.get_or_insert(side);
    }

    /// When the relay is over if nothing moves until then, in the driver's milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        let half_closed = self.up.source_ended || self.down.source_ended;
        let idle_ms = if half_closed { self.idle.half_closed_ms } else { self.idle.open_ms };
        self.moved_at_ms.saturating_add(idle_ms).min(self.expires_at_ms)
    }

    /// Whether it is over at this time, and why.
    pub fn end(&self, now_ms: u64) -> Option<End> {
        if let Some(side) = self.failed {
            return Some(End::Failed(side));
        }
        if self.up.sink_finished && self.down.sink_finished {
            return Some(End::Finished);
        }
        if now_ms >= self.expires_at_ms {
            return Some(End::Expired);
        }
        (now_ms >= self.deadline_ms()).then_some(End::Idle)
    }

    /// The account of a relay that is over.
    pub fn ended(&self, end: End, error: Option<io::Error>) -> Ended {
        Ended { end, bytes_up: self.bytes_up(), bytes_down: self.bytes_down(), error }
    }

    /// Bytes written to the agent.
    pub fn bytes_up(&self) -> u64 {
        self.up.bytes
    }

    /// Bytes written to the client.
    pub fn bytes_down(&self) -> u64 {
        self.down.bytes
    }

    fn direction(&self, source: Side) -> &Direction {
        match source {
            Side::Client => &self.up,
            Side::Agent => &self.down,
        }
    }

    fn direction_mut(&mut self, source: Side) -> &mut Direction {
        match source {
            Side::Client => &mut self.up,
            Side::Agent => &mut self.down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const IDLE: IdleLimits = IdleLimits { open_ms: 1000, half_closed_ms: 100 };

    #[test]
    fn half_close_passes_on_and_the_other_direction_runs() {
        let mut relay = Relay::new(IDLE, 0);
        relay.read(Side::Client, 5, 1);
        relay.read(Side::Client, 0, 1);
        assert_eq!(relay.next(Side::Client), Next::Write(Side::Agent));
        relay.wrote(Side::Agent, 5, 2);
        assert_eq!(relay.next(Side::Client), Next::Finish(Side::Agent));
        relay.finished(Side::Agent, 2);
        assert_eq!(relay.next(Side::Client), Next::Nothing);
        assert_eq!(relay.next(Side::Agent), Next::Read(Side::Agent));
        assert_eq!(relay.end(2), None);
        relay.read(Side::Agent, 7, 3);
        relay.wrote(Side::Client, 7, 3);
        relay.read(Side::Agent, 0, 4);
        relay.finished(Side::Client, 4);
        assert_eq!((relay.end(4), relay.bytes_up(), relay.bytes_down()), (Some(End::Finished), 5, 7));
    }

    #[test]
    fn a_blocked_sink_mutes_its_source() {
        let mut relay = Relay::new(IDLE, 0);
        relay.read(Side::Agent, 10, 0);
        relay.wrote(Side::Client, 4, 0);
        assert_eq!(relay.next(Side::Agent), Next::Write(Side::Client));
    }

    #[test]
    fn idle_limits() {
        let mut relay = Relay::new(IDLE, 0);
        assert_eq!((relay.end(999), relay.end(1000)), (None, Some(End::Idle)));
        relay.read(Side::Client, 1, 900);
        assert_eq!(relay.end(1899), None);
        relay.read(Side::Client, 0, 1000);
        assert_eq!((relay.end(1099), relay.end(1100)), (None, Some(End::Idle)));
    }

    #[test]
    fn a_lifetime_ends_whatever_moves() {
        let mut relay = Relay::new(Limits { idle: IDLE, lifetime_ms: Some(1500) }, 100);
        relay.read(Side::Client, 1, 900);
        assert_eq!((relay.deadline_ms(), relay.end(1599), relay.end(1600)), (1600, None, Some(End::Expired)));
    }

    #[test]
    fn the_first_failure_is_the_reason() {
        let mut relay = Relay::new(IDLE, 0);
        relay.fail(Side::Agent);
        relay.fail(Side::Client);
        assert_eq!(relay.end(0), Some(End::Failed(Side::Agent)));
        assert_eq!(relay.next(Side::Client), Next::Nothing);
    }

    /// A stream of the simulation: what it still sends, what it got, how much it takes at a time.
    struct Peer {
        sends: VecDeque<u8>,
        got: Vec<u8>,
        saw_end: bool,
    }

    proptest! {
        /// Whatever the order of readiness and the sizes of reads and writes, every byte arrives once, in order, and
        /// both ends arrive after them.
        #[test]
        fn everything_arrives(
            up in prop::collection::vec(any::<u8>(), 0..200),
            down in prop::collection::vec(any::<u8>(), 0..200),
            schedule in prop::collection::vec((any::<bool>(), 1usize..50), 1..2000),
        ) {
            let mut relay = Relay::new(IDLE, 0);
            let mut client = Peer { sends: up.iter().copied().collect(), got: vec![], saw_end: false };
            let mut agent = Peer { sends: down.iter().copied().collect(), got: vec![], saw_end: false };
            let mut held: [VecDeque<u8>; 2] = Default::default();
            for (now, (which, size)) in schedule.iter().cycle().take(20_000).enumerate() {
                let source = if *which { Side::Client } else { Side::Agent };
                let source = if now % 7 == 0 { source.other() } else { source };
                let (from, to) = match source {
                    Side::Client => (&mut client, &mut agent),
                    Side::Agent => (&mut agent, &mut client),
                };
                let held = &mut held[usize::from(*which != (now % 7 == 0))];
                match relay.next(source) {
                    Next::Read(side) => {
                        prop_assert_eq!(side, source);
                        let n = (*size).min(from.sends.len());
                        held.extend(from.sends.drain(..n));
                        relay.read(side, n, 0);
                    }
                    Next::Write(side) => {
                        let n = (*size).min(held.len());
                        to.got.extend(held.drain(..n));
                        relay.wrote(side, n, 0);
                    }
                    Next::Finish(side) => {
                        to.saw_end = true;
                        relay.finished(side, 0);
                    }
                    Next::Nothing => {}
                }
                if relay.end(0).is_some() { break; }
            }
            prop_assert_eq!(relay.end(0), Some(End::Finished));
            prop_assert_eq!((client.got, agent.got), (down.clone(), up.clone()));
            prop_assert!(client.saw_end && agent.saw_end);
            prop_assert_eq!((relay.bytes_up(), relay.bytes_down()), (up.len() as u64, down.len() as u64));
        }
    }
}
