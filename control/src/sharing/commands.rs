//! Commands to a session at an edge that another control feeds: a key with a lease for that control, and one for its answer.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ebbgate_model::feed::CommandOutcome;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::keys::{self, Key};
use super::message::{Answered, Asked};
use super::shared::{NAME_CHARS, Sharing};
use crate::error_chain::ErrorChain;
use crate::presence::RemoteCommand;
use crate::record;
use crate::secret;
use crate::store::{Item, LeaseId, StoreError, Txn};

/// Seconds that a command, and an answer, stand in the store at most.
const COMMAND_SECS: u64 = 15;
/// Seconds that the other control has for an answer: less than the API waits.
const ANSWER_SECS_MAX: u64 = 13;
/// Seconds that the agent has for one: less than the other control.
const AGENT_SECS_MAX: u64 = 11;
/// Commands of other controls that are worked on at once.
const TAKEN_MAX: usize = 256;

/// A command, or an answer, as it stands in the store.
pub(super) enum Seen {
    Asked { id: String, asked: Asked },
    Answered { id: String, answered: Answered },
}

/// Sends a command to the control that feeds the session's edge, and passes its answer on.
pub(super) async fn send(sharing: &Sharing, RemoteCommand { control, account, command }: RemoteCommand) {
    let id = secret::base62(&*sharing.entropy, NAME_CHARS);
    let asked =
        Asked { from: sharing.name.clone(), account, session: command.session, command: command.command };
    let (tell, answered) = oneshot::channel();
    sharing.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), tell);
    let outcome = match put(sharing, &keys::command(&control, &id), &asked).await {
        Ok(lease) => {
            let answered = timeout(Duration::from_secs(ANSWER_SECS_MAX), answered).await;
            sharing.release(lease).await;
            match answered {
                Ok(Ok(answered)) => answered.outcome,
                Ok(Err(_)) | Err(_) => Some(CommandOutcome::Unanswered),
            }
        }
        Err(error) => {
            tracing::warn!(session = %asked.session, error = %ErrorChain(&error), "a command did not come to another control");
            None
        }
    };
    sharing.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    if let Some(outcome) = outcome {
        // A caller that waits no more has been answered.
        let _ = command.answer.send(outcome);
    }
}

/// A command or an answer in a value; None: it is neither, or cannot be read.
pub(super) fn asked(item: &Item) -> Option<(String, Seen)> {
    let read = match Key::parse(&item.key)? {
        Key::Command { to, id } => record::parse(item).map(|asked| (to, Seen::Asked { id, asked })),
        Key::Answer { to, id } => record::parse(item).map(|answered| (to, Seen::Answered { id, answered })),
        Key::Head(_) | Key::Chunk { .. } | Key::Control(_) => return None,
    };
    read.inspect_err(|error| {
        tracing::error!(key = item.key, error = %ErrorChain(error), "what another control told cannot be read; it is skipped");
    })
    .ok()
}

/// All that there is after a gap. What was taken and is not there any more is forgotten.
pub(super) fn take_all(sharing: &Arc<Sharing>, all: Vec<(String, Seen)>) {
    let there: Vec<&String> = all
        .iter()
        .filter_map(|(_, seen)| match seen {
            Seen::Asked { id, .. } => Some(id),
            Seen::Answered { .. } => None,
        })
        .collect();
    sharing.taken.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| there.contains(&id));
    for one in all {
        take(sharing, one);
    }
}

/// Takes one in, if it is for this control.
pub(super) fn take(sharing: &Arc<Sharing>, (to, seen): (String, Seen)) {
    if to != sharing.name {
        return;
    }
    match seen {
        Seen::Answered { id, answered } => {
            let waiting = sharing.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if let Some(waiting) = waiting {
                // One that waits no more has told its caller.
                let _ = waiting.send(answered);
            }
        }
        Seen::Asked { id, asked } => {
            let mut taken = sharing.taken.lock().unwrap_or_else(PoisonError::into_inner);
            if taken.len() >= TAKEN_MAX {
                return tracing::warn!(session = %asked.session, "too many commands of other controls; one is not taken");
            }
            if taken.insert(id.clone()) {
                let sharing = Arc::clone(sharing);
                tokio::spawn(async move { carry_out(&sharing, &id, asked).await });
            }
        }
    }
}

/// A command is not in the store any more.
pub(super) fn gone(sharing: &Sharing, key: &str) {
    if let Some(Key::Command { id, .. }) = Key::parse(key) {
        sharing.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

async fn carry_out(sharing: &Sharing, id: &str, Asked { from, account, session, command }: Asked) {
    let outcome = match sharing.presence.command_here(account, session, command) {
        Ok(answer) => match timeout(Duration::from_secs(AGENT_SECS_MAX), answer).await {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(_)) => None,
            Err(_) => Some(CommandOutcome::Unanswered),
        },
        Err(_) => None,
    };
    if let Err(error) = put(sharing, &keys::answer(&from, id), &Answered { outcome }).await {
        tracing::warn!(%session, error = %ErrorChain(&error), "another control does not hear what became of its command");
    }
}

/// Writes a value that goes by itself.
async fn put(sharing: &Sharing, key: &str, value: &impl Serialize) -> Result<LeaseId, StoreError> {
    let lease = sharing.store.grant(Duration::from_secs(COMMAND_SECS)).await?;
    let _ = sharing.write(Txn::new().put_leased(key, record::encode(value), lease)).await?;
    Ok(lease)
}
