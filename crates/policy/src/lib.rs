//! Traffic policy: text -> checked document -> compiled engine. The engine asks for effects and performs none.
//!
//! [`check`] judges a document when it is saved; [`Engine`] runs it, phase by phase, as a state machine that its caller
//! drives. No sockets, no clock, no randomness, no environment: everything a run depends on is in [`Context`].

pub mod action;
mod balancing;
mod certificate;
pub mod check;
mod code;
mod diagnostic;
pub mod diff;
mod document;
pub mod engine;
pub mod explain;
pub mod expr;
pub mod facts;
pub mod format;
mod hex;
pub mod identity;
mod json;
pub mod jwks;
pub mod lint;
mod node;
mod pattern;
mod prefix_set;
pub mod reference;
mod references;
mod restriction;
mod secret;
#[cfg(test)]
mod testing;
mod token;
pub mod trace;
mod trial;
mod verdict;
mod work;
mod yaml;

/// Texts whose values know their place, for other readers of strict JSON (the control API's request bodies), and policy
/// texts as plain values.
pub mod text {
    pub use crate::diagnostic::{Place, nearest};
    pub use crate::document::plain;
    pub use crate::json::parse as parse_json;
    pub use crate::node::{Key, Kind, Node, SyntaxError};
    pub use crate::yaml::parse_documents as parse_yaml_documents;
}

pub use balancing::{Balancing, StickyCookie, Strategy, WEIGHT_MAX};
pub use certificate::{may_be_a_client, name_and_serial};
pub use check::{CheckContext, Checked, Owner, check};
pub use diagnostic::Diagnostic;
pub use document::DOCUMENT_BYTES_MAX;
pub use engine::{Engine, Run};
pub use expr::ADDRESS_NAMES;
pub use facts::{
    AddressSource, AgentFacts, ConnFacts, Context, EndpointFacts, LateLog, MemberFacts, Phase, Received,
    TlsFacts, Traffic, is_event_stream,
};
pub use jwks::{JWKS_BYTES_MAX, KeySet, KeySetError};
pub use references::References;
pub use restriction::IpRestriction;
pub use secret::{SECRETS_MAX, SecretName, SecretValue};
pub use verdict::{
    BodyError, Breaker, Call, CallAnswer, CallError, Called, Effect, Inspected, Inspection, MatchedRule,
    OnError, Outcome, Quota, Reply, ServerCertificate, Step, TlsSettings, TlsVersion, Verdict, Verification,
};
pub use work::Work;
