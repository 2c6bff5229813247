//! `/vault_secrets`: secrets of vaults. A value goes in, is sealed, and never comes out again; policies name it by
//! `secrets.get('vault', 'name')`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ebbgate_model::{SecretId, VaultId};
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes};
use super::failure::ApiError;
use super::given::{Given, body};
use super::listing::Listing;
use super::page::Page;
use super::policy_secrets;
use super::principal;
use super::query::Query;
use super::reply::{Ref, timestamp};
use super::resource::{Draft, Resource, load};
use super::secret_name::{Name, check_name};
use crate::record::vault::{self, SecretVault, VaultSecret};
use crate::record::{self, Holder, Record, Stored, index};
use crate::store::Txn;
use http::StatusCode;

const TEXTS: TextCodes = TextCodes { description: 215, metadata: 215 };
const NAME: Name = Name { noun: "secret", charset: 24000, empty: 24001, too_long: 24002 };
/// Longest value in bytes (code 24004).
pub(super) const VALUE_BYTES_MAX: usize = 16 * 1024;

/// A secret, without its value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Secret)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// Unique in the vault.
    name: String,
    updated_at: String,
    /// Whoever made it.
    created_by: Ref,
    /// Whoever last changed it.
    last_updated_by: Ref,
    /// The vault it is in.
    vault: Ref,
    /// Name of that vault.
    vault_name: String,
}

body! {
    /// Body of `POST /vault_secrets`.
    Create as "SecretCreate" {
        /// 1 to 255 of `a-zA-Z0-9_/.-`, unique in the vault.
        name: String,
        /// 1 to 16,384 bytes; never returned.
        value: String,
        /// The vault, by its id; or `vault_name`.
        vault_id: String,
        /// The vault, by its name.
        vault_name: String,
        description: String,
        metadata: String,
    }
}

body! {
    /// Body of `PATCH /vault_secrets/{id}`.
    Update as "SecretUpdate" {
        /// 1 to 255 of `a-zA-Z0-9_/.-`, unique in the vault.
        name: String,
        /// 1 to 16,384 bytes; never returned.
        value: String,
        description: String,
        metadata: String,
    }
}

pub(super) struct VaultSecrets;

impl VaultSecrets {
    /// A secret as clients read it; its record does not have the vault's name.
    pub(super) fn view_in(call: &Call, record: &VaultSecret, vault_name: &str) -> View {
        View {
            head: Head::of::<Self>(call, record),
            name: record.name.clone(),
            updated_at: timestamp(record.updated_at),
            created_by: principal::reference(call, &record.created_by),
            last_updated_by: principal::reference(call, &record.last_updated_by),
            vault: call.reference(SecretVault::COLLECTION, record.vault),
            vault_name: vault_name.to_owned(),
        }
    }
}

