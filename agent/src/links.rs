//! How many links to keep ready: decisions only, sans-IO. Time is a `Duration` since some start, randomness an argument.
//!
//! A link that waits spares its visitor a dial; one too many costs memory at both ends. So a few are kept idle, one more
//! for every visitor who found none or took the last, and fewer again when some of them were never wanted over a whole
//! window. A surplus is hung up where the edge finds another way for a claim that is under way; elsewhere it is not replaced
//! when the edge lets go of it. A process with few descriptors keeps few links, so that its services can be reached.

use std::time::Duration;

use crate::backoff::Backoff;

/// Links kept idle however quiet it is, where the edge allows as many.
pub const LINKS_IDLE_MIN: usize = 4;
/// Raw links kept idle however quiet it is; each serves one visitor only.
pub const RAW_LINKS_IDLE_MIN: usize = 4;
/// Of so many descriptors one may be a link of each kind: links and what they lead to, of both kinds, take half of them.
pub const DESCRIPTORS_PER_LINK: u64 = 8;
/// Links dialled at once.
pub const LINK_DIALS_MAX: usize = 8;
/// Seconds over which it is seen whether all idle links are wanted.
pub const LINKS_WINDOW_SECS: u64 = 10;
/// Seconds to wait after the edge refused a link: it has enough of them, or wants none.
pub const LINK_REFUSED_SECS: u64 = 30;

/// A link that ends sooner after the edge took it counts as a failure, in seconds.
pub const LINK_STABLE_SECS: u64 = 5;

/// Where a link was in its life when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorState {
    /// It was being dialled.
    Dialling,
    /// It had been taken less than [`LINK_STABLE_SECS`] ago and no visitor had come.
    Fresh,
    /// It waited for a visitor.
    Idle,
    /// It carried one.
    Busy,
}

/// The books of one session's links of one kind.
#[derive(Debug)]
pub struct Links {
    /// What the edge offers.
    offered: usize,
    /// That, or what the descriptors suffice for.
    count_max: usize,
    /// Where the offer allows as many.
    idle_min: usize,
    idle_wanted: usize,
    dialling: usize,
    idle: usize,
    busy: usize,
    /// Fewest idle links in this window.
    lowest: usize,
    /// Links that the last window never wanted and that are not closed yet.
    spare: usize,
    /// Whether [`Links::dial`] was told of more idle links than there are at the quietest.
    is_watched: bool,
    window_ends: Duration,
    not_before: Duration,
    backoff: Backoff,
}

impl Links {
    /// No links yet; at most `links_max` of them, of which at least `idle_min` are kept ready.
    pub fn new(links_max: usize, idle_min: usize, now: Duration) -> Self {
        let idle_min = idle_min.min(links_max);
        Self {
            offered: links_max,
            count_max: links_max,
            idle_min,
            idle_wanted: idle_min,
            dialling: 0,
            idle: 0,
            busy: 0,
            lowest: 0,
            spare: 0,
            is_watched: false,
            window_ends: now + window(),
            not_before: now,
            backoff: Backoff::default(),
        }
    }

    /// Keeps to what so many descriptors suffice for, within the offer.
    pub fn bound(&mut self, descriptors: u64) {
        let affordable = usize::try_from(descriptors / DESCRIPTORS_PER_LINK).unwrap_or(usize::MAX).max(1);
        self.count_max = self.offered.min(affordable);
        self.idle_wanted = self.idle_wanted.min(self.count_max);
    }

    /// How many links to dial now; each counts as being dialled from here on.
    pub fn dial(&mut self, now: Duration) -> usize {
        self.review(now);
        self.is_watched = self.has_spare();
        if now < self.not_before {
            return 0;
        }
        let dials = self.missing();
        self.dialling += dials;
        dials
    }

    /// When [`Links::dial`] or [`Links::surplus`] has something to say; none while there are just enough links.
    pub fn next_due(&self) -> Option<Duration> {
        let missing = (self.missing() > 0).then_some(self.not_before);
        let spare = self.has_spare().then_some(self.window_ends);
        missing.into_iter().chain(spare).min()
    }

