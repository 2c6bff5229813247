//! The variables that a database of addresses fills: their names, and how they are read.
//!
//! Names are those below `conn.client_ip` and `conn.server_ip`; those of `conn.geo` are the client's `geo.location`. Does not
//! know databases: an [`AddressSource`](crate::AddressSource) answers by name.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::datum::{Datum, Kind};
use crate::facts::Context;

/// Every name that a database may fill, sorted.
pub const ADDRESS_NAMES: &[&str] = &[
    "as.number",
    "as.organization",
    "categories",
    "geo.location.city",
    "geo.location.continent",
    "geo.location.country",
    "geo.location.country_code",
    "geo.location.is_eu",
    "geo.location.latitude",
    "geo.location.longitude",
    "geo.location.metro_code",
    "geo.location.postal_code",
    "geo.location.radius",
    "geo.location.subdivision",
    "geo.location.timezone",
    "geo.registered_location.country",
    "geo.registered_location.country_code",
    "geo.registered_location.is_eu",
    "is_on_blocklist",
    "is_tor_node",
];

/// The names of `conn.geo`.
pub(super) const GEO_NAMES: &[&str] =
    &["city", "country", "country_code", "latitude", "longitude", "radius", "subdivision"];

/// Which end's address is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Client,
    Server,
}

pub(super) fn kind(name: &str) -> Kind {
    match name {
        "as.number" => Kind::Number,
        "categories" => Kind::List,
        _ if name.rsplit('.').next().is_some_and(|last| last.starts_with("is_")) => Kind::Bool,
        _ => Kind::Text,
    }
}

/// The address and the name that a path of the table stands for. None: it is no variable of a database.
pub(super) fn looked_up(path: &str) -> Option<(Whose, &'static str)> {
    let known = |name: &str| ADDRESS_NAMES.iter().find(|known| **known == name).copied();
    if let Some(name) = path.strip_prefix("conn.geo.") {
        let name = GEO_NAMES.contains(&name).then(|| format!("geo.location.{name}"))?;
        return Some((Whose::Client, known(&name)?));
    }
    if let Some(name) = path.strip_prefix("conn.client_ip.") {
        return Some((Whose::Client, known(name)?));
    }
    Some((Whose::Server, known(path.strip_prefix("conn.server_ip.")?)?))
}

/// The names that a path of the table, or of a group of it, stands for.
pub(super) fn below(path: &str) -> impl Iterator<Item = &'static str> {
    let inside = format!("{path}.");
    let is_inside = move |full: &str| full == inside.trim_end_matches('.') || full.starts_with(&inside);
    let of = |prefix: &'static str, names: &'static [&'static str]| {
        names.iter().map(move |name| (format!("{prefix}.{name}"), *name))
    };
    let geo = GEO_NAMES
        .iter()
        .filter_map(|name| Some((format!("conn.geo.{name}"), looked_up(&format!("conn.geo.{name}"))?.1)));
    let all = of("conn.client_ip", ADDRESS_NAMES).chain(of("conn.server_ip", ADDRESS_NAMES)).chain(geo);
    all.filter(move |(full, _)| is_inside(full)).map(|(_, name)| name)
}

/// What the databases say. None: nothing.
pub(super) fn found(whose: Whose, name: &'static str, cx: &Context) -> Option<Value> {
    let socket = match whose {
        Whose::Client => cx.conn.client,
        Whose::Server => cx.conn.server,
    };
    let ip: IpAddr = ebbgate_model::canonical_ip(socket.ip());
    let value = cx.addresses.as_ref()?.look_up(ip, name)?;
    let is_right = match kind(name) {
        Kind::Number => value.is_u64(),
        Kind::List => value.is_array(),
        Kind::Bool => value.is_boolean(),
        _ => value.is_string(),
    };
    is_right.then_some(value)
}

/// The value of a variable: what is found, or nothing of its kind.
pub(super) fn read<'c>(whose: Whose, name: &'static str, cx: &Context) -> Datum<'c> {
    match (found(whose, name, cx), kind(name)) {
        (Some(Value::String(text)), _) => Datum::Text(text.into()),
        (Some(Value::Bool(flag)), _) => Datum::Bool(flag),
        (Some(Value::Number(number)), _) => Datum::Int(number.as_i64().unwrap_or(0)),
        (Some(value), _) => Datum::Json(value),
        (None, Kind::Number) => Datum::Int(0),
        (None, Kind::Bool) => Datum::Bool(false),
        (None, Kind::List) => Datum::Json(json!([])),
        (None, _) => Datum::Text("".into()),
    }
}
