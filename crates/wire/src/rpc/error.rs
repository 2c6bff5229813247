//! Why bytes are not the message they should be.

/// Why bytes are not the message they should be.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// More bytes than that without an end.
    #[error("message is longer than {0} bytes")]
    TooLong(usize),
    /// Nested deeper than that many levels.
    #[error("message is nested deeper than {0} levels")]
    TooDeep(usize),
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
    #[error("proxy header announces {announced} bytes, at most {bytes_max} are allowed")]
    ProxyHeaderLength {
        /// What the header says.
        announced: i64,
        /// The longest that is read.
        bytes_max: usize,
    },
}
