//! The control process: the REST API, what it remembers, and the Programs it plans for edges.
//!
//! Data goes one way: `api` writes records to the `store`, `plan` turns a snapshot of them into a Program, `push` brings
//! it to edges. Control never sees traffic and needs no privilege.

pub mod access;
pub mod account;
pub mod acme;
pub mod admin;
pub mod alerts;
pub mod api;
pub mod app;
pub mod audit;
pub mod auth;
pub mod authority;
pub mod bundle;
pub mod check;
pub mod clock;
pub mod config;
mod counts;
pub mod csr;
pub mod dir;
pub mod disk;
pub mod engine;
pub mod error_chain;
pub mod events;
pub mod export;
pub mod file;
pub mod fleet;
pub mod holdings;
pub mod import;
pub mod init;
pub mod join;
pub mod leader;
pub mod listen;
pub mod metrics;
pub mod operator;
mod parallel;
pub mod people;
pub mod plan;
pub mod presence;
pub mod push;
pub mod record;
pub mod renew;
pub mod restore;
pub mod restriction;
pub mod rollout;
pub mod room;
pub mod rotate;
pub mod secret;
pub mod serve;
pub mod session_keys;
pub mod settings;
pub mod sharing;
pub mod snapshot;
pub mod store;
pub mod tenants;
pub mod visitors;

pub use app::{App, Settings};
