//! The operator's call about how much an account may have.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::{Admin, AdminError};
use crate::api::object_limits;
use crate::record::{Account, Limits};

/// Name of the limit on all records together.
const MIB: &str = "mib";
/// Most MiB of one account.
const ACCOUNT_MIB_MAX: usize = 1 << 20;
/// Most objects of a collection.
const OBJECTS_MAX: usize = 100_000_000;

/// New limits by name; null: the default again.
#[derive(Deserialize)]
pub(super) struct Change(Map<String, Value>);

/// Changes the limits that are named, and gives all.
pub(super) async fn set(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let Change(wanted) = serde_json::from_slice(&body)?;
    let stored = admin.account(&id).await?;
    let mut limits = stored.record.limits.clone();
    for (name, value) in &wanted {
        change(&mut limits, name, value).map_err(AdminError::Limit)?;
    }
    let changed = Account { limits, ..stored.record.clone() };
    if changed != stored.record {
        admin.put_account(&stored, &changed).await?;
        tracing::info!(account = %changed.id, limits = ?changed.limits, "the operator changed what an account may have");
    }
    Ok(Json(json!({ "id": changed.id, "limits": shown(&changed.limits) })).into_response())
}

fn change(limits: &mut Limits, name: &str, value: &Value) -> Result<(), String> {
    let max = if name == MIB { ACCOUNT_MIB_MAX } else { OBJECTS_MAX };
    let number = match value {
        Value::Null => None,
        value => {
            let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= max);
            let wrong = || format!("`{name}` is {value}; it must be a whole number up to {max}, or null");
            Some(number.ok_or_else(wrong)?)
        }
    };
    if name == MIB {
        limits.bytes = number.map(|mib| mib << 20);
        return Ok(());
    }
    let known = object_limits();
    if !known.iter().any(|(collection, _)| *collection == name) {
        let names = known.iter().map(|(collection, _)| *collection).collect::<Vec<_>>().join(", ");
        return Err(format!("there is no limit `{name}`; limits are {MIB}, {names}"));
    }
    match number {
        Some(number) => limits.objects.insert(name.to_owned(), number),
        None => limits.objects.remove(name),
    };
    Ok(())
}

/// All limits that hold.
pub(super) fn shown(limits: &Limits) -> Value {
    let objects = object_limits().into_iter();
    let mut all: Map<String, Value> = objects
        .map(|(collection, default)| (collection.to_owned(), limits.objects(collection, default).into()))
        .collect();
    all.insert(MIB.into(), (limits.bytes() >> 20).into());
    all.into()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{call, text};
    use super::*;
    use crate::app::testing::Lab;
    use axum::http::StatusCode;

    #[tokio::test]
    async fn limits_are_set_shown_and_taken_back() {
        let lab = Lab::new().await;
        let path = format!("/accounts/{}/limits", lab.account);
        let shown = async || {
            let (_, shown) = call(&lab, "GET", &format!("/accounts/{}", lab.account), "operator", "").await;
            let limit = |name: &str| shown.pointer(&format!("/limits/{name}")).cloned().unwrap();
            (limit("endpoints"), limit("mib"))
        };
        assert_eq!(shown().await, (json!(1_000), json!(64)));
        let (status, _) = call(&lab, "POST", &path, "stranger", r#"{"endpoints":5}"#).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, _) = call(&lab, "POST", &path, "operator", r#"{"endpoints":1000000,"mib":2048}"#).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(shown().await, (json!(1_000_000), json!(2_048)));
        let (status, _) = call(&lab, "POST", &path, "operator", r#"{"endpoints":null}"#).await;
        assert_eq!((status, shown().await), (StatusCode::OK, (json!(1_000), json!(2_048))));
        for (body, names) in [
            (r#"{"endpoint":5}"#, "`endpoint`"),
            (r#"{"endpoints":-1}"#, "whole number"),
            (r#"{"endpoints":"5"}"#, "whole number"),
        ] {
            let (status, said) = call(&lab, "POST", &path, "operator", body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            assert!(text(&said, "error").contains(names), "{said}");
        }
        assert_eq!(shown().await, (json!(1_000), json!(2_048)), "refused as a whole");
    }
}
