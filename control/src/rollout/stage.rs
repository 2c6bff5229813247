//! Stages a change of an endpoint where it is written: in its transaction stands what the other edges go on having.

use ebbgate_model::EdgeId;

use super::waits::waits;
use crate::App;
use crate::fleet;
use crate::record::rollout::{Rollout, RolloutState};
use crate::record::{self, Endpoint, RecordError, Stored};
use crate::store::Txn;

/// Changes of one account that wait at once. One more does not wait, so that it delays nothing.
pub const ROLLOUTS_OF_ACCOUNT_MAX: usize = 64;
/// Changes of all accounts that wait at once.
pub const ROLLOUTS_MAX: usize = 4_096;

/// Adds to the transaction that changes an endpoint which edges get its policy.
///
/// What all edges had last stays what the others have, however often the endpoint is changed meanwhile. A policy that does
/// not wait goes to all edges, and takes what waited along.
pub async fn stage(app: &App, before: &Endpoint, after: &Endpoint, txn: Txn) -> Result<Txn, RecordError> {
    // At another place the policy before might let in other people than it was meant for.
    let has_moved = before.url != after.url || before.binding != after.binding;
    if before.policy == after.policy && !has_moved {
        return Ok(txn);
    }
    let key = record::key::<Rollout>(after.account, after.id);
    let staged = match record::load::<Rollout>(&*app.store, after.account, after.id).await {
        Ok(staged) => staged,
        // What the others have is not known any more: from now on all have the same.
        Err(RecordError::Damaged { .. }) => return Ok(txn.delete(key)),
        Err(error) => return Err(error),
    };
    let last = match &staged {
        Some(Stored { record, .. }) => record.clone(),
        None => Rollout {
            id: after.id,
            account: after.account,
            policy: before.policy.clone(),
            secrets: before.secrets.clone(),
            state: RolloutState::Held,
            changed_at: app.now(),
            canaries: Vec::new(),
            reason: String::new(),
            created_at: app.now(),
        },
    };
    let has_room = staged.is_some() || has_room(app, after);
    let canaries = if !has_moved && has_room && waits(last.policy.as_ref(), after.policy.as_ref()) {
        canaries(app).await?
    } else {
        Vec::new()
    };
    let was = staged.as_ref().map(|staged| staged.record.shown());
    let txn = match &staged {
        Some(staged) => txn.if_unchanged(&key, staged.modified),
        None if canaries.is_empty() => return Ok(txn),
        None => txn.if_absent(&key),
    };
    if canaries.is_empty() {
        return Ok(txn.note(&key, was, None).delete(key));
    }
    let (changed_at, reason) = (app.now(), String::new());
    let new = Rollout { state: RolloutState::Held, changed_at, canaries, reason, ..last };
    Ok(txn.note(&key, was, Some(new.shown())).put(key, record::encode(&new)))
}

fn has_room(app: &App, endpoint: &Endpoint) -> bool {
    let rollouts = &app.planned.borrow().rollouts;
    let own = rollouts.values().filter(|rollout| rollout.staged.record.account == endpoint.account);
    rollouts.len() < ROLLOUTS_MAX && own.count() < ROLLOUTS_OF_ACCOUNT_MAX
}

/// Canary edges that get a change first, whichever control feeds them. None: it goes to all edges at once.
async fn canaries(app: &App) -> Result<Vec<EdgeId>, RecordError> {
    if app.candidate.is_alone() {
        return Ok(app.presence.canaries());
    }
    let flagged = fleet::canaries(app).await?;
    let connected = app.presence.edges().into_iter().filter(|edge| edge.connected).map(|edge| edge.id);
    let connected: Vec<EdgeId> = connected.filter(|edge| flagged.contains(edge)).collect();
    if connected.is_empty() && !app.presence.knows_others() {
        // They may be connected to another control.
        return Ok(flagged.into_iter().collect());
    }
    Ok(connected)
}

/// Changes of the account that wait, while edges have a policy before that names this: the endpoint's id, or its host.
pub async fn naming(
    app: &App,
    account: ebbgate_model::AccountId,
    name: &str,
) -> Result<Vec<Stored<Rollout>>, RecordError> {
    let mut all = record::list::<Rollout>(&*app.store, account, None, None).await?.items;
    // No name that is looked for has a character that JSON would write otherwise.
    all.retain(|staged| {
        let policy = staged.record.policy.as_ref();
        policy.is_some_and(|policy| serde_json::to_string(policy).is_ok_and(|text| names(&text, name)))
    });
    Ok(all)
}

/// Whether a text has a name that is no part of a longer one. A text with an expression in a URL may name anything.
fn names(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_whole = |(at, found): (usize, &str)| {
        let (before, after) =
            (text.get(..at).unwrap_or_default(), text.get(at + found.len()..).unwrap_or_default());
        !before.ends_with(is_part) && !after.starts_with(is_part)
    };
    text.contains("://${") || text.match_indices(name).any(is_whole)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_name_is_whole_or_may_be_computed() {
        let check = |text: &str, expect: bool| assert_eq!(names(text, "a.internal"), expect, "{text}");
        check(r#"{"url":"https://a.internal"}"#, true);
        check(r#"{"url":"https://a.internal:8443/x"}"#, true);
        check(r#"{"url":"https://data.internal"}"#, false);
        check(r#"{"url":"https://b.a.internal"}"#, false);
        check(r#"{"url":"https://a.internal.example.com"}"#, false);
        check(r#"{"url":"https://${vars.x}.internal"}"#, true);
        check("{}", false);
    }
}
