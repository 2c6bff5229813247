//! Whether a history of reads and writes of one register is linearizable: whether each operation can be given one moment
//! between its start and its end, such that every read gives what was written last.
//!
//! The search is Wing's and Gong's with Lowe's memory of what was tried ("Testing for linearizability", 2017). A write
//! without an answer may have happened at any moment after its start, or never. Pure; knows nothing of what was measured.

use std::collections::{BTreeSet, HashSet};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value was written. No two writes of a history write the same value.
    Write(u64),
    /// A value was read.
    Read(u64),
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// What was done.
    pub kind: Kind,
    /// When it was asked for.
    pub start: u64,
    /// When it was answered; None: it was not, so that it may have happened or not. Reads without an answer say nothing
    /// and do not belong into a history.
    pub end: Option<u64>,
}

/// Steps of the search before it gives up.
const STEPS_MAX: u64 = 200_000_000;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Wrong,
    /// The search was given up.
    Undecided,
}

/// The start or the end of an operation, in a list of all of them by time.
struct Entry {
    op: usize,
    is_start: bool,
    before: usize,
    after: usize,
}

/// Looks for an order of operations on a register that first holds `initial`.
pub fn check(initial: u64, history: &[Op]) -> Verdict {
    // A write that nobody was told of and nobody saw can be said never to have happened.
    let read: BTreeSet<u64> = history
        .iter()
        .filter_map(|op| match op.kind {
            Kind::Read(value) => Some(value),
            Kind::Write(_) => None,
        })
        .collect();
    let counts = |op: &&Op| match op.kind {
        Kind::Write(value) => op.end.is_some() || read.contains(&value),
        Kind::Read(_) => true,
    };
    Search::new(&history.iter().filter(counts).copied().collect::<Vec<_>>()).run(initial)
}

struct Search {
    ops: Vec<Op>,
    /// A ring: the last entry is its head.
    entries: Vec<Entry>,
    /// Of each operation, its start's and its end's entry.
    places: Vec<(usize, usize)>,
}

