//! The messages of the agent protocol (wire.md §3-4): what they are called, and how JSON becomes them. Knows no I/O
//! and decides nothing about who may do what.
//!
//! Keys are decoded whatever their case (Go says `Authtoken`, Rust `AuthToken`) and encoded in the one spelling every
//! client accepts.

mod auth;
mod bind;
mod family;
mod fold;
mod kind;
mod notice;
mod object;
mod options;
mod proxy;
mod secret;

pub use auth::{Auth, AuthExtra, AuthReply, AuthReplyExtra, CarrierOffer, ConnectAddress, SrvInfo};
pub use bind::{Bind, BindError, BindExtra, BindReply, BindReplyExtra, Opts, ProxyProtocol, Requested};
pub use family::Family;
pub use kind::StreamKind;
pub use notice::{
    Empty, Outcome, PatchTunnelState, StartTunnelWithLabel, StartTunnelWithLabelReply, StopTunnel, Unbind,
    UnbindReply, Update,
};
pub use object::ObjectReader;
pub use options::{HeaderChanges, IpRestriction, SecurityOption, TlsTermination};
pub use proxy::{EdgeType, PROXY_HEADER_BYTES_MAX, ProxyHeader};
pub use secret::Secret;

/// Bytes of one JSON object; traffic policies travel in them.
pub const OBJECT_BYTES_MAX: usize = 1 << 20;
/// Nesting of one JSON object.
pub const OBJECT_DEPTH_MAX: usize = 32;

/// Why bytes are not the message they should be.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// More bytes than that without an end.
    #[error("message is longer than {0} bytes")]
    TooLong(usize),
    /// Nested deeper than [`OBJECT_DEPTH_MAX`].
    #[error("message is nested deeper than {OBJECT_DEPTH_MAX} levels")]
    TooDeep,
    /// Does not begin with `{`.
    #[error("message is not a JSON object")]
    NotAnObject,
    /// Not JSON.
    #[error("message is not JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// A field of the wrong type, or a required one missing.
    #[error("{message} message is malformed: {source}")]
    Shape {
        /// The message's name.
        message: &'static str,
        /// What serde found.
        source: serde_json::Error,
    },
    /// A proxy header of an impossible length.
    #[error("proxy header announces {0} bytes, at most {PROXY_HEADER_BYTES_MAX} are allowed")]
    ProxyHeaderLength(i64),
}

/// The text of a failure as clients look for it: the code on a line of its own after an empty one.
pub fn error_text(message: &str, code: u32) -> String {
    format!("{message}\n\nERR_NGROK_{code}")
}

/// The code in such a text.
pub fn error_code(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("ERR_NGROK_")?.trim().parse().ok())
}
