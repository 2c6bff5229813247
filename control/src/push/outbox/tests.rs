//! What edges are sent, whatever is lost, refused or damaged on the way.

use super::*;
use std::sync::Arc;

use ebbgate_model::{AccountId, AddressId, AddressSpec, Digests, Ksuid, Object, Program, Settings};
use proptest::prelude::*;

use crate::plan::live::Live;

fn address(n: u16) -> (ObjectKey, Object) {
    let ksuid = Ksuid::new(1_700_000_000, u128::from(n).to_be_bytes());
    let spec =
        AddressSpec { account: AccountId::new(ksuid), host: "tcp.example.com".parse().unwrap(), port: n };
    (ObjectKey::Address(AddressId::new(ksuid)), Object::Address(Arc::new(spec)))
}

/// A state with settings and so many objects, at a generation.
fn state(generation: u64, objects: u16) -> State {
    let mut state = State::default();
    let mut live = Live::default();
    live.set(&ObjectKey::Settings, Some(Object::Settings(Arc::new(Settings::default()))));
    for n in 0..objects {
        let (key, object) = address(n);
        live.set(&key, Some(object));
    }
    state.replace(live, generation);
    state
}

/// The next generation: one object more, or one less.
fn change(state: &mut State, n: u16) {
    let (key, object) = address(n);
    let new = state.live.get(&key).is_none().then_some(object);
    state.live.set(&key, new);
    state.publish(state.generation + 1);
}

/// From the next generation on edges besides the canaries have another object in place of one, or none, or as it is.
fn hold(state: &mut State, n: u16, other: u8) {
    let (key, _) = address(n);
    let mut rest = crate::plan::overlay::Overlay::new();
    if other < 2 && state.live.get(&key).is_some() {
        rest.insert(key, (other == 0).then(|| address(n + 1000).1));
    }
    state.stage(crate::plan::overlay::Overlay::new(), rest);
    state.publish(state.generation + 1);
}

/// What the edges of a ring must have.
fn seen(state: &State, ring: Ring) -> Program {
    let all: Vec<ObjectKey> = state.live.after(None).map(|(key, _)| key.clone()).collect();
    let mut program = Program { generation: state.generation, ..Program::default() };
    program.apply(&state.changes(ring, &all), &mut Digests::default());
    program
}

/// An edge: what it holds and puts together.
#[derive(Debug, Clone, Default)]
struct Edge {
    held: Program,
    staged: Option<Program>,
}

/// What an edge answers to one message.
enum Answer {
    Applied(u64, ProgramDigest),
    Compared(u64, Vec<ProgramDigest>),
}

impl Edge {
    fn digest(&self) -> ProgramDigest {
        self.held.digests().root()
    }

    fn take(&mut self, message: ToEdge) -> Option<Answer> {
        match message {
            ToEdge::Begin { buckets, .. } => {
                let mut staged = Program::default();
                if let Some(buckets) = buckets {
                    staged = self.held.clone();
                    staged.clear(&buckets, &mut Digests::default());
                }
                self.staged = Some(staged);
                None
            }
            ToEdge::Part { objects, .. } => {
                self.staged.as_mut().unwrap().apply(&objects, &mut Digests::default());
                None
            }
            ToEdge::End { nonce, generation, .. } => {
                self.held = self.staged.take().unwrap();
                self.held.generation = generation;
                Some(Answer::Applied(nonce, self.digest()))
            }
            ToEdge::Delta { nonce, from, to, changes, .. } => {
                assert_eq!(from, self.held.generation);
                self.held.apply(&changes, &mut Digests::default());
                self.held.generation = to;
                Some(Answer::Applied(nonce, self.digest()))
            }
            ToEdge::Compare { nonce, buckets } => {
                let all = if buckets { self.held.digests().buckets().to_vec() } else { Vec::new() };
                Some(Answer::Compared(nonce, all))
            }
            other => panic!("{other:?}"),
        }
    }

    fn connect(&self) -> Outbox {
        Outbox::new(self.held.generation, (self.held.generation > 0).then(|| self.digest()))
    }

    /// Takes all there is. Gives how many objects came, and whether any came whole.
    fn settle(&mut self, outbox: &mut Outbox, state: &State) -> (usize, bool) {
        let (mut objects, mut whole) = (0, false);
        while let Some(message) = outbox.next(state) {
            match &message {
                ToEdge::Part { objects: changes, .. } | ToEdge::Delta { changes, .. } => {
                    objects += changes.len();
                }
                ToEdge::Begin { buckets, .. } => whole |= buckets.is_none(),
                _ => {}
            }
            let answer = self.take(message);
            self.tell(outbox, state, answer);
        }
        (objects, whole)
    }

