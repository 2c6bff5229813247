//! `Outbox`: decides what one edge is sent next. No I/O, no clock.
//!
//! At most one Program or diff is under way at a time; while an edge is slow, newer plans replace each other, so that it
//! gets the newest and never a queue.

use std::sync::Arc;

use ebbgate_model::feed::{PART_BYTES, ToEdge};
use ebbgate_model::{Changes, Program, ProgramDigest};

/// A Program with its digest.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The Program.
    pub program: Arc<Program>,
    /// Its digest.
    pub digest: ProgramDigest,
}

/// What is known of one edge's Program.
#[derive(Debug)]
pub struct Outbox {
    acknowledged: Option<Held>,
    /// Digest of what the edge said it holds when it came.
    claimed: Option<ProgramDigest>,
    under_way: Option<UnderWay>,
    refused: Option<Refused>,
    /// Whether the edge's digests can be compared with ours: another release may write a Program down otherwise.
    comparable: bool,
    /// Of the newest message that asks for an answer.
    nonce: u64,
}

#[derive(Debug)]
struct UnderWay {
    nonce: u64,
    held: Held,
    whole: bool,
}

#[derive(Debug)]
struct Refused {
    generation: u64,
    whole: bool,
}

/// An edge answered for what was not under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the edge answered message {answered}, which was not under way to it")]
pub struct Unasked {
    /// The nonce it named.
    pub answered: u64,
}

impl Outbox {
    /// For an edge that connects holding `generation`. `remembered` is what this process last saw it acknowledge.
    ///
    /// A generation number alone proves nothing: a restored backup counts the same numbers twice, and what an edge kept
    /// on disk may have changed there. So the digest decides. Of an edge that sends none only what this process sent
    /// itself is built upon; anything else gets a whole Program.
    pub fn new(generation: u64, digest: Option<ProgramDigest>, remembered: Option<Held>) -> Self {
        let same = |held: &Held| {
            held.program.generation == generation && digest.is_none_or(|digest| digest == held.digest)
        };
        let acknowledged = remembered.filter(same);
        Self { acknowledged, claimed: digest, under_way: None, refused: None, comparable: true, nonce: 0 }
    }

    /// What to send now that this is the newest plan.
    pub fn next(&mut self, newest: &Held) -> Option<Vec<ToEdge>> {
        if self.under_way.is_some() {
            return None;
        }
        if self.claimed == Some(newest.digest) {
            self.acknowledged = Some(newest.clone());
        }
        // A refused diff may just not have fitted: the whole Program follows. Refused as a whole, it is not sent again.
        let refused = self.refused.as_ref().filter(|refused| refused.generation == newest.program.generation);
        if refused.is_some_and(|refused| refused.whole) {
            return None;
        }
        let base = self.acknowledged.as_ref().filter(|_| refused.is_none());
        let nonce = self.nonce + 1;
        let messages = match base {
            Some(base)
                if base.digest == newest.digest && base.program.generation == newest.program.generation =>
            {
                return None;
            }
            Some(base) => vec![delta(nonce, base, newest)],
            None => whole(nonce, newest),
        };
        let whole = base.is_none();
        self.nonce = nonce;
        self.claimed = None;
        self.under_way = Some(UnderWay { nonce, held: newest.clone(), whole });
        Some(messages)
    }

    /// The edge has it in force. Gives the Program to remember for its next connection; None: after a diff the edge holds
    /// something else, and is sent the whole.
    pub fn applied(&mut self, nonce: u64, digest: ProgramDigest) -> Result<Option<Held>, Unasked> {
        let UnderWay { held, whole, .. } = self.take(nonce)?;
        self.refused = None;
        if self.comparable && digest != held.digest {
            if !whole {
                self.acknowledged = None;
                return Ok(None);
            }
            // It was sent all there is: it writes it down otherwise.
            self.comparable = false;
        }
        self.acknowledged = Some(held.clone());
        Ok(Some(held))
    }

    /// The edge did not take it and keeps what it had. Gives the generation.
    pub fn refused(&mut self, nonce: u64) -> Result<u64, Unasked> {
        let UnderWay { held, whole, .. } = self.take(nonce)?;
        self.refused = Some(Refused { generation: held.program.generation, whole });
        Ok(held.program.generation)
    }

    /// Whether an answer is awaited.
    pub fn waits(&self) -> bool {
        self.under_way.is_some()
    }

