//! What the older process does next. Pure: what is heard, what was done and the time come in, what to do goes out.

use std::time::Duration;

use super::message::{FORMAT, FromNewer};
use crate::net::channel::DESCRIPTORS_MAX;

/// Seconds a program may take from its start to its first word. Until then changes from control are put in force as ever.
pub(super) const HELLO_SECS_MAX: u64 = 20;
/// Seconds from then until it is ready. Changes from control wait meanwhile: below what control waits for an answer.
pub(super) const READY_SECS_MAX: u64 = 40;
/// Seconds for any other answer. Nobody accepts meanwhile.
pub(super) const ANSWER_SECS_MAX: u64 = 5;

/// What came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// The newer process says something.
    Heard(FromNewer),
    /// It says nothing more.
    Ended(String),
    /// [`Act::Freeze`] is done: so many descriptors are to be sent.
    Frozen(usize),
    /// [`Act::Stop`] is done: so many more are to be sent.
    Stopped(usize),
    /// Something failed here.
    Broken(String),
    /// Time has passed.
    Time,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Send these descriptors, of all there are.
    SendDescriptors(std::ops::Range<usize>),
    /// Leave the directory as it is from now on, and collect descriptors.
    Freeze,
    /// Say that the directory is to be read.
    Prepare,
    /// Accept no more, and collect what came since.
    Stop,
    /// Say that nobody accepts.
    Go,
    /// It is done.
    Succeed,
    /// It is over: go on as if nothing had been.
    Fail(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Freezing,
    Sending,
    Preparing,
    Stopping,
    SendingLate,
    Going,
    Over,
}

/// The older process in a hand-over.
pub(super) struct Giving {
    state: State,
    deadline: Duration,
    sent: usize,
    all: usize,
}

impl Giving {
    /// The program was started at `now`.
    pub(super) fn new(now: Duration) -> Self {
        let deadline = now + Duration::from_secs(HELLO_SECS_MAX);
        Self { state: State::Greeting, deadline, sent: 0, all: 0 }
    }

    /// When to come back with [`Input::Time`] at the latest.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Decides.
    pub(super) fn take(&mut self, input: Input, now: Duration) -> Option<Act> {
        let waits = |secs| now + Duration::from_secs(secs);
        match (self.state, input) {
            (State::Over, _) => None,
            (
                _,
                Input::Broken(reason) | Input::Ended(reason) | Input::Heard(FromNewer::Failed { reason }),
            ) => Some(self.fail(reason)),
            (_, Input::Time) if now < self.deadline => None,
            (state, Input::Time) => Some(self.fail(format!("{} in time", state.wanted()))),
            (State::Greeting, Input::Heard(FromNewer::Hello { format: FORMAT, .. })) => {
                (self.state, self.deadline) = (State::Freezing, waits(READY_SECS_MAX));
                Some(Act::Freeze)
            }
            (State::Greeting, Input::Heard(FromNewer::Hello { format, version, .. })) => {
                let reason = format!(
                    "release {version} speaks format {format} of the hand-over, this process {FORMAT}; restart the edge instead"
                );
                Some(self.fail(reason))
            }
            (State::Freezing, Input::Frozen(all)) => {
                (self.state, self.all) = (State::Sending, all);
                Some(self.next_batch().unwrap_or_else(|| self.prepare()))
            }
            (State::Sending, Input::Heard(FromNewer::Received { descriptors }))
                if descriptors == self.sent =>
            {
                Some(self.next_batch().unwrap_or_else(|| self.prepare()))
            }
            (State::Preparing, Input::Heard(FromNewer::Ready)) => {
                (self.state, self.deadline) = (State::Stopping, waits(ANSWER_SECS_MAX));
                Some(Act::Stop)
            }
            (State::Stopping, Input::Stopped(more)) => {
                (self.state, self.deadline) = (State::SendingLate, waits(ANSWER_SECS_MAX));
                self.all += more;
                Some(self.next_batch().unwrap_or_else(|| self.go(now)))
            }
            (State::SendingLate, Input::Heard(FromNewer::Received { descriptors }))
                if descriptors == self.sent =>
            {
                Some(self.next_batch().unwrap_or_else(|| self.go(now)))
            }
            (State::Going, Input::Heard(FromNewer::Serving)) => {
                self.state = State::Over;
                Some(Act::Succeed)
            }
            (state, input) => Some(self.fail(format!("{}, but it was {input:?}", state.wanted()))),
        }
    }

