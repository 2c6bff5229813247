//! What an operator sees of changes that not all edges have, and does with them.

use ebbgate_model::EndpointId;
use serde_json::{Value, json};

use super::error::RolloutError;
use super::settings::settings;
use crate::App;
use crate::api::timestamp;
use crate::push::{RolledOut, Tally};
use crate::record;
use crate::record::rollout::{Rollout, RolloutState};
use crate::store::{Outcome, Txn};

/// A change of which the state is another now, and which: `held`, `paused` or `released`.
pub type Done = (EndpointId, &'static str);

/// All changes that not all edges have, with what edges say of them.
pub async fn status(app: &App) -> Result<Value, RolloutError> {
    let settings = settings(&*app.store).await?;
    let rollouts = app.planned.borrow().rollouts.clone();
    let shown: Vec<Value> = rollouts.iter().map(|(id, rollout)| shown(app, *id, rollout)).collect();
    Ok(json!({ "canaries": app.presence.canaries(), "rollouts": shown, "settings": settings }))
}

fn shown(app: &App, id: EndpointId, rollout: &RolledOut) -> Value {
    let record = &rollout.staged.record;
    let tallies = app.tallies.of(id);
    let canaries = record.canaries.iter().map(|edge| {
        let Tally { requests, errors, refused } = tallies.get(edge).cloned().unwrap_or_default();
        json!({ "edge": edge, "requests": requests, "errors": errors, "refused": refused })
    });
    let others = tallies.iter().filter(|(edge, _)| !record.canaries.contains(edge));
    let (requests, errors) = others.fold((0, 0), |(requests, errors), (_, t)| {
        (t.requests.saturating_add(requests), t.errors.saturating_add(errors))
    });
    json!({
        "account": record.account,
        "endpoint": id,
        "url": rollout.url,
        "state": record.state,
        "since": timestamp(record.created_at),
        "changed_at": timestamp(record.changed_at),
        "reason": record.reason,
        "canaries": canaries.collect::<Vec<_>>(),
        "others": { "requests": requests, "errors": errors },
    })
}

/// Keeps a change at canary edges until [`resume`].
pub async fn pause(app: &App, endpoint: EndpointId) -> Result<Done, RolloutError> {
    let rollout = find(app, endpoint)?;
    match rollout.staged.record.state {
        RolloutState::Held => set(app, &rollout, RolloutState::Paused).await,
        RolloutState::Paused => Ok((endpoint, "paused")),
        RolloutState::Returned => Err(RolloutError::Returned(endpoint)),
    }
}

/// Keeps all changes that wait at canary edges.
pub async fn pause_all(app: &App) -> Result<Vec<Done>, RolloutError> {
    set_all(app, RolloutState::Held, RolloutState::Paused).await
}

/// Lets a change go on that was paused; gives one that waits, or was taken back, to all edges.
pub async fn resume(app: &App, endpoint: EndpointId) -> Result<Done, RolloutError> {
    let rollout = find(app, endpoint)?;
    match rollout.staged.record.state {
        RolloutState::Paused => set(app, &rollout, RolloutState::Held).await,
        RolloutState::Held | RolloutState::Returned => {
            let record = &rollout.staged.record;
            let key = record::key::<Rollout>(record.account, record.id);
            let txn = Txn::new().if_unchanged(&key, rollout.staged.modified);
            committed(app, txn.note(&key, Some(record.shown()), None).delete(key)).await?;
            Ok((endpoint, "released"))
        }
    }
}

/// Lets all changes go on that were paused.
pub async fn resume_all(app: &App) -> Result<Vec<Done>, RolloutError> {
    set_all(app, RolloutState::Paused, RolloutState::Held).await
}

fn find(app: &App, endpoint: EndpointId) -> Result<RolledOut, RolloutError> {
    let rollouts = &app.planned.borrow().rollouts;
    rollouts.get(&endpoint).cloned().ok_or_else(|| RolloutError::NoRollout(endpoint.to_string()))
}

async fn set_all(app: &App, from: RolloutState, to: RolloutState) -> Result<Vec<Done>, RolloutError> {
    let all = app.planned.borrow().rollouts.clone();
    let mut done = Vec::new();
    for rollout in all.values().filter(|rollout| rollout.staged.record.state == from) {
        match set(app, rollout, to).await {
            // It went on meanwhile.
            Err(RolloutError::Conflict) => {}
            set => done.push(set?),
        }
    }
    Ok(done)
}

async fn set(app: &App, rollout: &RolledOut, state: RolloutState) -> Result<Done, RolloutError> {
    let record = &rollout.staged.record;
    let new = Rollout { state, changed_at: app.now(), ..Rollout::clone(record) };
    let key = record::key::<Rollout>(record.account, record.id);
    let txn = record::replace(Txn::new(), &new, rollout.staged.modified);
    committed(app, txn.note(key, Some(record.shown()), Some(new.shown()))).await?;
    Ok((record.id, if state == RolloutState::Paused { "paused" } else { "held" }))
}

async fn committed(app: &App, txn: Txn) -> Result<(), RolloutError> {
    match app.store.commit(txn).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict(_) => Err(RolloutError::Conflict),
    }
}
