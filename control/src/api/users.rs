//! `/users`: the people of an account. They come in by invitation (`invitations`); here their role changes, they are
//! suspended, and they go. What they own stops with them.

use ebbgate_model::UserId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::failure::ApiError;
use super::given::body;
use super::reply::timestamp;
use super::resource::{self, Draft, Resource};
use super::routes::Routes;
use crate::people::{Role, members};
use crate::record::Stored;
use crate::record::people::Membership;
use crate::store::Txn;

/// A person of the account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct View {
    id: String,
    uri: String,
    /// Address, unique in the installation.
    email: String,
    /// `owner`, `admin` or `viewer`.
    role: String,
    /// Whether the person is suspended, here or by the operator: then keys, authtokens and sessions do not work.
    suspended: bool,
    /// Since when the person belongs to the account.
    created_at: String,
}

body! {
    /// People are invited, never created.
    Create as "UserCreate" {}
}

body! {
    /// Body of `PATCH /users/{id}`.
    Update as "UserUpdate" {
        /// `owner`, `admin` or `viewer`.
        role: String,
        /// Whether keys, authtokens and sessions of the person are to stop here.
        suspended: Option<bool>,
    }
}

pub(super) struct Users;

impl Resource for Users {
    const PATH: &'static str = "users";
    const NOUN: &'static str = "user";
    const ID_PREFIXES: &'static [&'static str] = &[UserId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const CHANGE_EXAMPLE: &'static str = r#"{"role": "admin"}"#;
    type Id = UserId;
    type Record = Membership;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &Membership) -> View {
        View {
            id: record.id.to_string(),
            uri: call.reference(Self::PATH, record.id).uri,
            email: record.email.to_string(),
            role: record.role.to_string(),
            suspended: !record.works(),
            created_at: timestamp(record.created_at),
        }
    }

    /// No route leads here.
    async fn create(_: &Call, _: &Create) -> Result<Draft<Membership>, ApiError> {
        Err(ApiError::bad(215, "people are invited: POST /invitations"))
    }

    async fn update(
        call: &Call,
        stored: &Stored<Membership>,
        body: &Update,
    ) -> Result<Draft<Membership>, ApiError> {
        let mut record = stored.record.clone();
        if let Some(role) = body.role.get() {
            record.role = parse_role(role)?;
        }
        match body.suspended.or_default() {
            Some(true) if record.suspended_at.is_none() => record.suspended_at = Some(call.app.now()),
            Some(false) => record.suspended_at = None,
            Some(true) | None => {}
        }
        let mut txn = Txn::new();
        if owns(&stored.record) && !owns(&record) {
            txn = keep_an_owner(call, &stored.record, txn).await?;
        }
        if stored.record.works() && !record.works() {
            txn = members::end_sessions(&*call.app.store, call.account, record.id, txn).await?;
        }
        Ok(Draft { txn, ..Draft::new(record) })
    }

    async fn delete(call: &Call, stored: &Stored<Membership>) -> Result<Txn, ApiError> {
        let (user, mut txn) = (stored.record.id, Txn::new());
        if owns(&stored.record) {
            txn = keep_an_owner(call, &stored.record, txn).await?;
        }
        Ok(members::leave(&*call.app.store, call.account, user, txn).await?)
    }

    async fn delete_damaged(call: &Call, user: UserId) -> Result<Txn, ApiError> {
        // It may be an owner's.
        let txn = members::keep_an_owner(&*call.app.store, call.account, user, Txn::new()).await?;
        let txn = txn.map_err(|last| ApiError::in_use(last.to_string()))?;
        Ok(members::leave(&*call.app.store, call.account, user, txn).await?)
    }
}

fn owns(membership: &Membership) -> bool {
    membership.role == Role::Owner && membership.works()
}

async fn keep_an_owner(call: &Call, leaving: &Membership, txn: Txn) -> Result<Txn, ApiError> {
    let kept = members::keep_an_owner(&*call.app.store, call.account, leaving.id, txn).await?;
    kept.map_err(|last| ApiError::in_use(format!("{}: {last}", leaving.email)))
}

pub(super) fn parse_role(text: &str) -> Result<Role, ApiError> {
    text.parse().map_err(|reason| ApiError::value("role", format_args!("it is `{text}`: {reason}")))
}

/// List, read, change and remove.
pub(super) fn routes() -> Routes {
    resource::listed::<Users>().merge(resource::change::<Users>()).merge(resource::removal::<Users>())
}
