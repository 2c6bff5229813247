//! Events: what happened, brought to where an account or the operator wants it.
//!
//! Audit events come from the audit log, traffic and session events from edges, alerts from control. A subscription chooses
//! by type, each destination has a spool and tasks of its own.

mod destination;
mod envelope;
pub mod gauges;
mod http;
mod hub;
mod net;
mod router;
mod routes;
pub mod secrets;
mod sessions;
pub mod sink;
mod spool;
mod start;
mod stats;
pub mod traffic;
pub mod types;

pub use envelope::Event;
pub use hub::Events;
pub use net::{Guard, tls_config};
pub use start::start;
pub use stats::{AllStats, Stats};
