//! Rollout: a new policy of an endpoint goes to canary edges first. When they have kept it for a while the others get it; when
//! one of them refuses it, is lost, or answers too often with errors, all edges have the policy before again.
//!
//! Whether a change waits is decided where it is written ([`stage()`]), in the write's own transaction, and recorded with the
//! policy before: every control plans the same from the record, whenever it starts. `plan::overlay` is what edges see of
//! it, `push::Tallies` what they say of it, [`judge()`] what follows.

mod decide;
mod error;
mod judge;
mod operator;
mod settings;
mod stage;
mod waits;

pub use decide::{Canary, Decision, LOST_SECS, decide, decide_unseen, patience_secs};
pub use error::RolloutError;
pub use judge::judge;
pub use operator::{Done, pause, pause_all, resume, resume_all, status};
pub use settings::{SettingsChange, change_settings};
pub use stage::{ROLLOUTS_MAX, ROLLOUTS_OF_ACCOUNT_MAX, naming, stage};
pub use waits::waits;

#[cfg(test)]
mod tests;
