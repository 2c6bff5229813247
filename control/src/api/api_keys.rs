//! `/api_keys`: keys of this API. The key itself is shown once and kept as a hash.

use ebbgate_model::ApiKeyId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes, TextsUpdate};
use super::failure::ApiError;
use super::given::body;
use super::owner;
use super::resource::{Draft, Resource};
use crate::record::{self, ApiKey, Stored, index};
use crate::secret;
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 604, metadata: 605 };

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// The key itself, only in the answer to its creation.
    token: Option<String>,
    /// Person or service user it belongs to; null: the account itself.
    owner_id: Option<String>,
}

body! {
    /// Body of `POST /api_keys`.
    Create as "ApiKeyCreate" {
        description: String,
        metadata: String,
        /// Id or e-mail address of a person or id of a service user; the caller itself unless given.
        owner_id: String,
        /// E-mail address of a person, instead of `owner_id`.
        owner_email: String,
    }
}

pub(super) struct ApiKeys;

impl Resource for ApiKeys {
    const PATH: &'static str = "api_keys";
    const LIST_KEY: &'static str = "keys";
    const NOUN: &'static str = "API key";
    const ID_PREFIXES: &'static [&'static str] = &[ApiKeyId::PREFIX];
    const EMPTY_UPDATE: u32 = 606;
    const EXAMPLE: &'static str = r#"{"description": "for the deployment"}"#;
    type Id = ApiKeyId;
    type Record = ApiKey;
    type View = View;
    type Create = Create;
    type Update = TextsUpdate;

    fn view(call: &Call, record: &ApiKey) -> View {
        View {
            head: Head::of::<Self>(call, record),
            token: None,
            owner_id: record.owner.map(|id| id.to_string()),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<ApiKey>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let owner = owner::resolve(call, &body.owner_id, &body.owner_email).await?;
        owner.may_be_given_a_key(call)?;
        let id = ApiKeyId::new(call.app.ksuid());
        let token = call.app.token(id.ksuid());
        let record = ApiKey {
            id,
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            owner: owner.id,
            hash: secret::hash(token.expose()),
            created_at: call.app.now(),
        };
        let txn = record::take(owner.txn, index::api_key(id), call.account, id);
        Ok(Draft { txn, token: Some(token), ..Draft::new(record) })
    }

    async fn update(
        call: &Call,
        stored: &Stored<ApiKey>,
        body: &TextsUpdate,
    ) -> Result<Draft<ApiKey>, ApiError> {
        owner::may_act_for(call, stored.record.owner)?;
        TEXTS.change(stored, &body.description, &body.metadata)
    }

    async fn delete(call: &Call, stored: &Stored<ApiKey>) -> Result<Txn, ApiError> {
        owner::may_act_for(call, stored.record.owner)?;
        Ok(Txn::new().delete(index::api_key(stored.record.id)))
    }
}
