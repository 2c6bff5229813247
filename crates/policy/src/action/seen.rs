//! For tests: which keys of a configuration were read, and as what.

use std::collections::BTreeSet;

/// A key that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// With the path of the configuration before it.
    pub(crate) path: String,
    pub(crate) how: How,
}

/// As what a key was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    Raw,
    Flag(bool),
    Number(u64, u64),
    Choice(BTreeSet<String>),
    List(usize),
    Map(usize),
}
