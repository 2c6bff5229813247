//! `/app/users`: people who signed in at endpoints, by their identity provider. Deleting a person ends all sessions
//! of that person at once; nothing keeps the person from signing in again but the provider.

use ebbgate_model::AppUserId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::failure::ApiError;
use super::given::body;
use super::reply::timestamp;
use super::resource::{self, Draft, Resource};
use super::routes::Routes;
use crate::record::visitor::{AppSession, AppUser};
use crate::record::{self, Stored};
use crate::store::Txn;
use crate::visitors;

/// Sessions that one deletion ends.
const SESSIONS_MAX: usize = 50;

/// A person who signed in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppUser)]
pub(super) struct View {
    id: String,
    uri: String,
    /// The identity provider that knows the person.
    identity_provider: Provider,
    /// The person's id there.
    provider_user_id: String,
    /// Address; empty where the provider tells none that it has verified.
    email: String,
    /// Name; may be empty.
    name: String,
    created_at: String,
    /// When the person signed in last.
    last_login: String,
}

/// An identity provider.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppUserProvider)]
pub(super) struct Provider {
    /// Issuer, or name of a published provider.
    name: String,
}

body! {
    /// People come by signing in at an endpoint, and never change.
    Nothing as "AppUserNothing" {}
}

pub(super) struct AppUsers;

impl Resource for AppUsers {
    const PATH: &'static str = "app/users";
    const LIST_KEY: &'static str = "application_users";
    const NOUN: &'static str = "application user";
    const ID_PREFIXES: &'static [&'static str] = &[AppUserId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    type Id = AppUserId;
    type Record = AppUser;
    type View = View;
    type Create = Nothing;
    type Update = Nothing;

    fn view(call: &Call, record: &AppUser) -> View {
        View {
            id: record.id.to_string(),
            uri: call.reference(Self::PATH, record.id).uri,
            identity_provider: Provider { name: record.provider.clone() },
            provider_user_id: record.provider_user_id.clone(),
            email: record.email.clone(),
            name: record.name.clone(),
            created_at: timestamp(record.created_at),
            last_login: timestamp(record.seen_at),
        }
    }

    /// No route leads here.
    async fn create(_: &Call, _: &Nothing) -> Result<Draft<AppUser>, ApiError> {
        Err(ApiError::bad(215, "a person comes by signing in at an endpoint"))
    }

    /// No route leads here.
    async fn update(_: &Call, _: &Stored<AppUser>, _: &Nothing) -> Result<Draft<AppUser>, ApiError> {
        Err(ApiError::bad(215, "a person never changes"))
    }

    async fn delete(call: &Call, stored: &Stored<AppUser>) -> Result<Txn, ApiError> {
        let AppUser { account, id, .. } = stored.record;
        let sessions = visitors::of_user(&*call.app.store, account, id).await?;
        if sessions.len() > SESSIONS_MAX {
            let message = format!(
                "{id} has {} sessions, and one deletion ends {SESSIONS_MAX}: end some by DELETE /app/sessions/ID first",
                sessions.len()
            );
            return Err(ApiError::bad(215, message));
        }
        Ok(sessions.iter().fold(Txn::new(), |txn, session| {
            let txn = txn.delete(record::key::<AppSession>(account, session.id));
            visitors::end(txn, account, session.id, session.expires_at)
        }))
    }
}

/// List, read and delete.
pub(super) fn routes() -> Routes {
    resource::listed::<AppUsers>().merge(resource::removal::<AppUsers>())
}