    fn tell(&self, outbox: &mut Outbox, state: &State, answer: Option<Answer>) {
        match answer {
            Some(Answer::Applied(nonce, digest)) => {
                outbox.applied(nonce, digest).unwrap();
            }
            Some(Answer::Compared(nonce, buckets)) => {
                let held = (self.held.generation, self.digest());
                outbox.compared(nonce, held, &buckets, state).unwrap();
            }
            None => {}
        }
    }
}

#[test]
fn a_stranger_gets_everything_and_a_known_edge_what_it_missed() {
    let mut state = state(5, 100);
    let mut edge = Edge::default();
    assert_eq!(edge.settle(&mut edge.connect(), &state), (101, true));
    assert_eq!(edge.settle(&mut edge.connect(), &state), (0, false), "it says what it holds");
    change(&mut state, 200);
    change(&mut state, 3);
    assert_eq!(edge.settle(&mut edge.connect(), &state), (2, false));
    assert_eq!(edge.held, state.live.program(7));
}

#[test]
fn an_edge_that_holds_something_else_is_mended_where_it_differs() {
    let state = state(5, 1_000);
    let mut edge = Edge { held: state.live.program(5), staged: None };
    let (key, _) = address(7);
    let ObjectKey::Address(id) = key else { panic!("an address") };
    edge.held.addresses.get_mut(&id).unwrap().port = 9;
    let (objects, whole) = edge.settle(&mut edge.connect(), &state);
    assert!((1..20).contains(&objects) && !whole, "one bucket of it: {objects}");
    assert_eq!(edge.held, state.live.program(5));
    // While it is connected the comparison finds it, which is made now and then.
    let mut outbox = edge.connect();
    edge.settle(&mut outbox, &state);
    edge.held.addresses.remove(&id);
    assert!(outbox.next(&state).is_none());
    outbox.look();
    let (objects, whole) = edge.settle(&mut outbox, &state);
    assert!((1..20).contains(&objects) && !whole);
    assert_eq!(edge.held, state.live.program(5));
}

#[test]
fn a_restored_store_counts_the_same_numbers_and_is_not_taken_for_the_old_one() {
    let old = state(9, 50);
    let mut edge = Edge { held: old.live.program(9), staged: None };
    for restored in [state(9, 40), state(4, 40)] {
        edge.settle(&mut edge.connect(), &restored);
        assert_eq!(edge.held, restored.live.program(restored.generation));
    }
}

#[test]
fn what_changes_while_parts_are_sent_is_sent_before_their_end() {
    let mut state = state(1, 10_000);
    let mut edge = Edge::default();
    let mut outbox = edge.connect();
    let mut parts = 0;
    while let Some(message) = outbox.next(&state) {
        parts += usize::from(matches!(message, ToEdge::Part { .. }));
        let bytes = serde_json::to_vec(&message).unwrap().len();
        assert!(bytes < 2 * PART_BYTES, "{bytes}");
        if parts == 2 {
            change(&mut state, 1);
            change(&mut state, 20_000);
        }
        let answer = edge.take(message);
        edge.tell(&mut outbox, &state, answer);
    }
    assert!(parts > 4);
    assert_eq!(edge.held, state.live.program(state.generation));
}

#[test]
fn changes_wait_for_the_answer_and_join() {
    let mut state = state(1, 10);
    let mut edge = Edge { held: state.live.program(1), staged: None };
    let mut outbox = edge.connect();
    change(&mut state, 100);
    let first = outbox.next(&state).unwrap();
    for n in 101..110 {
        change(&mut state, n);
        assert!(outbox.next(&state).is_none());
    }
    let answer = edge.take(first);
    edge.tell(&mut outbox, &state, answer);
    let Some(ToEdge::Delta { from: 2, to: 11, changes, .. }) = outbox.next(&state) else { panic!("a delta") };
    assert_eq!(changes.len(), 9);
}

#[test]
fn a_refused_delta_is_followed_by_everything_and_refused_everything_by_the_next_generation() {
    let mut state = state(1, 3);
    let edge = Edge { held: state.live.program(1), staged: None };
    let mut outbox = edge.connect();
    change(&mut state, 9);
    let Some(ToEdge::Delta { nonce, .. }) = outbox.next(&state) else { panic!("a delta") };
    assert_eq!(outbox.refused(nonce), Ok(2));
    assert!(matches!(outbox.next(&state), Some(ToEdge::Begin { buckets: None, .. })));
    let end = std::iter::from_fn(|| outbox.next(&state)).last();
    let Some(ToEdge::End { nonce, .. }) = end else { panic!("an end") };
    assert_eq!(outbox.refused(nonce), Ok(2));
    assert!(outbox.next(&state).is_none());
    change(&mut state, 10);
    assert!(outbox.next(&state).is_some());
}

