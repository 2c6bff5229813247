//! References to whoever made or changed an object: an API key or a service user.

use super::api_keys::ApiKeys;
use super::call::Call;
use super::reply::Ref;
use super::resource::Resource;
use super::service_users::ServiceUsers;

/// The reference to a caller by the id it had ([`Call::principal`]).
pub(super) fn reference(call: &Call, id: &str) -> Ref {
    let path = if id.starts_with("ak_") { ApiKeys::PATH } else { <ServiceUsers<true>>::PATH };
    call.reference(path, id)
}
