//! `Stage`: one step that a body goes through. Stages know nothing of each other.

use crate::Defect;

/// Bytes that a stage gives at a time, more or less.
pub(crate) const OUT_BYTES: usize = 16 * 1024;

/// What a stage is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Take bytes; more may follow.
    Run,
    /// Give what can be given without more bytes.
    Flush,
    /// Nothing follows the bytes given now: give everything.
    End,
}

/// What one call of a stage did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stepped {
    /// Bytes taken from the front of the input.
    pub(crate) taken: usize,
    /// Whether there is more to give for what was taken and asked.
    pub(crate) more: bool,
    /// Work beside the bytes that came and went, in bytes looked at.
    pub(crate) work: usize,
}

impl Stepped {
    /// Took so many bytes; `more`: and has more to give.
    pub(crate) fn new(taken: usize, more: bool) -> Self {
        Self { taken, more, work: 0 }
    }
}

/// See the module.
pub(crate) trait Stage {
    /// Takes bytes from the front of `input` and appends about [`OUT_BYTES`] to `out` at most. Called again with the rest of
    /// the input and the same `op` as long as input is left or `more` is said. With `End` it gives everything before it says
    /// that there is no more.
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect>;

    /// Bytes of memory that it uses, or will use as soon as bytes come.
    fn memory_bytes(&self) -> usize;
}
