//! `Edits`: what a body goes through from its sender to its receiver, as data. It travels with the message's head, and
//! becomes a [`Pipeline`](crate::Pipeline) where the body does.

use std::sync::Arc;

use crate::{Coding, EventReplacement, EventRules, Replacement};

/// Most codings of one body that are taken off it.
pub const CODINGS_MAX: usize = 4;

/// One change of a body's decoded bytes.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Every match of a pattern is replaced.
    Replace(Arc<Replacement>),
    /// In each event of an event stream, every match in a field is replaced.
    ReplaceInEvents(Arc<[EventReplacement]>),
    /// In each event of an event stream, what its rules say is replaced.
    JudgeEvents(Arc<dyn EventRules>),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    /// The codings the body comes in, first applied first.
    pub(crate) comes_in: Vec<Coding>,
    pub(crate) changes: Vec<Edit>,
    /// The codings it leaves in, first applied first.
    pub(crate) leaves_in: Vec<Coding>,
}

impl Edits {
    /// None yet, of a body that is in these codings and stays in them.
    #[must_use]
    pub fn of(codings: Vec<Coding>) -> Self {
        Self { leaves_in: codings.clone(), comes_in: codings, changes: Vec::new() }
    }

    /// One more change of the decoded bytes, after the others.
    pub fn push(&mut self, edit: Edit) {
        self.changes.push(edit);
    }

    /// One more coding, around the others.
    pub fn encode(&mut self, coding: Coding) {
        self.leaves_in.push(coding);
    }

    /// The same, and the body leaves in no coding.
    #[must_use]
    pub fn decoded(self) -> Self {
        Self { leaves_in: Vec::new(), ..self }
    }

    /// The codings it comes in, first applied first.
    #[must_use]
    pub fn comes_in(&self) -> &[Coding] {
        &self.comes_in
    }

    /// The codings it leaves in, first applied first.
    #[must_use]
    pub fn leaves_in(&self) -> &[Coding] {
        &self.leaves_in
    }

    /// Whether the body stays as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.comes_in == self.leaves_in
    }

    /// Whether it does no more than put codings on: the receiver can do without.
    #[must_use]
    pub fn only_encodes(&self) -> bool {
        self.changes.is_empty() && self.leaves_in.starts_with(&self.comes_in)
    }

    /// Whether no byte leaves before all have come: an edit looks at the whole body.
    #[must_use]
    pub fn holds_body(&self) -> bool {
        self.changes.iter().any(|edit| match edit {
            Edit::Replace(replacement) => replacement.pattern().longest_bytes().is_none(),
            Edit::ReplaceInEvents(_) | Edit::JudgeEvents(_) => false,
        })
    }
}
