//! One sign-in by OIDC: what a browser is sent away with, what it must bring back, and what the provider then says.
//!
//! What must come back is sealed into a cookie, so that a sign-in under way takes no memory here and any replica can end it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ebbgate_policy::identity::Expected;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fetch::{Call, fetch};
use super::provider::{Provider, ProviderError};
use super::settings::Oidc;
use crate::people::Email;
use crate::record::UnixSecs;
use crate::record::people::Identity;
use crate::secret::{self, Entropy, Sealed, Vault};

/// Seconds a sign-in may take at the provider.
pub const FLOW_SECS_MAX: UnixSecs = 600;
/// Characters of state, nonce and verifier (RFC 7636 section 4.1: at least 43).
const RANDOM_CHARS: usize = 43;
/// What the cookie is sealed for.
const CONTEXT: &str = "oidc sign-in";
/// Longest `sub` (`OpenID` Connect Core section 2).
const SUBJECT_BYTES_MAX: usize = 255;

/// A sign-in under way.
#[derive(Clone, Serialize, Deserialize)]
pub struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    /// Where to go then; a path of the dashboard.
    pub return_to: String,
    /// Token of the invitation that is accepted by it.
    pub invitation: Option<String>,
    started_at: UnixSecs,
}

impl Pending {
    /// A new one.
    pub fn new(entropy: &dyn Entropy, now: UnixSecs, return_to: String, invitation: Option<String>) -> Self {
        let random = || secret::base62(entropy, RANDOM_CHARS);
        Self { state: random(), nonce: random(), verifier: random(), return_to, invitation, started_at: now }
    }

    /// As a cookie's value.
    pub fn seal(&self, vault: &Vault) -> String {
        let text = serde_json::to_string(self).expect("texts and a number");
        URL_SAFE_NO_PAD.encode(vault.seal(CONTEXT, &text).text())
    }

    /// What a cookie holds, while it is not too old.
    pub fn open(vault: &Vault, cookie: &str, now: UnixSecs) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cookie).ok()?).ok()?;
        let opened = vault.open(CONTEXT, &Sealed::from_text(&text)).ok()?;
        let pending: Self = serde_json::from_str(&opened).ok()?;
        (0..FLOW_SECS_MAX).contains(&now.saturating_sub(pending.started_at)).then_some(pending)
    }

    /// Whether an answer belongs to it.
    pub fn has_state(&self, state: &str) -> bool {
        secret::same(state.as_bytes(), self.state.as_bytes())
    }

    /// Where the browser is sent.
    pub fn authorization_url(&self, endpoint: &str, oidc: &Oidc, redirect_uri: &str) -> String {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", &oidc.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", "openid email")
            .append_pair("state", &self.state)
            .append_pair("nonce", &self.nonce)
            .append_pair("code_challenge", &challenge(&self.verifier))
            .append_pair("code_challenge_method", "S256")
            .finish();
        let mark = if endpoint.contains('?') { '&' } else { '?' };
        format!("{endpoint}{mark}{query}")
    }
}

/// `base64url(SHA-256(verifier))` (RFC 7636 section 4.2).
pub fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(secret::hash(verifier).0)
}

/// Who somebody is, by the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// An address that the provider has verified.
    pub email: Email,
    /// Which person it is there.
    pub identity: Identity,
}

/// Why a sign-in proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The provider.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The answer to the code.
    #[error("the provider's answer has no `id_token`")]
    NoToken,
    /// The answer with the claims.
    #[error("the provider's user info is no JSON object of the person that the ID token names")]
    UserInfo,
    /// The address.
    #[error("the provider has not verified the person's e-mail address (`email`, `email_verified`)")]
    Email,
    /// The subject.
    #[error("the token's `sub` is missing or longer than {SUBJECT_BYTES_MAX} bytes")]
    Subject,
}

/// Gives a code for an ID token and says who it is about.
pub async fn redeem(
    provider: &Provider,
    oidc: &Oidc,
    client_secret: Option<&str>,
    pending: &Pending,
    (code, redirect_uri): (&str, &str),
    now: UnixSecs,
) -> Result<Person, FlowError> {
    let document = provider.document(&oidc.issuer).await?;
    let methods = document.token_endpoint_auth_methods_supported.unwrap_or_default();
    let takes = |method: &str| methods.iter().any(|known| known == method);
    let in_body = takes("client_secret_post") && !takes("client_secret_basic");
    let form = exchange(oidc, pending, code, redirect_uri, client_secret.filter(|_| in_body));
    let authorization = client_secret.filter(|_| !in_body).map(|secret| basic(&oidc.client_id, secret));
    let call = Call::Post { form, authorization: authorization.as_deref() };
    let answer = fetch(&document.token_endpoint, &oidc.issuer, call).await.map_err(ProviderError::from)?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|_| FlowError::NoToken)?;
    let token = answer.get("id_token").and_then(Value::as_str).ok_or(FlowError::NoToken)?;
    let expected = Expected {
        issuer: &oidc.issuer,
        client_id: &oidc.client_id,
        nonce: &pending.nonce,
        now_unix_ms: now.saturating_mul(1_000),
    };
    let claims = provider.verify(token, &expected).await?;
    let Some(endpoint) = document.userinfo_endpoint.filter(|_| lacks_address(&claims)) else {
        return person(&oidc.issuer, &claims);
    };
    let Some(token) = answer.get("access_token").and_then(Value::as_str) else {
        return person(&oidc.issuer, &claims);
    };
    let bearer = format!("Bearer {token}");
    let call = Call::Get { authorization: Some(&bearer) };
    let info = fetch(&endpoint, &oidc.issuer, call).await.map_err(ProviderError::from)?;
    person(&oidc.issuer, &user_info(&info, &claims)?)
}

