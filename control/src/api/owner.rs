//! Owners of credentials and API keys. A key that belongs to a service user is no administrator: it acts for itself only.

use ebbgate_model::ServiceUserId;
use http::StatusCode;

use super::call::Call;
use super::failure::ApiError;
use super::given::Given;
use crate::record::{self, Record, ServiceUser};
use crate::store::Txn;

/// The service user an `owner_id` names, with the compare that keeps it from vanishing meanwhile.
///
/// Absent or empty means the caller's own service user, or the account itself.
pub(super) async fn resolve(
    call: &Call,
    given: &Given<String>,
) -> Result<(Option<ServiceUserId>, Txn), ApiError> {
    let given = given.or_default();
    let owner = if given.is_empty() { call.key.owner } else { Some(parse(&given)?) };
    may_act_for(call, owner)?;
    let Some(id) = owner else { return Ok((None, Txn::new())) };
    let stored = record::load::<ServiceUser>(&*call.app.store, call.account, id).await?;
    let stored = stored.ok_or_else(|| unknown(&given))?;
    if !stored.record.active {
        return Err(ApiError::bad(636, format!("the service user {id} is not active; activate it first")));
    }
    Ok((owner, Txn::new().if_unchanged(stored.record.key(), stored.modified)))
}

/// Refuses a service user's key acting for anybody else (code 630).
pub(super) fn may_act_for(call: &Call, owner: Option<ServiceUserId>) -> Result<(), ApiError> {
    match call.key.owner {
        Some(own) if owner != Some(own) => {
            let message = format!("this API key belongs to {own} and may handle only what {own} owns");
            Err(ApiError::new(StatusCode::FORBIDDEN, 630, message))
        }
        _ => Ok(()),
    }
}

/// Refuses a service user's key managing service users (code 4111).
pub(super) fn may_administer(call: &Call) -> Result<(), ApiError> {
    match call.key.owner {
        Some(own) => {
            let message =
                format!("this API key belongs to {own}; only the account's own keys manage service users");
            Err(ApiError::new(StatusCode::FORBIDDEN, 4111, message))
        }
        None => Ok(()),
    }
}

fn parse(text: &str) -> Result<ServiceUserId, ApiError> {
    text.parse().map_err(|_| unknown(text))
}

fn unknown(given: &str) -> ApiError {
    let message = format!(
        "`owner_id`: there is no service user `{given}` in this account; make one with POST /service_users"
    );
    ApiError::bad(634, message).detail("field", "owner_id")
}
