//! Bounds of a message.

/// Longest head (start line and header block) in bytes, either direction (surface.md section 3.8).
pub const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// Most header fields in one message.
pub const FIELDS_MAX: usize = 1_000;

/// Longest header name in bytes.
pub const FIELD_NAME_BYTES_MAX: usize = 256;

/// Longest request target in bytes: `http::Uri` holds no more than 65,534 with scheme and authority.
pub const TARGET_BYTES_MAX: usize = 63 * 1024;

/// Longest method in bytes.
pub const METHOD_BYTES_MAX: usize = 32;

/// Longest chunk-size line in bytes, extensions included.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Most bytes of chunk extensions in one body. Above it the sender is paying for nothing but our time.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Longest trailer section in bytes.
pub const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Most trailer fields.
pub const TRAILERS_MAX: usize = 64;

/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
pub const EMPTY_LINES_MAX: usize = 1;

/// Interim (1xx) responses of an upstream passed on before the final one.
pub const INTERIM_MAX: usize = 16;
