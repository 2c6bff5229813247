//! Index keys. A name is taken by creating its key in the same transaction as the object, `if_absent`.

use std::fmt::Write;

use ebbgate_model::{
    AccountId, ApiKeyId, CredentialId, EndpointId, EndpointUrl, Host, InvitationId, UserSessionId, VaultId,
};

/// All reserved domains of the installation. `if_none_newer` on it makes a check across names safe.
pub const DOMAINS_PREFIX: &str = "/u/domains/";
/// All custom connect names.
pub const INGRESSES_PREFIX: &str = "/u/ingresses/";
/// All index keys.
pub const PREFIX: &str = "/u/";
/// Where all cloud endpoints stand.
pub const URLS_PREFIX: &str = "/u/urls/";
/// All reserved ports.
pub const PORTS_PREFIX: &str = "/u/ports/";

/// `/u/domains/com.example.a.`: labels reversed, so that names below a domain share its prefix.
pub fn domain(host: &Host) -> String {
    format!("{DOMAINS_PREFIX}{}", reversed(host))
}

/// Same layout as [`domain`].
pub fn ingress(host: &Host) -> String {
    format!("{INGRESSES_PREFIX}{}", reversed(host))
}

/// The port as five digits.
pub fn port(port: u16) -> String {
    format!("{PORTS_PREFIX}{port:05}")
}

/// From the public half of a token to its account.
pub fn api_key(id: ApiKeyId) -> String {
    format!("/u/api_keys/{id}")
}

/// From the public half of an authtoken to its account.
pub fn credential(id: CredentialId) -> String {
    format!("/u/credentials/{id}")
}

/// All sessions of people.
pub const USER_SESSIONS_PREFIX: &str = "/u/user_sessions/";
/// All open invitations.
pub const INVITATIONS_PREFIX: &str = "/u/invitations/";

/// From the public half of a cookie to its account.
pub fn user_session(id: UserSessionId) -> String {
    format!("{USER_SESSIONS_PREFIX}{id}")
}

/// From the public half of an invitation's token to its account.
pub fn invitation(id: InvitationId) -> String {
    format!("{INVITATIONS_PREFIX}{id}")
}

/// Names of service users are unique in an account, whatever their case.
pub fn service_user_name(account: AccountId, name: &str) -> String {
    format!("/u/service_user_names/{account}/{}", name.to_lowercase())
}

/// Names of vaults are unique in an account.
pub fn vault_name(account: AccountId, name: &str) -> String {
    format!("/u/vault_names/{account}/{name}")
}

/// Names of secrets are unique in a vault.
pub fn secret_name(vault: VaultId, name: &str) -> String {
    format!("/u/secret_names/{vault}/{name}")
}

/// All cloud endpoints of the account on this URL: append the endpoint's id for one of them.
pub fn url(account: AccountId, url: &EndpointUrl) -> String {
    format!("{URLS_PREFIX}{account}/{}://{}/", url.scheme(), url.hostport())
}

/// The endpoint that a key made of [`url`] and its id names, with where it stands.
pub fn endpoint_at(key: &str) -> Option<(AccountId, EndpointUrl, EndpointId)> {
    let (account, place) = key.strip_prefix(URLS_PREFIX)?.split_once('/')?;
    let (url, id) = place.rsplit_once('/')?;
    Some((account.parse().ok()?, url.parse().ok()?, id.parse().ok()?))
}

/// All event subscriptions and destinations of the installation: each change of one writes its key anew, to be watched.
pub const EVENTS_PREFIX: &str = "/u/event_";

/// Of one subscription or destination.
pub fn event_object(collection: &str, account: AccountId, id: impl std::fmt::Display) -> String {
    format!("/u/{collection}/{account}/{id}")
}

/// The account that a key made by [`event_object`] names.
pub fn event_account(key: &str) -> Option<AccountId> {
    key.strip_prefix(EVENTS_PREFIX)?.split('/').nth(1)?.parse().ok()
}

fn reversed(host: &Host) -> String {
    host.as_str().rsplit('.').fold(String::new(), |mut key, label| {
        write!(key, "{label}.").expect("writing to a string succeeds");
        key
    })
}
