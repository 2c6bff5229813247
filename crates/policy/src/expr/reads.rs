//! How rows of the table of variables read a context: small steps that several rows share.

use std::borrow::Cow;

use http::header;
use serde_json::{Value, json};

use super::datum::Datum;
use super::query;
use crate::certificate::{certificate_json, tls_json};
use crate::facts::{Context, Event, MemberFacts, TlsFacts, Traffic};

pub(super) fn text<'c>(text: impl Into<String>) -> Datum<'c> {
    Datum::Text(Cow::Owned(text.into()))
}

pub(super) fn borrowed(text: &str) -> Datum<'_> {
    Datum::Text(Cow::Borrowed(text))
}

pub(super) fn bytes(cx: &Context, count: fn(&dyn Traffic) -> u64) -> Datum<'_> {
    let count = cx.conn.traffic.as_deref().map_or(0, count);
    Datum::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

pub(super) fn member(cx: &Context, field: fn(&MemberFacts) -> &String) -> Datum<'_> {
    borrowed(cx.endpoint.member.as_deref().map_or("", |member| field(member).as_str()))
}

pub(super) fn event(cx: &Context, field: fn(&Event) -> &String) -> Datum<'_> {
    borrowed(cx.event.as_ref().map_or("", |event| field(event).as_str()))
}

pub(super) fn tls_text(cx: &Context, field: fn(&TlsFacts) -> &String) -> Datum<'_> {
    borrowed(cx.conn.tls.as_deref().map_or("", |tls| field(tls).as_str()))
}

/// A field of the client's certificate; without one, empty text. Lists are told by their paths.
pub(super) fn client<'c>(cx: &Context, pointer: &str) -> Datum<'c> {
    let der = cx.conn.tls.as_deref().and_then(|tls| tls.client_chain.first());
    if pointer == "/pem" {
        return match (der, cx.conn.tls.as_deref()) {
            (Some(_), Some(tls)) => field(&tls_json(tls), "/client/pem"),
            _ => text(""),
        };
    }
    field(&certificate_json(der.map_or(&[], Vec::as_slice)), pointer)
}

pub(super) fn server<'c>(cx: &Context, pointer: &str) -> Datum<'c> {
    let der = cx.conn.tls.as_deref().map_or(&[][..], |tls| tls.server_leaf.as_slice());
    field(&certificate_json(der), pointer)
}

pub(super) fn field<'c>(json: &Value, pointer: &str) -> Datum<'c> {
    match json.pointer(pointer) {
        Some(Value::String(value)) => text(value.as_str()),
        Some(value) => Datum::Json(value.clone()),
        None if pointer.starts_with("/san/") && !pointer.ends_with("@text") || pointer == "/extensions" => {
            Datum::Json(json!([]))
        }
        None => text(""),
    }
}

pub(super) fn request_headers(cx: &Context) -> Option<&header::HeaderMap> {
    cx.request.as_ref().map(|request| &request.headers)
}

pub(super) fn response_headers(cx: &Context) -> Option<&header::HeaderMap> {
    cx.response.as_ref().map(|response| &response.headers)
}

pub(super) fn request_trailers(cx: &Context) -> Option<&header::HeaderMap> {
    cx.request_end.as_deref().map(|end| &end.trailers)
}

pub(super) fn response_trailers(cx: &Context) -> Option<&header::HeaderMap> {
    cx.response_end.as_deref().map(|end| &end.trailers)
}

pub(super) fn agent(cx: &Context) -> String {
    query::first(request_headers(cx), &header::USER_AGENT)
}

pub(super) fn now(cx: &Context) -> String {
    let nanos = i128::from(cx.now_unix_ms).saturating_mul(1_000_000);
    time::OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}
