//! `Pattern`: RE2 syntax and semantics over bytes, and how long a match may be.

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

/// Longest pattern as text.
pub const PATTERN_BYTES_MAX: usize = 4_096;
/// Longest match of a pattern that a body is not held for.
pub const MATCH_BYTES_MAX: usize = 4_096;
/// Largest compiled pattern.
const PROGRAM_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting.
const DEPTH_MAX: u32 = 50;

/// See the module.
#[derive(Debug)]
pub struct Pattern {
    source: String,
    finder: Finder,
    longest: Option<usize>,
}

#[derive(Debug)]
pub(super) enum Finder {
    /// These bytes and no others.
    Literal(Box<memmem::Finder<'static>>),
    Regex(Regex),
}

impl Pattern {
    /// Reads a pattern. An error is one sentence.
    pub fn new(source: &str) -> Result<Self, String> {
        if source.len() > PATTERN_BYTES_MAX {
            return Err(format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let regex = RegexBuilder::new(source)
            .size_limit(PROGRAM_BYTES_MAX)
            .dfa_size_limit(PROGRAM_BYTES_MAX)
            .nest_limit(DEPTH_MAX)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "the pattern is too complex".to_owned(),
                error => unreadable(&error),
            })?;
        let hir = ParserBuilder::new().utf8(false).nest_limit(DEPTH_MAX).build().parse(source);
        let hir = hir.map_err(|error| unreadable(&error))?;
        let finder = match hir.kind() {
            HirKind::Literal(literal) => {
                Finder::Literal(Box::new(memmem::Finder::new(&*literal.0).into_owned()))
            }
            _ => Finder::Regex(regex),
        };
        Ok(Self { source: source.to_owned(), finder, longest: longest(&hir) })
    }

    /// The pattern as text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The most bytes of a match, if a body need not be held for it: [`MATCH_BYTES_MAX`] at most, and never none.
    #[must_use]
    pub fn longest_bytes(&self) -> Option<usize> {
        self.longest
    }

    pub(super) fn finder(&self) -> &Finder {
        &self.finder
    }

    /// The number of a named group.
    pub(super) fn group(&self, name: &str) -> Option<usize> {
        match &self.finder {
            Finder::Literal(_) => None,
            Finder::Regex(regex) => regex.capture_names().position(|group| group == Some(name)),
        }
    }
}

fn longest(hir: &Hir) -> Option<usize> {
    let properties = hir.properties();
    let longest = properties.maximum_len().filter(|longest| *longest <= MATCH_BYTES_MAX)?;
    (properties.minimum_len()? > 0).then_some(longest)
}

fn unreadable(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    format!("the pattern cannot be read: {}", text.lines().last().unwrap_or_default().trim())
}
