//! An edge gives what it listens on to a newer process, which serves in its place, so that an upgrade refuses and cuts nothing.
//!
//! The older process starts the newer one and speaks with it over a pair of sockets. `message` is what they say; `giving` and
//! `taking` decide what each does next and know no sockets; `channel` carries messages and descriptors; `give` and `take` do
//! what is decided; `start` starts the program; `door` is where an operator asks for it.
//!
//! Nothing changes before the older process says `go`: whatever ends before that, it goes on as if nothing had been. At `go`
//! neither accepts, and connections wait in the listeners' queues.

mod channel;
pub mod door;
pub mod edge_host;
mod give;
mod giving;
pub mod handed;
mod message;
pub mod start;
mod take;
mod taking;

pub use channel::{Channel, DESCRIPTORS_MAX};
pub use give::{Frozen, Given, Host, Stopped, done, give};
pub use message::{FORMAT, Item};
pub use take::{Hand, Prepared, Taken, failed, take};

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
    /// The other process, or the time.
    #[error("the other edge process: {0}")]
    Peer(String),
    /// It is not the moment.
    #[error("{0}")]
    NotNow(&'static str),
}
