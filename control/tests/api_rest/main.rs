//! The REST API as clients see it: requests through the whole router, records in a real SQLite store.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod arbitrary;
mod audit_page;
mod certificates;
mod concurrency;
mod conditional;
mod damage;
mod endpoints;
mod events;
mod front_door;
mod isolation;
mod kubernetes;
mod lab;
mod live;
mod matrix;
mod oidc;
mod oidc_provider;
mod openapi;
mod people;
mod persons;
mod resources;
mod restrictions;
mod rollout;
mod traffic_policy;
mod vaults;
