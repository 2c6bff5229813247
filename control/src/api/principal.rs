//! References to whoever made or changed an object: an API key, a user or a service user.

use ebbgate_model::{ApiKeyId, UserId};

use super::api_keys::ApiKeys;
use super::call::Call;
use super::reply::Ref;
use super::resource::Resource;
use super::service_users::ServiceUsers;
use super::users::Users;

/// The reference to a caller by the id it had ([`Call::principal`]).
pub(super) fn reference(call: &Call, id: &str) -> Ref {
    let path = match id.split_once('_') {
        Some((ApiKeyId::PREFIX, _)) => ApiKeys::PATH,
        Some((UserId::PREFIX, _)) => Users::PATH,
        _ => <ServiceUsers<true>>::PATH,
    };
    call.reference(path, id)
}
