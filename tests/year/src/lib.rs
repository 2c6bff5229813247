//! A fleet in virtual time: a year of faults takes minutes. What agents, edges and control decide is their own code (`Edges`,
//! `Round`, `Plan`, `Turns`, `Presence`, `Directory`, routes and pools); the network, processes and clocks are made up here.
//!
//! Everything follows from a seed. What must always be so is in `checks`; docs/reliability.md says it for people.

#![expect(clippy::indexing_slicing, reason = "numbers of agents and edges are the simulation's own")]

mod capacity;
mod checks;
mod control;
mod dialling;
mod fault;
mod faults;
mod feeds;
mod ids;
mod report;
mod run;
mod said;
mod settings;
mod views;
mod witness;
mod world;

pub use checks::{BACK_SECS, PRESENCE_SECS};
pub use report::Report;
pub use run::{Violation, run};
pub use settings::{Broken, Settings};
