//! `Outbox`: decides what one edge is sent next. No I/O, no clock.
//!
//! At most one change is under way at a time; while an edge is slow, newer changes join, so that it gets the newest state
//! and never a queue. A generation number alone proves nothing: a restored backup counts the same numbers twice, and what
//! an edge kept on disk may have changed there. So an edge's digest decides what can be built upon. Where it tells
//! nothing, the digests of the edge's buckets tell what to mend; where there are none, everything is sent.

use std::collections::BTreeSet;

use ebbgate_model::feed::{PART_BYTES, ToEdge};
use ebbgate_model::{BUCKETS, Changes, ObjectKey, ProgramDigest};

use super::published::State;
use crate::plan::overlay::Ring;

/// Objects looked at for one part, so that nobody waits long for the state.
const LOOKED_AT_MAX: usize = 20_000;
/// Bytes of an object's name, in round figures.
const NAME_BYTES: usize = 40;
/// From so many differing buckets on everything is sent.
const DIFFERING_MAX: usize = BUCKETS / 2;

/// What is known of one edge's Program, and what it is sent.
#[derive(Debug)]
pub struct Outbox {
    held: Held,
    step: Step,
    /// Of the newest message that asks for an answer.
    nonce: u64,
    /// The edge refused this generation as a whole.
    refused: Option<u64>,
    /// Whether a comparison is wanted when nothing else is under way.
    compares: bool,
    /// Whether the edge's digests can be compared with ours: after everything was sent it must hold what we do.
    comparable: bool,
    /// As which edge it is fed, and as which it is fed when nothing is under way.
    ring: Ring,
    wanted_ring: Ring,
}

/// What the edge holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Nothing, or nothing that anything can be built upon.
    Nothing,
    /// It says so, and we have not compared it with ours.
    Claimed(u64, ProgramDigest),
    /// What we had at this generation.
    Ours(u64),
    /// Something else, and nobody knows what: its buckets have to be asked for.
    Else,
}

#[derive(Debug)]
enum Step {
    /// Nothing is under way.
    Idle,
    /// Parts are being sent.
    Sync(Sync),
    /// An answer is awaited for a change to this generation.
    Change { generation: u64, digest: ProgramDigest, whole: bool },
    /// An answer is awaited for a comparison.
    Compare { buckets: bool },
}

/// Parts on their way.
#[derive(Debug)]
struct Sync {
    buckets: Option<BTreeSet<u16>>,
    /// Generation at which it began: what has changed since is sent at the end.
    began: u64,
    begun: bool,
    /// The last object looked at.
    last: Option<ObjectKey>,
    all_sent: bool,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The edge holds this generation of ours.
    Holds(u64),
    /// The edge holds something else, which is mended next.
    Differs,
}

/// An edge answered for what was not under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the edge answered message {answered}, which was not under way to it")]
pub struct Unasked {
    /// The nonce it named.
    pub answered: u64,
}

impl Outbox {
    /// For an edge that connects and says what it holds.
    pub fn new(generation: u64, digest: Option<ProgramDigest>) -> Self {
        let held = match digest {
            Some(digest) if generation > 0 => Held::Claimed(generation, digest),
            _ => Held::Nothing,
        };
        let (ring, wanted_ring) = (Ring::Rest, Ring::Rest);
        Self {
            held,
            step: Step::Idle,
            nonce: 0,
            refused: None,
            compares: false,
            comparable: true,
            ring,
            wanted_ring,
        }
    }

    /// The edge is one of this ring from now on.
    pub fn set_ring(&mut self, ring: Ring) {
        self.wanted_ring = ring;
    }

    /// What it holds was right for another ring.
    fn change_ring(&mut self, state: &State) {
        if self.ring == self.wanted_ring {
            return;
        }
        if let Held::Ours(generation) = self.held {
            let digest = state.digest_at(self.ring, generation);
            self.held = digest.map_or(Held::Else, |digest| Held::Claimed(generation, digest));
        }
        (self.ring, self.refused) = (self.wanted_ring, None);
    }

    /// What to send now.
    pub(super) fn next(&mut self, state: &State) -> Option<ToEdge> {
        if state.generation == 0 {
            return None;
        }
        if let Step::Sync(sync) = &mut self.step {
            let message = sync.next(self.nonce, self.ring, state);
            match &message {
                // The log was cut meanwhile: begin anew.
                None => self.step = Step::Idle,
                Some(ToEdge::End { generation, digest, .. }) => {
                    let whole = sync.buckets.is_none();
                    self.step = Step::Change { generation: *generation, digest: *digest, whole };
                }
                Some(_) => {}
            }
            if message.is_some() {
                return message;
            }
        }
        if !matches!(self.step, Step::Idle) {
            return None;
        }
        self.change_ring(state);
        if self.refused == Some(state.generation) {
            return None;
        }
        match self.held {
            Held::Nothing => self.sync(None, state),
            Held::Claimed(generation, digest) => {
                self.held = match state.digest_at(self.ring, generation) {
                    Some(ours) if ours == digest => Held::Ours(generation),
                    _ => Held::Else,
                };
                self.next(state)
            }
            Held::Else => Some(self.compare(true)),
            Held::Ours(held) if held == state.generation => {
                std::mem::take(&mut self.compares).then(|| self.compare(false))
            }
            Held::Ours(held) => {
                if let Some(keys) = state.since(held) {
                    let changes = Box::new(state.changes(self.ring, keys));
                    Some(self.delta(held, changes, state))
                } else {
                    self.held = Held::Else;
                    Some(self.compare(true))
                }
            }
        }
    }