impl Resource for VaultSecrets {
    const PATH: &'static str = "vault_secrets";
    const LIST_KEY: &'static str = "secrets";
    const NOUN: &'static str = "secret";
    const ID_PREFIXES: &'static [&'static str] = &[SecretId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["name", "value"];
    const EXAMPLE: &'static str = r#"{"vault_name": "clinic", "name": "database", "value": "correct-horse"}"#;
    type Id = SecretId;
    type Record = VaultSecret;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &VaultSecret) -> View {
        Self::view_in(call, record, "")
    }

    async fn saved_view(call: &Call, record: &VaultSecret) -> Result<View, ApiError> {
        Ok(Self::view_in(call, record, &vault::name(&*call.app.store, call.account, record.vault).await?))
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<VaultSecret>, ApiError> {
        let name = body.name.or_default();
        check_name(&NAME, &name)?;
        let value = body.value.or_default();
        check_value(&value)?;
        TEXTS.check(&body.description, &body.metadata)?;
        let vault = find_vault(call, &body.vault_id, &body.vault_name).await?;
        check_unique(call, vault.record.id, &name).await?;
        let id = SecretId::new(call.app.ksuid());
        let txn = record::take(Txn::new(), index::secret_name(vault.record.id, &name), call.account, id);
        let now = call.app.now();
        let record = VaultSecret {
            id,
            account: call.account,
            vault: vault.record.id,
            name,
            value: call.app.vault.seal(&record::key::<VaultSecret>(call.account, id), &value),
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            created_by: call.principal.clone(),
            last_updated_by: call.principal.clone(),
            updated_at: now,
            named_by_agents: false,
            created_at: now,
        };
        let txn = txn.if_unchanged(vault.record.key(), vault.modified);
        Ok(Draft { txn, ..Draft::new(record) })
    }

    async fn update(
        call: &Call,
        stored: &Stored<VaultSecret>,
        body: &Update,
    ) -> Result<Draft<VaultSecret>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        draft.record.last_updated_by.clone_from(&call.principal);
        draft.record.updated_at = call.app.now();
        if let Some(value) = body.value.get() {
            check_value(value)?;
            draft.record.value = call.app.vault.seal(&stored.record.key(), value);
        }
        let before = &stored.record;
        let Some(name) = body.name.get().filter(|name| **name != before.name) else { return Ok(draft) };
        check_name(&NAME, name)?;
        check_unique(call, before.vault, name).await?;
        let txn = policy_secrets::unnamed(call, before)
            .await?
            .delete(index::secret_name(before.vault, &before.name));
        draft.txn = record::take(txn, index::secret_name(before.vault, name), call.account, before.id);
        draft.record.name.clone_from(name);
        // No agent has named it by this name.
        draft.record.named_by_agents = false;
        Ok(draft)
    }

    /// Refused while a traffic policy names it.
    async fn delete(call: &Call, stored: &Stored<VaultSecret>) -> Result<Txn, ApiError> {
        let unnamed = policy_secrets::unnamed(call, &stored.record).await?;
        Ok(unnamed.delete(index::secret_name(stored.record.vault, &stored.record.name)))
    }

    async fn find(call: &Call, id: SecretId) -> Result<View, ApiError> {
        Self::saved_view(call, &load::<Self>(call, id).await?.record).await
    }

    async fn page(call: &Call, _: &Query, page: Page<SecretId>) -> Result<Listing<View, SecretId>, ApiError> {
        let store = &*call.app.store;
        let listed = record::list::<VaultSecret>(store, call.account, page.before, Some(page.limit)).await?;
        let mut names = BTreeMap::new();
        let mut items = Vec::with_capacity(listed.items.len());
        for Stored { record, .. } in &listed.items {
            if let Entry::Vacant(unknown) = names.entry(record.vault) {
                unknown.insert(vault::name(&*call.app.store, call.account, record.vault).await?);
            }
            items.push(Self::view_in(call, record, names.get(&record.vault).map_or("", String::as_str)));
        }
        let last = listed.last.as_deref().and_then(record::id_in_key::<VaultSecret>);
        Ok(Listing { items, next: last.map(|(_, id)| id).filter(|_| listed.more), damaged: listed.damaged })
    }
}

/// The vault a secret is to be put in, by id or by name. Both may be given if they agree.
async fn find_vault(
    call: &Call,
    id: &Given<String>,
    name: &Given<String>,
) -> Result<Stored<SecretVault>, ApiError> {
    let (id, name) = (id.or_default(), name.or_default());
    let store = &*call.app.store;
    if id.is_empty() && name.is_empty() {
        let message = "`vault_id` is missing; a secret is in a vault: name it by `vault_id` or `vault_name`";
        return Err(ApiError::bad(24008, message).detail("field", "vault_id"));
    }
    let unnamed = || {
        let message = format!("`vault_name`: there is no vault `{name}` in this account");
        ApiError::new(StatusCode::NOT_FOUND, 24009, message).detail("field", "vault_name")
    };
    let found = if id.is_empty() {
        let holder = record::read::<Holder>(store, &index::vault_name(call.account, &name)).await?;
        holder.ok_or_else(unnamed)?.record.id
    } else {
        id.clone()
    };
    let unknown = || {
        let message = format!("`vault_id`: there is no vault `{found}` in this account");
        ApiError::new(StatusCode::NOT_FOUND, 24006, message).detail("field", "vault_id")
    };
    let parsed: VaultId = found.parse().map_err(|_| unknown())?;
    let stored = record::load::<SecretVault>(store, call.account, parsed).await?.ok_or_else(unknown)?;
    if name.is_empty() || stored.record.name == name {
        return Ok(stored);
    }
    let message = format!(
        "the vault {parsed} has the name `{}`, not `{name}`; give one of the two",
        stored.record.name
    );
    Err(ApiError::value("vault_name", message))
}

/// What is said of a value never quotes it.
fn check_value(value: &str) -> Result<(), ApiError> {
    if value.is_empty() {
        return Err(ApiError::bad(24003, "`value`: a secret needs a value").detail("field", "value"));
    }
    if value.len() > VALUE_BYTES_MAX {
        let message = format!("`value` has {} bytes; at most {VALUE_BYTES_MAX} are allowed", value.len());
        return Err(ApiError::bad(24004, message).detail("field", "value"));
    }
    Ok(())
}

async fn check_unique(call: &Call, vault: VaultId, name: &str) -> Result<(), ApiError> {
    match record::read::<Holder>(&*call.app.store, &index::secret_name(vault, name)).await? {
        Some(holder) => {
            let message =
                format!("the secret {} of this vault already has the name `{name}`", holder.record.id);
            Err(ApiError::bad(24005, message).detail("field", "name"))
        }
        None => Ok(()),
    }
}
