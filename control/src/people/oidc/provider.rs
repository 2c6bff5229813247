//! What the provider publishes: its endpoints (`OpenID` Connect Discovery 1.0) and its keys (RFC 7517), kept for a while and
//! fetched anew when a token is signed by a key that is not there.

use std::time::{Duration, Instant};

use ebbgate_policy::identity::{Expected, IdTokenError, verify_id_token};
use ebbgate_policy::{KeySet, KeySetError};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::fetch::{Call, FetchError, check_url, fetch};

/// Seconds that what is published is kept.
const KEEP_SECS: u64 = 600;
/// Seconds between two fetches of keys because one was not there: a stranger's token must not make us ask again and again.
const ASK_AGAIN_SECS: u64 = 30;

/// Why the provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// A call.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The discovery document.
    #[error("the provider's configuration cannot be read: {0}")]
    Document(#[from] serde_json::Error),
    /// It is somebody else's.
    #[error(
        "the provider's configuration is of the issuer `{0}`: give --oidc-issuer exactly as the provider says it"
    )]
    Issuer(String),
    /// The key set.
    #[error(transparent)]
    Keys(#[from] KeySetError),
    /// The token.
    #[error(transparent)]
    Token(#[from] IdTokenError),
}

/// Members of the discovery document that matter here.
#[derive(Debug, Clone, Deserialize)]
pub struct Document {
    issuer: String,
    /// Where browsers are sent.
    pub authorization_endpoint: String,
    /// Where codes are given for tokens.
    pub token_endpoint: String,
    /// Where claims are that the ID token does not carry.
    #[serde(default)]
    pub userinfo_endpoint: Option<String>,
    jwks_uri: String,
    /// How clients may authenticate; absent: HTTP Basic.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Kept {
    document: Document,
    keys: KeySet,
    at: Instant,
}

/// What was published last.
#[derive(Debug, Default)]
pub struct Provider(Mutex<Option<Kept>>);

impl Provider {
    /// The provider's endpoints.
    pub async fn document(&self, issuer: &str) -> Result<Document, ProviderError> {
        Ok(self.kept(issuer, Duration::from_secs(KEEP_SECS)).await?.document)
    }

    async fn kept(&self, issuer: &str, age_max: Duration) -> Result<Kept, ProviderError> {
        let mut kept = self.0.lock().await;
        if let Some(kept) = kept.as_ref().filter(|k| k.document.issuer == issuer && k.at.elapsed() < age_max)
        {
            return Ok(kept.clone());
        }
        let fresh = published(issuer).await?;
        *kept = Some(fresh.clone());
        Ok(fresh)
    }

    /// The claims of an ID token, if it proves anything.
    pub async fn verify(&self, token: &str, expected: &Expected<'_>) -> Result<Value, ProviderError> {
        let mut kept = self.kept(expected.issuer, Duration::from_secs(KEEP_SECS)).await?;
        let mut verified = verify_id_token(token, &kept.keys, expected);
        if verified == Err(IdTokenError::UnknownKey) {
            kept = self.kept(expected.issuer, Duration::from_secs(ASK_AGAIN_SECS)).await?;
            verified = verify_id_token(token, &kept.keys, expected);
        }
        Ok(verified?)
    }

    /// As if what is kept had been fetched so long ago.
    #[doc(hidden)]
    pub async fn age(&self, by: Duration) {
        let mut kept = self.0.lock().await;
        *kept = kept.take().and_then(|kept| Some(Kept { at: kept.at.checked_sub(by)?, ..kept }));
    }
}

async fn published(issuer: &str) -> Result<Kept, ProviderError> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let document: Document =
        serde_json::from_slice(&fetch(&url, issuer, Call::Get { authorization: None }).await?)?;
    if document.issuer != issuer {
        let said: String = document.issuer.chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(ProviderError::Issuer(said));
    }
    for url in [&document.authorization_endpoint, &document.token_endpoint] {
        check_url(url, issuer)?;
    }
    let keys = KeySet::parse(&fetch(&document.jwks_uri, issuer, Call::Get { authorization: None }).await?)?;
    for refused in keys.refused() {
        tracing::warn!(issuer, index = refused.index, defect = ?refused.defect, "a key of the provider is not used");
    }
    Ok(Kept { document, keys, at: Instant::now() })
}