impl Search {
    fn new(ops: &[Op]) -> Self {
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            events.push((op.start, true, at));
            events.push((op.end.unwrap_or(u64::MAX), false, at));
        }
        // At one moment starts come first: what touches is concurrent.
        events.sort_by_key(|(time, is_start, at)| (*time, !is_start, *at));
        let head = events.len();
        let mut places = vec![(0, 0); ops.len()];
        let mut entries = Vec::with_capacity(head + 1);
        for (at, (_, is_start, op)) in events.into_iter().enumerate() {
            if let Some(place) = places.get_mut(op) {
                if is_start { place.0 = at } else { place.1 = at }
            }
            entries.push(Entry { op, is_start, before: at.checked_sub(1).unwrap_or(head), after: at + 1 });
        }
        entries.push(Entry { op: usize::MAX, is_start: false, before: head.saturating_sub(1), after: 0 });
        Self { ops: ops.to_vec(), entries, places }
    }

    fn run(&mut self, initial: u64) -> Verdict {
        let head = self.entries.len() - 1;
        let mut value = initial;
        let mut done = vec![0_u64; self.ops.len().div_ceil(64)];
        let mut tried: HashSet<(Vec<u64>, u64)> = HashSet::new();
        // What was given its moment, with the value before.
        let mut given: Vec<(usize, u64)> = Vec::new();
        let mut at = self.after(head);
        let mut steps = 0;
        while self.after(head) != head {
            steps += 1;
            if steps > STEPS_MAX {
                return Verdict::Undecided;
            }
            let (op, is_start) = self.entry(at);
            if at != head && is_start {
                let next = match self.kind(op) {
                    Kind::Write(written) => Some(written),
                    Kind::Read(read) => (read == value).then_some(value),
                };
                if let Some(next) = next {
                    flip(&mut done, op);
                    if tried.insert((done.clone(), next)) {
                        given.push((op, value));
                        value = next;
                        self.take_out(op);
                        at = self.after(head);
                        continue;
                    }
                    flip(&mut done, op);
                }
                at = self.after(at);
                continue;
            }
            // An end whose operation has no moment yet: the last choice was wrong.
            let Some((op, before)) = given.pop() else { return Verdict::Wrong };
            value = before;
            flip(&mut done, op);
            self.put_back(op);
            at = self.after(self.place(op).0);
        }
        Verdict::Linearizable
    }

    fn entry(&self, at: usize) -> (usize, bool) {
        self.entries.get(at).map_or((usize::MAX, false), |entry| (entry.op, entry.is_start))
    }

    fn after(&self, at: usize) -> usize {
        self.entries.get(at).map_or(0, |entry| entry.after)
    }

    fn kind(&self, op: usize) -> Kind {
        self.ops.get(op).map_or(Kind::Read(0), |op| op.kind)
    }

    fn place(&self, op: usize) -> (usize, usize) {
        self.places.get(op).copied().unwrap_or_default()
    }

    fn take_out(&mut self, op: usize) {
        let (start, end) = self.place(op);
        for at in [start, end] {
            let (before, after) = self.around(at);
            self.join(before, after);
        }
    }

    /// The reverse of [`Self::take_out`], in the reverse order.
    fn put_back(&mut self, op: usize) {
        let (start, end) = self.place(op);
        for at in [end, start] {
            let (before, after) = self.around(at);
            if let Some(entry) = self.entries.get_mut(before) {
                entry.after = at;
            }
            if let Some(entry) = self.entries.get_mut(after) {
                entry.before = at;
            }
        }
    }

    fn around(&self, at: usize) -> (usize, usize) {
        self.entries.get(at).map_or((0, 0), |entry| (entry.before, entry.after))
    }

    fn join(&mut self, before: usize, after: usize) {
        if let Some(entry) = self.entries.get_mut(before) {
            entry.after = after;
        }
        if let Some(entry) = self.entries.get_mut(after) {
            entry.before = before;
        }
    }
}

