//! Sessions of people: begun by a sign-in, found by the cookie's token, ended by a sign-out, an owner, the operator or time.
//!
//! A session is for one account. Only the hash of its token is stored. Knows no cookies and no passwords.

use ebbgate_model::{AccountId, Token, UserId, UserSessionId};

use super::Email;
use super::Role;
use crate::app::App;
use crate::auth::{Caller, Means};
use crate::record::people::{Membership, User, UserSession};
use crate::record::{self, Account, Holder, Limits, Record, RecordError, Stored, UnixSecs, index};
use crate::secret;
use crate::store::{Outcome, Range, Revision, Store, Txn};

/// Seconds without a request after which a session has ended.
pub const SESSION_IDLE_SECS_MAX: UnixSecs = 3_600;
/// Seconds after which a session has ended, whatever it is used for.
pub const SESSION_SECS_MAX: UnixSecs = 12 * 3_600;
/// Seconds between two notes of a session's use: not every request writes.
pub const SEEN_SECS: UnixSecs = 300;
/// Sessions a person has in an account; the oldest makes room for the next.
pub const SESSIONS_MAX: usize = 20;
/// Seconds that clocks of replicas may be apart. A session from further ahead was made before the clock was put back.
const CLOCK_SKEW_SECS: UnixSecs = 300;
/// Bytes kept of what a browser says it is.
const USER_AGENT_BYTES_MAX: usize = 200;

/// Who is signed in, and where.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The account acted for.
    pub account: AccountId,
    /// Revision that last wrote the account's own record.
    pub account_modified: Revision,
    /// Most the account may have.
    pub limits: Limits,
    /// Name of the account.
    pub account_name: String,
    /// The person.
    pub user: UserId,
    /// The person's address.
    pub email: Email,
    /// What the person may do.
    pub role: Role,
    /// The session.
    pub session: UserSessionId,
}

impl SignedIn {
    /// The same, as a caller of the API.
    pub fn caller(&self) -> Caller {
        Caller {
            account: self.account,
            account_modified: self.account_modified,
            limits: self.limits.clone(),
            means: Means::Session(self.user, self.session),
            role: self.role,
        }
    }
}

/// How somebody came in.
#[derive(Debug, Clone, Default)]
pub struct Entrance {
    /// `password` or `oidc`.
    pub method: &'static str,
    /// Source address; "" where it is not known.
    pub source: String,
    /// `User-Agent`.
    pub user_agent: String,
}

/// Begins a session. None: the person or the account changed at the same time.
///
/// Gives what the cookie must hold.
pub async fn begin(
    app: &App,
    user: &Stored<User>,
    membership: &Stored<Membership>,
    entrance: &Entrance,
) -> Result<Option<(UserSessionId, Token)>, RecordError> {
    let store = &*app.store;
    let (account, now) = (membership.record.account, app.now());
    let id = UserSessionId::new(app.ksuid());
    let token = app.token(id.ksuid());
    let session = UserSession {
        id,
        account,
        user: user.record.id,
        hash: secret::hash(token.expose()),
        method: entrance.method.to_owned(),
        source: entrance.source.clone(),
        user_agent: shortened(&entrance.user_agent),
        seen_at: now,
        expires_at: now.saturating_add(SESSION_SECS_MAX),
        created_at: now,
    };
    let own = of_user(store, account, user.record.id).await?;
    let mut txn = Txn::new()
        .if_unchanged(User::key(user.record.id), user.modified)
        .if_unchanged(membership.record.key(), membership.modified);
    for old in own.iter().skip(SESSIONS_MAX - 1) {
        txn = remove(txn, account, old.record.id);
    }
    let txn = record::take(record::create(txn, &session), index::user_session(id), account, id);
    match store.commit(txn).await? {
        Outcome::Committed(_) => Ok(Some((id, token))),
        Outcome::Conflict(_) => Ok(None),
    }
}

