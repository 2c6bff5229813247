//! What the edge tells control beside acknowledgements: who is online, and what happened.
//!
//! Presence is state: only the latest matters, so changes are kept as a set of sessions and never lost. Events are a
//! bounded queue: when control is away they are dropped, and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ebbgate_model::TunnelSessionId;
use ebbgate_model::feed::{FromEdge, SessionReport};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc};

/// Events waiting for control.
pub const EVENTS_MAX: usize = 8192;

/// The outbox towards control.
pub struct Reports {
    presence: Mutex<Presence>,
    changed: Notify,
    events: mpsc::Sender<FromEdge>,
    dropped: Counter,
}

#[derive(Default)]
struct Presence {
    sessions: BTreeMap<TunnelSessionId, SessionReport>,
    changed: BTreeSet<TunnelSessionId>,
}

impl Reports {
    /// An empty outbox and the end that the feed drains. `dropped` counts events lost.
    pub fn new(dropped: Counter) -> (Self, mpsc::Receiver<FromEdge>) {
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        (Self { presence: Mutex::default(), changed: Notify::new(), events, dropped }, queue)
    }

    /// A session began or changed.
    pub fn session(&self, id: TunnelSessionId, report: SessionReport) {
        let mut presence = self.presence();
        presence.sessions.insert(id, report);
        presence.changed.insert(id);
        self.changed.notify_one();
    }

    /// A session ended.
    pub fn session_ended(&self, id: TunnelSessionId) {
        let mut presence = self.presence();
        presence.sessions.remove(&id);
        presence.changed.insert(id);
        self.changed.notify_one();
    }

    /// Something happened.
    pub fn event(&self, event: FromEdge) {
        if self.events.try_send(event).is_err() {
            self.dropped.inc();
        }
    }

    /// Everything there is; forgets what changed before.
    pub fn snapshot(&self) -> FromEdge {
        let mut presence = self.presence();
        presence.changed.clear();
        FromEdge::Sessions { sessions: presence.sessions.clone() }
    }

    /// Waits until some session changed, then gives the news, one message per session.
    pub async fn changes(&self) -> Vec<FromEdge> {
        loop {
            let changed = {
                let mut presence = self.presence();
                let ids = std::mem::take(&mut presence.changed);
                ids.into_iter().map(|id| news(&presence.sessions, id)).collect::<Vec<_>>()
            };
            if !changed.is_empty() {
                return changed;
            }
            self.changed.notified().await;
        }
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn news(sessions: &BTreeMap<TunnelSessionId, SessionReport>, session: TunnelSessionId) -> FromEdge {
    match sessions.get(&session) {
        Some(report) => FromEdge::Session { session, report: Box::new(report.clone()) },
        None => FromEdge::SessionEnded { session },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{AccountId, CredentialId, Ksuid};

    fn report() -> SessionReport {
        let ksuid = Ksuid::new(1, [0; 16]);
        SessionReport {
            account: AccountId::new(ksuid),
            credential: CredentialId::new(ksuid),
            agent_version: String::new(),
            user_agent: String::new(),
            os: String::new(),
            ip: String::new(),
            metadata: String::new(),
            started_at: 0,
            endpoints: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn presence_is_the_latest_state() {
        let (reports, _queue) = Reports::new(Counter::default());
        let id = TunnelSessionId::new(Ksuid::new(1, [1; 16]));
        reports.session(id, report());
        reports.session_ended(id);
        assert_eq!(reports.changes().await, [FromEdge::SessionEnded { session: id }]);
        reports.session(id, report());
        assert!(matches!(reports.snapshot(), FromEdge::Sessions { sessions } if sessions.len() == 1));
        reports.session_ended(id);
        assert_eq!(reports.changes().await.len(), 1);
    }

    #[test]
    fn lost_events_are_counted() {
        let dropped = Counter::default();
        let (reports, _queue) = Reports::new(dropped.clone());
        for _ in 0..EVENTS_MAX + 3 {
            reports.event(FromEdge::Beat);
        }
        assert_eq!(dropped.get(), 3);
    }
}
