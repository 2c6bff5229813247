//! `Search`: the matches in bytes of which more may come, one after another.

use regex::bytes::Captures;

use super::pattern::{Finder, Pattern};
use super::template::Template;

/// Bytes around a match that decide whether it is one: a character before it and one behind it.
pub(super) const LOOK_BYTES: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Where the search goes on.
    at: usize,
    /// Where the last match ended: an empty one may not stand there.
    last: Option<usize>,
}

/// What a search came to.
pub(super) enum Found<'t> {
    /// A match, whatever follows.
    Match { start: usize, end: usize, groups: Option<Captures<'t>> },
    /// None so far; before `until` there will be none.
    Nothing { until: usize },
}

impl Search {
    /// The next match, and the bytes looked at for it at most; `ended`: nothing follows the text.
    pub(super) fn next<'t>(
        &mut self,
        pattern: &Pattern,
        to: &Template,
        text: &'t [u8],
        ended: bool,
    ) -> (Found<'t>, usize) {
        match pattern.finder() {
            Finder::Literal(finder) => {
                let rest = text.get(self.at..).unwrap_or_default();
                if let Some(start) = finder.find(rest).map(|start| self.at + start) {
                    let end = start + finder.needle().len();
                    let looked = end - self.at;
                    self.at = end;
                    return (Found::Match { start, end, groups: None }, looked);
                }
                let held = if ended { 0 } else { begun(finder.needle(), rest) };
                self.at = text.len() - held;
                (Found::Nothing { until: self.at }, rest.len())
            }
            Finder::Regex(regex) => {
                // Matches that begin before this are decided.
                let decided = match pattern.longest_bytes() {
                    Some(longest) if !ended => text.len().saturating_sub(longest + LOOK_BYTES - 1),
                    _ => text.len() + 1,
                };
                let far = pattern.longest_bytes().unwrap_or(text.len());
                let mut looked = 0;
                loop {
                    if self.at > text.len() {
                        return (Found::Nothing { until: text.len() }, looked);
                    }
                    let (span, groups) = if to.has_groups() {
                        let groups = regex.captures_at(text, self.at);
                        (groups.as_ref().and_then(|groups| groups.get(0)).map(|all| all.range()), groups)
                    } else {
                        (regex.find_at(text, self.at).map(|all| all.range()), None)
                    };
                    let Some(span) = span.filter(|span| span.start < decided) else {
                        looked += text.len() - self.at;
                        self.at = self.at.max(decided.min(text.len()));
                        return (Found::Nothing { until: self.at }, looked);
                    };
                    looked += (span.end - self.at) + far.min(text.len() - span.end);
                    if span.is_empty() && self.last == Some(span.end) {
                        self.at = span.end + character(text, span.end);
                        continue;
                    }
                    (self.at, self.last) = (span.end, Some(span.end));
                    return (Found::Match { start: span.start, end: span.end, groups }, looked);
                }
            }
        }
    }

    /// So many bytes at the front of the text are gone.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.at = self.at.saturating_sub(bytes);
        self.last = self.last.and_then(|last| last.checked_sub(bytes));
    }
}

/// How many bytes at the end of a text are the beginning of a needle.
fn begun(needle: &[u8], text: &[u8]) -> usize {
    let most = text.len().min(needle.len().saturating_sub(1));
    let mut lengths = (1..=most).rev();
    lengths.find(|length| text.ends_with(needle.get(..*length).unwrap_or_default())).unwrap_or(0)
}

/// The bytes of the character at a place; one, if there is none.
fn character(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let whole = |length: &usize| rest.get(..*length).is_some_and(|bytes| std::str::from_utf8(bytes).is_ok());
    (1..=4).find(whole).unwrap_or(1)
}