    /// Whether [`Links::next_due`] says something that was not known when it was asked last.
    pub fn is_news(&self) -> bool {
        self.missing() > 0 || self.has_spare() && !self.is_watched
    }

    /// Idle links that are not wanted any more, and had better be hung up now.
    pub fn surplus(&mut self) -> usize {
        let many = self.count().saturating_sub(self.count_max);
        std::mem::take(&mut self.spare).max(many).min(self.idle)
    }

    fn has_spare(&self) -> bool {
        self.idle > self.idle_min.min(self.count_max)
    }

    fn missing(&self) -> usize {
        let wanted = self.idle_wanted.saturating_sub(self.idle + self.dialling);
        let room = self.count_max.saturating_sub(self.idle + self.busy + self.dialling);
        wanted.min(room).min(LINK_DIALS_MAX.saturating_sub(self.dialling))
    }

    /// A dialled link waits for visitors.
    pub fn parked(&mut self) {
        self.dialling = self.dialling.saturating_sub(1);
        self.idle += 1;
    }

    /// An idle link has its visitor.
    pub fn claimed(&mut self, now: Duration) {
        self.idle = self.idle.saturating_sub(1);
        self.busy += 1;
        self.backoff.reset();
        self.review(now);
        self.lowest = self.lowest.min(self.idle);
        if self.idle == 0 {
            self.want_more();
        }
    }

    /// A link's visitor left in order and it waits for the next.
    pub fn returned(&mut self) {
        self.busy = self.busy.saturating_sub(1);
        self.idle += 1;
    }

    /// A visitor came another way for want of a link.
    pub fn missed(&mut self, now: Duration) {
        self.review(now);
        self.lowest = 0;
        self.want_more();
    }

    /// A link is gone. One that never came about, or ended at once, makes the next wait.
    pub fn gone(&mut self, was: PriorState, now: Duration, random: u32) {
        let count = match was {
            PriorState::Dialling => &mut self.dialling,
            PriorState::Fresh | PriorState::Idle => &mut self.idle,
            PriorState::Busy => &mut self.busy,
        };
        *count = count.saturating_sub(1);
        self.lowest = self.lowest.min(self.idle);
        match was {
            // Dials that fail together wait once.
            PriorState::Dialling | PriorState::Fresh if now >= self.not_before => {
                self.not_before = now + self.backoff.wait(random);
            }
            PriorState::Dialling | PriorState::Fresh => {}
            PriorState::Idle | PriorState::Busy => self.backoff.reset(),
        }
    }

    /// The dialler makes no such links, so none are wanted.
    pub fn unsupported(&mut self) {
        self.dialling = self.dialling.saturating_sub(1);
        (self.offered, self.count_max) = (0, 0);
    }

    /// The edge refused a link: fewer are wanted, and not soon again.
    pub fn refused(&mut self, now: Duration) {
        self.dialling = self.dialling.saturating_sub(1);
        self.idle_wanted = self.idle_wanted.min(self.idle.max(1));
        self.not_before = now + Duration::from_secs(LINK_REFUSED_SECS);
    }

    /// Links of any state.
    pub fn count(&self) -> usize {
        self.dialling + self.idle + self.busy
    }

    fn want_more(&mut self) {
        self.idle_wanted = (self.idle_wanted + 1).min(self.count_max);
    }

    /// At the end of a window half of what it never wanted is given up.
    fn review(&mut self, now: Duration) {
        if now < self.window_ends {
            return;
        }
        self.idle_wanted = (self.idle_wanted - self.lowest.min(self.idle_wanted).div_ceil(2))
            .max(self.idle_min)
            .min(self.count_max);
        self.spare = self.lowest.saturating_sub(self.idle_wanted);
        self.lowest = self.idle;
        self.window_ends = now + window();
    }
}

fn window() -> Duration {
    Duration::from_secs(LINKS_WINDOW_SECS)
}

#[cfg(test)]
mod tests;
