//! Owners of credentials and API keys: people, service users, or the account itself. A key that belongs to a service user is
//! no administrator: it acts for itself only. Nobody gives away more than the own role.

use ebbgate_model::OwnerId;
use http::StatusCode;

use super::call::Call;
use super::failure::ApiError;
use super::given::Given;
use crate::people::{Email, Role, members};
use crate::record::people::Membership;
use crate::record::{self, Record, ServiceUser};
use crate::store::Txn;

/// Whose a new object is to be.
#[derive(Debug)]
pub(super) struct Owner {
    /// None: the account's own.
    pub(super) id: Option<OwnerId>,
    /// The compare that keeps the owner from vanishing meanwhile.
    pub(super) txn: Txn,
    /// What an API key of this owner may do.
    role: Role,
}

/// The owner that `owner_id` (an id or an e-mail address) or `owner_email` names.
///
/// Without either it is the person or service user that calls, or the account itself.
pub(super) async fn resolve(
    call: &Call,
    owner_id: &Given<String>,
    owner_email: &Given<String>,
) -> Result<Owner, ApiError> {
    let (id, email) = (owner_id.or_default(), owner_email.or_default());
    let owner = match (id.is_empty(), email.is_empty()) {
        (true, true) => call.owner(),
        (false, true) if id.contains('@') => Some(by_email(call, "owner_id", &id).await?),
        (false, true) => Some(id.parse().map_err(|_| unknown("owner_id", &id))?),
        (true, false) => Some(by_email(call, "owner_email", &email).await?),
        (false, false) => {
            let message = "`owner_id` and `owner_email` both name the owner: give one of them";
            return Err(ApiError::bad(631, message).detail("field", "owner_email"));
        }
    };
    may_act_for(call, owner)?;
    match owner {
        None => Ok(Owner { id: None, txn: Txn::new(), role: Role::Owner }),
        Some(OwnerId::ServiceUser(user)) => {
            let stored = record::load::<ServiceUser>(&*call.app.store, call.account, user).await?;
            let stored = stored.ok_or_else(|| unknown("owner_id", &id))?;
            if !stored.record.active {
                let message = format!("the service user {user} is not active; activate it first");
                return Err(ApiError::bad(636, message));
            }
            let txn = Txn::new().if_unchanged(stored.record.key(), stored.modified);
            Ok(Owner { id: owner, txn, role: Role::Admin })
        }
        Some(OwnerId::User(user)) => {
            let stored = record::load::<Membership>(&*call.app.store, call.account, user).await?;
            let stored = stored.ok_or_else(|| unknown("owner_id", &user.to_string()))?;
            if !stored.record.works() {
                let message = format!("{} is suspended in this account", stored.record.email);
                return Err(ApiError::bad(636, message));
            }
            let txn = Txn::new().if_unchanged(stored.record.key(), stored.modified);
            Ok(Owner { id: owner, txn, role: stored.record.role })
        }
    }
}

/// The person of this account with an address. One who is elsewhere is as unknown as one who is nowhere.
async fn by_email(call: &Call, field: &str, text: &str) -> Result<OwnerId, ApiError> {
    let email: Email = text.parse().map_err(|reason| ApiError::value(field, reason))?;
    let user = members::user_by_email(&*call.app.store, &email).await?;
    user.map(|stored| OwnerId::User(stored.record.id)).ok_or_else(|| unknown(field, text))
}

impl Owner {
    /// Refuses an API key that could do more than the caller (code 630).
    pub(super) fn may_be_given_a_key(&self, call: &Call) -> Result<(), ApiError> {
        if self.role <= call.role() {
            return Ok(());
        }
        let whose = self.id.map_or_else(|| "the account itself".to_owned(), |id| id.to_string());
        let message = format!(
            "an API key of {whose} has the role `{}`, and {} is `{}`: nobody gives away more than the own role",
            self.role,
            call.principal,
            call.role()
        );
        Err(ApiError::new(StatusCode::FORBIDDEN, 630, message))
    }
}

/// Refuses a service user's key acting for anybody else (code 630).
pub(super) fn may_act_for(call: &Call, owner: Option<OwnerId>) -> Result<(), ApiError> {
    match call.owner() {
        Some(own @ OwnerId::ServiceUser(_)) if owner != Some(own) => {
            let message = format!("this API key belongs to {own} and may handle only what {own} owns");
            Err(ApiError::new(StatusCode::FORBIDDEN, 630, message))
        }
        _ => Ok(()),
    }
}

/// Refuses a service user's key managing service users (code 4111).
pub(super) fn may_administer(call: &Call) -> Result<(), ApiError> {
    match call.owner() {
        Some(own @ OwnerId::ServiceUser(_)) => {
            let message = format!(
                "this API key belongs to {own}; only people and the account's own keys manage service users"
            );
            Err(ApiError::new(StatusCode::FORBIDDEN, 4111, message))
        }
        _ => Ok(()),
    }
}

fn unknown(field: &str, given: &str) -> ApiError {
    let message = format!(
        "`{field}`: there is no service user and no person `{given}` in this account; make a service user with POST /service_users, invite a person with POST /invitations"
    );
    ApiError::bad(634, message).detail("field", field)
}
