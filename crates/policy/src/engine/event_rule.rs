//! `EventRule`: a rule of `on_event_stream_message` that names the event, judged for each event of a stream.
//!
//! What it says of the response alone was judged before, when the head was there.

use std::sync::Arc;

use ebbgate_body::{Event, EventRules, Judge, Judged, RulesFault};

use super::{Engine, Rule};
use crate::action::{Flow, Gathered};
use crate::code;
use crate::facts::{Context, Phase};
use crate::verdict::Verdict;
use crate::work::{BYTES_PER_UNIT, Work};

/// See the module.
#[derive(Debug)]
pub(super) struct EventRule {
    engine: Arc<Engine>,
    /// Its place in the phase.
    rule: usize,
    /// As it was when the head was there.
    cx: Context,
}

impl EventRule {
    /// A rule of the engine for the stream of this context.
    pub(super) fn new(engine: &Arc<Engine>, rule: usize, cx: &Context) -> Self {
        let mut cx = cx.clone();
        // What earlier rules do to the body is not this rule's.
        if let Some(response) = &mut cx.response {
            response.extensions.clear();
        }
        Self { engine: Arc::clone(engine), rule, cx }
    }
}

impl EventRules for EventRule {
    fn begin(&self) -> Judge {
        let (engine, rule, mut cx) = (Arc::clone(&self.engine), self.rule, self.cx.clone());
        Box::new(move |event| match engine.rules(Phase::EventStream).get(rule) {
            Some(rule) => judge(rule, event, &mut cx)
                .map_err(|(code, message)| RulesFault { code, message: engine.redaction.text(message) }),
            None => Ok(Judged::default()),
        })
    }
}

/// All that is judged of one event counts as one evaluation.
fn judge(rule: &Rule, event: Event, cx: &mut Context) -> Result<Judged, (u32, String)> {
    cx.event = Some(event);
    cx.work = Work::default();
    let replacements = replaced(rule, cx)?;
    let work = cx.work.spent().saturating_mul(BYTES_PER_UNIT);
    Ok(Judged { replacements, work: usize::try_from(work).unwrap_or(usize::MAX) })
}

fn replaced(rule: &Rule, cx: &mut Context) -> Result<Vec<ebbgate_body::EventReplacement>, (u32, String)> {
    for (at, expression) in rule.expressions.iter().enumerate().filter(|(_, one)| one.reads_event()) {
        let holds = expression.test(cx).map_err(|error| {
            (code::EXPRESSION_FAILED.number(), format!("{}.expressions[{at}]: {error}", rule.path))
        })?;
        if !holds {
            return Ok(Vec::new());
        }
    }
    for action in &rule.actions {
        match action.run(cx, &mut Gathered::default()) {
            Flow::Next => {}
            Flow::End(Verdict::Failed { code, message }) => return Err((code.number(), message)),
            // The phase has no action that ends it or needs anything.
            Flow::End(_) | Flow::Need(_) => break,
        }
    }
    Ok(std::mem::take(&mut cx.replaced_in_event))
}
