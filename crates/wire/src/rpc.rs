//! The messages of the agent protocol (wire.md §3-4): what they are called, and how JSON becomes them. Knows no I/O
//! and decides nothing about permissions.
//!
//! Keys are decoded whatever their case (Go says `Authtoken`, Rust `AuthToken`) and encoded in the one spelling every
//! client accepts.

mod auth;
mod bind;
mod error;
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
pub use error::RpcError;
pub use family::Family;
pub use kind::StreamKind;
pub use notice::{
    Edges, Empty, Outcome, PatchTunnelState, StartTunnelWithLabel, StartTunnelWithLabelReply, StopTunnel,
    Unbind, UnbindReply, Update,
};
pub use object::{OBJECT_BYTES_MAX, OBJECT_DEPTH_MAX, ObjectReader};
pub use options::{HeaderChanges, IpRestriction, SecurityOption, TlsTermination};
pub use proxy::{EdgeType, PROXY_HEADER_BYTES_MAX, ProxyHeader};
pub use secret::Secret;

/// The text of a failure as clients look for it: the code on a line of its own after an empty one.
pub fn error_text(message: &str, code: u32) -> String {
    format!("{message}\n\nERR_NGROK_{code}")
}

/// The code in such a text.
pub fn error_code(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("ERR_NGROK_")?.trim().parse().ok())
}
