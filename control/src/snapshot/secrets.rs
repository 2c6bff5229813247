//! Vaults, their secrets with the values opened, and which endpoints' policies name them.

use std::collections::BTreeMap;

use ebbgate_model::{AccountId, EndpointId, SecretId, SecretSpec, VaultId};

use super::index::Index;
use super::unreadable::Unreadable;
use crate::record::parse_record;
use crate::record::vault::{SecretVault, VaultSecret};
use crate::secret::Vault;
use crate::store::Item;

/// Bytes of a secret in the Program besides its texts, in round figures.
const FIXED_BYTES: usize = 100;

/// Which policy of an endpoint names a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// That of its record.
    Newest,
    /// The one before, while not all edges have the newest.
    Before,
}

/// The secrets of all accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Secrets {
    /// Names of vaults, with their accounts.
    vaults: BTreeMap<VaultId, (AccountId, String)>,
    opened: BTreeMap<SecretId, Opened>,
    of_vault: Index<VaultId, SecretId>,
    of_account: Index<AccountId, SecretId>,
    /// What the policies of endpoints name; those that name none are left out.
    named: BTreeMap<(EndpointId, Version), Vec<SecretId>>,
    named_by: Index<SecretId, (EndpointId, Version)>,
}

/// A secret, its value opened. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
struct Opened {
    account: AccountId,
    vault: VaultId,
    name: String,
    value: String,
    named_by_agents: bool,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Secrets {
    /// A secret as edges are told it; None: it is not known, or its vault is not.
    pub(crate) fn spec(&self, id: SecretId) -> Option<SecretSpec> {
        let Opened { account, vault, name, value, .. } = self.opened.get(&id)?.clone();
        let (owner, vault) = self.vaults.get(&vault)?;
        (*owner == account).then(|| SecretSpec { account, vault: vault.clone(), name, value })
    }

    /// Endpoints with policies that name the secret.
    pub(crate) fn named_by(&self, id: SecretId) -> impl Iterator<Item = EndpointId> {
        self.named_by.of(id).map(|(endpoint, _)| endpoint)
    }

    /// Whether an agent's policy named the secret.
    pub(crate) fn is_named_by_agents(&self, id: SecretId) -> bool {
        self.opened.get(&id).is_some_and(|secret| secret.named_by_agents)
    }

    /// Secrets that the policies of an endpoint name.
    pub(super) fn named_in(&self, endpoint: EndpointId) -> impl Iterator<Item = SecretId> {
        let both = [Version::Newest, Version::Before];
        both.into_iter().filter_map(move |version| self.named.get(&(endpoint, version))).flatten().copied()
    }

    /// Secrets of a vault.
    pub(super) fn of_vault(&self, vault: VaultId) -> impl Iterator<Item = SecretId> {
        self.of_vault.of(vault)
    }

    /// Secrets of an account.
    pub(super) fn of_account(&self, account: AccountId) -> impl Iterator<Item = SecretId> {
        self.of_account.of(account)
    }

    pub(super) fn set_vault(&mut self, id: &str, item: Option<&Item>) -> Result<(), Unreadable> {
        let vault: Option<SecretVault> = item.map(parse_record).transpose()?;
        if let Ok(id) = id.parse() {
            match vault {
                Some(vault) => self.vaults.insert(id, (vault.account, vault.name)),
                None => self.vaults.remove(&id),
            };
        }
        Ok(())
    }

    /// Gives how many bytes of the Program it took and takes.
    pub(super) fn set_secret(
        &mut self,
        id: &str,
        item: Option<&Item>,
        vault: &Vault,
    ) -> Result<(usize, usize), Unreadable> {
        let open = |item: &Item| {
            let VaultSecret { account, vault: place, name, value, named_by_agents, .. } = parse_record(item)?;
            let value = vault.open(&item.key, &value)?;
            Ok::<_, Unreadable>(Opened { account, vault: place, name, value, named_by_agents })
        };
        let new = item.map(open).transpose()?;
        let Ok(id) = id.parse() else { return Ok((0, 0)) };
        let old = match new.clone() {
            Some(new) => self.opened.insert(id, new),
            None => self.opened.remove(&id),
        };
        self.of_vault.moved(old.as_ref(), new.as_ref(), |secret| Some((secret.vault, id)));
        self.of_account.moved(old.as_ref(), new.as_ref(), |secret| Some((secret.account, id)));
        let bytes = |secret: &Option<Opened>| {
            secret.as_ref().map_or(0, |secret| FIXED_BYTES + secret.name.len() + secret.value.len())
        };
        Ok((bytes(&old), bytes(&new)))
    }

    /// What a policy of an endpoint names from now on.
    pub(super) fn set_named(&mut self, endpoint: (EndpointId, Version), secrets: Vec<SecretId>) {
        let old = self.named.remove(&endpoint).unwrap_or_default();
        for id in old.iter().filter(|id| !secrets.contains(id)) {
            self.named_by.moved(Some(id), None, |id| Some((*id, endpoint)));
        }
        for id in secrets.iter().filter(|id| !old.contains(id)) {
            self.named_by.moved(None, Some(id), |id| Some((*id, endpoint)));
        }
        if !secrets.is_empty() {
            self.named.insert(endpoint, secrets);
        }
    }
}
