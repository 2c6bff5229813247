//! Decoding rules shared by all messages: keys in any case, null as absent, and an oddly typed courtesy field as
//! absent too. Knows no message.

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::{Map, Value};

use super::error::RpcError;

/// Lower-cases the keys of an object, `depth` levels down. Of two keys that become one the later wins, as in the
/// decoders the original server was written with.
pub(super) fn fold_keys(value: Value, depth: usize) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, inner)| {
                    let inner = if depth > 1 { fold_keys(inner, depth - 1) } else { inner };
                    (key.to_ascii_lowercase(), inner)
                })
                .collect::<Map<_, _>>(),
        ),
        other => other,
    }
}

/// Decodes a message whose fields are declared in lower case.
pub(super) fn decode<T: DeserializeOwned>(
    message: &'static str,
    value: Value,
    depth: usize,
) -> Result<T, RpcError> {
    serde_json::from_value(fold_keys(value, depth)).map_err(|source| RpcError::Shape { message, source })
}

/// `null` means the default, as for an absent key.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// For fields that only inform: a value of an unexpected type is as good as none.
pub(super) fn courtesy<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + DeserializeOwned,
{
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}
