//! Sessions of visitors: what edges tell of them is kept until it is over, and what is ended before its time is told to edges.
//!
//! A visitor who signs in costs a write. An account keeps so many sessions and ends; what comes beyond is not kept: such a
//! session works, and cannot be ended by itself.

pub mod sweep;

use std::sync::Arc;

use ebbgate_model::feed::VisitorSessionReport;
use ebbgate_model::{AccountId, AppSessionId};
use tokio::sync::mpsc;

use crate::clock::UnixSecs;
use crate::error_chain::ErrorChain;
use crate::record::visitor::{AppSession, AppUser, ENDED_SESSIONS, EndedSession};
use crate::record::{self, Account, Record, RecordError};
use crate::room::Room;
use crate::store::{Outcome, Store, Txn};

/// What edges told that waits to be kept.
pub const TOLD_MAX: usize = 1_024;
/// Sessions, and ends of sessions, that are kept of an account.
pub const KEPT_MAX: usize = 10_000;
/// Longest text of a report that is kept, in characters.
const TEXT_CHARS_MAX: usize = 512;
/// How often a write that lost a race is tried.
const ATTEMPTS_MAX: usize = 8;

/// What an edge tells.
#[derive(Debug)]
pub enum Told {
    /// A visitor signed in.
    Began(Box<VisitorSessionReport>),
    /// A visitor signed out.
    Ended {
        /// Owner of the endpoint.
        account: AccountId,
        /// Which session.
        session: AppSessionId,
        /// When it would have ended at the latest.
        expires_at: UnixSecs,
    },
}

/// Keeps what edges tell, as long as there is one to tell.
pub async fn keep(store: Arc<dyn Store>, room: Arc<Room>, mut told: mpsc::Receiver<Told>) {
    while let Some(one) = told.recv().await {
        let (account, kept) = match one {
            Told::Began(report) => (report.account, began(&*store, &room, &report).await),
            Told::Ended { account, session, expires_at } => {
                (account, ended(&*store, &room, account, session, expires_at).await)
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%account, error = %ErrorChain(&error), "a visitor's session could not be kept");
        }
    }
    // Without edges nobody tells anything; the task has no end of its own.
    std::future::pending::<()>().await;
}

/// Whether the account has room for one more in a collection.
fn has_room(room: &Room, account: AccountId, collection: &str) -> bool {
    let has = room.owned(account, collection).is_none_or(|usage| usage.keys < KEPT_MAX);
    if !has {
        tracing::warn!(%account, collection, "the account keeps {KEPT_MAX} of these; one more is not kept");
    }
    has
}

async fn began(store: &dyn Store, room: &Room, report: &VisitorSessionReport) -> Result<(), RecordError> {
    let account = report.account;
    if !has_room(room, account, AppSession::COLLECTION) {
        return Ok(());
    }
    let short =
        |text: &str| text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect::<String>();
    let session = AppSession {
        id: report.session,
        account,
        user: report.user,
        url: short(&report.url),
        source: short(&report.source),
        user_agent: short(&report.user_agent),
        expires_at: report.expires_at,
        created_at: report.started_at,
    };
    for _ in 0..ATTEMPTS_MAX {
        let Some(of_account) = record::read::<Account>(store, &Account::key(account)).await? else {
            return Ok(());
        };
        let known = match record::load::<AppUser>(store, account, report.user).await {
            Ok(known) => known,
            // Made anew below: it holds nothing that the report lacks.
            Err(RecordError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let user = AppUser {
            id: report.user,
            account,
            provider: short(&report.provider),
            provider_user_id: short(&report.provider_user_id),
            email: short(&report.email),
            name: short(&report.name),
            seen_at: report.started_at,
            expires_at: known.as_ref().map_or(0, |known| known.record.expires_at).max(report.expires_at),
            created_at: known.as_ref().map_or(report.started_at, |known| known.record.created_at),
        };
        let txn = Txn::new()
            .if_unchanged(Account::key(account), of_account.modified)
            .put(session.key(), record::encode(&session))
            .put(user.key(), record::encode(&user));
        let txn = match &known {
            Some(known) => txn.if_unchanged(user.key(), known.modified),
            None => txn,
        };
        if let Outcome::Committed(_) = store.commit(txn).await? {
            return Ok(());
        }
    }
    Ok(())
}

async fn ended(
    store: &dyn Store,
    room: &Room,
    account: AccountId,
    session: AppSessionId,
    expires_at: UnixSecs,
) -> Result<(), RecordError> {
    if !has_room(room, account, ENDED_SESSIONS) {
        return Ok(());
    }
    for _ in 0..ATTEMPTS_MAX {
        let Some(of_account) = record::read::<Account>(store, &Account::key(account)).await? else {
            return Ok(());
        };
        let txn = Txn::new().if_unchanged(Account::key(account), of_account.modified);
        let txn = txn.delete(record::key::<AppSession>(account, session));
        if let Outcome::Committed(_) = store.commit(end(txn, account, session, expires_at)).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Adds to a transaction that edges refuse a session from now on.
#[must_use]
pub fn end(txn: Txn, account: AccountId, session: AppSessionId, expires_at: UnixSecs) -> Txn {
    txn.put(EndedSession::key(account, session), record::encode(&EndedSession { expires_at }))
}

/// A person's sessions, newest first.
pub async fn of_user(
    store: &dyn Store,
    account: AccountId,
    user: ebbgate_model::AppUserId,
) -> Result<Vec<AppSession>, RecordError> {
    let all = record::list::<AppSession>(store, account, None, None).await?;
    Ok(all.items.into_iter().map(|stored| stored.record).filter(|session| session.user == user).collect())
}
