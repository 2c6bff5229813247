//! One lab for system tests, benches, the soak and `cargo xtask up`: control, edge and agents with all that stands around them.
//!
//! Knows the products as programs, flags and files, as an operator does. Imports none of their crates.

pub mod account;
pub mod agent;
pub mod api;
pub mod bpffs;
pub mod census;
pub mod clock;
pub mod etcd;
pub mod figures;
pub mod fleet;
pub mod flood;
pub mod guarded;
pub mod guide;
pub mod hand_over;
pub mod history;
pub mod hosts;
pub mod http;
pub mod kills;
pub mod lab;
pub mod linear;
pub mod machine;
pub mod mesh;
pub mod netns;
pub mod oidc;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod program;
pub mod random;
pub mod remote_edge;
pub mod replica;
pub mod rest;
pub mod scratch;
pub mod successor;
pub mod test_lab;
pub mod token;
pub mod turn;
pub mod up;
pub mod wait;
pub mod web;
pub mod workspace;
