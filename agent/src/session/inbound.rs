//! What a program that embeds the agent asks of its connections.

/// What comes before the bytes that a program gets.
#[derive(Debug, Clone, Default)]
pub struct Inbound {
    /// The edge puts a PROXY header in front, which is taken off.
    pub proxy_header: bool,
    /// The visitor's TLS ends in the agent.
    pub termination: Option<crate::terminate::Terminator>,
}
