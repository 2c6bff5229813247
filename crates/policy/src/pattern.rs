//! Regular expressions at first sight: what they can match at all. For lints.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind, Look, Repetition};

/// Deepest nesting that is read.
const DEPTH_MAX: u32 = 50;

fn read(source: &str) -> Option<Hir> {
    ParserBuilder::new().utf8(false).nest_limit(DEPTH_MAX).build().parse(source).ok()
}

/// One way through a pattern: whether it takes a character, and what stands at its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    takes: bool,
    left: Edge,
    right: Edge,
}

/// What a place must be: the start of the text, its end, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Edge {
    start: bool,
    end: bool,
}

impl Edge {
    fn and(self, other: Self) -> Self {
        Self { start: self.start || other.start, end: self.end || other.end }
    }
}

impl Way {
    const EMPTY: Self = Self {
        takes: false,
        left: Edge { start: false, end: false },
        right: Edge { start: false, end: false },
    };

    fn at(edge: Edge) -> Self {
        Self { takes: false, left: edge, right: edge }
    }

    /// One way after another; None: no text has both.
    fn then(self, next: Self) -> Option<Self> {
        let middle = self.right.and(next.left);
        let way = match (self.takes, next.takes) {
            (true, true) if middle.start || middle.end => return None,
            (true, true) => Self { takes: true, left: self.left, right: next.right },
            (true, false) => Self { takes: true, left: self.left, right: middle },
            (false, true) => Self { takes: true, left: middle, right: next.right },
            (false, false) => Self::at(middle),
        };
        (!way.takes || (!way.left.end && !way.right.start)).then_some(way)
    }
}

/// All ways through a pattern, each once: there are few.
fn ways(hir: &Hir) -> Vec<Way> {
    let taking = Way { takes: true, ..Way::EMPTY };
    match hir.kind() {
        HirKind::Class(class) if class.minimum_len().is_none() => Vec::new(),
        HirKind::Literal(_) | HirKind::Class(_) => vec![taking],
        HirKind::Look(Look::Start) => vec![Way::at(Edge { start: true, end: false })],
        HirKind::Look(Look::End) => vec![Way::at(Edge { start: false, end: true })],
        HirKind::Empty | HirKind::Look(_) => vec![Way::EMPTY],
        HirKind::Repetition(repetition) => repeated(repetition),
        HirKind::Capture(capture) => ways(&capture.sub),
        HirKind::Concat(parts) => {
            parts.iter().fold(vec![Way::EMPTY], |before, part| joined(&before, &ways(part)))
        }
        HirKind::Alternation(parts) => unique(parts.iter().flat_map(ways)),
    }
}

fn repeated(repetition: &Repetition) -> Vec<Way> {
    let one = ways(&repetition.sub);
    let mut all = if repetition.min == 0 { vec![Way::EMPTY] } else { one.clone() };
    if repetition.max != Some(0) {
        // Once and twice are all: a third turn adds no way that two do not have.
        all = unique(all.into_iter().chain(one.iter().copied()));
        if repetition.max != Some(1) {
            all = unique(all.iter().copied().chain(joined(&one, &one)));
        }
    }
    if repetition.min > 1 { joined(&one, &all) } else { all }
}

fn joined(before: &[Way], after: &[Way]) -> Vec<Way> {
    unique(before.iter().flat_map(|a| after.iter().filter_map(|b| a.then(*b))))
}

fn unique(ways: impl Iterator<Item = Way>) -> Vec<Way> {
    let mut all = Vec::new();
    for way in ways {
        if !all.contains(&way) {
            all.push(way);
        }
    }
    all
}

/// Whether a text that is not empty may hold a match. True where the pattern cannot be read.
pub(crate) fn may_match(source: &str) -> bool {
    let is_open = |way: &Way| {
        let edge = way.left.and(if way.takes { Edge::default() } else { way.right });
        !(edge.start && edge.end)
    };
    read(source).is_none_or(|hir| ways(&hir).iter().any(is_open))
}

/// Whether a URL of http or https may hold a match, as far as the pattern's beginning says. True where it cannot be read.
pub(crate) fn may_begin_a_url(source: &str) -> bool {
    let Some(hir) = read(source) else { return true };
    let HirKind::Concat(parts) = hir.kind() else { return true };
    let [first, second, ..] = parts.as_slice() else { return true };
    let (HirKind::Look(Look::Start), HirKind::Literal(literal)) = (first.kind(), second.kind()) else {
        return true;
    };
    let fits = |scheme: &[u8]| scheme.iter().zip(literal.0.iter()).all(|(a, b)| a == b);
    fits(b"http://") || fits(b"https://")
}

/// Text that every match has, as far as it is told from the pattern's form.
pub(crate) fn needs(source: &str) -> String {
    let mut out = Vec::new();
    if let Some(hir) = read(source) {
        collect(&hir, &mut out);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn collect(hir: &Hir, out: &mut Vec<u8>) {
    match hir.kind() {
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Capture(capture) => collect(&capture.sub, out),
        HirKind::Repetition(repetition) if repetition.min > 0 => collect(&repetition.sub, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| collect(part, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_text_matches() {
        for source in [
            "$^", "^$", "a^", "$a", "a$b", "(a|b)^c", "^(?:$)", r"\z\A", "(?:x^)+", r"[a&&b]", "a*b^",
            "(^)a(^)",
        ] {
            assert!(!may_match(source), "{source}");
        }
        for source in [
            "",
            "a",
            "^a$",
            "^",
            "$",
            "a*^b",
            "(a|^)b",
            "(?:a|$^)",
            "(?m)a$b|a",
            r"\bword\b",
            "(?m)a$\nb",
            "x?^a",
            "a*^b",
            "[",
            "(^a)?b",
            "(^|a)+",
        ] {
            assert!(may_match(source), "{source}");
        }
    }

    /// Against the engine itself: every short text over the letters that the patterns use.
    #[test]
    fn the_engine_agrees() {
        let texts: Vec<String> = (1..=4)
            .flat_map(|length| (0..3_usize.pow(length)).map(move |n| (n, length)))
            .map(|(n, length)| (0..length).map(|at| ["a", "b", "c"][n / 3_usize.pow(at) % 3]).collect())
            .collect();
        let atoms = ["a", "b", "^", "$", "(?:a|^)", "(?:b|$)", "a?", "(?:^)*", "(?:$b)?"];
        for a in atoms {
            for b in atoms {
                for c in atoms {
                    let source = format!("{a}{b}{c}");
                    let regex = regex::Regex::new(&source).unwrap();
                    let found = texts.iter().any(|text| regex.is_match(text));
                    assert_eq!(may_match(&source), found, "{source}");
                }
            }
        }
    }

    #[test]
    fn beginnings_of_urls() {
        for source in ["^/old", "^api", "^ftp:"] {
            assert!(!may_begin_a_url(source), "{source}");
        }
        for source in ["/old", "^https?://a", "^http", "^https://a/b", "^.*/old", "^[^/]+", "(^/old)"] {
            assert!(may_begin_a_url(source), "{source}");
        }
    }

    #[test]
    fn text_of_every_match() {
        assert_eq!(needs("^X-(Site|Place)-[a-z]+Z{2}q?$"), "X--Z");
        assert_eq!(needs("(?i)X"), "");
    }
}
