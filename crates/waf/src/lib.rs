//! The web application firewall: the OWASP Core Rule Set, run over heads and the start of bodies in a process of its own.
//!
//! [`protocol`] is what the edge and that process say to each other; the edge uses nothing else of this crate. [`Engine`] reads
//! the operator's rules and judges messages. Knows no accounts, no policies and no upstreams.

mod body;
pub mod confinement;
mod control;
mod decode;
mod engine;
mod error;
mod exceptions;
mod found;
mod message;
mod operator;
mod pattern;
mod program;
pub mod protocol;
mod rules;
mod run;
mod target;
mod text;
mod transform;
mod tx;
pub mod worker;

pub use engine::Engine;
pub use error::EngineError;
pub use rules::files;
