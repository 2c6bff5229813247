//! The four type bytes at the head of every stream (wire.md §3).

use std::fmt;

use super::object::OBJECT_BYTES_MAX;

/// Number of [`StreamKind::Edges`]: "EBG" and 1, far from the numbers that the published protocol counts up.
const EDGES: u32 = 0x4542_4701;
/// Number of [`StreamKind::EndpointHealth`]: "EBG" and 2.
const ENDPOINT_HEALTH: u32 = 0x4542_4702;
/// Number of [`StreamKind::RawKey`]: "EBG" and 3.
const RAW_KEY: u32 = 0x4542_4703;
/// Bytes of a request that carries no policy.
const SHORT_REQUEST_BYTES_MAX: usize = 65_536;
/// Number of [`StreamKind::Move`], which is ours: far from those of the protocol.
const MOVE: u32 = 0x4542_0001;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Client: authenticate.
    Auth,
    /// Client: serve this endpoint through me.
    Bind,
    /// Client: stop serving it.
    Unbind,
    /// Server: one visitor's connection.
    Proxy,
    /// Server: restart yourself.
    Restart,
    /// Server: end yourself.
    Stop,
    /// Server: update yourself.
    Update,
    /// Client: serve connections with these labels (deprecated edges).
    StartTunnelWithLabel,
    /// Client: which region is this. Allowed before Auth.
    SrvInfo,
    /// Server: one endpoint of yours is over. No answer.
    StopTunnel,
    /// Client: change a served endpoint.
    PatchTunnelState,
    /// Client, ours alone: what checking an endpoint's upstream came to.
    EndpointHealth,
    /// Server: these are the other edges now. Ours alone, for a client that asked; no answer.
    Edges,
    /// Server: this process ends; connect anew and keep this session for what it carries. Only for clients that say `Moves`.
    Move,
    /// Between edges, ours alone: give me the key of raw connections beside this one.
    RawKey,
    /// Either: echo my nonces for ever.
    Heartbeat,
    /// A number the protocol does not define.
    Unknown(u32),
}

impl StreamKind {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::Auth => 0,
            Self::Bind => 1,
            Self::Unbind => 2,
            Self::Proxy => 3,
            Self::Restart => 4,
            Self::Stop => 5,
            Self::Update => 6,
            Self::StartTunnelWithLabel => 7,
            Self::SrvInfo => 8,
            Self::StopTunnel => 9,
            Self::PatchTunnelState => 10,
            Self::EndpointHealth => ENDPOINT_HEALTH,
            Self::Edges => EDGES,
            Self::Move => MOVE,
            Self::RawKey => RAW_KEY,
            Self::Heartbeat => u32::MAX,
            Self::Unknown(number) => number,
        }
    }

    /// Bytes a request of this kind may have. What anybody may ask before Auth is short.
    pub fn request_bytes_max(self) -> usize {
        match self {
            Self::Bind | Self::PatchTunnelState | Self::StartTunnelWithLabel => OBJECT_BYTES_MAX,
            _ => SHORT_REQUEST_BYTES_MAX,
        }
    }

    /// The kind with this number.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Auth,
            1 => Self::Bind,
            2 => Self::Unbind,
            3 => Self::Proxy,
            4 => Self::Restart,
            5 => Self::Stop,
            6 => Self::Update,
            7 => Self::StartTunnelWithLabel,
            8 => Self::SrvInfo,
            9 => Self::StopTunnel,
            10 => Self::PatchTunnelState,
            ENDPOINT_HEALTH => Self::EndpointHealth,
            EDGES => Self::Edges,
            MOVE => Self::Move,
            RAW_KEY => Self::RawKey,
            u32::MAX => Self::Heartbeat,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for StreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "unknown stream type {number}"),
            known => write!(f, "{known:?}"),
        }
    }
}
