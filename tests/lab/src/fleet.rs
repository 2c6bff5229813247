//! `fleet`: three edges that joined, two controls, an etcd of three members and two agents, under load. Its parts are killed, cut
//! off from each other and upgraded; what visitors see of it is counted.
//!
//! As root each part has a machine of its own ([`crate::mesh`]), otherwise all are on this one, where nothing can be cut off.

mod load;
mod parts;
mod run;
mod tally;
mod upgrades;
mod upstream;
mod verb;

pub use load::Visitors;
pub use parts::{MACHINES, Part};
pub use run::{Kill, Partition, Run};
pub use tally::Seen;
pub use upgrades::{Bad, Upgrade};
pub use verb::{Args, run_verb};