fn shortened(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    let mut kept = String::new();
    for c in printable {
        if kept.len() + c.len_utf8() > USER_AGENT_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Who a cookie's token belongs to now. None: nobody, and it is not said why.
pub async fn find(app: &App, presented: &str) -> Result<Option<SignedIn>, RecordError> {
    let (store, now) = (&*app.store, app.now());
    let Ok(token) = presented.parse::<Token>() else { return Ok(None) };
    let id = UserSessionId::new(token.ksuid());
    let Some(holder) = record::read::<Holder>(store, &index::user_session(id)).await? else {
        return Ok(None);
    };
    let account = holder.record.account;
    let Some(session) = record::load::<UserSession>(store, account, id).await? else { return Ok(None) };
    if !secret::matches(token.expose(), &session.record.hash) || has_ended(&session.record, now) {
        return Ok(None);
    }
    let user = session.record.user;
    let Some(membership) = record::load::<Membership>(store, account, user).await? else { return Ok(None) };
    if !membership.record.covers(session.record.created_at) {
        return Ok(None);
    }
    let Some(stored) = record::read::<Account>(store, &Account::key(account)).await? else { return Ok(None) };
    if stored.record.suspended_at.is_some() {
        return Ok(None);
    }
    note_use(store, &session, now).await;
    Ok(Some(SignedIn {
        account,
        account_modified: stored.modified,
        limits: stored.record.limits,
        account_name: stored.record.name,
        user,
        email: membership.record.email,
        role: membership.record.role,
        session: id,
    }))
}

/// Whether a session is over by time.
pub fn has_ended(session: &UserSession, now: UnixSecs) -> bool {
    let idle = now.saturating_sub(session.seen_at);
    now >= session.expires_at || !(-CLOCK_SKEW_SECS..SESSION_IDLE_SECS_MAX).contains(&idle)
}

/// A store that takes no write now still lets people look.
async fn note_use(store: &dyn Store, session: &Stored<UserSession>, now: UnixSecs) {
    if now.saturating_sub(session.record.seen_at) < SEEN_SECS {
        return;
    }
    let changed = UserSession { seen_at: now, ..session.record.clone() };
    let noted = store.commit(record::replace(Txn::new(), &changed, session.modified)).await;
    if let Err(error) = noted {
        tracing::warn!(%error, session = %session.record.id, "the use of a session could not be noted");
    }
}

/// A person's sessions for an account, newest first.
pub async fn of_user(
    store: &dyn Store,
    account: AccountId,
    user: UserId,
) -> Result<Vec<Stored<UserSession>>, RecordError> {
    let all = record::list::<UserSession>(store, account, None, None).await?;
    Ok(all.items.into_iter().filter(|session| session.record.user == user).collect())
}

/// Adds a session's end to a transaction.
#[must_use]
pub fn remove(txn: Txn, account: AccountId, id: UserSessionId) -> Txn {
    txn.delete(record::key::<UserSession>(account, id)).delete(index::user_session(id))
}

/// Ends a session at once. Ending one that is over is no error.
pub async fn end(store: &dyn Store, account: AccountId, id: UserSessionId) -> Result<(), RecordError> {
    // It compares nothing, so nothing can conflict.
    let _ = store.commit(remove(Txn::new(), account, id)).await?;
    Ok(())
}

/// Removes sessions that are over by time, and those without an account or record. Gives how many.
pub async fn sweep(store: &dyn Store, now: UnixSecs) -> Result<usize, RecordError> {
    let mut swept = 0;
    for item in store.range(Range::all(index::USER_SESSIONS_PREFIX)).await?.items {
        let Ok(holder) = record::decode::<Holder>(&item) else { continue };
        let Ok(id) = holder.record.id.parse::<UserSessionId>() else { continue };
        let account = holder.record.account;
        let session = match record::load::<UserSession>(store, account, id).await {
            Ok(session) => session,
            Err(RecordError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        if session.is_none_or(|session| has_ended(&session.record, now)) {
            end(store, account, id).await?;
            swept += 1;
        }
    }
    Ok(swept)
}
