//! Two ends joined by wires that deliver when and in what pieces they like, and may break. Laws: what is read is a prefix
//! of what was written; nobody is sent more than its window; without a break everything arrives and the tables empty.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use ebbgate_wire::mux::{Code, Limits, Mux, MuxEvent, Readable, Role, StreamId, WINDOW_BYTES};
use proptest::prelude::*;

use crate::rules::NOW_MS;

/// One thing that happens. `side` 0 is the client; `pick` chooses among the streams the side holds.
#[derive(Clone, Debug)]
enum Op {
    Open { side: usize },
    Write { side: usize, pick: usize, length: usize },
    Read { side: usize, pick: usize, length: usize },
    Finish { side: usize, pick: usize },
    Reset { side: usize, pick: usize },
    Transmit { side: usize },
    Deliver { side: usize, length: usize },
    Break,
}

fn op() -> impl Strategy<Value = Op> {
    let side = || 0..2_usize;
    let pick = any::<usize>;
    prop_oneof![
        2 => side().prop_map(|side| Op::Open { side }),
        6 => (side(), pick(), 0..150_000_usize).prop_map(|(side, pick, length)| Op::Write { side, pick, length }),
        6 => (side(), pick(), 0..150_000_usize).prop_map(|(side, pick, length)| Op::Read { side, pick, length }),
        2 => (side(), pick()).prop_map(|(side, pick)| Op::Finish { side, pick }),
        1 => (side(), pick()).prop_map(|(side, pick)| Op::Reset { side, pick }),
        6 => side().prop_map(|side| Op::Transmit { side }),
        8 => (side(), prop_oneof![1..20_usize, 1..200_000_usize])
            .prop_map(|(side, length)| Op::Deliver { side, length }),
    ]
}

/// What one side has done on one stream.
#[derive(Clone, Copy, Debug, Default)]
struct Book {
    written: usize,
    read: usize,
    finished: bool,
    saw_end: bool,
    reset: bool,
}

struct Pair {
    ends: [Mux; 2],
    /// Bytes on their way to that side.
    wires: [VecDeque<u8>; 2],
    books: [BTreeMap<StreamId, Book>; 2],
}

/// The byte each stream carries at each place: an error in order, place or stream shows.
fn byte_at(side: usize, id: StreamId, at: usize) -> u8 {
    let mixed = (at as u64).wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(id.number()) * 31 + side as u64);
    (mixed >> 7).to_le_bytes()[0]
}

impl Pair {
    fn new() -> Self {
        Self {
            ends: [Mux::new(Role::Client, Limits::AGENT), Mux::new(Role::Server, Limits::AGENT)],
            wires: [VecDeque::new(), VecDeque::new()],
            books: [BTreeMap::new(), BTreeMap::new()],
        }
    }

