//! What the actions on bodies share: which messages have a body that may be changed, and what their heads say then.
//!
//! An action writes what is to be done into the head's extensions, as [`Edits`]; what carries the body out does it. So a head
//! that is thrown away takes its edits with it.

use std::sync::Arc;

use ebbgate_body::{CODINGS_MAX, Edit, Edits, EventRules, codings_of};
use ebbgate_model::ErrorCode;
use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED,
};
use http::{Extensions, Method, StatusCode, response};

use crate::code;
use crate::facts::Context;

/// Digests of a body that is another one now (RFC 9530, RFC 3230, RFC 1864).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// Whether the phase's response has a whole body: not that of HEAD, 1xx, 204, 205 or 304, and no range.
pub(super) fn is_whole(cx: &Context, response: &response::Parts) -> bool {
    let head = cx.request.as_ref().is_some_and(|request| request.method == Method::HEAD);
    let status = response.status;
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let partial = status == StatusCode::PARTIAL_CONTENT || response.headers.contains_key(CONTENT_RANGE);
    let empty = response.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    !head && !bodiless && !partial && !empty
}

/// The edits of a message, begun from its head if there are none yet.
pub(super) fn edits<'e>(
    headers: &HeaderMap,
    extensions: &'e mut Extensions,
) -> Result<&'e mut Edits, (ErrorCode, String)> {
    if extensions.get::<Edits>().is_none() {
        let values = headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
        let codings = codings_of(values).map_err(|error| (code::BODY_CODING_UNKNOWN, error.to_string()))?;
        if codings.len() > CODINGS_MAX {
            return Err((code::BODY_CODING_UNKNOWN, format!("the body has more than {CODINGS_MAX} codings")));
        }
        extensions.insert(Edits::of(codings));
    }
    Ok(extensions.get_or_insert_default::<Edits>())
}

/// Has the rules judge each event of a response with all of its body. Its head then says nothing of the content.
pub(crate) fn judge_events(cx: &mut Context, rules: Arc<dyn EventRules>) -> Result<(), (ErrorCode, String)> {
    let Some(mut response) = cx.response.take() else { return Ok(()) };
    let judged = if is_whole(cx, &response) {
        let edits = edits(&response.headers, &mut response.extensions);
        edits
            .map(|edits| edits.push(Edit::JudgeEvents(rules)))
            .map(|()| forget_content(&mut response.headers))
    } else {
        Ok(())
    };
    cx.response = Some(response);
    judged
}

/// Removes what a head says of the bytes of a body that are others now.
pub(super) fn forget_bytes(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    for digest in DIGESTS {
        headers.remove(HeaderName::from_static(digest));
    }
}

/// Removes what a head says of a content that is another one now.
pub(super) fn forget_content(headers: &mut HeaderMap) {
    forget_bytes(headers);
    headers.remove(ETAG);
    headers.remove(LAST_MODIFIED);
}

#[cfg(test)]
mod tests;