/// Whether a token leaves the address to the user info, as providers do where the response type is `code` (`OpenID`
/// Connect Core section 5.4).
fn lacks_address(claims: &Value) -> bool {
    claims.get("email").is_none() || claims.get("email_verified").is_none()
}

/// The claims of the user info. They must be of the token's person (`OpenID` Connect Core section 5.3.2).
fn user_info(text: &[u8], claims: &Value) -> Result<Value, FlowError> {
    let info: Value = serde_json::from_slice(text).map_err(|_| FlowError::UserInfo)?;
    let subject = |claims: &Value| claims.get("sub").and_then(Value::as_str).map(str::to_owned);
    let same = subject(&info).is_some_and(|sub| Some(sub) == subject(claims));
    if same { Ok(info) } else { Err(FlowError::UserInfo) }
}

/// The form by which a code is given for tokens (RFC 6749 section 4.1.3).
fn exchange(
    oidc: &Oidc,
    pending: &Pending,
    code: &str,
    redirect_uri: &str,
    client_secret: Option<&str>,
) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", code)
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("code_verifier", &pending.verifier)
        .append_pair("client_id", &oidc.client_id);
    if let Some(secret) = client_secret {
        form.append_pair("client_secret", secret);
    }
    form.finish()
}

/// RFC 6749 section 2.3.1: both parts are form-encoded first.
fn basic(client_id: &str, client_secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(client_secret))))
}

fn person(issuer: &str, claims: &Value) -> Result<Person, FlowError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let subject = text("sub").filter(|sub| (1..=SUBJECT_BYTES_MAX).contains(&sub.len()));
    let subject = subject.ok_or(FlowError::Subject)?;
    let verified = claims.get("email_verified").and_then(Value::as_bool) == Some(true);
    let email = text("email").filter(|_| verified).and_then(|email| email.parse().ok());
    let identity = Identity { issuer: issuer.to_owned(), subject: subject.to_owned() };
    Ok(Person { email: email.ok_or(FlowError::Email)?, identity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SystemEntropy;

    #[test]
    fn what_comes_back_is_ours_fresh_and_whole() {
        let vault = Vault::new(&[7; 32]);
        let pending = Pending::new(&SystemEntropy, 1_000, "/dashboard".into(), None);
        let cookie = pending.seal(&vault);
        let opened = Pending::open(&vault, &cookie, 1_000 + FLOW_SECS_MAX - 1).unwrap();
        assert!(
            opened.has_state(&pending.state) && !opened.has_state("") && !opened.has_state(&pending.nonce)
        );
        assert!(Pending::open(&vault, &cookie, 1_000 + FLOW_SECS_MAX).is_none(), "too old");
        assert!(Pending::open(&vault, &cookie, 999).is_none(), "from the future");
        assert!(Pending::open(&Vault::new(&[8; 32]), &cookie, 1_000).is_none(), "another key");
        for bad in ["", "x", &cookie[..cookie.len() - 2]] {
            assert!(Pending::open(&vault, bad, 1_000).is_none(), "{bad}");
        }
    }

    /// RFC 7636 appendix B.
    #[test]
    fn the_challenge_is_that_of_the_rfc() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn user_info_is_asked_where_the_token_lacks_the_address_and_taken_of_its_person_only() {
        use serde_json::json;
        assert!(lacks_address(&json!({"sub": "1"})) && lacks_address(&json!({"sub": "1", "email": "a@b.c"})));
        assert!(!lacks_address(&json!({"email": "a@b.c", "email_verified": false})));
        let token = json!({"sub": "1"});
        let check = |text: &str, expect: bool| {
            assert_eq!(user_info(text.as_bytes(), &token).is_ok(), expect, "{text}");
        };
        check(r#"{"sub": "1", "email": "ann@example.com", "email_verified": true}"#, true);
        for bad in
            [r#"{"sub": "2"}"#, r#"{"email": "ann@example.com"}"#, r#"{"sub": 1}"#, "[]", "eyJ.eyJ.x", ""]
        {
            check(bad, false);
        }
        assert!(user_info(b"{}", &json!({})).is_err(), "no subject is nobody's");
    }

    #[test]
    fn only_a_verified_address_is_a_persons() {
        let check = |claims: Value, expect: bool| {
            assert_eq!(person("https://i", &claims).is_ok(), expect, "{claims}");
        };
        let good = serde_json::json!({"sub": "1", "email": "Ann@example.com", "email_verified": true});
        check(good.clone(), true);
        for (name, value) in [
            ("email_verified", Value::Null),
            ("email_verified", "true".into()),
            ("email_verified", false.into()),
            ("email", "nobody".into()),
            ("sub", "".into()),
            ("sub", 7.into()),
            ("sub", "x".repeat(256).into()),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            check(claims, false);
        }
    }
}
