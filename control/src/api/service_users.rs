//! `/service_users` and `/bot_users`: one kind of record under its new and its old name. Either path takes ids of either
//! prefix and answers with its own.

use ebbgate_model::ServiceUserId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::failure::ApiError;
use super::given::body;
use super::owner;
use super::reply::timestamp;
use super::resource::{Draft, Resource};
use crate::record::{self, ApiKey, Credential, Holder, ServiceUser, Stored, index};
use crate::store::Txn;

/// Longest name in bytes (code 4110).
const NAME_BYTES_MAX: usize = 255;

/// A service user: an owner of credentials that is not a person.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ServiceUser)]
pub(super) struct View {
    id: String,
    uri: String,
    name: String,
    /// Whether its credentials and keys work.
    active: bool,
    created_at: String,
}

body! {
    /// Body of `POST /service_users`.
    Create as "ServiceUserCreate" {
        name: String,
        /// True unless given.
        active: Option<bool>,
    }
}

body! {
    /// Body of `PATCH /service_users/{id}`.
    Update as "ServiceUserUpdate" {
        name: String,
        active: Option<bool>,
    }
}

/// The resource under its new name (`BOT` false) or its old one.
pub(super) struct ServiceUsers<const BOT: bool>;

impl<const BOT: bool> Resource for ServiceUsers<BOT> {
    const PATH: &'static str = if BOT { "bot_users" } else { "service_users" };
    const NOUN: &'static str = "service user";
    const ID_PREFIXES: &'static [&'static str] = if BOT { &["bot", "service"] } else { &["service", "bot"] };
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["name"];
    const EXAMPLE: &'static str = r#"{"name": "clinic 1"}"#;
    const CHANGE_EXAMPLE: &'static str = r#"{"active": false}"#;
    type Id = ServiceUserId;
    type Record = ServiceUser;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &ServiceUser) -> View {
        let prefix = if BOT { "bot" } else { "service" };
        let id = format!("{prefix}_{}", record.id.ksuid());
        View {
            uri: call.reference(Self::PATH, &id).uri,
            id,
            name: record.name.clone(),
            active: record.active,
            created_at: timestamp(record.created_at),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<ServiceUser>, ApiError> {
        owner::may_administer(call)?;
        let name = body.name.or_default();
        check_name(&name)?;
        check_unique(call, &name).await?;
        let id = ServiceUserId::new(call.app.ksuid());
        let txn = record::take(Txn::new(), index::service_user_name(call.account, &name), call.account, id);
        let record = ServiceUser {
            id,
            account: call.account,
            name,
            active: body.active.or_default().unwrap_or(true),
            created_at: call.app.now(),
        };
        Ok(Draft { txn, ..Draft::new(record) })
    }

    async fn update(
        call: &Call,
        stored: &Stored<ServiceUser>,
        body: &Update,
    ) -> Result<Draft<ServiceUser>, ApiError> {
        owner::may_administer(call)?;
        let mut record = stored.record.clone();
        record.active = body.active.or_default().unwrap_or(record.active);
        let Some(name) = body.name.get() else { return Ok(Draft::new(record)) };
        check_name(name)?;
        let before = index::service_user_name(call.account, &record.name);
        let after = index::service_user_name(call.account, name);
        record.name.clone_from(name);
        if before == after {
            return Ok(Draft::new(record));
        }
        check_unique(call, name).await?;
        let txn = record::take(Txn::new().delete(before), after, call.account, record.id);
        Ok(Draft { txn, ..Draft::new(record) })
    }

    /// Refuses while credentials or keys belong to it: they would live on with no owner to switch them off.
    async fn delete(call: &Call, stored: &Stored<ServiceUser>) -> Result<Txn, ApiError> {
        owner::may_administer(call)?;
        let user = &stored.record;
        let unused = Self::delete_damaged(call, user.id).await?;
        Ok(unused.delete(index::service_user_name(call.account, &user.name)))
    }

    async fn delete_damaged(call: &Call, user: ServiceUserId) -> Result<Txn, ApiError> {
        let store = &*call.app.store;
        let credentials = record::list::<Credential>(store, call.account, None, None).await?;
        if let Some(owned) = credentials.items.iter().find(|c| c.record.owner == Some(user.into())) {
            return Err(still_owns(user, &owned.record.id));
        }
        let keys = record::list::<ApiKey>(store, call.account, None, None).await?;
        if let Some(owned) = keys.items.iter().find(|k| k.record.owner == Some(user.into())) {
            return Err(still_owns(user, &owned.record.id));
        }
        Ok(Txn::new()
            .if_none_newer(record::prefix::<Credential>(call.account), credentials.revision)
            .if_none_newer(record::prefix::<ApiKey>(call.account), keys.revision))
    }
}

fn still_owns(user: ServiceUserId, owned: &dyn std::fmt::Display) -> ApiError {
    ApiError::in_use(format!("the service user {user} still owns {owned}; delete what it owns first"))
}

fn check_name(name: &str) -> Result<(), ApiError> {
    if name.trim().is_empty() {
        return Err(ApiError::bad(4109, "`name`: a service user needs a name").detail("field", "name"));
    }
    if name.len() > NAME_BYTES_MAX {
        let message = format!("`name` has {} bytes; at most {NAME_BYTES_MAX} are allowed", name.len());
        return Err(ApiError::bad(4110, message).detail("field", "name"));
    }
    Ok(())
}

async fn check_unique(call: &Call, name: &str) -> Result<(), ApiError> {
    let key = index::service_user_name(call.account, name);
    match record::read::<Holder>(&*call.app.store, &key).await? {
        Some(holder) => {
            let message = format!("the service user {} already has the name `{name}`", holder.record.id);
            Err(ApiError::conflict(4112, message).detail("field", "name"))
        }
        None => Ok(()),
    }
}
