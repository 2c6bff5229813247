//! Removes sessions of visitors that time has ended, the ends that nobody need be told any more, and people without a session.

use crate::app::App;
use crate::record::visitor::{AppSession, AppUser, EndedSession};
use crate::record::{self, RecordError, UnixSecs};
use crate::store::{Item, Range, Txn};
use crate::tenants::tenants;

/// Removals in one transaction.
const BATCH_MAX: usize = 50;

/// Gives how many records were removed.
pub async fn sweep(app: &App) -> Result<usize, RecordError> {
    let (now, mut swept) = (app.now(), 0);
    for account in tenants(&*app.store).await? {
        let Ok(account) = account.parse() else { continue };
        for (prefix, ends_at) in [
            (record::prefix::<AppSession>(account), of::<AppSession> as fn(&Item) -> Option<UnixSecs>),
            (record::prefix::<AppUser>(account), of::<AppUser>),
            (EndedSession::prefix(account), of::<EndedSession>),
        ] {
            let items = app.store.range(Range::all(prefix)).await?.items;
            // One that cannot be read goes too: it says of no session when it ends.
            let over: Vec<Item> =
                items.into_iter().filter(|item| ends_at(item).is_none_or(|at| at <= now)).collect();
            for batch in over.chunks(BATCH_MAX) {
                let txn = batch.iter().fold(Txn::new(), |txn, item| {
                    txn.if_unchanged(&item.key, item.modified).delete(&item.key)
                });
                // On a conflict something signed in meanwhile: the next look removes the rest.
                let _ = app.store.commit(txn).await?;
                swept += batch.len();
            }
        }
    }
    Ok(swept)
}

/// Records that end.
trait Ends {
    fn ends_at(&self) -> UnixSecs;
}

impl Ends for AppSession {
    fn ends_at(&self) -> UnixSecs {
        self.expires_at
    }
}

impl Ends for AppUser {
    fn ends_at(&self) -> UnixSecs {
        self.expires_at
    }
}

impl Ends for EndedSession {
    fn ends_at(&self) -> UnixSecs {
        self.expires_at
    }
}

fn of<R: Ends + serde::de::DeserializeOwned>(item: &Item) -> Option<UnixSecs> {
    record::parse::<R>(item).ok().map(|record| record.ends_at())
}
