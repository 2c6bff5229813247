//! Whole-system tests: the real programs, real sockets on loopback, real PostgreSQL, real openssl and curl.
//!
//! Every test has a lab of its own in a temporary directory. Every wait looks at a real condition and has a deadline.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod first_hour;
mod issuer;
mod online;
mod psql;
mod service;
mod visitor;

mod access;
mod accounts;
mod acme;
mod api_clients;
mod apply;
mod backup;
mod bad_input;
mod bodies;
mod callouts;
mod chromium;
mod clinic;
mod corpus;
mod damage;
mod disk;
mod faults;
mod fleet;
mod health;
mod load_balancers;
mod people;
mod policy;
mod pool;
mod proofs;
mod recorded_calls;
mod replicas;
mod restart;
mod rollout;
mod schemathesis;
mod sdk;
mod secrets;
mod sign_in;
mod sinks;
mod site;
mod slips;
mod traffic;
mod traffic_events;
mod up;
mod upgrade;
mod upgrade_kills;
mod waf;
mod webhooks;
mod xdp;
