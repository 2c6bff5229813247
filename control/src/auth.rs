//! Who calls the API: from an `Authorization` header to an account and a role, and how often an account may call.
//!
//! Answers published codes (surface.md section 1.1). Never logs or returns what was presented.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::{AccountId, ApiKeyId, CredentialId, ErrorCode, OwnerId, Token, UserId, UserSessionId};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::people::Role;
use crate::record::people::Membership;
use crate::record::{self, Account, ApiKey, Credential, Holder, Limits, RecordError, ServiceUser, index};
use crate::secret;
use crate::store::{Revision, Store};

/// Seconds over which requests of an account are counted.
pub const WINDOW_SECS: u64 = 60;
/// Requests an account may make in the window, by default.
pub const REQUESTS_MAX: u32 = 120;
/// Accounts (or sources) counted before those without a request in the window are forgotten.
pub const ACCOUNTS_COUNTED_MAX: usize = 10_000;

/// A caller with a valid key or session.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Account acted for.
    pub account: AccountId,
    /// Revision that last wrote the account's own record: a write of the caller holds only while that stands.
    pub account_modified: Revision,
    /// Most the account may have.
    pub limits: Limits,
    /// What was presented.
    pub means: Means,
    /// What the caller may do. A key of the account itself acts as an owner, one of a service user as an admin.
    pub role: Role,
}

/// By what a caller is known.
#[derive(Debug, Clone)]
pub enum Means {
    /// An API key.
    Key(ApiKey),
    /// A person's session of the dashboard.
    Session(UserId, UserSessionId),
}

impl Caller {
    /// The person or service user that calls; None: the account itself.
    pub fn owner(&self) -> Option<OwnerId> {
        match &self.means {
            Means::Key(key) => key.owner,
            Means::Session(user, _) => Some(OwnerId::User(*user)),
        }
    }

    /// The key presented, if it is one.
    pub fn key_id(&self) -> Option<ApiKeyId> {
        match &self.means {
            Means::Key(key) => Some(key.id),
            Means::Session(..) => None,
        }
    }

    /// Id of the key or session.
    pub fn means_id(&self) -> String {
        match &self.means {
            Means::Key(key) => key.id.to_string(),
            Means::Session(_, session) => session.to_string(),
        }
    }

    /// Id of the caller: the person or service user, or the account's key.
    pub fn principal(&self) -> String {
        self.owner().map_or_else(|| self.means_id(), |owner| owner.to_string())
    }
}

/// Why a call is not answered.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No header.
    #[error("the request has no Authorization header: send `Authorization: Bearer <API key>`")]
    Missing,
    /// Neither `Bearer` nor `Basic`, or not readable.
    #[error(
        "the Authorization header is neither `Bearer <API key>` nor Basic with the API key as password or user"
    )]
    Form,
    /// Not a token at all.
    #[error("what was presented is not an API key: keys are 27 characters, an underscore and 21 characters")]
    Malformed,
    /// A well-formed token that is no key.
    #[error("the API key is unknown or was deleted")]
    Unknown,
    /// An authtoken of agents.
    #[error("an authtoken was presented: the API takes API keys; make one with POST /api_keys")]
    Authtoken,
    /// The id of a key.
    #[error("the id of an API key was presented; the key itself was shown once, when it was created")]
    KeyId,
    /// Its service user was switched off, or its person is suspended or gone.
    #[error("the service user or person of this API key is not active in the account")]
    Inactive,
    /// The operator has suspended its account.
    #[error("the account {0} is suspended: ask the operator of this installation")]
    Suspended(AccountId),
    /// The store failed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl AuthError {
    /// The published code; None when the fault is ours.
    pub fn code(&self) -> Option<ErrorCode> {
        Some(ErrorCode::new(match self {
            Self::Missing => 200,
            Self::Form => 201,
            Self::Malformed => 202,
            Self::Unknown | Self::Inactive => 203,
            Self::Authtoken => 206,
            Self::KeyId => 208,
            Self::Suspended(_) => return Some(ErrorCode::ACCOUNT_SUSPENDED),
            Self::Record(_) => return None,
        }))
    }
}

