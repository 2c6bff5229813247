//! What a provider is asked: its metadata, tokens for a code or a refresh token, and who a token is about.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::settings::{By, SignIn};
use crate::action::{Flow, Gathered};
use crate::code;
use crate::identity::{
    Endpoints, Exchange, Exchanged, Expected, IdTokenError, Identity, Metadata, Pending, Purpose,
    SessionFacts, Share, Tokens, binding, is_email, primary_email, verify_id_token,
};
use crate::verdict::Effect;

/// Seconds that metadata is taken from an answer before.
const METADATA_SECS: u64 = 600;
/// Seconds that an answer which spent something is remembered, so that a repeat spends nothing.
const SPENT_SECS: u64 = 600;
/// Seconds that user info is shared by parallel requests.
const USER_INFO_SECS: u64 = 5;
/// Seconds that a failure is remembered.
const FAILED_SECS: u64 = 15;

/// What ends the run for now: something is needed, or it is over.
pub(super) type Or<T> = Result<T, Box<Flow>>;

/// The client at its provider.
pub(super) struct Client<'a> {
    pub(super) action: &'a SignIn,
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) facts: &'a SessionFacts,
    pub(super) now_unix_secs: i64,
}

/// Where the provider is.
pub(super) struct Site {
    pub(super) endpoints: Endpoints,
    metadata: Option<Metadata>,
}

/// What came of a request for tokens.
pub(super) enum Granted {
    Tokens(Tokens),
    /// The provider refused the code or token itself: nobody's fault but its bearer's.
    Refused,
    /// There was no answer that says so.
    Failed(String),
}

/// What came of asking who a token is about.
pub(super) enum About {
    Person(Identity),
    /// The token is not good any more.
    Refused,
    Failed(String),
}

fn over(flow: Flow) -> Box<Flow> {
    Box::new(flow)
}

