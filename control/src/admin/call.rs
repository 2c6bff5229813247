//! What the operator's calls share: the state they run with, the proof that an operator asks, and their refusal.

use std::sync::Arc;

use axum::Json;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use ebbgate_model::AccountId;
use serde_json::json;

use crate::App;
use crate::fleet::FleetError;
use crate::record::{self, Account, Stored};
use crate::rollout::RolloutError;
use crate::secret;
use crate::store::{Outcome, Txn};

#[derive(Clone)]
pub(super) struct Admin {
    pub(super) app: App,
    pub(super) token: Arc<str>,
}

impl Admin {
    /// The account an operator names, with the revision to compare against.
    pub(super) async fn account(&self, id: &str) -> Result<Stored<Account>, AdminError> {
        let no_account = || AdminError::NoAccount(id.to_owned());
        let account: AccountId = id.parse().map_err(|_| no_account())?;
        record::read::<Account>(&*self.app.store, &Account::key(account)).await?.ok_or_else(no_account)
    }

    /// Writes an account back as changed.
    pub(super) async fn put_account(
        &self,
        stored: &Stored<Account>,
        changed: &Account,
    ) -> Result<(), AdminError> {
        let key = Account::key(changed.id);
        let txn = Txn::new().if_unchanged(&key, stored.modified).put(&key, record::encode(changed));
        match self.app.store.commit(txn).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict(_) => Err(AdminError::Conflict),
        }
    }

    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), AdminError> {
        let header = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let presented = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
        let right = secret::same(presented.as_bytes(), self.token.as_bytes());
        if right { Ok(()) } else { Err(AdminError::Token) }
    }
}

/// Why the port refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("send `Authorization: Bearer <contents of DIR/operator.token>`")]
    Token,
    #[error(
        "the body must be a JSON object with what the command gives, like {{\"name\": \"clinic fleet\"}}: {0}"
    )]
    Body(#[from] serde_json::Error),
    #[error("`name` must have 1 to 255 bytes and no control characters")]
    Name,
    #[error("there is no account {0}: `ebbgate-control account list` shows them")]
    NoAccount(String),
    #[error("there is no API key {0}: `ebbgate-control api-key list --account ID` shows an account's keys")]
    NoApiKey(String),
    #[error(
        "the account {0} is active: suspend it first (`ebbgate-control account suspend {0}`), or add --force"
    )]
    Active(AccountId),
    #[error(transparent)]
    Record(#[from] record::RecordError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    #[error("there is no edge {0}: `ebbgate-control edge list` shows them")]
    NoEdge(String),
    #[error("this control serves edges of its own machine alone: start it with --edges ADDR")]
    NoEdgeListener,
    #[error("the account {0} has no IP restriction of type `api` in force")]
    NotRestricted(AccountId),
    #[error("{0}")]
    Limit(String),
    #[error("{0}")]
    Value(String),
    #[error("there are people already: `ebbgate-control user invite` lets more in")]
    NotFirst,
    #[error("there is not exactly one account: name it with --account (`ebbgate-control account list`)")]
    WhichAccount,
    #[error("there is no user {0}: `ebbgate-control user list` shows them")]
    NoUser(String),
    #[error("there is no session {0}: `ebbgate-control session list` shows those that are open")]
    NoSession(String),
    #[error("the last owner of {0} cannot be removed: make somebody else an owner first, or add --force")]
    LastOwner(AccountId),
    #[error("somebody else changed this at the same time; repeat")]
    Conflict,
}

impl From<crate::store::StoreError> for AdminError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Record(error.into())
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Body(_)
            | Self::Name
            | Self::Value(_)
            | Self::WhichAccount
            | Self::Limit(_)
            | Self::Fleet(FleetError::Name)
            | Self::Rollout(RolloutError::Setting(_)) => StatusCode::BAD_REQUEST,
            Self::NoAccount(_)
            | Self::NoApiKey(_)
            | Self::NotRestricted(_)
            | Self::NoUser(_)
            | Self::NoEdge(_)
            | Self::Fleet(FleetError::NoEdge(_))
            | Self::Rollout(RolloutError::NoRollout(_))
            | Self::NoSession(_) => StatusCode::NOT_FOUND,
            Self::Fleet(FleetError::Conflict | FleetError::TooMany)
            | Self::NoEdgeListener
            | Self::Rollout(RolloutError::Returned(_) | RolloutError::Conflict)
            | Self::Conflict
            | Self::Active(_)
            | Self::NotFirst
            | Self::LastOwner(_) => StatusCode::CONFLICT,
            Self::Record(_) | Self::Fleet(_) | Self::Rollout(RolloutError::Record(_)) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

/// Longest name of an account in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

pub(super) fn check_text(text: &str) -> Result<(), AdminError> {
    let fits = text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(AdminError::Name) }
}
