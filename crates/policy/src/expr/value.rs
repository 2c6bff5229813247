//! Values at the evaluator's border: JSON in, JSON out, and how large a value is.

use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelMapKey, CelNull, CelOptional,
    CelString, CelTimestamp, CelUInt,
};
use cel::common::value::Val;
use serde_json::{Map, Value};

/// A borrowed value.
pub(super) type Ref<'b, 'v> = &'b (dyn Val + 'v);
/// An owned value.
pub(super) type Owned<'v> = Box<dyn Val + 'v>;

pub(super) fn as_bool(value: Ref) -> Option<bool> {
    value.downcast_ref::<CelBool>().map(|b| *b.inner())
}

pub(super) fn type_name(value: Ref) -> String {
    value.get_type().name().to_owned()
}

pub(super) fn text<'v>(text: impl Into<String>) -> Owned<'v> {
    Box::new(CelString::from(text.into()))
}

pub(super) fn list(items: Vec<Owned>) -> Owned {
    Box::new(CelList::from(items))
}

pub(super) fn int<'v>(number: i64) -> Owned<'v> {
    Box::new(CelInt::from(number))
}

/// JSON as a value. Whole numbers become ints, others doubles.
pub(super) fn from_json<'v>(json: &Value) -> Owned<'v> {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => int(number),
            None => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(string) => text(string.as_str()),
        Value::Array(items) => list(items.iter().map(from_json).collect()),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (key_of(key.clone()), from_json(value)));
            Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
        }
    }
}

pub(super) fn key_of<'v>(key: String) -> CelMapKey<'v> {
    CelMapKey::String(CelString::from(key))
}

/// A value as JSON: keys sorted, bytes as base64, times as RFC 3339, absent optionals and functions' own types as null.
pub(super) fn to_json(value: Ref) -> Value {
    if let Some(string) = value.downcast_ref::<CelString>() {
        return Value::String(string.inner().to_owned());
    }
    if let Some(b) = value.downcast_ref::<CelBool>() {
        return Value::Bool(*b.inner());
    }
    if let Some(number) = value.downcast_ref::<CelInt>() {
        return Value::from(*number.inner());
    }
    if let Some(number) = value.downcast_ref::<CelUInt>() {
        return Value::from(*number.inner());
    }
    if let Some(number) = value.downcast_ref::<CelDouble>() {
        return Value::from(*number.inner());
    }
    if let Some(items) = value.downcast_ref::<CelList>() {
        return Value::Array(items.inner().iter().map(|item| to_json(item.as_ref())).collect());
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        let mut entries: Vec<_> =
            map.inner().iter().map(|(key, value)| (key_text(key), to_json(value.as_ref()))).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        return Value::Object(entries.into_iter().collect::<Map<_, _>>());
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        use base64::Engine as _;
        return Value::String(base64::engine::general_purpose::STANDARD.encode(bytes.inner()));
    }
    other_json(value)
}

fn other_json(value: Ref) -> Value {
    if let Some(optional) = value.downcast_ref::<CelOptional>() {
        return optional.inner().map_or(Value::Null, to_json);
    }
    if let Some(time) = value.downcast_ref::<CelTimestamp>() {
        return Value::String(time.inner().to_rfc3339());
    }
    if let Some(duration) = value.downcast_ref::<CelDuration>() {
        let duration = duration.inner();
        let nanos = duration.subsec_nanos().unsigned_abs();
        let sign = if *duration < chrono::Duration::zero() && duration.num_seconds() == 0 { "-" } else { "" };
        let fraction = if nanos == 0 {
            String::new()
        } else {
            format!(".{}", format!("{nanos:09}").trim_end_matches('0'))
        };
        return Value::String(format!("{sign}{}{fraction}s", duration.num_seconds()));
    }
    super::address::text_of(value).map_or(Value::Null, Value::String)
}

/// A map key as text.
pub(super) fn key_text(key: &CelMapKey) -> String {
    match key {
        CelMapKey::Bool(b) => b.inner().to_string(),
        CelMapKey::Int(number) => number.inner().to_string(),
        CelMapKey::UInt(number) => number.inner().to_string(),
        CelMapKey::String(string) => string.inner().to_owned(),
    }
}

/// A map key as a value.
pub(super) fn key_value<'v>(key: &CelMapKey) -> Owned<'v> {
    match key {
        CelMapKey::Bool(b) => Box::new(CelBool::from(*b.inner())),
        CelMapKey::Int(number) => Box::new(CelInt::from(*number.inner())),
        CelMapKey::UInt(number) => Box::new(CelUInt::from(*number.inner())),
        CelMapKey::String(string) => text(string.inner()),
    }
}

/// How large a value is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes it occupies, roughly.
    pub(super) bytes: u64,
    /// Its parts, all levels together: one for an element of a list, two for an entry of a map.
    pub(super) nodes: u64,
}

/// The extent of a value; counting stops beyond `enough` bytes.
pub(super) fn extent(value: Ref, enough: u64) -> Extent {
    let mut extent = Extent::default();
    measure(value, enough, &mut extent);
    extent
}

fn measure(value: Ref, enough: u64, extent: &mut Extent) {
    const SCALAR: u64 = 16;
    const ENTRY: u64 = 32;
    let long = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    extent.bytes = extent.bytes.saturating_add(SCALAR);
    if let Some(string) = value.downcast_ref::<CelString>() {
        extent.bytes = extent.bytes.saturating_add(long(string.inner().len()));
    } else if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        extent.bytes = extent.bytes.saturating_add(long(bytes.inner().len()));
    } else if let Some(items) = value.downcast_ref::<CelList>() {
        for item in items.inner() {
            extent.bytes = extent.bytes.saturating_add(SCALAR);
            extent.nodes += 1;
            measure(item.as_ref(), enough, extent);
            if extent.bytes > enough {
                break;
            }
        }
    } else if let Some(map) = value.downcast_ref::<CelMap>() {
        for (key, value) in map.inner() {
            let key = if let CelMapKey::String(key) = key { long(key.inner().len()) } else { 0 };
            extent.bytes = extent.bytes.saturating_add(ENTRY + SCALAR).saturating_add(key);
            extent.nodes += 2;
            measure(value.as_ref(), enough, extent);
            if extent.bytes > enough {
                break;
            }
        }
    } else if let Some(inner) = value.downcast_ref::<CelOptional>().and_then(CelOptional::inner) {
        measure(inner, enough, extent);
    }
}

/// Parts of a JSON value, all levels together, for what turning it into a value costs.
pub(super) fn json_nodes(json: &Value) -> u64 {
    match json {
        Value::Array(items) => items.iter().map(|item| 1 + json_nodes(item)).sum(),
        Value::Object(map) => map.values().map(|value| 2 + json_nodes(value)).sum(),
        _ => 1,
    }
}