impl Client<'_> {
    /// A failure that the operator learns of, by the log.
    pub(super) fn failed(&self, message: impl std::fmt::Display) -> Box<Flow> {
        let (kind, _) = self.action.by.kinds();
        over(Flow::failed(code::EXPRESSION_FAILED, format!("{kind} `{}`: {message}", self.action.auth_id)))
    }

    /// An answer that was gathered, or the need for it.
    fn exchange(
        gathered: &Gathered,
        purpose: Purpose,
        make: impl FnOnce() -> Exchange,
    ) -> Or<Result<Exchanged, String>> {
        match gathered.exchanged.get(&purpose) {
            Some(exchanged) => Ok(exchanged.clone()),
            None => Err(over(Flow::Need(Effect::Exchange(Arc::new(make()))))),
        }
    }

    /// The provider's endpoints, as the policy, the operator or the provider says.
    pub(super) fn site(&self, gathered: &Gathered) -> Or<Site> {
        let issuer = match &self.action.by {
            By::Published(provider) => {
                let own = self.facts.providers.get(provider.name).cloned();
                return Ok(Site { endpoints: own.unwrap_or_else(|| provider.endpoints()), metadata: None });
            }
            By::Issuer(issuer) => issuer,
        };
        let url = Metadata::url(issuer);
        let answer = Self::exchange(gathered, Purpose::Discovery, || Exchange {
            purpose: Purpose::Discovery,
            share: Share { key: url.clone(), answered_secs: METADATA_SECS, failed_secs: FAILED_SECS },
            url,
            authorization: None,
            form: None,
        })?;
        let answer = answer.map_err(|why| self.failed(format_args!("the metadata of {issuer}: {why}")))?;
        if answer.status != 200 {
            return Err(self.failed(format_args!(
                "the metadata of {issuer}: the answer is {}, not 200 (redirects are not followed)",
                answer.status
            )));
        }
        let metadata = Metadata::parse(&answer.body, issuer).map_err(|why| self.failed(why))?;
        let endpoints = Endpoints {
            authorization_endpoint: metadata.authorization_endpoint.clone(),
            token_endpoint: metadata.token_endpoint.clone(),
            userinfo_endpoint: metadata.userinfo_endpoint.clone().unwrap_or_default(),
            emails_endpoint: None,
        };
        Ok(Site { endpoints, metadata: Some(metadata) })
    }

    /// Gives a code for tokens.
    pub(super) fn redeem(
        &self,
        gathered: &Gathered,
        site: &Site,
        (code, redirect_uri): (&str, &str),
        pending: &Pending,
    ) -> Or<Granted> {
        let mut form =
            vec![("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect_uri)];
        if self.uses_challenge() {
            form.push(("code_verifier", &pending.verifier));
        }
        self.tokens(gathered, site, Purpose::Code, &form, &[code, &pending.state])
    }

    /// Gives a refresh token for new tokens. The token is spent once: see [`Share`].
    pub(super) fn refresh(&self, gathered: &Gathered, site: &Site, token: &str) -> Or<Granted> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.tokens(gathered, site, Purpose::Refresh, &form, &[token])
    }

    /// Whether the provider takes a code challenge.
    pub(super) fn uses_challenge(&self) -> bool {
        match &self.action.by {
            By::Issuer(_) => true,
            By::Published(provider) => provider.pkce,
        }
    }

    fn tokens(
        &self,
        gathered: &Gathered,
        site: &Site,
        purpose: Purpose,
        fields: &[(&str, &str)],
        spent: &[&str],
    ) -> Or<Granted> {
        let url = site.endpoints.token_endpoint.as_str();
        let in_form = site.metadata.as_ref().is_none_or(Metadata::wants_secret_in_form);
        let answer = Self::exchange(gathered, purpose, || {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.extend_pairs(fields);
            form.append_pair("client_id", &self.id);
            if in_form {
                form.append_pair("client_secret", &self.secret);
            }
            let mut parts = vec!["spent", url, self.id.as_str()];
            parts.extend(spent);
            let key = URL_SAFE_NO_PAD.encode(binding(&parts));
            Exchange {
                purpose,
                url: url.to_owned(),
                authorization: (!in_form).then(|| basic(&self.id, &self.secret)),
                form: Some(form.finish()),
                share: Share { key, answered_secs: SPENT_SECS, failed_secs: FAILED_SECS },
            }
        })?;
        Ok(match answer {
            Ok(answer) => granted(&answer, url),
            Err(why) => Granted::Failed(format!("{url}: {why}")),
        })
    }

    /// The claims of an ID token that proves something about this sign-in.
    pub(super) fn claims(
        &self,
        gathered: &Gathered,
        site: &Site,
        token: &str,
        nonce: &str,
    ) -> Or<Option<Value>> {
        let Some(metadata) = &site.metadata else { return Ok(None) };
        let url = metadata.jwks_uri.clone();
        let keys = match gathered.keys.get(&url) {
            None => return Err(over(Flow::Need(Effect::Keys { url, fresh: false }))),
            Some(Err(why)) => return Err(self.failed(format_args!("the keys at {url}: {why}"))),
            Some(Ok(keys)) => keys,
        };
        let expected = Expected {
            issuer: self.action.by.name(),
            client_id: &self.id,
            nonce,
            now_unix_ms: self.now_unix_secs.saturating_mul(1_000),
        };
        match verify_id_token(token, keys, &expected) {
            Ok(claims) => Ok(Some(claims)),
            Err(IdTokenError::UnknownKey) if !gathered.refreshed.contains(&url) => {
                Err(over(Flow::Need(Effect::Keys { url, fresh: true })))
            }
            Err(why) => Err(self.failed(format_args!("the ID token of {}: {why}", self.action.by.name()))),
        }
    }

    /// Asks who an access token is about.
    pub(super) fn about(&self, gathered: &Gathered, site: &Site, token: &str) -> Or<About> {
        let url = site.endpoints.userinfo_endpoint.as_str();
        let (id, names) = match &self.action.by {
            By::Issuer(_) => ("sub", &["name", "nickname", "preferred_username"][..]),
            By::Published(provider) => (provider.id, provider.names),
        };
        let answer = match self.bearer(gathered, Purpose::UserInfo, url, token)? {
            Ok(answer) => answer,
            Err(why) => return Ok(About::Failed(format!("{url}: {why}"))),
        };
        match answer.status {
            200 => {}
            401 | 403 => return Ok(About::Refused),
            status => return Ok(About::Failed(format!("{url}: the answer is {status}, not 200"))),
        }
        let info: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let Some(mut person) = info.and_then(|info| Identity::read(&info, id, names)) else {
            return Ok(About::Failed(format!("{url}: the answer is no JSON object with `{id}`")));
        };
        if let (true, Some(url)) = (person.email.is_empty(), &site.endpoints.emails_endpoint)
            && let Ok(answer) = self.bearer(gathered, Purpose::Emails, url, token)?
        {
            let found = primary_email(&answer.body).filter(|email| answer.status == 200 && is_email(email));
            person.email = found.unwrap_or_default();
        }
        Ok(About::Person(person))
    }

    fn bearer(
        &self,
        gathered: &Gathered,
        purpose: Purpose,
        url: &str,
        token: &str,
    ) -> Or<Result<Exchanged, String>> {
        Self::exchange(gathered, purpose, || Exchange {
            purpose,
            url: url.to_owned(),
            authorization: Some(format!("Bearer {token}")),
            form: None,
            share: Share {
                key: URL_SAFE_NO_PAD.encode(binding(&["about", url, &self.id, token])),
                answered_secs: USER_INFO_SECS,
                failed_secs: FAILED_SECS,
            },
        })
    }
}

/// Reads the answer to a request for tokens (RFC 6749 sections 5.1 and 5.2). Some providers say errors with status 200.
fn granted(answer: &Exchanged, url: &str) -> Granted {
    let read: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = read.get("error").and_then(Value::as_str).map(word);
    match (answer.status, error) {
        (200 | 201, None) => match Tokens::read(&read, answer.at_unix_secs) {
            Some(tokens) => Granted::Tokens(tokens),
            None => Granted::Failed(format!("{url}: the answer has no access token")),
        },
        (200 | 400 | 401 | 403, Some(error))
            if ["invalid_grant", "bad_verification_code", "bad_refresh_token"].contains(&error.as_str()) =>
        {
            Granted::Refused
        }
        (status, Some(error)) => Granted::Failed(format!("{url}: the answer is {status}, `{error}`")),
        (status, None) => Granted::Failed(format!("{url}: the answer is {status}, not 200")),
    }
}

/// An error's name, without characters that could forge a log line.
pub(super) fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).take(64).collect()
}

/// RFC 6749 section 2.3.1: both parts are form-encoded first.
fn basic(client_id: &str, client_secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(client_secret))))
}
