//! Regular expressions (RE2 syntax and semantics: linear time), and what a search with one may cost.
//!
//! How fast a search is depends on pattern and text: mostly a nanosecond for each byte, at worst a step of every state of
//! the pattern's automaton. The worst is what is charged.

use std::any::Any;
use std::sync::Arc;

use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};
use regex::{Regex, RegexBuilder};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;

/// Longest pattern of an expression, and longest that is computed.
pub(crate) const PATTERN_BYTES_MAX: usize = 1024;
/// Largest compiled pattern.
const PATTERN_PROGRAM_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of a pattern.
const PATTERN_DEPTH_MAX: u32 = 50;
/// Units of compiling a pattern in the middle of an evaluation, and for each byte of it.
const COMPILE_UNITS: u64 = 5_000;
const COMPILE_BYTE_UNITS: u64 = 30;
/// Units for what may name a class of characters of all scripts, and where case does not matter: then every one of them is
/// looked up.
const CLASS_UNITS: u64 = 300;
const FOLDED_CLASS_UNITS: u64 = 12_000;
/// Steps of a state that cost one unit.
const STEPS_PER_UNIT: u64 = 64;

static PATTERN: Type = Type::new_unspecified_type("@pattern");

/// A compiled regular expression. Shared, so that every run finds the scratch memory of the last one.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    regex: Arc<Regex>,
    /// States of its automaton.
    states: u64,
}

impl Pattern {
    /// Compiles a pattern of at most so many bytes within the limits above.
    pub(crate) fn compile(source: &str, bytes_max: usize) -> Result<Self, String> {
        if source.len() > bytes_max {
            return Err(format!("the pattern is longer than {bytes_max} bytes"));
        }
        let regex = RegexBuilder::new(source)
            .size_limit(PATTERN_PROGRAM_BYTES_MAX)
            .dfa_size_limit(PATTERN_PROGRAM_BYTES_MAX)
            .nest_limit(PATTERN_DEPTH_MAX)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "the pattern is too complex".to_owned(),
                error => format!(
                    "the pattern cannot be read: {}",
                    error.to_string().lines().last().unwrap_or_default().trim()
                ),
            })?;
        let automaton = thompson::Compiler::new()
            .syntax(syntax::Config::new().nest_limit(PATTERN_DEPTH_MAX))
            .configure(thompson::Config::new().nfa_size_limit(Some(2 * PATTERN_PROGRAM_BYTES_MAX)))
            .build(source)
            .map_err(|_| "the pattern is too complex".to_owned())?;
        let states = u64::try_from(automaton.states().len()).unwrap_or(u64::MAX);
        Ok(Self { regex: Arc::new(regex), states })
    }

    /// Units of work to compile a pattern, at least.
    pub(crate) fn compile_units(source: &str) -> u64 {
        let count = |mark: &[char]| u64::try_from(source.matches(mark).count()).unwrap_or(u64::MAX);
        let bytes = u64::try_from(source.len().min(PATTERN_BYTES_MAX)).unwrap_or(u64::MAX);
        // Classes are escapes or ranges; flags stand in `(?...)`.
        let folded = source.contains("(?") && source.contains('i');
        let class_units = if folded { FOLDED_CLASS_UNITS } else { CLASS_UNITS };
        COMPILE_UNITS + bytes * COMPILE_BYTE_UNITS + count(&['\\', '-', '[']).saturating_mul(class_units)
    }

    /// The expression itself.
    pub(crate) fn regex(&self) -> &Regex {
        &self.regex
    }

    /// Units of work that one search through `bytes` may take.
    pub(crate) fn search_units(&self, bytes: usize) -> u64 {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        bytes.saturating_mul(self.states) / STEPS_PER_UNIT + 1
    }
}

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN
    }

    fn cel_type() -> &'static Type {
        &PATTERN
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}
