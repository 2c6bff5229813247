//! Visitors of endpoints who signed in, and their sessions, as edges told of them. The sessions themselves lie in cookies.

use ebbgate_model::{AccountId, AppSessionId, AppUserId};
use serde::{Deserialize, Serialize};

use super::{ACCOUNTS_PREFIX, Record, UnixSecs};

/// Collection of [`EndedSession`].
pub const ENDED_SESSIONS: &str = "ended_sessions";

records! {
    /// A person, as an identity provider knows them.
    AppUser(AppUserId) = "app_users" {
        /// Issuer or name of the provider.
        provider: String,
        /// The person's id there.
        provider_user_id: String,
        /// Address; may be empty.
        email: String,
        /// Name; may be empty.
        name: String,
        /// When the person signed in last.
        seen_at: UnixSecs,
        /// When the last session ends at the latest: then the record goes.
        expires_at: UnixSecs,
    }
    /// A session of a visitor.
    AppSession(AppSessionId) = "app_sessions" {
        /// Whose.
        user: AppUserId,
        /// URL of the endpoint.
        url: String,
        /// Address that the visitor came from.
        source: String,
        /// What the browser said it is, shortened.
        user_agent: String,
        /// When it ends at the latest.
        expires_at: UnixSecs,
    }
}

/// That a session was ended before its time; edges are told until that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndedSession {
    /// When it would have ended at the latest.
    pub expires_at: UnixSecs,
}

impl EndedSession {
    /// Key of the record of a session.
    pub fn key(account: AccountId, session: AppSessionId) -> String {
        format!("{}{session}", Self::prefix(account))
    }

    /// Prefix of all of an account.
    pub fn prefix(account: AccountId) -> String {
        format!("{ACCOUNTS_PREFIX}{account}/{ENDED_SESSIONS}/")
    }
}
