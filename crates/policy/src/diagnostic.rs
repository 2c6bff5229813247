//! One defect of a policy document: what, where, and the way out.

use std::fmt;

use ebbgate_model::ErrorCode;

/// A defect (or, among `Checked::warnings`, a doubtful spot) of a policy document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The published number clients match on.
    pub code: ErrorCode,
    /// One sentence naming the object and the defect.
    pub message: String,
    /// Where: `on_http_request[0].actions[1].config.url`; empty where the document itself is meant.
    pub path: String,
    /// Line in the text, from 1.
    pub line: Option<u32>,
    /// Column in the text, in characters from 1.
    pub column: Option<u32>,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(code: ErrorCode, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), path: path.into(), line: None, column: None, hint: None }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn at(mut self, place: Place) -> Self {
        self.line = Some(place.line);
        self.column = Some(place.column);
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} ({})", self.message, self.code)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

/// A position in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

/// The name among `known` that `written` was probably meant to be: at most two edits away, and not most of the word.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (written.chars().count() / 3).clamp(1, 2);
    let fold = |text: &str| text.to_ascii_lowercase().replace(['_', '-'], "");
    known
        .into_iter()
        .map(|name| (if fold(name) == fold(written) { 0 } else { distance(written, name) }, name))
        .filter(|(edits, _)| *edits <= limit)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

/// Levenshtein distance, a transposition counting as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let cell = |cells: &[usize], at: usize| cells.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best =
                (cell(&above, j) + usize::from(ca != cb)).min(cell(&above, j + 1) + 1).min(cell(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca) {
                best = best.min(cell(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_leaves_strangers() {
        let known = ["restrict-ips", "forward-internal", "deny", "expressions", "actions"];
        let check = |written: &str, expect: Option<&str>| {
            assert_eq!(nearest(written, known), expect, "{written}");
        };
        check("restrict-ip", Some("restrict-ips"));
        check("restrict_ips", Some("restrict-ips"));
        check("forwrad-internal", Some("forward-internal"));
        check("Actions", Some("actions"));
        check("expression", Some("expressions"));
        check("dney", Some("deny"));
        check("oauth", None);
        check("", None);
    }
}
