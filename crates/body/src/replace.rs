//! Replacing every match of a pattern, as if the whole body were there.
//!
//! A pattern with a longest match is searched as the body passes: a match counts once the bytes that could
//! change it are there. Any other pattern sees the whole body, up to [`HELD_BYTES_MAX`].

mod pattern;
mod search;
mod template;

use std::sync::Arc;

use crate::Defect;
use crate::limits::{HELD_BYTES_MAX, WORK_BYTES_MAX};
use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
pub use pattern::{MATCH_BYTES_MAX, PATTERN_BYTES_MAX, Pattern};
use search::{Found, LOOK_BYTES, Search};
use template::Template;

/// A pattern, and what takes the place of its matches.
#[derive(Debug, Clone)]
pub struct Replacement {
    pattern: Arc<Pattern>,
    to: Template,
}

impl Replacement {
    /// `$1` and `$name` in `to` stand for a group of the match, `$$` for a dollar sign.
    #[must_use]
    pub fn new(pattern: Arc<Pattern>, to: &str) -> Self {
        let to = Template::new(to, &pattern);
        Self { pattern, to }
    }

    /// The pattern.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// A text with every match replaced. None: that would be longer than `bytes_max`, or look at more than `work_max` bytes.
    pub(crate) fn apply(&self, text: &[u8], bytes_max: usize, work_max: usize) -> Option<Vec<u8>> {
        let (mut out, mut search, mut at, mut work) = (Vec::new(), Search::default(), 0, 0);
        loop {
            let (found, looked) = self.search_next(&mut search, text);
            work += looked;
            let Found::Match { start, end, groups } = found else { break };
            out.extend_from_slice(text.get(at..start).unwrap_or_default());
            self.to.expand(text.get(start..end).unwrap_or_default(), groups.as_ref(), &mut out);
            at = end;
            if out.len() > bytes_max || work > work_max {
                return None;
            }
        }
        out.extend_from_slice(text.get(at..).unwrap_or_default());
        (out.len() <= bytes_max).then_some(out)
    }

    fn search_next<'t>(&self, search: &mut Search, text: &'t [u8]) -> (Found<'t>, usize) {
        search.next(&self.pattern, &self.to, text, true)
    }
}

/// The stage that replaces.
pub(crate) fn stage(replacement: &Arc<Replacement>) -> Box<dyn Stage> {
    let replacement = Arc::clone(replacement);
    Box::new(Replace { replacement, buffer: Vec::new(), at: 0, search: Search::default() })
}

struct Replace {
    replacement: Arc<Replacement>,
    /// What came and is not given yet, behind a few bytes that a pattern may look back at.
    buffer: Vec<u8>,
    /// Where what is not given yet begins.
    at: usize,
    search: Search,
}

impl Stage for Replace {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        let Replacement { pattern, to } = &*self.replacement;
        self.buffer.extend_from_slice(input);
        let ended = op == Op::End;
        if pattern.longest_bytes().is_none() {
            if self.buffer.len() > HELD_BYTES_MAX {
                return Err(Defect::Held);
            }
            if !ended {
                return Ok(Stepped::new(input.len(), false));
            }
        }
        let mut stepped = Stepped::new(input.len(), false);
        loop {
            let (found, work) = self.search.next(pattern, to, &self.buffer, ended);
            stepped.work += work;
            match found {
                Found::Match { start, end, groups } => {
                    out.extend_from_slice(self.buffer.get(self.at..start).unwrap_or_default());
                    let matched = self.buffer.get(start..end).unwrap_or_default();
                    to.expand(matched, groups.as_ref(), out);
                    self.at = end;
                }
                Found::Nothing { until } => {
                    out.extend_from_slice(self.buffer.get(self.at..until).unwrap_or_default());
                    self.at = until.max(self.at);
                    break;
                }
            }
            if out.len() >= OUT_BYTES || stepped.work >= WORK_BYTES_MAX {
                stepped.more = true;
                break;
            }
        }
        let passed = self.at.saturating_sub(LOOK_BYTES);
        // Moving what is left costs; what is little waits.
        if passed >= self.buffer.len() / 2 {
            self.buffer.drain(..passed);
            self.at -= passed;
            self.search.passed(passed);
        }
        Ok(stepped)
    }

    fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

#[cfg(test)]
pub(crate) mod tests;
