//! `fleet`: three edges that joined, two controls, an etcd of three members and an agent on each carrier, under load. Its parts are
//! killed, cut off from each other and upgraded, and their clocks turned; what visitors see of it is counted.
//!
//! As root each part has a machine of its own ([`crate::mesh`]), otherwise all are on this one, where nothing can be cut off.

mod clocks;
mod load;
mod part;
mod parts;
mod run;
mod table;
mod tally;
mod upgrades;
mod upstream;
mod verb;

pub use clocks::WrongClock;
pub use load::Visitors;
pub use part::{Cut, MACHINES, Part};
pub use run::{Kill, Partition, Run};
pub use table::{Done, table};
pub use tally::Seen;
pub use upgrades::{Bad, Upgrade};
pub use verb::{Args, run_verb};
