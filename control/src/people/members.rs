//! Who belongs to an account: found by address, invited, let in, suspended, removed. An account that has an owner keeps one.

use ebbgate_model::{AccountId, InvitationId, Token, UserId};

use super::{Email, Role, session};
use crate::app::App;
use crate::record::people::{
    Identity, Invitation, MEMBERSHIPS_PREFIX, Membership, PasswordHash, User, UserOf, email_key,
    membership_key,
};
use crate::record::{self, Holder, Record, RecordError, Stored, UnixSecs, encode, index};
use crate::secret;
use crate::store::{Range, Store, Txn};

/// Seconds an invitation can be accepted.
pub const INVITATION_SECS_MAX: UnixSecs = 7 * 86_400;
/// Seconds a set-up token can be used.
pub const SETUP_SECS_MAX: UnixSecs = 86_400;
/// Accounts one person may belong to: the operator's suspension changes all memberships at once.
pub const MEMBERSHIPS_MAX: usize = 50;

/// The user with an address.
pub async fn user_by_email(store: &dyn Store, email: &Email) -> Result<Option<Stored<User>>, RecordError> {
    let Some(of) = record::read::<UserOf>(store, &email_key(email)).await? else { return Ok(None) };
    user(store, of.record.user).await
}

/// A user.
pub async fn user(store: &dyn Store, id: UserId) -> Result<Option<Stored<User>>, RecordError> {
    record::read::<User>(store, &User::key(id)).await
}

/// A new person with nothing but an address.
pub fn new_user(app: &App, email: &Email) -> User {
    User {
        id: UserId::new(app.ksuid()),
        email: email.clone(),
        password: None,
        setup: None,
        identity: None,
        suspended_at: None,
        created_at: app.now(),
    }
}

/// Adds a new user to a transaction; it conflicts when the address is taken.
#[must_use]
pub fn create_user(txn: Txn, user: &User) -> Txn {
    let (key, address) = (User::key(user.id), email_key(&user.email));
    let txn = txn.if_absent(&key).put(key, encode(user));
    txn.if_absent(&address).put(address, encode(&UserOf { user: user.id }))
}

/// Adds a user's change to a transaction.
#[must_use]
pub fn replace_user(txn: Txn, user: &User, stored: &Stored<User>) -> Txn {
    let key = User::key(user.id);
    txn.if_unchanged(&key, stored.modified).put(key, encode(user))
}

/// Adds a membership to a transaction; it conflicts when the person already belongs to the account.
#[must_use]
pub fn join(txn: Txn, account: AccountId, user: &User, role: Role, now: UnixSecs) -> Txn {
    let membership = Membership {
        id: user.id,
        account,
        email: user.email.clone(),
        role,
        suspended_at: None,
        locked: false,
        created_at: now,
    };
    let of_user = membership_key(user.id, account);
    record::create(txn, &membership).put(of_user, Vec::new())
}

/// The accounts a person belongs to, with what is stored there.
pub async fn memberships(store: &dyn Store, user: UserId) -> Result<Vec<Stored<Membership>>, RecordError> {
    let prefix = format!("{MEMBERSHIPS_PREFIX}{user}/");
    let mut found = Vec::new();
    for item in store.range(Range::all(&prefix)).await?.items {
        let Some(account) = item.key.strip_prefix(&prefix).and_then(|id| id.parse().ok()) else { continue };
        // An account that was deleted leaves the key behind for a moment.
        found.extend(record::load::<Membership>(store, account, user).await?);
    }
    Ok(found)
}

/// Adds to a transaction that somebody else remains who owns the account. Err: nobody would.
pub async fn keep_an_owner(
    store: &dyn Store,
    account: AccountId,
    leaving: UserId,
    txn: Txn,
) -> Result<Result<Txn, LastOwner>, RecordError> {
    let all = record::list::<Membership>(store, account, None, None).await?;
    let stays =
        |m: &&Stored<Membership>| m.record.id != leaving && m.record.role == Role::Owner && m.record.works();
    Ok(match all.items.iter().find(stays) {
        // The other may be about to go as well: one of both loses.
        Some(other) => Ok(txn.if_unchanged(other.record.key(), other.modified)),
        None => Err(LastOwner),
    })
}

/// The account would have nobody left who owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is the account's last owner: make somebody else an owner first")]
pub struct LastOwner;

/// Adds to a transaction that a person leaves an account, with the sessions there. Keys of the person stop working with it.
pub async fn leave(
    store: &dyn Store,
    account: AccountId,
    user: UserId,
    txn: Txn,
) -> Result<Txn, RecordError> {
    let txn = end_sessions(store, account, user, txn).await?;
    Ok(txn.delete(membership_key(user, account)))
}