    fn take(&mut self, nonce: u64) -> Result<UnderWay, Unasked> {
        let fits = |under_way: &mut UnderWay| under_way.nonce == nonce;
        self.under_way.take_if(fits).ok_or(Unasked { answered: nonce })
    }
}

fn delta(nonce: u64, base: &Held, newest: &Held) -> ToEdge {
    ToEdge::Delta {
        nonce,
        from: base.program.generation,
        to: newest.program.generation,
        digest: newest.digest,
        changes: Box::new(base.program.diff(&newest.program)),
    }
}

/// The whole in parts of bounded size.
fn whole(nonce: u64, newest: &Held) -> Vec<ToEdge> {
    let mut messages = vec![ToEdge::Begin { nonce, buckets: None }];
    let all = Program::default().diff(&newest.program);
    let (mut part, mut bytes) = (Changes::default(), 0);
    for key in all.puts() {
        let Some(object) = newest.program.object(&key) else { continue };
        part.put(&key, &object);
        bytes += object.bytes();
        if bytes >= PART_BYTES {
            messages.push(ToEdge::Part { nonce, objects: Box::new(std::mem::take(&mut part)) });
            bytes = 0;
        }
    }
    messages.push(ToEdge::Part { nonce, objects: Box::new(part) });
    messages.push(ToEdge::End { nonce, generation: newest.program.generation, digest: newest.digest });
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Settings;
    use proptest::prelude::*;

    fn program(generation: u64) -> Held {
        changed(generation, "")
    }

    /// Another Program of the same generation.
    fn changed(generation: u64, how: &str) -> Held {
        let settings = Settings { region: format!("g{generation}{how}"), ..Settings::default() };
        let program = Program { generation, settings, ..Program::default() };
        Held { digest: digest(&program), program: Arc::new(program) }
    }

    fn digest(program: &Program) -> ProgramDigest {
        program.digests().root()
    }

    fn is_whole(messages: Option<&Vec<ToEdge>>) -> Option<bool> {
        messages.map(|messages| matches!(messages.first(), Some(ToEdge::Begin { .. })))
    }

    /// Where the changes that are sent begin and end.
    fn span(messages: Option<&Vec<ToEdge>>) -> Option<(u64, u64)> {
        match messages?.as_slice() {
            [ToEdge::Delta { from, to, .. }] => Some((*from, *to)),
            _ => None,
        }
    }

    #[test]
    fn a_stranger_gets_a_whole_program_and_a_known_edge_a_diff() {
        for (generation, remembered, expect) in [
            (0, None, Some(true)),
            (3, None, Some(true)),
            (3, Some(program(3)), Some(false)),
            (2, Some(program(3)), Some(true)),
            (5, Some(program(5)), None),
            (9, None, Some(true)),
        ] {
            let sent = Outbox::new(generation, None, remembered).next(&program(5));
            assert_eq!(is_whole(sent.as_ref()), expect, "holding {generation}");
        }
    }

    #[test]
    fn an_edge_whose_saved_program_has_changed_gets_the_whole_though_its_generation_is_right() {
        for (held, remembered, expect) in [
            (program(5), None, None),
            (program(5), Some(program(5)), None),
            (program(3), Some(program(3)), Some(false)),
            (program(3), None, Some(true)),
            (changed(5, "!"), None, Some(true)),
            (changed(5, "!"), Some(program(5)), Some(true)),
            (changed(3, "!"), Some(program(3)), Some(true)),
        ] {
            let mut outbox = Outbox::new(held.program.generation, Some(held.digest), remembered);
            let sent = outbox.next(&program(5));
            assert_eq!(is_whole(sent.as_ref()), expect, "holding {}", held.program.settings.region);
        }
    }

    #[test]
    fn an_edge_that_holds_something_else_after_a_diff_is_sent_the_whole_once() {
        let mut outbox = Outbox::new(1, None, Some(program(1)));
        assert_eq!(is_whole(outbox.next(&program(2)).as_ref()), Some(false));
        assert_eq!(outbox.applied(1, changed(2, "!").digest), Ok(None));
        assert_eq!(is_whole(outbox.next(&program(2)).as_ref()), Some(true));
        // Another release that writes the same Program down otherwise is not sent it for ever.
        assert_eq!(outbox.applied(2, changed(2, "!").digest), Ok(Some(program(2))));
        assert_eq!(is_whole(outbox.next(&program(3)).as_ref()), Some(false));
        assert_eq!(outbox.applied(3, changed(3, "!").digest), Ok(Some(program(3))));
    }

    #[test]
    fn newer_plans_wait_for_the_answer_and_only_the_newest_is_sent() {
        let mut outbox = Outbox::new(1, None, Some(program(1)));
        assert_eq!(is_whole(outbox.next(&program(2)).as_ref()), Some(false));
        assert!(outbox.next(&program(3)).is_none());
        assert!(outbox.next(&program(4)).is_none());
        outbox.applied(1, program(2).digest).unwrap();
        assert_eq!(span(outbox.next(&program(4)).as_ref()), Some((2, 4)));
    }

    #[test]
    fn a_refused_diff_is_followed_by_the_whole_and_a_refused_whole_by_the_next_generation() {
        let mut outbox = Outbox::new(1, None, Some(program(1)));
        outbox.next(&program(2)).unwrap();
        assert_eq!(outbox.refused(1), Ok(2));
        assert_eq!(is_whole(outbox.next(&program(2)).as_ref()), Some(true));
        outbox.refused(2).unwrap();
        assert!(outbox.next(&program(2)).is_none());
        let span = span(outbox.next(&program(3)).as_ref());
        assert_eq!(span, Some((1, 3)), "the edge still has what it acknowledged");
    }

    #[test]
    fn answers_nobody_asked_for_change_nothing() {
        let mut outbox = Outbox::new(1, None, Some(program(1)));
        let digest = program(2).digest;
        assert_eq!(outbox.applied(9, digest).unwrap_err(), Unasked { answered: 9 });
        outbox.next(&program(2)).unwrap();
        assert!(outbox.applied(9, digest).is_err());
        assert!(outbox.refused(2).is_err());
        outbox.applied(1, digest).unwrap();
        assert!(outbox.applied(1, digest).is_err());
    }

    /// What an edge does with what it is sent. Gives the nonce.
    fn take(edge: &mut Program, messages: Vec<ToEdge>) -> u64 {
        let mut digests = edge.digests();
        let mut last = 0;
        for message in messages {
            match message {
                ToEdge::Begin { .. } => *edge = Program::default(),
                ToEdge::Part { objects, .. } => edge.apply(&objects, &mut digests),
                ToEdge::End { nonce, generation, .. } => (last, edge.generation) = (nonce, generation),
                ToEdge::Delta { nonce, to, changes, .. } => {
                    edge.apply(&changes, &mut digests);
                    (last, edge.generation) = (nonce, to);
                }
                other => panic!("{other:?}"),
            }
        }
        last
    }

    #[derive(Debug, Clone)]
    enum Step {
        Plan,
        Deliver,
        Refuse,
        Reconnect,
        Forget,
    }

    proptest! {
        /// Whatever is lost or refused on the way: once the edge takes what it is sent, it holds the newest plan.
        #[test]
        fn an_edge_ends_up_with_the_newest_plan(steps in proptest::collection::vec(
            prop_oneof![Just(Step::Plan), Just(Step::Deliver), Just(Step::Refuse), Just(Step::Reconnect), Just(Step::Forget)],
            0..60,
        )) {
            let mut newest = program(1);
            let mut edge = Program::default();
            let mut remembered: Option<Held> = None;
            let mut outbox = Outbox::new(0, None, None);
            let mut wire: Option<Vec<ToEdge>> = None;
            let calm = [Step::Plan, Step::Deliver, Step::Deliver, Step::Deliver];
            for step in steps.into_iter().chain(calm) {
                wire = wire.or_else(|| outbox.next(&newest));
                match step {
                    Step::Plan => newest = program(newest.program.generation + 1),
                    Step::Deliver => {
                        let Some(messages) = wire.take() else { continue };
                        let nonce = take(&mut edge, messages);
                        remembered = outbox.applied(nonce, digest(&edge)).unwrap();
                    }
                    Step::Refuse => {
                        if let Some(messages) = wire.take() {
                            outbox.refused(take(&mut Program::default(), messages)).map(drop).unwrap();
                        }
                    }
                    Step::Reconnect | Step::Forget => {
                        if matches!(step, Step::Forget) {
                            remembered = None;
                        }
                        wire = None;
                        outbox = Outbox::new(edge.generation, Some(digest(&edge)), remembered.clone());
                    }
                }
            }
            prop_assert_eq!(edge, Program::clone(&newest.program));
        }
    }
}
