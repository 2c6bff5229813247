//! `/credentials`: authtokens of agents, with what they may bind. The token itself is shown once and kept as a hash.

use ebbgate_model::{Acl, CredentialId};
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes};
use super::failure::ApiError;
use super::given::body;
use super::owner;
use super::resource::{Draft, Resource};
use crate::record::{self, Credential, Stored, index};
use crate::secret;
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 604, metadata: 605 };

/// An authtoken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Credential)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// The authtoken itself, only in the answer to its creation.
    token: Option<String>,
    /// What it may bind; empty: anything.
    acl: Vec<String>,
    /// Person or service user it belongs to; null: the account itself.
    owner_id: Option<String>,
}

body! {
    /// Body of `POST /credentials`.
    Create as "CredentialCreate" {
        description: String,
        metadata: String,
        acl: Vec<String>,
        /// Id or e-mail address of a person or id of a service user; the caller itself unless given.
        owner_id: String,
        /// E-mail address of a person, instead of `owner_id`.
        owner_email: String,
    }
}

body! {
    /// Body of `PATCH /credentials/{id}`.
    Update as "CredentialUpdate" {
        description: String,
        metadata: String,
        acl: Vec<String>,
        /// Stays as it is; another owner is refused.
        owner_id: String,
    }
}

pub(super) struct Credentials;

impl Resource for Credentials {
    const PATH: &'static str = "credentials";
    const NOUN: &'static str = "credential";
    const ID_PREFIXES: &'static [&'static str] = &[CredentialId::PREFIX];
    const EMPTY_UPDATE: u32 = 606;
    const EXAMPLE: &'static str =
        r#"{"description": "agent of clinic 1", "acl": ["bind:*.clinic1.internal"]}"#;
    type Id = CredentialId;
    type Record = Credential;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &Credential) -> View {
        View {
            head: Head::of::<Self>(call, record),
            token: None,
            acl: record.acl.rules().iter().map(ToString::to_string).collect(),
            owner_id: record.owner.map(|id| id.to_string()),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<Credential>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let acl = parse_acl(&body.acl.or_default())?;
        let owner = owner::resolve(call, &body.owner_id, &body.owner_email).await?;
        let id = CredentialId::new(call.app.ksuid());
        let token = call.app.token(id.ksuid());
        let record = Credential {
            id,
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            acl,
            owner: owner.id,
            hash: secret::hash(token.expose()),
            created_at: call.app.now(),
        };
        let txn = record::take(owner.txn, index::credential(id), call.account, id);
        Ok(Draft { txn, token: Some(token), ..Draft::new(record) })
    }

    async fn update(
        call: &Call,
        stored: &Stored<Credential>,
        body: &Update,
    ) -> Result<Draft<Credential>, ApiError> {
        owner::may_act_for(call, stored.record.owner)?;
        let is_owner = |given: &String| match stored.record.owner {
            Some(owner) => given.parse() == Ok(owner),
            None => given.is_empty(),
        };
        if let Some(given) = body.owner_id.get().filter(|given| !is_owner(given)) {
            let message = format!(
                "`owner_id`: the owner of {} stays who it was, and is not `{given}`; make a new credential",
                stored.record.id
            );
            return Err(ApiError::bad(627, message).detail("field", "owner_id"));
        }
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        if let Some(rules) = body.acl.get() {
            draft.record.acl = parse_acl(rules)?;
        }
        Ok(draft)
    }

    async fn delete(call: &Call, stored: &Stored<Credential>) -> Result<Txn, ApiError> {
        owner::may_act_for(call, stored.record.owner)?;
        Ok(Txn::new().delete(index::credential(stored.record.id)))
    }
}

fn parse_acl(rules: &[String]) -> Result<Acl, ApiError> {
    Acl::parse(rules).map_err(|(at, reason)| {
        let rule = rules.get(at).map_or("", String::as_str);
        ApiError::bad(600, format!("`acl[{at}]` is `{rule}`: {reason}")).detail("field", format!("acl[{at}]"))
    })
}
