//! The HTTP/1 codec (RFC 9112): bytes to messages and messages to bytes, for both sides of the edge.
//!
//! A head is parsed once, into the types of the `http` crate, which share the bytes that were read. Two parsers that
//! disagree about a message allow request smuggling, so a message with more than one reading is refused, and every message
//! is framed anew: chunk sizes are written again and chunk extensions are dropped. Sans-IO: no sockets, no clock. Does not
//! know routing, policies or HTTP/2.

mod authority;
mod body;
mod encode;
mod fields;
mod grammar;
mod limits;
mod refusal;
mod request;
mod response;

pub use authority::{Authority, AuthorityError};
pub use body::{BodyDecoder, BodyFraming, BodyPart};
pub(super) use encode::{
    Connection, chunk_size, interim_head, last_chunk, request_head, response_head, trailer_section,
};
pub(super) use grammar::{is_field_value, is_target, length};
pub use limits::{
    CHUNK_EXTENSION_BYTES_MAX, CHUNK_LINE_BYTES_MAX, EMPTY_LINES_MAX, FIELD_NAME_BYTES_MAX, FIELDS_MAX,
    HEAD_BYTES_MAX, INTERIM_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX, TRAILER_BYTES_MAX, TRAILERS_MAX,
};
pub use refusal::Refusal;
pub use request::{RequestDecoder, RequestHead, Spelling};
pub use response::{Asked, ResponseDecoder, ResponseHead, ResponseStep, STATUSES};
