//! Request bodies as they arrive: content type, size, UTF-8. Codes 210, 212, 216 and 812.
//!
//! What a body says is read by `strict`.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};

use super::failure::ApiError;

/// Longest request body in bytes. A stored record, which holds the body's texts, may have 1 MiB.
pub(super) const BODY_BYTES_MAX: usize = 768 * 1024;

/// The text of a JSON body.
#[derive(Debug)]
pub(super) struct JsonText(pub(super) String);

impl<S: Sync> FromRequest<S> for JsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        read(request.into_body()).await.map(Self)
    }
}

/// The text of a JSON body that may be left out, as on the actions of a session: absent is `{}`.
#[derive(Debug)]
pub(super) struct OptionalJsonText(pub(super) String);

impl<S: Sync> FromRequest<S> for OptionalJsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let text = read(body).await?;
        if text.is_empty() {
            return Ok(Self("{}".to_owned()));
        }
        check_content_type(&parts.headers)?;
        Ok(Self(text))
    }
}

async fn read(body: Body) -> Result<String, ApiError> {
    let collected = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|e| {
        if e.is::<LengthLimitError>() {
            let message = format!("the request body is longer than {BODY_BYTES_MAX} bytes");
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, 812, message);
        }
        ApiError::bad(212, "the request body could not be read to its end; send it again")
    })?;
    String::from_utf8(Vec::from(collected.to_bytes())).map_err(|e| {
        ApiError::bad(213, format!("the body is not UTF-8 after byte {}", e.utf8_error().valid_up_to()))
    })
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::bad(
            216,
            "a request with a body needs the header `Content-Type: application/json`",
        ));
    };
    let text = value.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad(210, format!("the content type `{text}` is not supported; use `application/json`")))
}

/// Refuses a body on calls that take none. An empty object is taken for nothing.
#[derive(Debug)]
pub(super) struct NoBody;

impl<S: Sync> FromRequest<S> for NoBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let method = request.method().clone();
        let body = Limited::new(request.into_body(), EMPTY_BODY_BYTES_MAX).collect().await;
        match body.map(Collected::to_bytes) {
            Ok(bytes) if matches!(bytes.trim_ascii(), b"" | b"{}" | b"null") => Ok(Self),
            _ => Err(ApiError::bad(211, format!("this {method} call takes no body"))),
        }
    }
}

/// Bytes of a body that may still mean nothing.
const EMPTY_BODY_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::ErrorCode;

    #[test]
    fn content_types() {
        let check = |value: Option<&str>, expect: Option<u32>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            }
            let code = check_content_type(&headers).err().and_then(|e| e.code()).map(ErrorCode::number);
            assert_eq!(code, expect, "{value:?}");
        };
        check(Some("application/json"), None);
        check(Some("Application/JSON; charset=utf-8"), None);
        check(Some("application/json;charset=utf-8"), None);
        check(Some("text/plain"), Some(210));
        check(Some("application/jsonx"), Some(210));
        check(Some(""), Some(210));
        check(None, Some(216));
    }
}
