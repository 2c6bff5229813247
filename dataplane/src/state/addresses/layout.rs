//! Where the layouts of MMDB files keep what policies name: `MaxMind`'s (City, Country, ASN), which `IP2Location`'s MMDB files share;
//! the flat one of ip-location-db; and our own names, for lists of an operator.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ebbgate_policy::ADDRESS_NAMES;
use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};
use serde_json::{Value, json};

/// Records that are looked at for the names a file has.
const SAMPLED_MAX: usize = 20_000;
/// Most categories of one address.
const CATEGORIES_MAX: usize = 64;

/// Places of one name, the first that has a value counts. A `-` leads to the last element of a list.
fn places(name: &str) -> &'static [&'static [&'static str]] {
    match name {
        "as.number" => &[&["autonomous_system_number"], &["as", "number"]],
        "as.organization" => &[&["autonomous_system_organization"], &["as", "organization"]],
        "categories" => &[&["categories"]],
        "geo.location.city" => &[&["city", "names", "en"], &["city"]],
        "geo.location.continent" => &[&["continent", "names", "en"], &["continent"]],
        "geo.location.country" => &[&["country", "names", "en"], &["country_name"]],
        "geo.location.country_code" => &[&["country", "iso_code"], &["country_code"]],
        "geo.location.is_eu" => &[&["country", "is_in_european_union"]],
        "geo.location.latitude" => &[&["location", "latitude"], &["latitude"]],
        "geo.location.longitude" => &[&["location", "longitude"], &["longitude"]],
        "geo.location.metro_code" => &[&["location", "metro_code"]],
        "geo.location.postal_code" => &[&["postal", "code"], &["postcode"]],
        "geo.location.radius" => &[&["location", "accuracy_radius"]],
        "geo.location.subdivision" => &[&["subdivisions", "-", "names", "en"], &["state1"]],
        "geo.location.timezone" => &[&["location", "time_zone"], &["timezone"]],
        "geo.registered_location.country" => &[&["registered_country", "names", "en"]],
        "geo.registered_location.country_code" => &[&["registered_country", "iso_code"]],
        "geo.registered_location.is_eu" => &[&["registered_country", "is_in_european_union"]],
        "is_on_blocklist" => &[&["is_on_blocklist"]],
        "is_tor_node" => &[&["is_tor_node"], &["is_tor_exit_node"], &["traits", "is_tor_exit_node"]],
        _ => &[],
    }
}

/// Fields that a file leaves out where they are false: what an address without them means.
fn is_flag(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.starts_with("is_"))
}

/// The value of a name for an address.
pub(super) fn value(reader: &Reader<Vec<u8>>, address: IpAddr, name: &str) -> Option<Value> {
    // An IPv6 address in a file of IPv4 alone is an error of the call; it is not in there.
    let result = reader.lookup(address).ok()?;
    if !result.has_data() {
        return None;
    }
    let found = places(name).iter().find_map(|place| {
        let path: Vec<PathElement> = place
            .iter()
            .map(|key| if *key == "-" { PathElement::IndexFromEnd(0) } else { PathElement::Key(key) })
            .collect();
        shaped(name, result.decode_path(&path).ok()??)
    });
    found.or_else(|| is_flag(name).then(|| json!(false)))
}

/// A value as policies see it. None: it is of another kind.
fn shaped(name: &str, value: Value) -> Option<Value> {
    match (name, value) {
        ("as.number", value) => {
            let number = value.as_u64().or_else(|| value.as_str()?.trim_start_matches("AS").parse().ok())?;
            Some(json!(number))
        }
        ("categories", Value::Array(items)) => {
            let texts = items.into_iter().filter(Value::is_string).take(CATEGORIES_MAX);
            Some(texts.collect())
        }
        ("categories", _) => None,
        (name, Value::Bool(flag)) if is_flag(name) => Some(json!(flag)),
        (name, Value::Number(number)) if is_flag(name) => Some(json!(number.as_u64()? != 0)),
        (name, _) if is_flag(name) => None,
        (_, Value::String(text)) if !text.is_empty() => Some(Value::String(text)),
        (_, Value::Number(number)) => Some(Value::String(number.to_string())),
        _ => None,
    }
}

/// The names that a file has, by the first [`SAMPLED_MAX`] of its records, and by what its layout may have for other addresses.
pub(super) fn names(reader: &Reader<Vec<u8>>) -> Result<BTreeSet<&'static str>, MaxMindDbError> {
    let mut names = BTreeSet::new();
    let (mut is_nested, mut is_city) = (false, false);
    for network in reader.networks(WithinOptions::default())?.take(SAMPLED_MAX) {
        let Some(record) = network?.decode::<Value>()? else { continue };
        is_nested |= record.pointer("/country/iso_code").is_some();
        is_city |= record.get("location").or(record.get("latitude")).is_some();
        let is_there = |name: &str| {
            let found = places(name).iter().filter_map(|place| inside(&record, place));
            found.into_iter().any(|value| shaped(name, value.clone()).is_some())
        };
        names.extend(ADDRESS_NAMES.iter().copied().filter(|name| is_there(name)));
    }
    let may_have = |name: &&&str| {
        let is_of_city = is_city && name.starts_with("geo.location.");
        let is_of_country = name.ends_with(".is_eu");
        // The flat layout has no maps.
        (is_of_city || is_of_country) && places(name).iter().any(|place| is_nested || place.len() == 1)
    };
    if names.contains("geo.location.country_code") {
        names.extend(ADDRESS_NAMES.iter().filter(may_have));
    }
    Ok(names)
}

fn inside<'v>(record: &'v Value, place: &[&str]) -> Option<&'v Value> {
    place.iter().try_fold(record, |value, key| match *key {
        "-" => value.as_array()?.last(),
        key => value.get(key),
    })
}
