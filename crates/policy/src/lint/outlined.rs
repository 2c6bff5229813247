//! A rule and what its conditions say at first sight: what the lints share.

use std::collections::BTreeSet;

use crate::document::PlacedRule;
use crate::expr::{Outline, outline};

/// A rule and what its conditions say at first sight, each with its index as written.
pub(super) struct Outlined<'d> {
    pub(super) rule: &'d PlacedRule,
    pub(super) conditions: Vec<(usize, Outline)>,
}

impl<'d> Outlined<'d> {
    pub(super) fn new(rule: &'d PlacedRule) -> Self {
        let read = |(index, source): &(usize, String)| Some((*index, outline(source)?));
        Self { rule, conditions: rule.expressions.iter().filter_map(read).collect() }
    }

    /// Everything that must hold for the rule, each part written in one way; parts that always hold are left out. None: a
    /// part is too involved to be compared.
    pub(super) fn parts(&self) -> Option<BTreeSet<&str>> {
        let parts = self.conditions.iter().flat_map(|(_, outline)| &outline.parts);
        parts.filter(|part| part.always != Some(true)).map(|part| part.text.as_deref()).collect()
    }

    /// Whether everything that the other must have holds whenever this rule's conditions do.
    pub(super) fn implies(&self, other: &BTreeSet<&str>) -> bool {
        let parts = self.conditions.iter().flat_map(|(_, outline)| &outline.parts);
        let own: BTreeSet<&str> = parts.filter_map(|part| part.text.as_deref()).collect();
        other.is_subset(&own)
    }
}