/// Adds the end of a person's sessions for an account to a transaction.
pub async fn end_sessions(
    store: &dyn Store,
    account: AccountId,
    user: UserId,
    txn: Txn,
) -> Result<Txn, RecordError> {
    let sessions = session::of_user(store, account, user).await?;
    let newest = sessions.iter().take(session::SESSIONS_MAX);
    Ok(newest.fold(txn, |txn, one| session::remove(txn, account, one.record.id)))
}

/// A new invitation and its token, which is shown once.
pub fn invitation(
    app: &App,
    account: AccountId,
    email: &Email,
    role: Role,
    invited_by: &str,
) -> (Invitation, Token) {
    let id = InvitationId::new(app.ksuid());
    let token = app.token(id.ksuid());
    let now = app.now();
    let invitation = Invitation {
        id,
        account,
        email: email.clone(),
        role,
        invited_by: invited_by.to_owned(),
        expires_at: now.saturating_add(INVITATION_SECS_MAX),
        hash: secret::hash(token.expose()),
        created_at: now,
    };
    (invitation, token)
}

/// Adds the name by which an invitation's token finds it to a transaction.
#[must_use]
pub fn take_invitation(txn: Txn, invitation: &Invitation) -> Txn {
    record::take(txn, index::invitation(invitation.id), invitation.account, invitation.id)
}

/// The open invitation of a token. None: unknown, used, withdrawn or too late, and it is not said which.
pub async fn invitation_by_token(app: &App, token: &str) -> Result<Option<Stored<Invitation>>, RecordError> {
    let Ok(token) = token.parse::<Token>() else { return Ok(None) };
    let id = InvitationId::new(token.ksuid());
    let Some(holder) = record::read::<Holder>(&*app.store, &index::invitation(id)).await? else {
        return Ok(None);
    };
    let stored = record::load::<Invitation>(&*app.store, holder.record.account, id).await?;
    let is_open = |invitation: &Invitation| {
        secret::matches(token.expose(), &invitation.hash) && app.now() < invitation.expires_at
    };
    Ok(stored.filter(|stored| is_open(&stored.record)))
}

/// How an invited person proves to be the one.
#[derive(Debug)]
pub enum Proof {
    /// The first password of somebody who is new here.
    NewPassword(PasswordHash),
    /// Somebody who is known here has shown the password or the identity.
    Known,
    /// A provider says that the address is the person's.
    Identity(Identity),
}

/// What accepting an invitation stores, and who the person is then. It conflicts when the invitation is used meanwhile.
pub fn accept(
    app: &App,
    invitation: &Stored<Invitation>,
    known: Option<&Stored<User>>,
    proof: Proof,
) -> (User, Txn) {
    let Invitation { account, id, ref email, role, .. } = invitation.record;
    let mut user = known.map_or_else(|| new_user(app, email), |stored| stored.record.clone());
    match proof {
        Proof::NewPassword(hash) => user.password = Some(hash),
        Proof::Identity(identity) => user.identity = Some(identity),
        Proof::Known => {}
    }
    let txn = record::remove(Txn::new(), invitation).delete(index::invitation(id));
    let txn = match known {
        Some(stored) => replace_user(txn, &user, stored),
        None => create_user(txn, &user),
    };
    let txn = join(txn, account, &user, role, app.now());
    (user, txn)
}

/// The user of a set-up token, while it can be used.
pub async fn user_by_setup(app: &App, token: &str) -> Result<Option<Stored<User>>, RecordError> {
    let Ok(token) = token.parse::<Token>() else { return Ok(None) };
    let stored = user(&*app.store, UserId::new(token.ksuid())).await?;
    let is_open = |user: &User| {
        let setup = user.setup.as_ref();
        setup.is_some_and(|s| secret::matches(token.expose(), &s.hash) && app.now() < s.expires_at)
            && user.suspended_at.is_none()
    };
    Ok(stored.filter(|stored| is_open(&stored.record)))
}

/// Removes invitations and one-time codes that are too late. Gives how many.
pub async fn sweep(store: &dyn Store, now: UnixSecs) -> Result<usize, RecordError> {
    let mut swept = 0;
    for item in store.range(Range::all(index::INVITATIONS_PREFIX)).await?.items {
        let Ok(holder) = record::decode::<Holder>(&item) else { continue };
        let Ok(id) = holder.record.id.parse::<InvitationId>() else { continue };
        let account = holder.record.account;
        let invitation = match record::load::<Invitation>(store, account, id).await {
            Ok(invitation) => invitation,
            Err(RecordError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        if invitation.is_none_or(|invitation| now >= invitation.record.expires_at) {
            let txn = Txn::new().delete(record::key::<Invitation>(account, id)).delete(&item.key);
            let _ = store.commit(txn).await?;
            swept += 1;
        }
    }
    for item in store.range(Range::all(record::people::CODES_PREFIX)).await?.items {
        let code = record::decode::<record::people::LoginCode>(&item);
        if code.is_ok_and(|code| now >= code.record.expires_at) {
            let _ = store.commit(Txn::new().delete(&item.key)).await?;
            swept += 1;
        }
    }
    Ok(swept)
}
