//! Why a message is refused.

use http::StatusCode;

/// Why a message is refused. Nothing after it on the same connection can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// A line feed without carriage return.
    #[error("a line ends in a bare line feed")]
    BareLineFeed,
    /// A carriage return without line feed.
    #[error("a carriage return is not followed by a line feed")]
    BareCarriageReturn,
    /// A control byte in a head, chunk line or trailer.
    #[error("a control byte where only text may stand")]
    ControlByte,
    /// A head, field count or trailer section beyond its limit.
    #[error("the header block is too large")]
    HeadTooLarge,
    /// A target longer than [`TARGET_BYTES_MAX`](super::TARGET_BYTES_MAX).
    #[error("the request target is too long")]
    TargetTooLong,
    /// More empty lines before a request than [`EMPTY_LINES_MAX`](super::EMPTY_LINES_MAX).
    #[error("empty lines before the request line")]
    EmptyLines,
    /// A request line that is not `method SP target SP version`.
    #[error("the request line is malformed")]
    RequestLine,
    /// A method that is not a token.
    #[error("the method is not a token")]
    Method,
    /// CONNECT is not served.
    #[error("CONNECT is not served here")]
    Connect,
    /// A target of no known form, or with characters a URI cannot have.
    #[error("the request target is malformed")]
    Target,
    /// A well-formed version other than HTTP/1.1 and HTTP/1.0.
    #[error("only HTTP/1.1 and HTTP/1.0 are served on this connection")]
    Version,
    /// A status line that is not `HTTP/1.x SP 3DIGIT`.
    #[error("the status line is malformed")]
    StatusLine,
    /// A status outside 100 to 599 (RFC 9110 section 15).
    #[error("the status {0:03} is not one of HTTP")]
    Status(u16),
    /// A line that begins with white space (RFC 9112 section 5.2).
    #[error("a folded header line")]
    Folded,
    /// A name that is not a token, or white space around it.
    #[error("a header name is not a token")]
    FieldName,
    /// A name that reads like a framing header once `_` is taken for `-`.
    #[error("a header name imitates a framing header")]
    FieldNameImitation,
    /// Not exactly one Host.
    #[error("not exactly one Host header")]
    HostCount,
    /// A Host that is no host.
    #[error("the Host header is malformed")]
    Host,
    /// An absolute target that names another host than Host.
    #[error("the request target and the Host header disagree")]
    HostDisagrees,
    /// More than one Content-Length.
    #[error("more than one Content-Length")]
    LengthCount,
    /// A Content-Length that is not a plain number.
    #[error("Content-Length is not a plain number")]
    Length,
    /// More than one Transfer-Encoding, or one that is not exactly `chunked`.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    Coding,
    /// Both framings.
    #[error("both Content-Length and Transfer-Encoding")]
    BothFramings,
    /// A framing this message cannot have (Transfer-Encoding on 1xx, 204 or HTTP/1.0).
    #[error("this message cannot have that framing")]
    FramingNotAllowed,
    /// An Expect other than 100-continue.
    #[error("the expectation is not `100-continue`")]
    Expectation,
    /// A chunk-size line that is malformed or too long.
    #[error("a chunk-size line is malformed")]
    ChunkSize,
    /// Chunk extensions beyond their limits.
    #[error("too many bytes of chunk extensions")]
    ChunkExtensions,
    /// Chunk data not followed by CRLF.
    #[error("chunk data is longer than its size line says")]
    ChunkEnd,
    /// A trailer that may only stand in a head.
    #[error("a trailer field that may not be one")]
    Trailer,
    /// The message ended early.
    #[error("the message ended early")]
    Truncated,
    /// 101 without having asked, or another interim response than can be.
    #[error("an interim response out of place")]
    Interim,
}

impl Refusal {
    /// The status a visitor is answered with before the connection is closed.
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
