//! Secrets and the traffic policies that name them: a secret outlives the policies that name it, under its name.

use std::collections::BTreeSet;

use ebbgate_model::SecretId;
use ebbgate_policy::{CheckContext, Owner, SecretName, check};

use super::call::Call;
use super::failure::ApiError;
use crate::presence::LiveEndpoint;
use crate::record::vault::{self, SecretVault, VaultSecret};
use crate::record::{self, Endpoint, Holder, index};
use crate::store::{Revision, Txn};

/// A secret that a policy names.
pub(super) struct Found {
    pub(super) id: SecretId,
    /// The index keys of its name and of its vault's, each with the revision that last wrote it. They go with the names.
    pub(super) keys: [(String, Revision); 2],
}

/// The secret of the account that a policy names; None: there is none.
pub(super) async fn find(call: &Call, name: &SecretName) -> Result<Option<Found>, ApiError> {
    let store = &*call.app.store;
    let vault_key = index::vault_name(call.account, &name.vault);
    let Some(vault) = record::read::<Holder>(store, &vault_key).await? else { return Ok(None) };
    let Ok(vault_id) = vault.record.id.parse() else { return Ok(None) };
    let key = index::secret_name(vault_id, &name.name);
    let Some(holder) = record::read::<Holder>(store, &key).await? else { return Ok(None) };
    let keys = [(vault_key, vault.modified), (key, holder.modified)];
    Ok(holder.record.id.parse().ok().map(|id| Found { id, keys }))
}

/// Refuses if a traffic policy of the account names the secret; else the compares that keep it so.
pub(super) async fn unnamed(call: &Call, secret: &VaultSecret) -> Result<Txn, ApiError> {
    let vault = vault::name(&*call.app.store, call.account, secret.vault).await?;
    none_named(call, &BTreeSet::from([secret.id]), &|name| name.vault == vault && name.name == secret.name)
        .await
}

/// Refuses if a traffic policy of the account names a secret of the vault; else the compares that keep it so.
pub(super) async fn vault_unnamed(call: &Call, vault: &SecretVault) -> Result<Txn, ApiError> {
    let secrets = record::list::<VaultSecret>(&*call.app.store, call.account, None, None).await?;
    let inside = secrets.items.iter().map(|stored| &stored.record).filter(|secret| secret.vault == vault.id);
    let txn = none_named(call, &inside.map(|s| s.id).collect(), &|name| name.vault == vault.name).await?;
    Ok(txn.if_none_newer(record::prefix::<VaultSecret>(call.account), secrets.revision))
}

async fn none_named(
    call: &Call,
    ids: &BTreeSet<SecretId>,
    is_one: &(dyn Fn(&SecretName) -> bool + Sync),
) -> Result<Txn, ApiError> {
    let endpoints = record::list::<Endpoint>(&*call.app.store, call.account, None, None).await?;
    let cloud = endpoints.items.iter().map(|stored| &stored.record);
    let cloud = cloud.filter(|endpoint| endpoint.secrets.iter().any(|id| ids.contains(id)));
    let live = call.app.presence.endpoints(call.account);
    let agents = live.iter().filter(|endpoint| agent_names(endpoint, is_one));
    let user = cloud.map(|e| (e.id, &e.url)).chain(agents.map(|e| (e.id, &e.report.url))).next();
    if let Some((endpoint, url)) = user {
        let message = format!(
            "the traffic policy of {endpoint} on {url} names this secret: change that first. A new `value` needs no change there"
        );
        return Err(ApiError::in_use(message));
    }
    Ok(Txn::new().if_none_newer(record::prefix::<Endpoint>(call.account), endpoints.revision))
}

/// Of an agent's policy only the text is known.
fn agent_names(endpoint: &LiveEndpoint, is_one: &(dyn Fn(&SecretName) -> bool + Sync)) -> bool {
    let text = &endpoint.report.traffic_policy;
    let context = || CheckContext {
        scheme: endpoint.report.url.scheme(),
        binding: endpoint.report.binding,
        owner: Owner::Agent,
    };
    text.contains("secrets")
        && check(text, &context()).is_ok_and(|checked| checked.secrets().into_iter().any(is_one))
}