/// Authenticates the caller.
pub async fn authenticate(store: &dyn Store, headers: &HeaderMap) -> Result<Caller, AuthError> {
    let presented = presented(headers)?;
    if presented.parse::<ApiKeyId>().is_ok() {
        return Err(AuthError::KeyId);
    }
    let token: Token = presented.parse().map_err(|_| AuthError::Malformed)?;
    let id = ApiKeyId::new(token.ksuid());
    let Some(holder) = record::read::<Holder>(store, &index::api_key(id)).await? else {
        return Err(unknown(store, &token).await?);
    };
    let account = holder.record.account;
    let key = record::load::<ApiKey>(store, account, id).await?.ok_or(AuthError::Unknown)?.record;
    if !secret::matches(token.expose(), &key.hash) {
        return Err(AuthError::Unknown);
    }
    let role = role_of(store, &key).await?;
    // Last: only the holder of a working key learns that the account is suspended.
    let stored = record::read::<Account>(store, &Account::key(account)).await?.ok_or(AuthError::Unknown)?;
    if stored.record.suspended_at.is_some() {
        return Err(AuthError::Suspended(account));
    }
    Ok(Caller {
        account,
        account_modified: stored.modified,
        limits: stored.record.limits,
        means: Means::Key(key),
        role,
    })
}

/// What a key's owner may do now.
async fn role_of(store: &dyn Store, key: &ApiKey) -> Result<Role, AuthError> {
    match key.owner {
        None => Ok(Role::Owner),
        Some(OwnerId::ServiceUser(id)) => {
            let user = record::load::<ServiceUser>(store, key.account, id).await?;
            user.filter(|user| user.record.active).map(|_| Role::Admin).ok_or(AuthError::Inactive)
        }
        Some(OwnerId::User(id)) => {
            let membership = record::load::<Membership>(store, key.account, id).await?;
            let works = membership.filter(|stored| stored.record.covers(key.created_at));
            works.map(|stored| stored.record.role).ok_or(AuthError::Inactive)
        }
    }
}

/// Tells an authtoken from a key that does not exist; only a caller with the whole authtoken learns that it is one.
async fn unknown(store: &dyn Store, token: &Token) -> Result<AuthError, RecordError> {
    let id = CredentialId::new(token.ksuid());
    let Some(holder) = record::read::<Holder>(store, &index::credential(id)).await? else {
        return Ok(AuthError::Unknown);
    };
    let credential = record::load::<Credential>(store, holder.record.account, id).await?;
    let is_one = credential.is_some_and(|c| secret::matches(token.expose(), &c.record.hash));
    Ok(if is_one { AuthError::Authtoken } else { AuthError::Unknown })
}

/// The token in the header: `Bearer TOKEN`, or Basic with it as user or password.
fn presented(headers: &HeaderMap) -> Result<String, AuthError> {
    let header = headers.get(AUTHORIZATION).ok_or(AuthError::Missing)?;
    let (scheme, value) =
        header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(AuthError::Form)?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(value.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(AuthError::Form);
    }
    let decoded = STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or(AuthError::Form)?;
    let (user, password) = decoded.split_once(':').ok_or(AuthError::Form)?;
    Ok(if password.is_empty() { user } else { password }.to_owned())
}

/// Counts requests per account, or whatever else makes them, over a sliding window.
#[derive(Debug)]
pub struct Limiter<K = AccountId> {
    requests_max: Option<u32>,
    counts: Mutex<BTreeMap<K, Vec<Instant>>>,
}

impl<K: Ord> Limiter<K> {
    /// At most this many requests of each and [`WINDOW_SECS`]; None: no limit.
    pub fn new(requests_max: Option<u32>) -> Self {
        Self { requests_max, counts: Mutex::default() }
    }

    /// The limit; None: there is none.
    pub fn requests_max(&self) -> Option<u32> {
        self.requests_max
    }