/// Another release that writes an object down otherwise is not sent everything for ever.
#[test]
fn an_edge_that_counts_otherwise_is_sent_everything_once() {
    let mut state = state(1, 3);
    let mut outbox = Outbox::new(0, None);
    let Some(ToEdge::End { nonce, .. }) = std::iter::from_fn(|| outbox.next(&state)).last() else {
        panic!("an end")
    };
    let other = ProgramDigest::of_object(&"x", &1);
    assert_eq!(outbox.applied(nonce, other), Ok(Answered::Holds(1)));
    change(&mut state, 9);
    let Some(ToEdge::Delta { nonce, .. }) = outbox.next(&state) else { panic!("a delta") };
    assert_eq!(outbox.applied(nonce, other), Ok(Answered::Holds(2)));
}

#[test]
fn answers_nobody_asked_for_change_nothing() {
    let mut state = state(1, 3);
    let edge = Edge { held: state.live.program(1), staged: None };
    let mut outbox = edge.connect();
    let digest = state.live.digest();
    assert_eq!(outbox.applied(9, digest).unwrap_err(), Unasked { answered: 9 });
    change(&mut state, 9);
    let Some(ToEdge::Delta { nonce, .. }) = outbox.next(&state) else { panic!("a delta") };
    assert!(outbox.applied(nonce + 1, digest).is_err() && outbox.refused(nonce + 1).is_err());
    assert!(outbox.compared(nonce, (2, digest), &[], &state).is_err());
    outbox.applied(nonce, state.live.digest()).unwrap();
    assert!(outbox.applied(nonce, digest).is_err());
}

#[derive(Debug, Clone)]
enum Event {
    Plan(u16),
    Deliver,
    Lose,
    Refuse,
    Damage(u16),
    Look,
    Restart,
    Hold(u16, u8),
    Ring(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u16..40).prop_map(Event::Plan),
        8 => Just(Event::Deliver),
        1 => Just(Event::Lose),
        1 => Just(Event::Refuse),
        1 => (0_u16..40).prop_map(Event::Damage),
        1 => Just(Event::Look),
        1 => Just(Event::Restart),
        3 => (0_u16..40, 0_u8..3).prop_map(|(n, other)| Event::Hold(n, other)),
        1 => any::<bool>().prop_map(Event::Ring),
    ]
}

proptest! {
    /// Whatever is lost, refused or damaged on the way: once the edge takes what it is sent, it holds the newest plan.
    #[test]
    fn an_edge_ends_up_with_the_newest_plan(events in proptest::collection::vec(event(), 0..80)) {
        let mut state = state(1, 20);
        let mut edge = Edge::default();
        let (mut outbox, mut ring) = (edge.connect(), Ring::Rest);
        for event in events {
            outbox.set_ring(ring);
            match event {
                Event::Plan(n) => change(&mut state, n),
                Event::Deliver => {
                    if let Some(message) = outbox.next(&state) {
                        let answer = edge.take(message);
                        edge.tell(&mut outbox, &state, answer);
                    }
                }
                // The connection breaks, with or without a message in it.
                Event::Lose => {
                    let _ = outbox.next(&state);
                    edge.staged = None;
                    outbox = edge.connect();
                }
                Event::Refuse => {
                    if let Some(ToEdge::Delta { nonce, .. } | ToEdge::End { nonce, .. }) = outbox.next(&state) {
                        outbox.refused(nonce).unwrap();
                    } else {
                        edge.staged = None;
                        outbox = edge.connect();
                    }
                }
                Event::Damage(n) => {
                    if let ObjectKey::Address(id) = address(n).0 {
                        edge.held.addresses.remove(&id);
                    }
                }
                Event::Look => outbox.look(),
                Event::Hold(n, other) => hold(&mut state, n, other),
                Event::Ring(canary) => ring = if canary { Ring::Canary } else { Ring::Rest },
                // Control starts anew: its log begins here.
                Event::Restart => {
                    let live = std::mem::take(&mut state.live);
                    state.replace(live, state.generation);
                    edge.staged = None;
                    outbox = edge.connect();
                }
            }
        }
        change(&mut state, 41);
        edge.staged = None;
        outbox = edge.connect();
        outbox.set_ring(ring);
        edge.settle(&mut outbox, &state);
        prop_assert_eq!(&edge.held, &seen(&state, ring));
        prop_assert_eq!(edge.digest(), state.digests(ring).root());
        // Released, it holds what an edge holds that was fed the newest all along.
        hold(&mut state, 0, 2);
        edge.settle(&mut outbox, &state);
        prop_assert_eq!(edge.digest(), state.live.digest());
        prop_assert_eq!(edge.held, state.live.program(state.generation));
    }
}
