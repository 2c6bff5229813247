//! What a change of a policy does to traffic that was recorded: each record under the old and the new policy, and what differs.
//!
//! Records are traffic events as event destinations get them. They do not tell everything that a policy may ask; what they
//! do not tell is never guessed. Pure.

mod explained;
mod record;
mod render;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::{EndpointUrl, TrafficPolicy};

use crate::check::Owner;
use crate::engine::Engine;
use record::Record;
use walk::Walked;

pub use explained::{RecordExplained, explain_record, operation_of, url_of};
pub use record::{RECORD_BYTES_MAX, RecordError};
pub use walk::Outcome;

/// Most records of one comparison.
pub const RECORDS_MAX: usize = 100_000;
/// Units of work of a record besides its expressions.
const RECORD_UNITS: u64 = 1_000;
/// Most groups of equal differences; records of further ones are counted in the last.
const GROUPS_MAX: usize = 1_000;

/// A policy that is compared.
#[derive(Debug, Clone, Copy)]
pub struct Side<'p> {
    /// The document that was compiled.
    pub policy: &'p TrafficPolicy,
    /// What runs it.
    pub engine: &'p Arc<Engine>,
}

/// Records under two policies.
#[derive(Debug)]
pub struct Comparison<'p> {
    url: EndpointUrl,
    owner: Owner,
    old: Side<'p>,
    new: Side<'p>,
    compared: usize,
    left_out: usize,
    /// Work that may still be done; None: any.
    units_left: Option<u64>,
    counts: BTreeMap<Change, usize>,
    groups: BTreeMap<(Change, String), Group>,
}

/// Whether a record comes out otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It does.
    Changed,
    /// It depends on something that the record does not tell.
    Unknown,
    /// It does not.
    Same,
}

impl Change {
    /// The word of the output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unknown => "unknown",
            Self::Same => "same",
        }
    }
}

/// Records that come out alike.
#[derive(Debug)]
struct Group {
    count: usize,
    /// The first of them, in a few words.
    example: String,
    old: Walked,
    new: Walked,
    because: Option<String>,
}

impl<'p> Comparison<'p> {
    /// Of an endpoint's policies.
    #[must_use]
    pub fn new(url: &EndpointUrl, owner: Owner, old: Side<'p>, new: Side<'p>) -> Self {
        let (counts, groups) = (BTreeMap::new(), BTreeMap::new());
        Self { url: url.clone(), owner, old, new, compared: 0, left_out: 0, units_left: None, counts, groups }
    }

    /// The same with a bound on the work of all records, in the units of expressions.
    #[must_use]
    pub fn at_most(self, units: u64) -> Self {
        Self { units_left: Some(units), ..self }
    }

    /// Adds a record: one traffic event as JSON. One of another endpoint, or of another type, is left out.
    pub fn add(&mut self, line: &str) -> Result<(), RecordError> {
        let Some(record) = Record::read(line, &self.url)? else {
            self.left_out += 1;
            return Ok(());
        };
        if self.compared >= RECORDS_MAX {
            return Err(RecordError::new(format!(
                "more than {RECORDS_MAX} records of one endpoint are not compared"
            )));
        }
        let walked = |side: Side<'_>| {
            let walked = walk::walk(side.engine, side.policy, &record, &self.url, false);
            if side.policy.is_enforced() { walked } else { walked.not_enforced(self.owner) }
        };
        let (old, new) = (walked(self.old), walked(self.new));
        if let Some(left) = &mut self.units_left {
            // A record costs something besides its expressions.
            let units = old.units.saturating_add(new.units).saturating_add(RECORD_UNITS);
            *left = left.checked_sub(units).ok_or_else(|| {
                RecordError::new("comparing these records takes too much work; send fewer, or compare them with `ebbgate policy diff`")
            })?;
        }
        self.compared += 1;
        let (change, because) = judge(&old, &new, self.old.policy, self.new.policy);
        *self.counts.entry(change).or_default() += 1;
        let key =
            format!("{}\n{}\n{}", old.sentence(), new.sentence(), because.as_deref().unwrap_or_default());
        let key = if self.groups.len() < GROUPS_MAX { key } else { "\u{10ffff}".to_owned() };
        let group = self.groups.entry((change, key)).or_insert_with(|| Group {
            count: 0,
            example: record.summary(),
            old,
            new,
            because,
        });
        group.count += 1;
        Ok(())
    }

    /// How many records came out so.
    #[must_use]
    pub fn count(&self, change: Change) -> usize {
        self.counts.get(&change).copied().unwrap_or_default()
    }

    /// How many records were compared.
    #[must_use]
    pub fn compared(&self) -> usize {
        self.compared
    }
}

/// Whether a record comes out otherwise, and what that cannot be told without.
fn judge(
    old: &Walked,
    new: &Walked,
    old_policy: &TrafficPolicy,
    new_policy: &TrafficPolicy,
) -> (Change, Option<String>) {
    if let Some(reason) = old.gave_up.as_ref().or(new.gave_up.as_ref()) {
        // What stops both at one place, with all before it alike, stops them alike.
        let is_alike = old.gave_up == new.gave_up && old_policy == new_policy;
        return if is_alike { (Change::Same, None) } else { (Change::Unknown, Some(reason.clone())) };
    }
    if old.depends != new.depends {
        let differ = |a: &Walked, b: &Walked| a.depends.iter().find(|one| !b.depends.contains(one)).cloned();
        let first = differ(new, old).or_else(|| differ(old, new)).or_else(|| new.depends.first().cloned());
        return (Change::Unknown, first.map(|dependency| dependency.told));
    }
    if old.outcome != new.outcome {
        // Only where what it depends on passes; that is not told.
        return match old.depends.first() {
            None => (Change::Changed, None),
            Some(dependency) => (Change::Unknown, Some(dependency.told.clone())),
        };
    }
    let responses =
        |policy: &TrafficPolicy| (policy.on_http_response.clone(), policy.on_event_stream_message.clone());
    if old.outcome.has_response_phase() && responses(old_policy) != responses(new_policy) {
        return (
            Change::Unknown,
            Some(
                "the policies' rules for responses differ, and records do not tell enough of a response"
                    .into(),
            ),
        );
    }
    (Change::Same, None)
}

#[cfg(test)]
mod tests;
