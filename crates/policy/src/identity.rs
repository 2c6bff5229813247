//! Signing visitors in by an identity provider: sealed sessions, exchanges with providers, and ID tokens.
//!
//! ID tokens of `OpenID` Connect (Core 1.0 section 3.1.3.7), judged by the same rules as any other token: `none` and the HMAC
//! family do not exist, keys are filtered, nothing in a token leads to a key. Pure: keys and time are arguments.

mod cookie;
mod exchange;
mod facts;
mod place;
mod provider;
mod ring;
mod session;

use serde_json::Value;

use crate::jwks::{Algorithm, Identifier, KeySet};
use crate::token::{Token, TokenError, TokenType, Verification};

pub use cookie::is_same_cookie;
pub use exchange::{EXCHANGE_BYTES_MAX, Exchange, Exchanged, Purpose, Share};
pub use facts::{ENTROPY_BYTES, SessionFacts, SessionNote};
pub use place::{CALLBACK_PATH, LOGIN_PATH, LOGOUT_PATH};
pub use provider::{Endpoints, EndpointsError, parse_endpoints};
pub use ring::{KeyRing, SEALING_KEY_BYTES, SEALING_KEYS_MAX, SEALING_NONCE_BYTES, SealingKey};
pub use session::Identity;

pub(crate) use cookie::{COOKIE_BYTES_MAX, Cookie, strip};
pub(crate) use facts::Drawn;
pub(crate) use place::{
    AUTH_ID_CHARS_MAX, Addressed, Ask, addressed, binding, is_auth_id, is_return_path, parameter, state,
};
pub(crate) use provider::{Metadata, PROVIDERS, Provider, check_url, primary_email};
pub(crate) use session::{Lifetimes, PENDING_SECS_MAX, Pending, Session, Tokens, is_email};

/// What an ID token must fit.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'e> {
    /// `iss`, exactly.
    pub issuer: &'e str,
    /// The client's own id: it must be in `aud`, and `azp` must be it where there is one or `aud` names several.
    pub client_id: &'e str,
    /// `nonce`, exactly.
    pub nonce: &'e str,
    /// Unix time in milliseconds.
    pub now_unix_ms: i64,
}

/// Why an ID token proves nothing. The sentence never quotes the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    /// No key set could make it good.
    #[error("{0}")]
    Refused(String),
    /// The key set does not have its key: a newer one may.
    #[error("the token's signature is not that of a known key")]
    UnknownKey,
}

impl From<TokenError> for IdTokenError {
    fn from(error: TokenError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// The claims of an ID token whose signature, issuer, audience, times and nonce are right.
pub fn verify_id_token(text: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<Value, IdTokenError> {
    let allowed = Algorithm::ALL.map(|(_, algorithm)| algorithm);
    let token = Token::parse(text, &allowed, TokenType::Identity, [Identifier::Kid])?;
    match token.verify(keys, &[Identifier::Kid]) {
        Verification::Good => {}
        Verification::NoKey => return Err(IdTokenError::UnknownKey),
        Verification::Bad => return Err(TokenError::Signature.into()),
    }
    let (issuers, audiences) = ([expected.issuer.to_owned()], [expected.client_id.to_owned()]);
    token.check_claims(TokenType::Identity, &issuers, &audiences, expected.now_unix_ms)?;
    let claims = token.claims_json();
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let refused = |why: &str| Err(IdTokenError::Refused(why.to_owned()));
    if text("nonce") != Some(expected.nonce) {
        return refused("the token's nonce is not that of this sign-in");
    }
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|named| named.len() > 1);
    if (several || claims.get("azp").is_some()) && text("azp") != Some(expected.client_id) {
        return refused("the token was given to another client (`azp`)");
    }
    Ok(claims)
}
