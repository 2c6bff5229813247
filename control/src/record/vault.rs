//! Stored vaults and their secrets. A secret's value is sealed; nothing here opens it.

use ebbgate_model::{AccountId, SecretId, VaultId};
use serde::{Deserialize, Serialize};

use super::{Record, RecordError, UnixSecs, load};
use crate::secret::Sealed;
use crate::store::Store;

records! {
    /// A named place for secrets.
    SecretVault(VaultId) = "vaults" {
        /// Unique in the account.
        name: String,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Id of the API key, service user or user that made it.
        created_by: String,
        /// Id of the one that last changed it.
        last_updated_by: String,
        /// When it was last changed.
        updated_at: UnixSecs,
    }
    /// A secret of a vault.
    VaultSecret(SecretId) = "vault_secrets" {
        /// The vault it is in.
        vault: VaultId,
        /// Unique in the vault.
        name: String,
        /// The value, sealed with the record's key as context.
        value: Sealed,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Id of the API key, service user or user that made it.
        created_by: String,
        /// Id of the one that last changed it.
        last_updated_by: String,
        /// When it was last changed.
        updated_at: UnixSecs,
        /// Whether the policy of an agent's endpoint named it: then edges get it, whatever cloud endpoints name.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        named_by_agents: bool,
    }
}

/// The name of a vault; empty: it is gone.
pub async fn name(store: &dyn Store, account: AccountId, vault: VaultId) -> Result<String, RecordError> {
    let vault = load::<SecretVault>(store, account, vault).await?;
    Ok(vault.map(|stored| stored.record.name).unwrap_or_default())
}
