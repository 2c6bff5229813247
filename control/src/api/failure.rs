//! `ApiError`: every answer that is not a success (surface.md section 1.1, "Error body").
//!
//! An error is built where it is found and written where the response leaves: `front` renders the body, because only
//! there is the operation's id known. Nothing else in the API writes an error body.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use ebbgate_model::ErrorCode;
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::Serialize;
use utoipa::ToSchema;

use crate::record::RecordError;
use crate::store::StoreError;

/// Longest `msg` in bytes; peer input quoted in a message must not grow an answer without end.
pub(super) const MESSAGE_BYTES_MAX: usize = 4096;

/// Seconds after which a call that found no room is worth repeating.
const RETRY_SECS: u64 = 1;

/// A refusal or failure of one API call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: Option<ErrorCode>,
    message: String,
    details: BTreeMap<String, String>,
}

impl ApiError {
    /// An error with a published code.
    pub fn new(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Self {
            status,
            code: Some(ErrorCode::new(code)),
            message: shorten(message.into()),
            details: BTreeMap::new(),
        }
    }

    /// 400: the request must change before it can be served.
    pub fn bad(code: u32, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 400 with 215: one field of the body has a value that cannot be.
    pub fn value(field: &str, message: impl std::fmt::Display) -> Self {
        Self::bad(215, format!("`{field}`: {message}")).detail("field", field)
    }

    /// 409: the request is sound but something else stands in its way.
    pub fn conflict(code: u32, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 404, which carries no code: the object does not exist or belongs to somebody else.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::plain(StatusCode::NOT_FOUND, format!("Resource not found: {what}"))
    }

    /// An answer of the protocol itself, without a published code.
    pub fn plain(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: None, message: shorten(message.into()), details: BTreeMap::new() }
    }

    /// 409 without a published code: something still refers to the object.
    pub fn in_use(message: impl Into<String>) -> Self {
        Self::plain(StatusCode::CONFLICT, message)
    }

    /// 503: nothing is wrong with the request, and nothing was done.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 500: a fault of this process. What happened goes to the log, not to the caller.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "an API call failed");
        let message = "the server could not complete this call; its log says why, under the operation id";
        Self::plain(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Adds one entry to `details`.
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.insert(name.into(), shorten(value.into()));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The published code, absent for a plain 404 and for faults of the server.
    pub fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The body as clients read it.
    pub(super) fn body(&self, operation: &str) -> ErrorBody {
        let mut details = self.details.clone();
        details.insert("operation_id".into(), operation.into());
        ErrorBody {
            error_code: self.code.map(|code| code.to_string()),
            status_code: self.status.as_u16(),
            msg: self.message.clone(),
            details,
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} {code}: {}", self.status.as_u16(), self.message),
            None => write!(f, "{}: {}", self.status.as_u16(), self.message),
        }
    }
}

impl std::error::Error for ApiError {}

impl From<RecordError> for ApiError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Store(error) => error.into(),
            RecordError::Damaged { .. } => Self::internal(&error),
        }
    }
}

impl From<StoreError> for ApiError {
    /// Says what the caller can wait for or change; the rest is for the log.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { .. }
            | StoreError::ReadOnly { .. }
            | StoreError::Quota { .. }
            | StoreError::Unreachable { .. } => {
                tracing::error!(%error, "a change could not be stored");
                Self::unavailable(
                    "changes cannot be stored at the moment; the operator finds the reason in the log",
                )
            }
            StoreError::Unknown { .. } => {
                tracing::error!(%error, "whether a change was stored is not known");
                Self::unavailable(
                    "whether the change was made is not known; read the object before you repeat it",
                )
            }
            StoreError::Closed => Self::unavailable("the server is shutting down; try again"),
            StoreError::Busy => {
                Self::unavailable("too many changes wait to be stored; try again in a moment")
            }
            StoreError::TooLarge(limit) => {
                tracing::warn!(limit, "a change is larger than can be stored");
                Self::bad(
                    215,
                    "the object is larger than can be stored; make it smaller or name fewer objects",
                )
            }
            error => Self::internal(&error),
        }
    }
}

impl IntoResponse for ApiError {
    /// A bare response that carries the error; `front` writes the body.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECS.into());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What every error looks like.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// `ERR_NGROK_<n>`; absent when a resource does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// The HTTP status again.
    status_code: u16,
    /// A sentence for people.
    msg: String,
    /// `operation_id` and whatever helps to find the place.
    details: BTreeMap<String, String>,
}

/// Cuts a text at [`MESSAGE_BYTES_MAX`] without splitting a character.
fn shorten(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_a_code_except_for_404() {
        let json = |error: ApiError| serde_json::to_string(&error.body("op_x")).unwrap();
        assert_eq!(
            json(ApiError::conflict(446, "in use")),
            r#"{"error_code":"ERR_NGROK_446","status_code":409,"msg":"in use","details":{"operation_id":"op_x"}}"#
        );
        assert_eq!(
            json(ApiError::not_found("rd_1")),
            r#"{"status_code":404,"msg":"Resource not found: rd_1","details":{"operation_id":"op_x"}}"#
        );
    }

    #[test]
    fn messages_are_bounded() {
        let error = ApiError::bad(215, "é".repeat(MESSAGE_BYTES_MAX));
        assert!(error.message().len() <= MESSAGE_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn a_full_or_closing_store_is_no_fault_of_the_request() {
        let path = std::path::PathBuf::from("control.db");
        let status = |error: StoreError| ApiError::from(error).status().as_u16();
        assert_eq!(status(StoreError::Full { path: path.clone() }), 503);
        assert_eq!(status(StoreError::ReadOnly { path }), 503);
        assert_eq!(status(StoreError::Closed), 503);
        assert_eq!(status(StoreError::Busy), 503);
        let response = ApiError::from(StoreError::Busy).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(status(StoreError::TooLarge("a value has at most 1 MiB")), 400);
        assert_eq!(status(StoreError::DuplicateKey("/x".into())), 500);
    }
}
