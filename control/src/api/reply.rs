//! Successful answers: objects, references, times and texts in the form clients read, and warnings beside them.

use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, HeaderValue};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::condition::EntityTag;
use super::failure::ApiError;
use crate::record::UnixSecs;

/// Header that carries one warning; a response may have several.
pub(super) const WARNING: HeaderName = HeaderName::from_static("ebbgate-warning");
/// Longest warning in a header, in bytes; the body has the whole text.
const WARNING_BYTES_MAX: usize = 1024;

/// A reference to another object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Ref {
    /// Identifier of the object.
    pub(super) id: String,
    /// Where it can be read.
    pub(super) uri: String,
}

/// An object created or changed.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) status: StatusCode,
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
    /// None: nothing was stored.
    pub(super) tag: Option<EntityTag>,
}

impl IntoResponse for Saved {
    fn into_response(mut self) -> Response {
        if let (false, Value::Object(object)) = (self.warnings.is_empty(), &mut self.object) {
            object.insert("warnings".into(), self.warnings.clone().into());
        }
        let mut response = json(self.status, &self.object);
        if let Some(tag) = &self.tag {
            response.headers_mut().insert(header::ETAG, tag.header());
        }
        for warning in &self.warnings {
            response.headers_mut().append(WARNING, warning_value(warning));
        }
        response
    }
}

/// A JSON response.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let content_type = HeaderValue::from_static("application/json");
            (status, [(header::CONTENT_TYPE, content_type)], bytes).into_response()
        }
        Err(e) => ApiError::internal(&e).into_response(),
    }
}

/// A text as a header value: what is not printable ASCII becomes `?`.
pub(super) fn warning_value(text: &str) -> HeaderValue {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let ascii: String = text.chars().take(WARNING_BYTES_MAX).map(printable).collect();
    HeaderValue::try_from(ascii).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// RFC 3339 in UTC with whole seconds.
pub(crate) fn timestamp(unix: UnixSecs) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_header_safe() {
        assert_eq!(warning_value("a\r\nX: b – c"), "a??X: b ? c");
        assert_eq!(warning_value(&"x".repeat(5000)).len(), WARNING_BYTES_MAX);
    }

    #[test]
    fn times_are_utc_seconds() {
        assert_eq!(timestamp(1_795_434_848), "2026-11-23T11:54:08Z");
        assert_eq!(timestamp(i64::MAX), "1970-01-01T00:00:00Z");
    }
}
