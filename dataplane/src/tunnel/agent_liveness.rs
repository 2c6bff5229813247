//! `AgentLiveness`: whether an agent is heard, on any path of its session. Decides from when something was sent and heard, and
//! from the time: when to ask the agent for a sign of life, and when new work had better go elsewhere.
//!
//! Knows no carrier and ends nothing: what was delivered to a silent agent stays there, and may still be answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Milliseconds between looks while something is unanswered.
pub const LOOK_MS: u64 = 100;
/// Milliseconds without an answer after which the agent is asked for a sign of life.
pub const ASK_MS: u64 = 400;
/// Milliseconds without an answer that make an agent silent.
pub const SILENT_MS: u64 = 1_500;
/// Milliseconds for which a sign of life is proof enough for work that cannot be taken back.
pub const FRESH_MS: u64 = 200;

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing is unanswered.
    Heard,
    /// An answer may still come.
    Wait,
    /// The agent should be asked for a sign of life.
    Ask,
    /// New work should go elsewhere.
    Silent,
}

/// See the module. Every shard may read and change it.
#[derive(Debug)]
pub struct AgentLiveness {
    start: Instant,
    /// Milliseconds from `start` to the last byte from the agent.
    heard_ms: AtomicU64,
    /// Milliseconds from `start` to the first thing sent since, plus one; 0: nothing was sent since.
    unanswered_ms: AtomicU64,
    silent: AtomicBool,
    /// The session is over: nothing will be heard.
    ended: AtomicBool,
    /// Whether a task looks from time to time.
    watched: AtomicBool,
    /// A sign of life is wanted.
    asked: Notify,
    /// What is unanswered was answered, or the agent fell silent.
    changed: Notify,
}

impl Default for AgentLiveness {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            heard_ms: AtomicU64::new(0),
            unanswered_ms: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            asked: Notify::new(),
            changed: Notify::new(),
        }
    }
}

impl AgentLiveness {
    /// Something came from the agent.
    pub fn heard(&self, now: Instant) {
        let now_ms = self.ms(now);
        if self.heard_ms.load(Ordering::Relaxed) != now_ms {
            self.heard_ms.store(now_ms, Ordering::Relaxed);
        }
        if self.unanswered_ms.load(Ordering::Relaxed) != 0 {
            self.unanswered_ms.store(0, Ordering::Relaxed);
            self.silent.store(false, Ordering::Release);
            self.changed.notify_waiters();
        }
    }

    /// Something goes to the agent that it answers. True: no task looks from time to time yet, and the caller has to.
    #[must_use]
    pub fn sent(&self, now: Instant) -> bool {
        let since = self.ms(now).saturating_add(1);
        let _ = self.unanswered_ms.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed);
        !self.watched.swap(true, Ordering::AcqRel)
    }

    /// Takes a look. [`Look::Heard`] ends the watch.
    pub fn look(&self, now: Instant) -> Look {
        let look = self.judge(now);
        match look {
            Look::Heard => {
                self.watched.store(false, Ordering::Release);
                // Sent meanwhile by a task that took this for a running watch.
                if self.unanswered_ms.load(Ordering::Relaxed) != 0
                    && !self.watched.swap(true, Ordering::AcqRel)
                {
                    return Look::Wait;
                }
            }
            Look::Silent if !self.silent.swap(true, Ordering::AcqRel) => {
                // Heard meanwhile.
                if self.unanswered_ms.load(Ordering::Relaxed) == 0 {
                    self.silent.store(false, Ordering::Release);
                }
                self.changed.notify_waiters();
            }
            _ => {}
        }
        look
    }

    fn judge(&self, now: Instant) -> Look {
        let Some(since) = self.unanswered_ms.load(Ordering::Relaxed).checked_sub(1) else {
            return Look::Heard;
        };
        match self.ms(now).saturating_sub(since) {
            SILENT_MS.. => Look::Silent,
            ASK_MS.. => Look::Ask,
            _ => Look::Wait,
        }
    }

    /// Whether new work should go elsewhere, where there is an elsewhere.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// Whether the agent was heard just now.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.ms(now).saturating_sub(self.heard_ms.load(Ordering::Relaxed)) <= FRESH_MS
    }

    /// Asks for a sign of life.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until a sign of life is asked for.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Waits until the agent is silent.
    pub async fn silenced(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_silent() {
                return;
            }
            changed.await;
        }
    }

    /// The session is over.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until what is unanswered is answered. False: the agent is silent, or the session over.
    pub async fn answered(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.is_silent() || self.ended.load(Ordering::Acquire) {
                return false;
            }
            if self.unanswered_ms.load(Ordering::Relaxed) == 0 {
                return true;
            }
            changed.await;
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The time between looks.
pub const LOOK: Duration = Duration::from_millis(LOOK_MS);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(liveness: &AgentLiveness, ms: u64) -> Instant {
        liveness.start + Duration::from_millis(ms)
    }

    #[test]
    fn rest_is_not_silence() {
        let liveness = AgentLiveness::default();
        assert_eq!(liveness.look(at(&liveness, 60_000)), Look::Heard);
        assert!(!liveness.is_silent() && !liveness.is_fresh(at(&liveness, 60_000)));
    }

    #[test]
    fn what_is_unanswered_is_asked_about_and_then_silence_until_something_is_heard() {
        let liveness = AgentLiveness::default();
        let look = |ms| liveness.look(at(&liveness, ms));
        assert!(liveness.sent(at(&liveness, 1_000)), "the first one watches");
        assert!(!liveness.sent(at(&liveness, 2_000)), "one watch is enough, and the first counts");
        assert_eq!(look(1_000 + ASK_MS - 1), Look::Wait);
        assert_eq!(look(1_000 + ASK_MS), Look::Ask);
        assert_eq!(look(1_000 + SILENT_MS - 1), Look::Ask);
        assert!(!liveness.is_silent());
        assert_eq!(look(1_000 + SILENT_MS), Look::Silent);
        assert!(liveness.is_silent());
        liveness.heard(at(&liveness, 9_000));
        assert!(!liveness.is_silent());
        assert!(liveness.is_fresh(at(&liveness, 9_000 + FRESH_MS)));
        assert!(!liveness.is_fresh(at(&liveness, 9_000 + FRESH_MS + 1)));
        assert_eq!(look(9_001), Look::Heard);
        assert!(liveness.sent(at(&liveness, 9_002)), "the watch has ended");
    }

    #[tokio::test]
    async fn who_waits_hears_of_an_answer_and_of_silence() {
        let liveness = AgentLiveness::default();
        assert!(liveness.answered().await, "nothing is unanswered");
        let _ = liveness.sent(at(&liveness, 0));
        let (answered, ()) = tokio::join!(liveness.answered(), async { liveness.heard(at(&liveness, 1)) });
        assert!(answered);
        let _ = liveness.sent(at(&liveness, 2));
        let fall = async {
            liveness.look(at(&liveness, 2 + SILENT_MS));
        };
        let (answered, (), ()) = tokio::join!(liveness.answered(), liveness.silenced(), fall);
        assert!(!answered);
        liveness.heard(at(&liveness, 9_000));
        let _ = liveness.sent(at(&liveness, 9_000));
        let (answered, ()) = tokio::join!(liveness.answered(), async { liveness.end() });
        assert!(!answered);
    }
}
