//! A compiled sign-in action as data: which provider, which client, how long sessions last.

use crate::expr::Template;
use crate::identity::{Lifetimes, Provider};

/// A compiled action. Its `Debug` shows no secret: templates hold only what the policy's text holds.
pub(super) struct SignIn {
    pub(super) by: By,
    pub(super) auth_id: String,
    pub(super) client_id: Template,
    pub(super) client_secret: Template,
    pub(super) scopes: Vec<String>,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) lifetimes: Lifetimes,
    pub(super) allow_cors_preflight: bool,
    pub(super) domain: Option<String>,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn").field("by", &self.by).field("auth_id", &self.auth_id).finish_non_exhaustive()
    }
}

/// The identity provider.
#[derive(Debug)]
pub(super) enum By {
    /// An `OpenID` provider that publishes its metadata.
    Issuer(String),
    /// A published provider of plain `OAuth` 2.0.
    Published(&'static Provider),
}

impl By {
    /// The action's name, and its result's.
    pub(super) fn kinds(&self) -> (&'static str, &'static str) {
        match self {
            Self::Issuer(_) => ("openid-connect", "oidc"),
            Self::Published(_) => ("oauth", "oauth"),
        }
    }

    /// The provider, for messages and bindings.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Issuer(issuer) => issuer,
            Self::Published(provider) => provider.name,
        }
    }
}
