//! `Outbox`: decides what one edge is sent next. No I/O, no clock.
//!
//! At most one Program or diff is under way at a time; while an edge is slow, newer plans replace each other, so that it
//! gets the newest and never a queue.

use std::sync::Arc;

use ebbgate_model::Program;
use ebbgate_model::feed::ToEdge;

/// What is known of one edge's Program.
#[derive(Debug, Default)]
pub struct Outbox {
    acknowledged: Option<Arc<Program>>,
    under_way: Option<UnderWay>,
    refused: Option<Refused>,
}

#[derive(Debug)]
struct UnderWay {
    program: Arc<Program>,
    whole: bool,
}

#[derive(Debug)]
struct Refused {
    generation: u64,
    whole: bool,
}

/// An edge answered for a generation that was not under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the edge answered for generation {answered}, which was not under way to it")]
pub struct Unasked {
    /// The generation it named.
    pub answered: u64,
}

impl Outbox {
    /// For an edge that connects holding `generation`. `remembered` is what this process last saw it acknowledge.
    ///
    /// A generation number alone proves nothing: a restored backup counts the same numbers twice. So only what this
    /// process sent itself is built upon; anything else gets a whole Program.
    pub fn new(generation: u64, remembered: Option<Arc<Program>>) -> Self {
        let acknowledged = remembered.filter(|program| program.generation == generation);
        Self { acknowledged, under_way: None, refused: None }
    }

    /// What to send now that this is the newest plan.
    pub fn next(&mut self, newest: &Arc<Program>) -> Option<ToEdge> {
        if self.under_way.is_some() {
            return None;
        }
        // A refused diff may just not have fitted: the whole Program follows. Refused as a whole, it is not sent again.
        let refused = self.refused.as_ref().filter(|refused| refused.generation == newest.generation);
        if refused.is_some_and(|refused| refused.whole) {
            return None;
        }
        let base = self.acknowledged.as_ref().filter(|_| refused.is_none());
        let message = match base {
            Some(base) if base.generation == newest.generation => return None,
            Some(base) => ToEdge::Diff(Box::new(base.diff(newest))),
            None => ToEdge::Program(Box::new(Program::clone(newest))),
        };
        let whole = matches!(message, ToEdge::Program(_));
        self.under_way = Some(UnderWay { program: newest.clone(), whole });
        Some(message)
    }

    /// The edge has it in force. Gives the Program to remember for its next connection.
    pub fn applied(&mut self, generation: u64) -> Result<Arc<Program>, Unasked> {
        let under_way = self.take(generation)?;
        self.refused = None;
        self.acknowledged = Some(under_way.program.clone());
        Ok(under_way.program)
    }

    /// The edge did not take it and keeps what it had.
    pub fn refused(&mut self, generation: u64) -> Result<(), Unasked> {
        let under_way = self.take(generation)?;
        self.refused = Some(Refused { generation, whole: under_way.whole });
        Ok(())
    }

    /// Whether an answer is awaited.
    pub fn waits(&self) -> bool {
        self.under_way.is_some()
    }

    fn take(&mut self, generation: u64) -> Result<UnderWay, Unasked> {
        let fits = |under_way: &mut UnderWay| under_way.program.generation == generation;
        self.under_way.take_if(fits).ok_or(Unasked { answered: generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Settings;
    use proptest::prelude::*;

    fn program(generation: u64) -> Arc<Program> {
        let settings = Settings { region: format!("g{generation}"), ..Settings::default() };
        Arc::new(Program { generation, settings, ..Program::default() })
    }

    fn is_whole(message: Option<&ToEdge>) -> Option<bool> {
        message.map(|message| matches!(message, ToEdge::Program(_)))
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
            let sent = Outbox::new(generation, remembered).next(&program(5));
            assert_eq!(is_whole(sent.as_ref()), expect, "holding {generation}");
        }
    }

    #[test]
    fn newer_plans_wait_for_the_answer_and_only_the_newest_is_sent() {
        let mut outbox = Outbox::new(1, Some(program(1)));
        assert_eq!(is_whole(outbox.next(&program(2)).as_ref()), Some(false));
        assert!(outbox.next(&program(3)).is_none());
        assert!(outbox.next(&program(4)).is_none());
        outbox.applied(2).unwrap();
        let Some(ToEdge::Diff(diff)) = outbox.next(&program(4)) else { panic!("a diff") };
        assert_eq!((diff.from, diff.to), (2, 4));
    }

    #[test]
    fn a_refused_diff_is_followed_by_the_whole_and_a_refused_whole_by_the_next_generation() {
        let mut outbox = Outbox::new(1, Some(program(1)));
        outbox.next(&program(2)).unwrap();
        outbox.refused(2).unwrap();
        assert_eq!(is_whole(outbox.next(&program(2)).as_ref()), Some(true));
        outbox.refused(2).unwrap();
        assert!(outbox.next(&program(2)).is_none());
        let Some(ToEdge::Diff(diff)) = outbox.next(&program(3)) else { panic!("a diff") };
        assert_eq!(diff.from, 1, "the edge still has what it acknowledged");
    }

    #[test]
    fn answers_nobody_asked_for_change_nothing() {
        let mut outbox = Outbox::new(1, Some(program(1)));
        assert_eq!(outbox.applied(9).unwrap_err(), Unasked { answered: 9 });
        outbox.next(&program(2)).unwrap();
        assert!(outbox.applied(9).is_err());
        assert!(outbox.refused(1).is_err());
        outbox.applied(2).unwrap();
        assert!(outbox.applied(2).is_err());
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
            let mut remembered: Option<Arc<Program>> = None;
            let mut outbox = Outbox::new(0, None);
            let mut wire = None;
            let calm = [Step::Plan, Step::Deliver, Step::Deliver, Step::Deliver];
            for step in steps.into_iter().chain(calm) {
                wire = wire.or_else(|| outbox.next(&newest));
                match step {
                    Step::Plan => newest = program(newest.generation + 1),
                    Step::Deliver => {
                        match wire.take() {
                            Some(ToEdge::Program(whole)) => edge = *whole,
                            Some(ToEdge::Diff(diff)) => edge.apply(&diff).unwrap(),
                            _ => continue,
                        }
                        remembered = Some(outbox.applied(edge.generation).unwrap());
                    }
                    Step::Refuse => match wire.take() {
                        Some(ToEdge::Program(whole)) => outbox.refused(whole.generation).unwrap(),
                        Some(ToEdge::Diff(diff)) => outbox.refused(diff.to).unwrap(),
                        _ => {}
                    },
                    Step::Reconnect | Step::Forget => {
                        if matches!(step, Step::Forget) {
                            remembered = None;
                        }
                        wire = None;
                        outbox = Outbox::new(edge.generation, remembered.clone());
                    }
                }
            }
            prop_assert_eq!(edge, Program::clone(&newest));
        }
    }
}