    fn fail(&mut self, reason: String) -> Act {
        self.state = State::Over;
        Act::Fail(reason)
    }

    fn next_batch(&mut self) -> Option<Act> {
        let end = self.all.min(self.sent + DESCRIPTORS_MAX);
        let batch = self.sent..end;
        self.sent = end;
        (!batch.is_empty()).then_some(Act::SendDescriptors(batch))
    }

    fn prepare(&mut self) -> Act {
        self.state = State::Preparing;
        Act::Prepare
    }

    fn go(&mut self, now: Duration) -> Act {
        (self.state, self.deadline) = (State::Going, now + Duration::from_secs(ANSWER_SECS_MAX));
        Act::Go
    }
}

impl State {
    fn wanted(self) -> &'static str {
        match self {
            Self::Greeting => "it was to say which format it speaks",
            Self::Freezing | Self::Stopping | Self::Over => "it was to wait",
            Self::Sending | Self::SendingLate => "it was to acknowledge every descriptor",
            Self::Preparing => "it was to get ready",
            Self::Going => "it was to serve",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: FromNewer =
        FromNewer::Hello { format: FORMAT, version: String::new(), pid: 1, takes_filter: true };

    /// Every input of a hand-over of so many descriptors, and what it leads to.
    fn steps(first: usize, late: usize) -> Vec<(Input, Act)> {
        let received = |descriptors| Input::Heard(FromNewer::Received { descriptors });
        let mut steps = vec![(Input::Heard(HELLO), Act::Freeze)];
        let (mut next, mut sent) = (Input::Frozen(first), 0);
        for (all, then) in [(first, Act::Prepare), (first + late, Act::Go)] {
            while sent < all {
                let end = all.min(sent + DESCRIPTORS_MAX);
                steps.push((next, Act::SendDescriptors(sent..end)));
                (next, sent) = (received(end), end);
            }
            steps.push((next, then.clone()));
            if then == Act::Prepare {
                steps.push((Input::Heard(FromNewer::Ready), Act::Stop));
            }
            next = Input::Stopped(late);
        }
        steps.push((Input::Heard(FromNewer::Serving), Act::Succeed));
        steps
    }

    #[test]
    fn every_descriptor_is_acknowledged_before_the_next_batch() {
        for (first, late) in
            [(0, 0), (1, 0), (DESCRIPTORS_MAX, 1), (3 * DESCRIPTORS_MAX + 1, DESCRIPTORS_MAX + 1)]
        {
            let mut giving = Giving::new(Duration::ZERO);
            for (input, act) in steps(first, late) {
                assert_eq!(giving.take(input, Duration::ZERO), Some(act));
            }
        }
    }

    #[test]
    fn whatever_ends_or_is_late_at_any_step_changes_nothing() {
        let all = steps(DESCRIPTORS_MAX + 1, 1);
        for stop in 0..all.len() {
            let faults = [
                Input::Ended("it ended".into()),
                Input::Broken("no descriptor is free".into()),
                Input::Heard(FromNewer::Failed { reason: "no".into() }),
                Input::Heard(FromNewer::Unknown),
                Input::Heard(FromNewer::Received { descriptors: 99_999 }),
                Input::Time,
            ];
            for fault in faults {
                let mut giving = Giving::new(Duration::ZERO);
                for (input, _) in &all[..stop] {
                    giving.take(input.clone(), Duration::ZERO);
                }
                assert_eq!(giving.take(Input::Time, Duration::ZERO), None, "not yet");
                let late = giving.deadline();
                assert!(matches!(giving.take(fault.clone(), late), Some(Act::Fail(_))), "{stop} {fault:?}");
                assert_eq!(giving.take(Input::Heard(FromNewer::Serving), late), None, "it is over");
            }
        }
    }

    #[test]
    fn another_format_is_refused_with_the_way_out() {
        let hello =
            FromNewer::Hello { format: FORMAT + 1, version: "9.0".into(), pid: 1, takes_filter: true };
        let act = Giving::new(Duration::ZERO).take(Input::Heard(hello), Duration::ZERO);
        let Some(Act::Fail(reason)) = act else { panic!("{act:?}") };
        assert!(reason.contains("release 9.0 speaks format 2") && reason.contains("restart"), "{reason}");
    }
}
