//! Why a message broke off, on either side of an exchange.

use ebbgate_body::Defect;

use super::framing::Refusal;

/// Why a client's connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The codec refused.
    #[error("{0}")]
    Refused(Refusal),
    /// A head did not arrive in time.
    #[error("the request did not arrive in time")]
    HeadLate,
    /// A body stalled.
    #[error("the request body stalled")]
    BodyStalled,
    /// The client does not read.
    #[error("the visitor stopped reading")]
    WriteStalled,
    /// No further request came.
    #[error("no further request came")]
    Idle,
    /// The connection broke or ended inside a message.
    #[error("the visitor went away")]
    Gone,
}

/// Why a body broke off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyFault {
    /// The client's side.
    #[error("request body: {0}")]
    Visitor(Fault),
    /// The upstream's side.
    #[error("response body: {0}")]
    Upstream(String),
    /// Nothing moved either way for too long.
    #[error("nothing moved either way")]
    Idle,
    /// It has another length than its head says.
    #[error("a body of another length than its head says")]
    Length,
    /// It cannot be changed as a policy asks.
    #[error("a body that the policy changes: {0}")]
    Edit(Unedited),
}

/// Why a body is not changed to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unedited {
    /// It cannot be.
    #[error("{0}")]
    Defect(Defect),
    /// As much memory as may be is used for changing others.
    #[error("as much memory as may be is used for changing other bodies")]
    NoRoom,
    /// Changing it takes too much of the processor.
    #[error("changing it takes too long")]
    Slow,
}
