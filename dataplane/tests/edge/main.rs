//! The edge as a whole, below HTTP: visitors on loopback, agents that speak the real protocol, Programs put in force by
//! hand.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that goes wrong has failed")]

mod across_raw;
mod agents;
mod aside;
mod balancers;
mod drains;
mod feed;
mod handshakes;
mod health;
mod lab;
mod links;
mod owners;
mod peers;
mod pooling;
mod processes;
mod quic;
mod quic_agent;
mod raw;
mod refusals;
mod restrictions;
mod shared;
mod shortage;
mod streams;
mod tls;
mod web;