    fn delta(&mut self, from: u64, changes: Box<Changes>, state: &State) -> ToEdge {
        self.nonce += 1;
        let (to, digest) = (state.generation, state.digests(self.ring).root());
        self.step = Step::Change { generation: to, digest, whole: false };
        ToEdge::Delta { nonce: self.nonce, from, to, digest, changes }
    }

    fn compare(&mut self, buckets: bool) -> ToEdge {
        self.nonce += 1;
        self.step = Step::Compare { buckets };
        ToEdge::Compare { nonce: self.nonce, buckets }
    }

    fn sync(&mut self, buckets: Option<BTreeSet<u16>>, state: &State) -> Option<ToEdge> {
        self.nonce += 1;
        self.step =
            Step::Sync(Sync { buckets, began: state.generation, begun: false, last: None, all_sent: false });
        self.next(state)
    }

    /// A comparison is due.
    pub fn look(&mut self) {
        self.compares = self.comparable;
    }

    /// The edge has it in force.
    pub fn applied(&mut self, nonce: u64, digest: ProgramDigest) -> Result<Answered, Unasked> {
        let Step::Change { generation, digest: expected, whole } = self.step else {
            return Err(Unasked { answered: nonce });
        };
        self.answered(nonce)?;
        self.refused = None;
        if self.comparable && digest != expected {
            if !whole {
                self.held = Held::Else;
                return Ok(Answered::Differs);
            }
            // It was sent all there is: it writes it down otherwise.
            self.comparable = false;
        }
        self.held = Held::Ours(generation);
        Ok(Answered::Holds(generation))
    }

    /// The edge did not take it and keeps what it had. Gives the generation.
    pub fn refused(&mut self, nonce: u64) -> Result<u64, Unasked> {
        let Step::Change { generation, whole, .. } = self.step else {
            return Err(Unasked { answered: nonce });
        };
        self.answered(nonce)?;
        // Changes may just not have fitted: everything follows. Refused as a whole, it is not sent again.
        if whole {
            self.refused = Some(generation);
        }
        self.held = Held::Nothing;
        Ok(generation)
    }

    /// What the edge says that it holds.
    pub(super) fn compared(
        &mut self,
        nonce: u64,
        (generation, digest): (u64, ProgramDigest),
        buckets: &[ProgramDigest],
        state: &State,
    ) -> Result<Answered, Unasked> {
        let Step::Compare { buckets: asked } = self.step else { return Err(Unasked { answered: nonce }) };
        self.answered(nonce)?;
        if state.digest_at(self.ring, generation) == Some(digest) {
            self.held = Held::Ours(generation);
            return Ok(Answered::Holds(generation));
        }
        self.held = Held::Else;
        if asked {
            let differing = state.digests(self.ring).differing(buckets);
            let too_many = differing.len() > DIFFERING_MAX;
            let buckets = (!too_many).then(|| differing.into_iter().collect());
            self.nonce += 1;
            let began = state.generation;
            self.step = Step::Sync(Sync { buckets, began, begun: false, last: None, all_sent: false });
        }
        Ok(Answered::Differs)
    }

    /// Whether an answer is awaited.
    pub fn waits(&self) -> bool {
        matches!(self.step, Step::Change { .. } | Step::Compare { .. })
    }

    fn answered(&mut self, nonce: u64) -> Result<(), Unasked> {
        if nonce != self.nonce {
            return Err(Unasked { answered: nonce });
        }
        self.step = Step::Idle;
        Ok(())
    }
}

impl Sync {
    /// None: what has changed since it began is not known any more.
    fn next(&mut self, nonce: u64, ring: Ring, state: &State) -> Option<ToEdge> {
        if !self.begun {
            self.begun = true;
            return Some(ToEdge::Begin { nonce, buckets: self.buckets.clone() });
        }
        if !self.all_sent {
            return Some(ToEdge::Part { nonce, objects: Box::new(self.part(ring, state)) });
        }
        let changed = state.since(self.began)?;
        if !changed.is_empty() {
            let objects = Box::new(state.changes(ring, changed));
            self.began = state.generation;
            return Some(ToEdge::Part { nonce, objects });
        }
        Some(ToEdge::End { nonce, generation: state.generation, digest: state.digests(ring).root() })
    }

    fn part(&mut self, ring: Ring, state: &State) -> Changes {
        let (mut objects, mut bytes) = (Changes::default(), 0);
        let mut all = state.live.after(self.last.as_ref());
        for _ in 0..LOOKED_AT_MAX {
            let Some((key, object)) = all.next() else {
                self.all_sent = true;
                break;
            };
            self.last = Some(key.clone());
            let wanted =
                |buckets: &BTreeSet<u16>| u16::try_from(key.bucket()).is_ok_and(|b| buckets.contains(&b));
            if self.buckets.as_ref().is_none_or(wanted)
                && let Some(object) = state.seen(ring, key, Some(object))
            {
                objects.put(key, object);
                bytes += object.bytes() + NAME_BYTES;
            }
            if bytes >= PART_BYTES {
                break;
            }
        }
        objects
    }
}

#[cfg(test)]
mod tests;
