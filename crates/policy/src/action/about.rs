//! What the reference says of an action: its fields with types, defaults and limits, its codes, and an example.
//!
//! Written beside each action with the action's own constants. A test of `crate::reference` compares every description
//! with what `compile` reads and does, and executes every example.

use std::ops::RangeInclusive;

/// The description of one action.
#[derive(Debug)]
pub(crate) struct About {
    /// The source file: `file!()`.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the descriptions"))]
    pub(crate) file: &'static str,
    /// What the action does, in a sentence.
    pub(crate) what: &'static str,
    /// The keys of `config`; members of a map below it as `jws.keys`, members of a list's maps as `http.tokens[].type`.
    pub(crate) fields: &'static [Field],
    /// Numbers of its own: those that its answers and failures carry, and those above 2299 that saving reports.
    pub(crate) codes: &'static [u32],
    /// A policy document, YAML.
    pub(crate) example: &'static str,
    /// A case for it, YAML, as `given` in a file of cases.
    pub(crate) given: &'static str,
    /// A `config` with every field that is read only where a map above it is; YAML. Empty: the example has all.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the descriptions"))]
    pub(crate) all: &'static str,
}

/// One key of a `config`.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) is_required: bool,
    /// Whether `${...}` is taken in its text, its entries or its values.
    pub(crate) is_computed: bool,
    /// Longest text after interpolation, in bytes.
    pub(crate) result_bytes_max: Option<usize>,
    /// What else there is to know.
    pub(crate) note: &'static str,
}

/// What a key's value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Text; the longest that may be written, in bytes.
    Text { default: Option<&'static str>, bytes_max: Option<usize> },
    /// True or false.
    Flag { default: bool },
    /// An integer.
    Number { default: Option<u64>, range: RangeInclusive<u64> },
    /// One of a few words.
    Choice { default: Option<&'static str>, names: &'static [&'static str] },
    /// A list of so many of these at most.
    List { of: &'static str, max: usize },
    /// A map with free keys, so many at most.
    Map { of: &'static str, max: usize },
    /// A map; its members are fields of their own.
    Members,
    /// Such a map, or a list of so many at most.
    OneOrMany { max: usize },
}

impl Field {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, is_required: false, is_computed: false, result_bytes_max: None, note: "" }
    }

    pub(crate) const fn text(name: &'static str) -> Self {
        Self::new(name, Kind::Text { default: None, bytes_max: None })
    }

    pub(crate) const fn text_or(name: &'static str, default: &'static str) -> Self {
        Self::new(name, Kind::Text { default: Some(default), bytes_max: None })
    }

    pub(crate) const fn flag(name: &'static str, default: bool) -> Self {
        Self::new(name, Kind::Flag { default })
    }

    /// A number that must be there.
    pub(crate) const fn number(name: &'static str, range: RangeInclusive<u64>) -> Self {
        Self { is_required: true, ..Self::new(name, Kind::Number { default: None, range }) }
    }

    pub(crate) const fn number_or(name: &'static str, default: u64, range: RangeInclusive<u64>) -> Self {
        Self::new(name, Kind::Number { default: Some(default), range })
    }

    /// A word that must be there.
    pub(crate) const fn choice(name: &'static str, names: &'static [&'static str]) -> Self {
        Self { is_required: true, ..Self::new(name, Kind::Choice { default: None, names }) }
    }

    pub(crate) const fn choice_or(
        name: &'static str,
        default: &'static str,
        names: &'static [&'static str],
    ) -> Self {
        Self::new(name, Kind::Choice { default: Some(default), names })
    }

    pub(crate) const fn list(name: &'static str, of: &'static str, max: usize) -> Self {
        Self::new(name, Kind::List { of, max })
    }

    pub(crate) const fn map(name: &'static str, of: &'static str, max: usize) -> Self {
        Self::new(name, Kind::Map { of, max })
    }

    pub(crate) const fn members(name: &'static str) -> Self {
        Self::new(name, Kind::Members)
    }

    pub(crate) const fn one_or_many(name: &'static str, max: usize) -> Self {
        Self::new(name, Kind::OneOrMany { max })
    }

    /// It must be there.
    pub(crate) const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// It takes `${...}`.
    pub(crate) const fn computed(mut self) -> Self {
        self.is_computed = true;
        self
    }

    /// It takes `${...}`, and comes to so many bytes at most.
    pub(crate) const fn computed_to(mut self, bytes_max: usize) -> Self {
        self.is_computed = true;
        self.result_bytes_max = Some(bytes_max);
        self
    }

    /// As it is written it has so many bytes at most. For texts.
    pub(crate) const fn at_most(mut self, bytes: usize) -> Self {
        if let Kind::Text { default, .. } = self.kind {
            self.kind = Kind::Text { default, bytes_max: Some(bytes) };
        }
        self
    }

    /// What else there is to know.
    pub(crate) const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }
}
