//! An edge gives what it listens on to a newer process, which serves in its place, so that an upgrade refuses and cuts nothing.
//!
//! The older process starts the newer one and speaks with it over a pair of sockets. `message` is what they say; `giving` and
//! `taking` decide what each does next and know no sockets; messages and descriptors go over a [`Channel`]; `give` and `take` do
//! what is decided; `start` starts the program; `door` is where an operator asks for it.
//!
//! Nothing changes before the older process says `go`: whatever ends before that, it goes on as if nothing had been. At `go`
//! neither accepts, and connections wait in the listeners' queues.

pub mod door;
pub mod edge_host;
mod error;
mod give;
mod giving;
pub mod handed;
mod message;
pub mod start;
mod take;
mod taking;
pub mod upgrade;

pub use crate::net::channel::{Channel, DESCRIPTORS_MAX};
pub use error::HandOverError;
pub use give::{Frozen, Given, Host, Stopped, done, give};
pub use message::{FORMAT, Item};
pub use take::{Hand, Prepared, Taken, failed, take};
