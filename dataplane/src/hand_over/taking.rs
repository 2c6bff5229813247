//! What the newer process does next. Pure, as `giving` is.

use std::time::Duration;

use super::message::{FromNewer, FromOlder, Item};

/// Seconds to wait for the next word of the older process.
pub(super) const WAIT_SECS_MAX: u64 = 30;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Keep these, and say what is given.
    Keep(Vec<Item>, FromNewer),
    /// Get ready.
    Prepare { generation: u64, quic_generation: u8, incarnation: Option<String> },
    /// Serve, and say so.
    Serve { closed: Vec<u16> },
    /// This process is the edge.
    Done,
    /// End.
    Fail(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Receiving,
    Preparing,
    Ready,
    Serving,
    Over,
}

/// The newer process in a hand-over.
pub(super) struct Taking {
    state: State,
    received: usize,
    deadline: Duration,
}

impl Taking {
    /// It has greeted at `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self { state: State::Receiving, received: 0, deadline: now + Duration::from_secs(WAIT_SECS_MAX) }
    }

    /// When the older process should have said something. None: it waits for this one.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// This process could serve.
    pub(super) fn ready(&mut self, now: Duration) -> FromNewer {
        (self.state, self.deadline) = (State::Ready, now + Duration::from_secs(WAIT_SECS_MAX));
        FromNewer::Ready
    }

    /// Decides. `descriptors`: those that came with the message.
    pub(super) fn take(&mut self, heard: FromOlder, descriptors: usize, now: Duration) -> Act {
        self.deadline = now + Duration::from_secs(WAIT_SECS_MAX);
        match (self.state, heard) {
            (State::Receiving | State::Ready, FromOlder::Descriptors { items })
                if items.len() == descriptors =>
            {
                self.received += descriptors;
                Act::Keep(items, FromNewer::Received { descriptors: self.received })
            }
            (State::Receiving | State::Ready, FromOlder::Descriptors { items }) => self.fail(format!(
                "{} descriptors were named and {descriptors} came; is the limit of open files reached?",
                items.len()
            )),
            (State::Receiving, FromOlder::Prepare { generation, quic_generation, incarnation })
                if descriptors == 0 =>
            {
                self.state = State::Preparing;
                Act::Prepare { generation, quic_generation, incarnation }
            }
            (State::Ready, FromOlder::Go { closed }) if descriptors == 0 => {
                self.state = State::Serving;
                Act::Serve { closed }
            }
            (State::Serving, FromOlder::Done) if descriptors == 0 => {
                self.state = State::Over;
                Act::Done
            }
            (_, FromOlder::Refused { reason }) => self.fail(reason),
            (state, heard) => self.fail(format!("it said {heard:?} while this process was {state:?}")),
        }
    }

    fn fail(&mut self, reason: String) -> Act {
        self.state = State::Over;
        Act::Fail(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn items(count: usize) -> FromOlder {
        FromOlder::Descriptors { items: vec![Item::named("http"); count] }
    }

    const PREPARE: FromOlder = FromOlder::Prepare { generation: 7, quic_generation: 3, incarnation: None };
    const GO: FromOlder = FromOlder::Go { closed: Vec::new() };

    #[test]
    fn it_serves_when_it_is_told_and_not_before() {
        let mut taking = Taking::new(NOW);
        let kept = |act: Act| matches!(act, Act::Keep(items, FromNewer::Received { descriptors: 5 }) if items.len() == 2);
        assert!(matches!(taking.take(items(3), 3, NOW), Act::Keep(..)));
        assert!(kept(taking.take(items(2), 2, NOW)));
        let prepare = Act::Prepare { generation: 7, quic_generation: 3, incarnation: None };
        assert_eq!(taking.take(PREPARE, 0, NOW), prepare);
        assert_eq!(taking.ready(NOW), FromNewer::Ready);
        assert!(matches!(taking.take(items(1), 1, NOW), Act::Keep(..)), "a port was opened meanwhile");
        assert_eq!(taking.take(GO, 0, NOW), Act::Serve { closed: Vec::new() });
        assert_eq!(taking.take(FromOlder::Done, 0, NOW), Act::Done);
    }

    #[test]
    fn what_is_out_of_place_ends_it() {
        let early: [(FromOlder, usize); 5] =
            [(GO, 0), (FromOlder::Done, 0), (FromOlder::Unknown, 0), (items(2), 1), (PREPARE, 1)];
        for (heard, descriptors) in early {
            let mut taking = Taking::new(NOW);
            assert!(matches!(taking.take(heard, descriptors, NOW), Act::Fail(_)));
            assert!(matches!(taking.take(items(1), 1, NOW), Act::Fail(_)), "and stays ended");
        }
        let mut taking = Taking::new(NOW);
        let refused = taking.take(FromOlder::Refused { reason: "not now".into() }, 0, NOW);
        assert_eq!(refused, Act::Fail("not now".into()));
    }
}