    /// Counts a request. Err: over the limit (code 226); carries the wait until the next one is allowed.
    pub fn admit(&self, who: K, now: Instant) -> Result<(), Duration> {
        let Some(max) = self.requests_max else { return Ok(()) };
        let window = Duration::from_secs(WINDOW_SECS);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= ACCOUNTS_COUNTED_MAX {
            counts.retain(|_, seen| {
                seen.last().is_some_and(|last| now.saturating_duration_since(*last) < window)
            });
        }
        let seen = counts.entry(who).or_default();
        seen.retain(|at| now.saturating_duration_since(*at) < window);
        match seen.first() {
            Some(oldest) if seen.len() >= max as usize => {
                Err(window.saturating_sub(now.saturating_duration_since(*oldest)))
            }
            _ => {
                seen.push(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use crate::record::encode;
    use crate::store::Txn;
    use ebbgate_model::{Acl, ServiceUserId};

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    async fn code(lab: &Lab, headers: &HeaderMap) -> Option<u32> {
        let outcome = authenticate(&*lab.app.store, headers).await;
        outcome.err().map(|error| error.code().unwrap().number())
    }

    #[tokio::test]
    async fn every_way_to_fail_has_its_code() {
        let lab = Lab::new().await;
        let key = &lab.api_key;
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let mut wrong = key.clone();
        wrong.replace_range(48.., if key.ends_with('a') { "b" } else { "a" });
        let stranger = lab.app.token(lab.app.ksuid());
        let authtoken = lab.app.token(lab.app.ksuid());
        let credential = Credential {
            id: CredentialId::new(authtoken.ksuid()),
            account: lab.account,
            description: String::new(),
            metadata: String::new(),
            acl: Acl::default(),
            owner: None,
            hash: secret::hash(authtoken.expose()),
            created_at: 0,
        };
        let txn = record::create(Txn::new(), &credential);
        let txn = record::take(txn, index::credential(credential.id), lab.account, credential.id);
        let _ = lab.app.store.commit(txn).await.unwrap();
        let other_secret = format!("{}_{}", authtoken.ksuid(), "a".repeat(21));
        let (id, _) = key.split_once('_').unwrap();
        let cases: [(String, Option<u32>); 16] = [
            (format!("Bearer {key}"), None),
            (format!("bearer  {key} "), None),
            (basic(&format!("{key}:")), None),
            (basic(&format!("anybody:{key}")), None),
            ("Digest x".into(), Some(201)),
            (key.clone(), Some(201)),
            ("Basic !".into(), Some(201)),
            (basic("no colon"), Some(201)),
            ("Bearer x".into(), Some(202)),
            ("Bearer ".into(), Some(202)),
            (format!("Bearer {wrong}"), Some(203)),
            (format!("Bearer {}", stranger.expose()), Some(203)),
            (format!("Bearer {other_secret}"), Some(203)),
            (format!("Bearer {}", authtoken.expose()), Some(206)),
            (format!("Bearer ak_{id}"), Some(208)),
            (format!("Bearer {key}x"), Some(202)),
        ];
        assert_eq!(code(&lab, &HeaderMap::new()).await, Some(200));
        for (value, expect) in cases {
            assert_eq!(code(&lab, &headers(&value)).await, expect, "{value}");
        }
    }

    #[tokio::test]
    async fn a_key_works_as_long_as_its_service_user_does() {
        let lab = Lab::new().await;
        let owner = ServiceUserId::new(lab.app.ksuid());
        let (mut key, token) = crate::account::api_key(lab.account, "", 0, &*lab.app.entropy);
        key.owner = Some(owner.into());
        let _ = lab.app.store.commit(crate::account::add_key(Txn::new(), &key)).await.unwrap();
        let presented = headers(&format!("Bearer {token}"));
        let user =
            |active| ServiceUser { id: owner, account: lab.account, name: "n".into(), active, created_at: 0 };
        for (user, expect) in [(None, Some(203)), (Some(user(true)), None), (Some(user(false)), Some(203))] {
            if let Some(user) = user {
                let _ = lab
                    .app
                    .store
                    .commit(Txn::new().put(record::Record::key(&user), encode(&user)))
                    .await
                    .unwrap();
            }
            assert_eq!(code(&lab, &presented).await, expect);
        }
    }

    #[test]
    fn the_window_slides() {
        let account = AccountId::new(secret::ksuid(&secret::SystemEntropy, 0));
        let limiter = Limiter::new(Some(2));
        let start = Instant::now();
        let at = |secs| limiter.admit(account, start + Duration::from_secs(secs));
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(30), Ok(()));
        assert_eq!(at(31), Err(Duration::from_secs(29)));
        assert_eq!(at(60), Ok(()));
        assert_eq!(at(61), Err(Duration::from_secs(29)));
        let other = AccountId::new(secret::ksuid(&secret::SystemEntropy, 0));
        assert_eq!(limiter.admit(other, start), Ok(()), "accounts are counted apart");
        assert!((0..1000).all(|_| Limiter::<AccountId>::new(None).admit(account, start).is_ok()));
    }

    #[test]
    fn few_accounts_are_counted_at_once() {
        let limiter = Limiter::new(Some(1));
        let start = Instant::now();
        let later = start + Duration::from_secs(WINDOW_SECS);
        for n in 0..=ACCOUNTS_COUNTED_MAX {
            let account = AccountId::new(secret::ksuid(&secret::SystemEntropy, 0));
            let now = if n == ACCOUNTS_COUNTED_MAX { later } else { start };
            assert_eq!(limiter.admit(account, now), Ok(()));
        }
        assert_eq!(limiter.counts.lock().unwrap().len(), 1, "those of the past are forgotten");
    }
}
