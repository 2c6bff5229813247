//! The web application firewall: the OWASP Core Rule Set, run over heads and the start of bodies in a process of its own.
//!
//! [`protocol`] is what the edge and that process say to each other; the edge uses nothing else of this crate. [`Engine`] reads
//! the operator's rules and judges messages. Knows no accounts, no policies and no upstreams.

pub mod confinement;
mod engine;
mod error;
mod pattern;
pub mod protocol;
mod rules;
mod text;
pub mod worker;

pub use engine::Engine;
pub use error::EngineError;
