//! What the verbs of `cargo xtask` are made of, and what the system tests start their labs with: processes, ports,
//! PostgreSQL clusters, a small HTTP client and server.
//!
//! Imports nothing of Ebbgate's own crates: it knows the products only as programs, flags and files, as an operator does.

pub mod admit;
pub mod api;
pub mod bench;
pub mod bpffs;
pub mod ci;
pub mod dist;
pub mod ebpf;
pub mod guarded;
pub mod hosts;
pub mod http;
pub mod lab;
pub mod netns;
pub mod openapi;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod rest;
pub mod soak;
pub mod test;
pub mod tidy;
pub mod token;
pub mod tools;
pub mod up;
pub mod wait;
pub mod web;
pub mod workspace;