    fn pick(&self, side: usize, pick: usize) -> Option<StreamId> {
        let open: Vec<_> =
            self.books[side].iter().filter(|(_, book)| !book.reset).map(|(id, _)| *id).collect();
        open.get(pick % open.len().max(1)).copied()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Open { side } => {
                if let Ok(id) = self.ends[side].open() {
                    self.books[side].insert(id, Book::default());
                }
            }
            Op::Write { side, pick, length } => {
                if let Some(id) = self.pick(side, pick) {
                    self.write(side, id, length);
                }
            }
            Op::Read { side, pick, length } => {
                if let Some(id) = self.pick(side, pick) {
                    self.read(side, id, length);
                }
            }
            Op::Finish { side, pick } => {
                if let Some(id) = self.pick(side, pick) {
                    self.ends[side].finish(id);
                    self.books[side].get_mut(&id).unwrap().finished = true;
                }
            }
            Op::Reset { side, pick } => {
                if let Some(id) = self.pick(side, pick) {
                    self.ends[side].reset(id, Code::CANCELLED);
                    self.books[side].get_mut(&id).unwrap().reset = true;
                }
            }
            Op::Transmit { side } => {
                let mut out = BytesMut::new();
                self.ends[side].poll_transmit(&mut out);
                self.wires[1 - side].extend(out);
            }
            Op::Deliver { side, length } => {
                let length = length.min(self.wires[side].len());
                let bytes: Vec<u8> = self.wires[side].drain(..length).collect();
                self.ends[side].receive(NOW_MS, &bytes).expect("our own end keeps the rules");
                while let Some(id) = self.ends[side].accept() {
                    self.books[side].insert(id, Book::default());
                }
            }
            Op::Break => {
                for side in 0..2 {
                    self.wires[side].clear();
                    self.ends[side].transport_lost();
                }
            }
        }
        for (end, books) in self.ends.iter_mut().zip(&mut self.books) {
            while let Some(event) = end.poll_event() {
                // The peer may have finished and reset it before it was ever accepted.
                if let MuxEvent::Closed(id) = event
                    && let Some(book) = books.get_mut(&id)
                {
                    book.saw_end = true;
                }
            }
        }
        self.check();
    }

    fn write(&mut self, side: usize, id: StreamId, length: usize) {
        let book = self.books[side].get_mut(&id).unwrap();
        let bytes: Vec<u8> = (0..length).map(|n| byte_at(side, id, book.written + n)).collect();
        if let Ok(taken) = self.ends[side].write(id, &bytes) {
            assert!(!book.finished);
            book.written += taken;
        }
    }

    fn read(&mut self, side: usize, id: StreamId, length: usize) -> usize {
        let book = self.books[side].get_mut(&id).unwrap();
        let taken = match self.ends[side].readable(id) {
            Ok(Readable::Bytes(bytes)) => {
                let taken = length.min(bytes.len());
                for (n, byte) in bytes[..taken].iter().enumerate() {
                    assert_eq!(*byte, byte_at(1 - side, id, book.read + n), "{id:?} at {}", book.read + n);
                }
                taken
            }
            Ok(Readable::Finished) => {
                book.saw_end = true;
                0
            }
            Ok(Readable::Empty) | Err(_) => 0,
        };
        book.read += taken;
        self.ends[side].consume(id, taken);
        taken
    }

    /// The laws that hold after every step.
    fn check(&self) {
        for side in 0..2 {
            for (id, book) in &self.books[side] {
                let Some(other) = self.books[1 - side].get(id) else { continue };
                assert!(other.read <= book.written);
                let sent = book.written - self.ends[side].unsent_bytes(*id);
                if !book.reset && !other.reset {
                    assert!(sent - other.read <= usize::try_from(WINDOW_BYTES).unwrap(), "{id:?}");
                }
                if other.saw_end {
                    assert!(book.finished && other.read == book.written, "{id:?} ended early");
                }
            }
        }
    }

    /// Reads, transmits and delivers until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for side in 0..2 {
                let ids: Vec<_> = self.books[side].keys().copied().collect();
                for id in ids {
                    moved |= self.read(side, id, usize::MAX) > 0;
                }
                let before = self.wires[1 - side].len();
                self.apply(&Op::Transmit { side });
                moved |= self.wires[1 - side].len() > before;
                moved |= !self.wires[side].is_empty();
                self.apply(&Op::Deliver { side, length: usize::MAX });
            }
            if !moved {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn everything_written_arrives_and_everything_finished_ends(ops in prop::collection::vec(op(), 1..120)) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.apply(op);
        }
        pair.settle();
        for side in 0..2 {
            for (id, book) in pair.books[side].clone() {
                let Some(other) = pair.books[1 - side].get(&id).copied() else {
                    prop_assert!(book.reset, "{id:?} never arrived");
                    continue;
                };
                if !book.reset && !other.reset {
                    prop_assert_eq!(other.read, book.written);
                    prop_assert_eq!(other.saw_end, book.finished);
                }
            }
        }
        // Finish what is left: the tables must empty.
        for side in 0..2 {
            for (id, book) in pair.books[side].clone() {
                if !book.reset {
                    pair.ends[side].finish(id);
                    pair.books[side].get_mut(&id).unwrap().finished = true;
                }
            }
        }
        pair.settle();
        for end in &pair.ends {
            prop_assert_eq!(end.streams(), 0);
            prop_assert_eq!(end.unread_bytes(), 0);
            prop_assert!(!end.has_control_due());
        }
    }

    #[test]
    fn a_broken_wire_leaves_a_true_prefix_and_no_loose_ends(
        before in prop::collection::vec(op(), 1..80),
        after in prop::collection::vec(op(), 0..40),
    ) {
        let mut pair = Pair::new();
        for op in &before {
            pair.apply(op);
        }
        pair.apply(&Op::Break);
        for op in &after {
            pair.apply(op);
        }
        pair.settle();
        for end in &mut pair.ends {
            prop_assert!(end.is_over());
            prop_assert!(end.open().is_err());
            prop_assert_eq!(end.unread_bytes(), 0);
        }
    }
}
