//! Groups of variables as maps, such as `conn.tls`.

use serde_json::{Map, Value, json};

use super::addresses;
use super::names::{self, VARIABLES};
use crate::certificate::tls_json;
use crate::facts::Context;

/// The variables of a group as a map. Where a path names a value and a group, the group is taken.
pub(super) fn group(path: &str, cx: &Context) -> Value {
    if path == "conn.tls" {
        return cx.conn.tls.as_ref().map_or_else(|| json!({}), |tls| tls_json(tls));
    }
    let mut root = Map::new();
    for variable in VARIABLES.iter() {
        let Some(rest) = variable.path.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        let in_phase = match variable.path.split('.').next() {
            // `conn` itself is what every edge knows.
            Some("conn") if path == "conn" && addresses::looked_up(variable.path).is_some() => false,
            Some("conn") => names::is_present(variable.path, cx),
            // `endpoint` itself is what every policy may read.
            Some("endpoint") => path != "endpoint" || !names::is_of_members(variable.path),
            _ => true,
        };
        if in_phase {
            insert(&mut root, rest, variable.value(cx).into());
        }
    }
    Value::Object(root)
}

fn insert(map: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            map.entry(path).or_insert(value);
        }
        Some((head, rest)) => {
            let slot = map.entry(head).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(inner) = slot {
                insert(inner, rest, value);
            }
        }
    }
}
