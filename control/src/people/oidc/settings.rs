//! Which provider people sign in by: named by the operator, kept in the store with its secret sealed.

use serde::{Deserialize, Serialize};

use super::fetch::check_url;
use crate::record::{self, RecordError};
use crate::secret::{OpenError, Sealed, Vault};
use crate::store::Store;

/// Key of [`Oidc`].
pub const OIDC_KEY: &str = "/system/oidc";
/// Longest issuer, client id or client secret in bytes.
pub const SETTING_BYTES_MAX: usize = 1_024;

/// The provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// `iss` of its tokens, exactly; `/.well-known/openid-configuration` is below it.
    pub issuer: String,
    /// What this installation is called there.
    pub client_id: String,
    /// Sealed with [`OIDC_KEY`] as context; None: a public client, which PKCE alone protects.
    pub client_secret: Option<Sealed>,
}

/// Why a provider is not taken.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// Not a URL.
    #[error("--oidc-issuer: {0}; give it exactly as the provider's `issuer` says it")]
    Issuer(String),
    /// Empty or too long.
    #[error("{0} needs 1 to {SETTING_BYTES_MAX} characters, printable and without spaces")]
    Setting(&'static str),
    /// One without the other.
    #[error("--oidc-issuer and --oidc-client-id go together")]
    Both,
}

impl Oidc {
    /// Checks what the operator gave and seals the secret.
    pub fn new(
        issuer: &str,
        client_id: &str,
        client_secret: Option<&str>,
        vault: &Vault,
    ) -> Result<Self, OidcError> {
        let printable = |text: &str| {
            (1..=SETTING_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        for (name, text) in [
            ("--oidc-issuer", Some(issuer)),
            ("--oidc-client-id", Some(client_id)),
            ("the client secret", client_secret),
        ] {
            if text.is_some_and(|text| !printable(text)) {
                return Err(OidcError::Setting(name));
            }
        }
        check_url(issuer, issuer).map_err(|error| OidcError::Issuer(error.to_string()))?;
        if issuer.contains(['?', '#']) {
            return Err(OidcError::Issuer("an issuer has no query and no fragment".to_owned()));
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            client_secret: client_secret.map(|secret| vault.seal(OIDC_KEY, secret)),
        })
    }

    /// The client secret, opened.
    pub fn secret(&self, vault: &Vault) -> Result<Option<String>, OpenError> {
        self.client_secret.as_ref().map(|sealed| vault.open(OIDC_KEY, sealed)).transpose()
    }
}

/// The provider in force. None: people have passwords only.
pub async fn read(store: &dyn Store) -> Result<Option<Oidc>, RecordError> {
    Ok(record::read::<Oidc>(store, OIDC_KEY).await?.map(|stored| stored.record))
}
