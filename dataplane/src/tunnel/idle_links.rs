//! The links of one shard that wait for a claim, by session. One table for each kind of link.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::TunnelSessionId;
use prometheus_client::metrics::gauge::Gauge;

use super::session::SessionState;

/// A link that waits for a claim.
pub(super) trait Waiting {
    /// Its session.
    fn session(&self) -> &Arc<SessionState>;
    /// Whether it can be claimed: its session lives, and it has neither ended nor spoken.
    fn is_usable(&mut self) -> bool;
}

/// The table of one shard. Clones share it; they stay on its thread.
pub(super) struct IdleLinks<T> {
    /// The last one parked is the first one claimed: it is warm, and the others may go if there are too many.
    by_session: Rc<RefCell<HashMap<TunnelSessionId, Vec<T>>>>,
    idle: Gauge,
}

impl<T> Clone for IdleLinks<T> {
    fn clone(&self) -> Self {
        Self { by_session: Rc::clone(&self.by_session), idle: self.idle.clone() }
    }
}

impl<T: Waiting> IdleLinks<T> {
    /// An empty table, counted in this gauge.
    pub(super) fn new(idle: Gauge) -> Self {
        Self { by_session: Rc::default(), idle }
    }

    /// Takes a link in; one that cannot be claimed closes.
    pub(super) fn park(&self, mut link: T) {
        if link.is_usable() {
            self.idle.inc();
            self.by_session.borrow_mut().entry(link.session().id).or_default().push(link);
        }
    }

    /// Whether a link of the session is here.
    pub(super) fn has(&self, id: TunnelSessionId) -> bool {
        self.by_session.borrow().get(&id).is_some_and(|links| !links.is_empty())
    }

    /// A link of the session that can be claimed.
    pub(super) fn take(&self, id: TunnelSessionId) -> Option<T> {
        loop {
            let mut link = self.by_session.borrow_mut().get_mut(&id)?.pop()?;
            self.idle.dec();
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    /// The session is over: its links close.
    pub(super) fn end(&self, id: TunnelSessionId) {
        let links = self.by_session.borrow_mut().remove(&id).unwrap_or_default();
        self.idle.dec_by(i64::try_from(links.len()).unwrap_or(i64::MAX));
    }

    /// Closes links that can no longer be claimed.
    pub(super) fn sweep(&self) {
        // Dropped after the table is free again.
        let over: Vec<T> = {
            let mut table = self.by_session.borrow_mut();
            let over = table.values_mut().flat_map(|links| links.extract_if(.., |link| !link.is_usable()));
            let over = over.collect();
            table.retain(|_, links| !links.is_empty());
            over
        };
        self.idle.dec_by(i64::try_from(over.len()).unwrap_or(i64::MAX));
    }
}