fn flip(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word ^= 1 << (at % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn write(value: u64, start: u64, end: u64) -> Op {
        Op { kind: Kind::Write(value), start, end: Some(end) }
    }

    fn read(value: u64, start: u64, end: u64) -> Op {
        Op { kind: Kind::Read(value), start, end: Some(end) }
    }

    fn lost(value: u64, start: u64) -> Op {
        Op { kind: Kind::Write(value), start, end: None }
    }

    #[test]
    fn histories_that_everybody_knows() {
        use Verdict::{Linearizable, Wrong};
        let check = |history: &[Op], expect: Verdict| assert_eq!(check(0, history), expect, "{history:?}");
        check(&[], Linearizable);
        check(&[read(0, 0, 1)], Linearizable);
        check(&[read(1, 0, 1)], Wrong);
        check(&[write(1, 0, 1), read(0, 2, 3)], Wrong);
        check(&[write(1, 0, 5), read(0, 2, 3), read(1, 4, 6)], Linearizable);
        check(&[write(1, 0, 9), read(1, 1, 2), read(0, 3, 4)], Wrong);
        check(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)], Wrong);
        check(&[write(1, 0, 3), write(2, 1, 4), read(1, 5, 6)], Linearizable);
        check(&[lost(1, 0), read(0, 1, 2), read(1, 3, 4)], Linearizable);
        check(&[lost(1, 0), read(1, 1, 2), read(0, 3, 4)], Wrong);
        check(&[read(1, 0, 1), lost(1, 2)], Wrong);
        check(&[lost(1, 0), write(2, 1, 2), read(1, 3, 4), read(2, 5, 6)], Wrong);
    }

    /// A history of a register that does everything at one moment, made by clients that do one thing at a time.
    fn history(random: &mut Random, ops: usize, clients: u64) -> Vec<Op> {
        let (mut value, mut next) = (0, 1);
        // The moment of each operation is its place; how far it reaches before and after is chance, within its client.
        let mut all = Vec::new();
        let mut free = vec![0; usize::try_from(clients).unwrap()];
        for n in 0..ops {
            let moment = 10 * (n as u64 + 1);
            let client = usize::try_from(random.below(clients)).unwrap();
            let start = (moment - random.below(30).min(moment)).max(free[client]);
            let end = moment + random.below(30);
            free[client] = end + 1;
            let start = start.min(moment);
            if random.below(2) == 0 {
                let is_lost = random.below(8) == 0;
                let happens = !is_lost || random.below(2) == 0;
                if happens {
                    value = next;
                }
                all.push(Op { kind: Kind::Write(next), start, end: (!is_lost).then_some(end) });
                next += 1;
            } else {
                all.push(read(value, start, end));
            }
        }
        all
    }

    /// Tries every order.
    fn brute(value: u64, left: &[Op]) -> bool {
        if left.iter().all(|op| op.end.is_none()) {
            return true;
        }
        let first_end = left.iter().filter_map(|op| op.end).min().unwrap_or(u64::MAX);
        (0..left.len()).filter(|at| left[*at].start <= first_end).any(|at| {
            let mut rest = left.to_vec();
            match rest.remove(at).kind {
                Kind::Write(written) => brute(written, &rest),
                Kind::Read(read) => read == value && brute(value, &rest),
            }
        })
    }

    #[test]
    fn right_histories_pass_and_the_search_agrees_with_trying_every_order() {
        let mut random = Random::new(7);
        let mut wrong = 0;
        for _ in 0..3_000 {
            let clients = 1 + random.below(3);
            let mut ops = history(&mut random, 7, clients);
            assert_eq!(check(0, &ops), Verdict::Linearizable, "{ops:?}");
            // One read says something else: often wrong, and sometimes right all the same.
            let reads: Vec<usize> =
                (0..ops.len()).filter(|at| matches!(ops[*at].kind, Kind::Read(_))).collect();
            let Some(at) = reads.get(usize::try_from(random.below(7)).unwrap()) else { continue };
            ops[*at].kind = Kind::Read(random.below(6));
            let expect = if brute(0, &ops) { Verdict::Linearizable } else { Verdict::Wrong };
            wrong += u32::from(expect == Verdict::Wrong);
            assert_eq!(check(0, &ops), expect, "{ops:?}");
        }
        assert!(wrong > 500, "{wrong} of them were wrong");
    }

    /// What a store that loses, repeats or delays would give, in histories as long as those that are measured.
    #[test]
    fn wrong_histories_are_refused() {
        let mut random = Random::new(11);
        for round in 0..60 {
            let ops = history(&mut random, 400, 6);
            assert_eq!(check(0, &ops), Verdict::Linearizable, "round {round}");
            let last = ops.iter().filter_map(|op| op.end).max().unwrap_or(0);
            let acknowledged: Vec<u64> = ops
                .iter()
                .filter_map(|op| match op.kind {
                    Kind::Write(value) if op.end.is_some() => Some(value),
                    _ => None,
                })
                .collect();
            let with = |more: &[Op]| check(0, &[&ops[..], more].concat());
            let old = acknowledged[acknowledged.len() / 2];
            // An acknowledged write was undone, a value comes back after another, a value was never written.
            assert_eq!(with(&[read(old, last + 1, last + 2)]), Verdict::Wrong);
            let lost_update = [write(90_000, last + 1, last + 2), read(old, last + 3, last + 4)];
            assert_eq!(with(&lost_update), Verdict::Wrong);
            let back = [
                write(90_000, last + 1, last + 2),
                write(90_001, last + 3, last + 4),
                read(90_001, last + 5, last + 6),
                read(90_000, last + 7, last + 8),
            ];
            assert_eq!(with(&back), Verdict::Wrong);
            assert_eq!(with(&[read(91_000, last + 1, last + 2)]), Verdict::Wrong);
        }
    }
}
