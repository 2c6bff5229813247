//! `Ended`: how a connection to the edge ended, or why there was none.

use std::time::Duration;

use crate::dial::DialError;
use crate::plan::Refusal;

/// How a connection ended, other than by being closed.
pub(super) enum Ended {
    /// It broke, or never came about.
    Lost(String),
    /// It never came about: the edge asks the agent to come again after this time.
    Busy { reason: String, retry_after: Duration },
    /// The edge refused Auth.
    Refused(Refusal),
    /// The edge asked for another connection. This one is served beside it until the edge ends it.
    Moved,
}

impl From<DialError> for Ended {
    fn from(error: DialError) -> Self {
        let reason = error.to_string();
        match error {
            DialError::Busy { retry_after, .. } => Self::Busy { reason, retry_after },
            _ => Self::Lost(reason),
        }
    }
}
