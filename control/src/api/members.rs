//! Pages of objects that belong to another: the secrets of a vault, the endpoints of an operator.

use std::fmt::Display;

use axum::response::Response;
use serde_json::Value;

use super::call::Call;
use super::failure::ApiError;
use super::filter::{Budget, Filter};
use super::listing::{Listing, list_reply};
use super::page::{PAGE_PARAMETERS, Page};
use super::query::Query;

/// Where a list stands, and the key of its array.
pub(super) struct Place {
    /// Path below the root.
    pub(super) path: String,
    pub(super) list_key: &'static str,
}

/// The page that a query asks for, of all members as clients read them.
pub(super) fn page<I: Ord + Copy + Display>(
    call: &Call,
    query: Option<&str>,
    place: &Place,
    parse: impl Fn(&str) -> Result<I, ApiError>,
    members: Vec<(I, Value)>,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.unwrap_or(""), &PAGE_PARAMETERS, &[])?;
    let page = Page::parse(&query, parse)?;
    let filter = query.one("filter").map(Filter::parse).transpose()?;
    let mut budget = Budget::new();
    let mut kept = Vec::with_capacity(members.len());
    for (id, view) in members {
        if filter.as_ref().map_or(Ok(true), |filter| filter.keeps(&view, call.app.now(), &mut budget))? {
            kept.push((id, view));
        }
    }
    let (shown, next) = page.cut(kept, |(id, _)| *id);
    let items = shown.into_iter().map(|(_, view)| view).collect();
    let listing: Listing<Value, I> = Listing { items, next, damaged: Vec::new() };
    Ok(list_reply(call, &place.path, place.list_key, listing, page.limit, &query.again(&["filter"])))
}
