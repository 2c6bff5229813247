//! Part of a list, and how clients read it.

use std::fmt::Display;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::call::Call;
use super::failure::ApiError;
use super::reply::{WARNING, json, warning_value};

/// Most warnings beside a list.
const WARNINGS_MAX: usize = 10;

/// Part of a list.
#[derive(Debug)]
pub(super) struct Listing<V, I> {
    /// The objects, newest first.
    pub(super) items: Vec<V>,
    /// The last one's id, when older ones exist.
    pub(super) next: Option<I>,
    /// Keys of objects among them that cannot be read.
    pub(super) damaged: Vec<String>,
}

/// A page as clients read it. `filters` is repeated in the next page's URL.
pub(super) fn list_reply<V: Serialize, I: Display>(
    call: &Call,
    path: &str,
    list_key: &str,
    listing: Listing<V, I>,
    limit: usize,
    filters: &str,
) -> Response {
    let next = listing.next.map(|id| format!("{}?before_id={id}&limit={limit}{filters}", call.uri(path)));
    let Ok(items) = serde_json::to_value(listing.items) else {
        return ApiError::internal(&"a list cannot be written as JSON").into_response();
    };
    let body: Map<String, Value> = [
        (list_key.to_owned(), items),
        ("uri".to_owned(), call.uri(path).into()),
        ("next_page_uri".to_owned(), next.into()),
    ]
    .into_iter()
    .collect();
    let mut response = json(StatusCode::OK, &body);
    for key in listing.damaged.iter().take(WARNINGS_MAX) {
        let id = key.rsplit('/').next().unwrap_or_default();
        let warning = format!(
            "{id} cannot be read and is not in this list: GET it for the reason, DELETE it to be rid of it"
        );
        response.headers_mut().append(WARNING, warning_value(&warning));
    }
    response
}
