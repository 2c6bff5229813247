//! What one control asks of another, and the answer, as they stand in the store.

use ebbgate_model::feed::{CommandOutcome, SessionCommand};
use ebbgate_model::{AccountId, TunnelSessionId};
use serde::{Deserialize, Serialize};

/// What another control is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    /// Name of the control that asks.
    pub(super) from: String,
    pub(super) account: AccountId,
    pub(super) session: TunnelSessionId,
    pub(super) command: SessionCommand,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answered {
    /// What the agent said; None: the command did not come to the edge, or its feed broke.
    pub(super) outcome: Option<CommandOutcome>,
}
