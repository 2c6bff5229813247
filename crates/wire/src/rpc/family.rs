//! Which SDK a client is built on, and what the edge must do differently for it (wire.md §7).

/// A line of clients with the same habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Our own agent.
    Ebbgate,
    /// The Rust SDK, and Python, Node and Java which embed it.
    Rust,
    /// The Go SDK.
    Go,
    /// Anything else, treated with the Rust family's caution.
    Other,
}

impl Family {
    /// Reads the `UserAgent` of Auth, which applications cannot override.
    pub fn from_user_agent(user_agent: &str) -> Self {
        if user_agent.contains("ngrok-rust/") {
            Self::Rust
        } else if user_agent.contains("ngrok-go/") {
            Self::Go
        } else if user_agent.contains("ebbgate/") {
            Self::Ebbgate
        } else {
            Self::Other
        }
    }

    /// Streams the edge may have open towards one session: the Rust family tears the whole session down above 512
    /// (heartbeats and the client's own streams count), Go was seen to carry 520.
    pub fn in_flight_streams_max(self) -> usize {
        match self {
            Self::Rust | Self::Other => 480,
            Self::Go => 1_024,
            Self::Ebbgate => 4_000,
        }
    }
}
