//! People: who they are (once in the installation), where they belong (once in each account), and how they came in.
//!
//! A user's own record and the keys that find it stand under `/people/`, outside accounts. Whether a person may act for an
//! account is decided by the account's [`Membership`] alone.

use std::fmt;

use ebbgate_model::{AccountId, InvitationId, TokenHash, UserId, UserSessionId};
use serde::{Deserialize, Serialize};

use super::{Record, UnixSecs};
use crate::people::{Email, Role};

/// Prefix of everything that belongs to people and to no account.
pub const PREFIX: &str = "/people/";
/// All users of the installation.
pub const USERS_PREFIX: &str = "/people/users/";
/// Which user has an address.
pub const EMAILS_PREFIX: &str = "/people/emails/";
/// Which accounts a user belongs to: `<user>/<account>`, with an empty value.
pub const MEMBERSHIPS_PREFIX: &str = "/people/memberships/";
/// One-time codes of `ebbgate login`.
pub const CODES_PREFIX: &str = "/people/codes/";

records! {
    /// That a person belongs to an account. Its id is the user's.
    Membership(UserId) = "users" {
        /// The user's address, for lists.
        email: Email,
        /// What the person may do here.
        role: Role,
        /// Since when an owner of the account has the person suspended here.
        suspended_at: Option<UnixSecs>,
        /// Whether the operator has the person suspended everywhere.
        locked: bool,
    }
    /// An open invitation of somebody into an account.
    Invitation(InvitationId) = "invitations" {
        /// Who is invited.
        email: Email,
        /// What the person will be.
        role: Role,
        /// Who invites: an id of a person or API key, or `operator`.
        invited_by: String,
        /// When it is too late to accept.
        expires_at: UnixSecs,
        /// SHA-256 of the token.
        hash: TokenHash,
    }
    /// A person's session of the dashboard, for one account.
    UserSession(UserSessionId) = "user_sessions" {
        /// Whose.
        user: UserId,
        /// SHA-256 of what the cookie holds.
        hash: TokenHash,
        /// How the person signed in: `password` or `oidc`.
        method: String,
        /// Where from; "" where the listener did not say.
        source: String,
        /// What the browser said it is, shortened.
        user_agent: String,
        /// When it was last used, to within [`crate::people::session::SEEN_SECS`].
        seen_at: UnixSecs,
        /// When it ends, whatever it is used for.
        expires_at: UnixSecs,
    }
}

impl Membership {
    /// Whether the person may act for the account.
    pub fn works(&self) -> bool {
        self.suspended_at.is_none() && !self.locked
    }

    /// Whether what the person got at that time works: what an earlier membership left behind does not come back.
    pub fn covers(&self, created_at: UnixSecs) -> bool {
        self.works() && created_at >= self.created_at
    }
}

/// A person, once in the installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Identifier.
    pub id: UserId,
    /// Unique in the installation.
    pub email: Email,
    /// Hash of the password; None: signs in by OIDC only, or has none yet.
    pub password: Option<PasswordHash>,
    /// A one-time token by which a first or new password is set.
    pub setup: Option<Setup>,
    /// By which identity of which provider the person signs in; set by the first such sign-in.
    pub identity: Option<Identity>,
    /// Since when the operator has the person suspended.
    pub suspended_at: Option<UnixSecs>,
    /// When it was created.
    pub created_at: UnixSecs,
}

impl User {
    /// Key of a user's record.
    pub fn key(id: UserId) -> String {
        format!("{USERS_PREFIX}{id}")
    }
}

/// The way to a first or new password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// SHA-256 of the token.
    pub hash: TokenHash,
    /// When it is too late.
    pub expires_at: UnixSecs,
}

/// Who a person is at an OIDC provider. An address may pass to somebody else there; this pair never does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
}

/// A password's hash in PHC form. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// A one-time code of `ebbgate login`, for which the command gets an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginCode {
    /// The account the person chose.
    pub account: AccountId,
    /// Who allowed it.
    pub user: UserId,
    /// `base64url(SHA-256(verifier))` of the command that asked (RFC 7636).
    pub challenge: String,
    /// When it is too late.
    pub expires_at: UnixSecs,
}

/// Key of the id of the user with an address. Its value is [`UserOf`].
pub fn email_key(email: &Email) -> String {
    format!("{EMAILS_PREFIX}{email}")
}

/// Value of [`email_key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserOf {
    /// The user.
    pub user: UserId,
}

/// Key that says that a user belongs to an account.
pub fn membership_key(user: UserId, account: AccountId) -> String {
    format!("{MEMBERSHIPS_PREFIX}{user}/{account}")
}

/// Key of a one-time code, by its hash: the code itself is stored nowhere.
pub fn code_key(hash_hex: &str) -> String {
    format!("{CODES_PREFIX}{hash_hex}")
}
