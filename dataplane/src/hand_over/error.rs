//! Why a hand-over does not come about. Knows no step of it.

use std::io;

/// Why a hand-over did not come about. The older process goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The program could not be started.
    #[error("cannot start {program}: {source}; name one that may be executed")]
    Start {
        /// Which.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// The sockets or the directory could not be given.
    #[error("cannot hand over: {0}")]
    Io(#[from] io::Error),
    /// The program ended before it could serve.
    #[error("{program} ended ({status}); what it said is in the log of the edge")]
    Ended {
        /// Which.
        program: String,
        /// How.
        status: String,
    },
    /// The other process, or the time.
    #[error("the other edge process: {0}")]
    Peer(String),
    /// The older process goes on.
    #[error("the edge process before goes on: {0}")]
    Refused(String),
    /// It is not the moment.
    #[error("{0}")]
    NotNow(&'static str),
}
