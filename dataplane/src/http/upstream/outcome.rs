//! What came of a request: the upstream's answer, or why there is none and whether it may be sent again.

use bytes::BytesMut;
use ebbgate_model::ErrorCode;
use http::{Method, Response, StatusCode};

use super::replay::ReplayBody;
use crate::http::answer::Failure;
use crate::http::body::Body;
use crate::http::fault::Fault;

/// What an upstream answered.
pub(in crate::http) enum Reply<S> {
    /// A response.
    Response(Response<Body>),
    /// It leaves HTTP: the 101, the stream, and bytes already read from it.
    Switched(Response<()>, S, BytesMut),
}

/// Why there is no answer.
#[derive(Debug)]
pub(in crate::http) struct SendError {
    /// The failure for the client if no other member answers.
    pub(in crate::http) failure: Failure,
    /// Whether it may be tried again, here or elsewhere.
    pub(in crate::http) again: Again,
}

/// Whether a request that failed may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Again {
    /// The upstream may have acted on it.
    No,
    /// Nothing came back, and the method may be repeated; a body only if no byte of it went out.
    Repeatable,
    /// No upstream has seen a byte of it.
    Unseen,
}

impl Again {
    /// What a method allows when nothing came back.
    pub(super) fn by(method: &Method) -> Self {
        if is_idempotent(method) { Self::Repeatable } else { Self::No }
    }

    /// Whether the request with this body may be sent again.
    pub(in crate::http) fn allows(self, body: &ReplayBody) -> bool {
        match self {
            Self::No => false,
            Self::Repeatable => body.is_whole(),
            Self::Unseen => body.is_kept(),
        }
    }

    /// Whether the request with this body may be sent again after a reused connection failed it. Most likely the upstream
    /// had closed the connection, so the body may be repeated too.
    pub(super) fn allows_after_reuse(self, body: &ReplayBody) -> bool {
        self != Self::No && body.is_kept()
    }
}

impl SendError {
    /// No stream could be opened.
    pub(in crate::http) fn not_opened(detail: String) -> Self {
        Self { failure: Failure::agent_stream(detail), again: Again::Unseen }
    }
}

/// Methods that may be sent twice (RFC 9110 section 9.2.2).
pub(in crate::http) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// The stream broke before an answer.
pub(super) fn lost(detail: &str, again: Again) -> SendError {
    let message = "The connection to the agent of this endpoint broke.";
    let failure = Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::AGENT_STREAM, message).because(detail);
    SendError { failure, again }
}

/// Nothing came from behind the agent.
pub(super) fn unreachable(again: Again) -> SendError {
    SendError { failure: Failure::upstream_unreachable(), again }
}

/// The answer is not HTTP.
pub(super) fn garbage(message: impl std::fmt::Display) -> SendError {
    let detail = format!("the upstream's answer is not valid HTTP: {message}");
    let message = "The upstream's answer is not valid HTTP.";
    let failure =
        Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::UPSTREAM_PROTOCOL, message).because(detail);
    SendError { failure, again: Again::No }
}

/// The upstream refused the connection, or this request on it (RFC 9113 sections 6.8 and 8.7).
pub(super) fn refused(detail: &str, again: Again) -> SendError {
    let message = "The upstream refused the connection.";
    let failure =
        Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::UPSTREAM_REFUSED, message).because(detail);
    SendError { failure, again }
}

/// The upstream reset the request, and may have acted on it.
pub(super) fn reset(detail: String) -> SendError {
    let message = "The upstream reset the request.";
    let failure = Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::UPSTREAM_RESET, message).because(detail);
    SendError { failure, again: Again::No }
}

/// The answer's status is none of HTTP's (RFC 9110 section 15).
pub(super) fn unknown_status(status: u16) -> SendError {
    let (code, message) = match status {
        0 => (ErrorCode::UPSTREAM_STATUS_ZERO, "The upstream answered with the status 000.".to_owned()),
        _ => (
            ErrorCode::UPSTREAM_STATUS,
            format!("The upstream answered with the unknown status {status:03}."),
        ),
    };
    SendError { failure: Failure::coded(StatusCode::BAD_GATEWAY, code, message), again: Again::No }
}

/// What a visitor is told of its own fault.
pub(in crate::http) fn fault_failure(fault: Fault) -> Failure {
    let status = match fault {
        Fault::Refused(refusal) => refusal.status(),
        Fault::HeadLate | Fault::BodyStalled => StatusCode::REQUEST_TIMEOUT,
        Fault::WriteStalled | Fault::Idle | Fault::Gone => StatusCode::BAD_REQUEST,
    };
    Failure::plain(status, format!("The request was not accepted: {fault}."))
}
