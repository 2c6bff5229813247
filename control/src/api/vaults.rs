//! `/vaults`: named places for secrets, and the secrets of one (`/vaults/{id}/secrets`). The secrets themselves are in
//! `vault_secrets`.

use axum::extract::{Path, RawQuery};
use axum::response::Response;
use ebbgate_model::VaultId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod;

use super::body::NoBody;
use super::call::Call;
use super::described::{Head, TextCodes};
use super::failure::ApiError;
use super::given::body;
use super::members::{self, Place};
use super::operation::Operation;
use super::policy_secrets;
use super::reply::timestamp;
use super::resource::{Draft, Resource, load, parse_id};
use super::routes::Routes;
use super::secret_name::{Name, check_name};
use super::vault_secrets::{self, VaultSecrets};
use crate::record::vault::{SecretVault, VaultSecret};
use crate::record::{self, Holder, Stored, index};
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 215, metadata: 215 };
const NAME: Name = Name { noun: "vault", charset: 23000, empty: 23001, too_long: 23002 };

/// Path of the secrets of one vault.
const SECRETS_PATH: &str = "/vaults/{id}/secrets";

/// A named place for secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Vault)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// Unique in the account.
    name: String,
    updated_at: String,
    /// Id of the one that made it.
    created_by: String,
    /// Id of the one that last changed it.
    last_updated_by: String,
}

body! {
    /// Body of `POST /vaults`.
    Create as "VaultCreate" {
        /// 1 to 255 of `a-zA-Z0-9_/.-`, unique in the account.
        name: String,
        description: String,
        metadata: String,
    }
}

body! {
    /// Body of `PATCH /vaults/{id}`.
    Update as "VaultUpdate" {
        /// 1 to 255 of `a-zA-Z0-9_/.-`, unique in the account.
        name: String,
        description: String,
        metadata: String,
    }
}

pub(super) struct Vaults;

impl Resource for Vaults {
    const PATH: &'static str = "vaults";
    const NOUN: &'static str = "vault";
    const ID_PREFIXES: &'static [&'static str] = &[VaultId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["name"];
    const EXAMPLE: &'static str = r#"{"name": "clinic"}"#;
    type Id = VaultId;
    type Record = SecretVault;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &SecretVault) -> View {
        View {
            head: Head::of::<Self>(call, record),
            name: record.name.clone(),
            updated_at: timestamp(record.updated_at),
            created_by: record.created_by.clone(),
            last_updated_by: record.last_updated_by.clone(),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<SecretVault>, ApiError> {
        let name = body.name.or_default();
        check_name(&NAME, &name)?;
        TEXTS.check(&body.description, &body.metadata)?;
        check_unique(call, &name).await?;
        let id = VaultId::new(call.app.ksuid());
        let txn = record::take(Txn::new(), index::vault_name(call.account, &name), call.account, id);
        let now = call.app.now();
        let record = SecretVault {
            id,
            account: call.account,
            name,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            created_by: call.principal.clone(),
            last_updated_by: call.principal.clone(),
            updated_at: now,
            created_at: now,
        };
        Ok(Draft { txn, ..Draft::new(record) })
    }

    async fn update(
        call: &Call,
        stored: &Stored<SecretVault>,
        body: &Update,
    ) -> Result<Draft<SecretVault>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        draft.record.last_updated_by.clone_from(&call.principal);
        draft.record.updated_at = call.app.now();
        let before = &stored.record;
        let Some(name) = body.name.get().filter(|name| **name != before.name) else { return Ok(draft) };
        check_name(&NAME, name)?;
        check_unique(call, name).await?;
        let unnamed = policy_secrets::vault_unnamed(call, before).await?;
        let txn = unnamed.delete(index::vault_name(call.account, &before.name));
        draft.txn = record::take(txn, index::vault_name(call.account, name), call.account, before.id);
        draft.record.name.clone_from(name);
        Ok(draft)
    }

    /// Refused while there are secrets in it (code 23003).
    async fn delete(call: &Call, stored: &Stored<SecretVault>) -> Result<Txn, ApiError> {
        let empty = Self::delete_damaged(call, stored.record.id).await?;
        Ok(empty.delete(index::vault_name(call.account, &stored.record.name)))
    }

    async fn delete_damaged(call: &Call, id: VaultId) -> Result<Txn, ApiError> {
        let secrets = record::list::<VaultSecret>(&*call.app.store, call.account, None, None).await?;
        record::none_damaged(&secrets.damaged, "secret", &id.to_string()).map_err(ApiError::in_use)?;
        let inside = secrets.items.iter().filter(|stored| stored.record.vault == id).count();
        if inside > 0 {
            let message = format!("the vault {id} still has {inside} secrets; delete those first");
            return Err(ApiError::bad(23003, message));
        }
        Ok(Txn::new().if_none_newer(record::prefix::<VaultSecret>(call.account), secrets.revision))
    }

    /// Edges know vaults only by the names of secrets.
    fn sent_bytes(_: &SecretVault) -> usize {
        0
    }
}

/// The secrets of one vault.
pub(super) fn routes() -> Routes {
    let document = Operation::new(VaultSecrets::PATH, "list_in_vault", "List every secret of one vault")
        .id(Vaults::ID_PREFIXES)
        .lists::<vault_secrets::View>(VaultSecrets::LIST_KEY, VaultSecrets::ID_PREFIXES, &[]);
    Routes::new().add(HttpMethod::Get, SECRETS_PATH, secrets, document)
}

async fn secrets(
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let vault = load::<Vaults>(&call, parse_id::<Vaults>(&id)?).await?.record;
    let listed = record::list::<VaultSecret>(&*call.app.store, call.account, None, None).await?;
    let inside = listed.items.iter().map(|stored| &stored.record).filter(|s| s.vault == vault.id);
    let mut members = Vec::new();
    for secret in inside {
        let view = serde_json::to_value(VaultSecrets::view_in(&call, secret, &vault.name));
        members.push((secret.id, view.map_err(|e| ApiError::internal(&e))?));
    }
    let path = format!("{}/{}/secrets", Vaults::PATH, vault.id);
    let place = Place { path, list_key: VaultSecrets::LIST_KEY };
    members::page(&call, query.as_deref(), &place, parse_id::<VaultSecrets>, members)
}

async fn check_unique(call: &Call, name: &str) -> Result<(), ApiError> {
    let key = index::vault_name(call.account, name);
    match record::read::<Holder>(&*call.app.store, &key).await? {
        Some(holder) => {
            let message = format!("the vault {} already has the name `{name}`", holder.record.id);
            Err(ApiError::bad(23004, message).detail("field", "name"))
        }
        None => Ok(()),
    }
}
