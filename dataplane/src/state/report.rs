//! What the edge reports to control beside acknowledgements: sessions that are online, and events.
//!
//! Presence is state: only the latest matters, so only the names of sessions that changed are kept and each is asked for
//! its state when its line is written. Events are a queue, bounded in number and each in size: when control is away they
//! are dropped, and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::TunnelSessionId;
use ebbgate_model::feed::{FromEdge, SessionReport};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Duration, Instant};

use crate::log::shorten_policy_logs;

/// Events waiting for control.
pub const EVENTS_MAX: usize = 8192;
/// Milliseconds between two words on how a session's endpoints fare: what changes in between is told as it is at their end.
pub const HEALTH_TOLD_MS: u64 = 1_000;
/// Bytes of a request's path in its event.
const PATH_BYTES_MAX: usize = 2 << 10;
/// Bytes of agents' text in the first line of a feed; sessions that do not fit follow in lines of their own.
const SNAPSHOT_TEXT_BYTES_MAX: usize = 16 << 20;

/// A session that control hears of.
pub trait Present: Send + Sync {
    /// Its state now.
    fn report(&self) -> SessionReport;
    /// Bytes of text that a report carries at most.
    fn text_bytes(&self) -> usize;
}

/// The outbox towards control.
pub struct Reports {
    presence: Arc<Mutex<Presence>>,
    changed: Arc<Notify>,
    events: mpsc::Sender<FromEdge>,
    dropped: Counter,
}

#[derive(Default)]
struct Presence {
    sessions: BTreeMap<TunnelSessionId, Arc<dyn Present>>,
    changed: BTreeSet<TunnelSessionId>,
    /// Sessions with endpoints that fared otherwise.
    health: BTreeMap<TunnelSessionId, HealthTold>,
    /// Counts followers.
    followers: u64,
    followed: BTreeMap<u64, Unheard>,
}

/// When it was told how a session's endpoints fare.
struct HealthTold {
    /// When it may be told again.
    again: Instant,
    /// Whether there is something to tell then.
    waits: bool,
}

/// What one follower has not heard of.
struct Unheard {
    changed: BTreeSet<TunnelSessionId>,
    wake: Arc<Notify>,
}

impl Presence {
    fn note(&mut self, id: TunnelSessionId) {
        self.changed.insert(id);
        for unheard in self.followed.values_mut() {
            unheard.changed.insert(id);
            unheard.wake.notify_one();
        }
    }
}

/// Hears which sessions change, beside control.
pub struct Follower {
    presence: Arc<Mutex<Presence>>,
    number: u64,
    wake: Arc<Notify>,
}

impl Follower {
    /// Waits until a session has begun, changed or ended, and gives which.
    pub async fn next(&mut self) -> TunnelSessionId {
        loop {
            let changed = {
                let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
                presence.followed.get_mut(&self.number).and_then(|unheard| unheard.changed.pop_first())
            };
            match changed {
                Some(changed) => return changed,
                None => self.wake.notified().await,
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner).followed.remove(&self.number);
    }
}

impl Reports {
    /// An empty outbox and the end that the feed drains. `dropped` counts events lost.
    pub fn new(dropped: Counter) -> (Self, mpsc::Receiver<FromEdge>) {
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        (Self { presence: Arc::default(), changed: Arc::default(), events, dropped }, queue)
    }

    /// A session began.
    pub fn session(&self, id: TunnelSessionId, session: Arc<dyn Present>) {
        let mut presence = self.presence();
        presence.sessions.insert(id, session);
        presence.note(id);
        self.changed.notify_one();
    }

    /// A session that has not ended changed.
    pub fn session_changed(&self, id: TunnelSessionId) {
        let mut presence = self.presence();
        if presence.sessions.contains_key(&id) {
            presence.note(id);
            self.changed.notify_one();
        }
    }

    /// An endpoint of a session fares otherwise. Told at once, or [`HEALTH_TOLD_MS`] after the last time. Some: at that time
    /// [`Reports::health_due`] is to be called.
    pub fn health_changed(&self, id: TunnelSessionId, now: Instant) -> Option<Instant> {
        let mut presence = self.presence();
        if !presence.sessions.contains_key(&id) {
            return None;
        }
        if let Some(told) = presence.health.get_mut(&id).filter(|told| now < told.again) {
            return (!std::mem::replace(&mut told.waits, true)).then_some(told.again);
        }
        self.tell_health(&mut presence, id, now);
        None
    }

    /// Tells what has waited.
    pub fn health_due(&self, id: TunnelSessionId, now: Instant) {
        let mut presence = self.presence();
        if presence.health.get(&id).is_some_and(|told| told.waits) {
            self.tell_health(&mut presence, id, now);
        }
    }

    fn tell_health(&self, presence: &mut Presence, id: TunnelSessionId, now: Instant) {
        let again = now + Duration::from_millis(HEALTH_TOLD_MS);
        presence.health.insert(id, HealthTold { again, waits: false });
        presence.note(id);
        self.changed.notify_one();
    }

    /// A session ended.
    pub fn session_ended(&self, id: TunnelSessionId) {
        let mut presence = self.presence();
        presence.sessions.remove(&id);
        presence.health.remove(&id);
        presence.note(id);
        self.changed.notify_one();
    }

    /// Tells of sessions that change from now on, whatever control hears.
    pub fn follow(&self) -> Follower {
        let mut presence = self.presence();
        presence.followers += 1;
        let (number, wake) = (presence.followers, Arc::<Notify>::default());
        let unheard = Unheard { changed: BTreeSet::new(), wake: Arc::clone(&wake) };
        presence.followed.insert(number, unheard);
        Follower { presence: Arc::clone(&self.presence), number, wake }
    }

    /// Something happened. Long paths and logs are cut, so that the queue is bounded in bytes too.
    pub fn event(&self, mut event: FromEdge) {
        shorten(&mut event);
        if self.events.try_send(event).is_err() {
            self.dropped.inc();
        }
    }

    /// Sessions that are online, as far as one line has room; the others count as changed. Forgets what changed before.
    pub fn snapshot(&self) -> FromEdge {
        let mut room = SNAPSHOT_TEXT_BYTES_MAX;
        let mut fits = |session: &dyn Present| {
            let left = room.checked_sub(session.text_bytes());
            room = left.unwrap_or(room);
            left.is_some()
        };
        let told: Vec<_> = {
            let mut presence = self.presence();
            let (told, later): (Vec<_>, Vec<_>) =
                presence.sessions.iter().partition(|(_, session)| fits(session.as_ref()));
            let told = told.into_iter().map(|(id, session)| (*id, Arc::clone(session))).collect();
            presence.changed = later.into_iter().map(|(id, _)| *id).collect();
            told
        };
        self.changed.notify_one();
        let sessions = told.into_iter().map(|(id, session)| (id, session.report())).collect();
        FromEdge::Sessions { sessions }
    }

    /// Waits until some session changed, then gives the news of one.
    pub async fn change(&self) -> FromEdge {
        loop {
            let changed = {
                let mut presence = self.presence();
                presence.changed.pop_first().map(|id| (id, presence.sessions.get(&id).cloned()))
            };
            match changed {
                Some((session, Some(present))) => {
                    return FromEdge::Session { session, report: Box::new(present.report()) };
                }
                Some((session, None)) => return FromEdge::SessionEnded { session },
                None => self.changed.notified().await,
            }
        }
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shorten(event: &mut FromEdge) {
    match event {
        FromEdge::Request(request) => {
            let end = request.path.floor_char_boundary(PATH_BYTES_MAX);
            request.path.truncate(end);
            request.path.shrink_to_fit();
            shorten_policy_logs(&mut request.policy_logs);
        }
        FromEdge::Connection(connection) => shorten_policy_logs(&mut connection.policy_logs),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::event::RequestEvent;
    use ebbgate_model::{AccountId, CredentialId, Ksuid};
    use serde_json::json;

    /// A session that carries so many bytes.
    struct Carries(usize);

    impl Present for Carries {
        fn report(&self) -> SessionReport {
            let ksuid = Ksuid::new(1, [0; 16]);
            SessionReport {
                account: AccountId::new(ksuid),
                credential: CredentialId::new(ksuid),
                agent_version: String::new(),
                user_agent: String::new(),
                os: String::new(),
                ip: String::new(),
                metadata: "x".repeat(self.0),
                started_at: 0,
                transport: String::new(),
                refusals: ebbgate_model::feed::CommandRefusals::default(),
                endpoints: BTreeMap::new(),
            }
        }

        fn text_bytes(&self) -> usize {
            self.0
        }
    }

    fn id(n: u8) -> TunnelSessionId {
        TunnelSessionId::new(Ksuid::new(1, [n; 16]))
    }

    #[tokio::test]
    async fn presence_is_the_latest_state() {
        let (reports, _queue) = Reports::new(Counter::default());
        reports.session(id(1), Arc::new(Carries(0)));
        reports.session_ended(id(1));
        reports.session_changed(id(1));
        assert_eq!(reports.change().await, FromEdge::SessionEnded { session: id(1) });
        reports.session(id(1), Arc::new(Carries(0)));
        assert!(matches!(reports.snapshot(), FromEdge::Sessions { sessions } if sessions.len() == 1));
        reports.session(id(2), Arc::new(Carries(0)));
        reports.session_changed(id(2));
        assert!(matches!(reports.change().await, FromEdge::Session { session, .. } if session == id(2)));
        assert!(reports.presence().changed.is_empty(), "what a snapshot told is no news");
    }

    /// An upstream that comes and goes many times a second costs one word a second.
    #[tokio::test]
    async fn how_endpoints_fare_is_told_at_once_and_then_at_a_pace() {
        let (reports, _queue) = Reports::new(Counter::default());
        let has_news = || {
            let mut presence = reports.presence();
            std::mem::take(&mut presence.changed).contains(&id(1))
        };
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(reports.health_changed(id(1), start), None);
        assert!(!has_news(), "it is told with the session");
        reports.session(id(1), Arc::new(Carries(0)));
        assert!(has_news());
        assert_eq!(reports.health_changed(id(1), start), None);
        assert!(has_news(), "the first change at once");
        assert_eq!(reports.health_changed(id(1), at(100)), Some(at(HEALTH_TOLD_MS)));
        for ms in (200..HEALTH_TOLD_MS).step_by(100) {
            assert_eq!(reports.health_changed(id(1), at(ms)), None, "it waits already");
        }
        assert!(!has_news());
        reports.health_due(id(1), at(HEALTH_TOLD_MS));
        assert!(has_news());
        reports.health_due(id(1), at(2 * HEALTH_TOLD_MS));
        assert!(!has_news(), "once");
        assert_eq!(reports.health_changed(id(1), at(3 * HEALTH_TOLD_MS)), None);
        assert!(has_news());
        assert!(reports.health_changed(id(1), at(3 * HEALTH_TOLD_MS)).is_some());
        reports.session_changed(id(1));
        assert!(has_news(), "everything else at once");
        reports.session_ended(id(1));
        assert!(has_news());
        reports.health_due(id(1), at(4 * HEALTH_TOLD_MS));
        assert!(!has_news() && reports.presence().health.is_empty());
    }

    #[tokio::test]
    async fn each_follower_hears_of_every_change_whatever_control_was_told() {
        let (reports, _queue) = Reports::new(Counter::default());
        let mut first = reports.follow();
        reports.session(id(1), Arc::new(Carries(0)));
        let mut second = reports.follow();
        reports.session_changed(id(1));
        assert!(matches!(reports.change().await, FromEdge::Session { .. }));
        assert_eq!((first.next().await, second.next().await), (id(1), id(1)));
        let waits = tokio::spawn(async move { first.next().await });
        reports.session_ended(id(1));
        assert_eq!((waits.await.unwrap(), second.next().await), (id(1), id(1)));
        drop(second);
        assert!(reports.presence().followed.is_empty());
    }

    #[tokio::test]
    async fn what_does_not_fit_the_first_line_follows() {
        let (reports, _queue) = Reports::new(Counter::default());
        let half = SNAPSHOT_TEXT_BYTES_MAX / 2;
        for (n, bytes) in [(1, half), (2, half + 1), (3, half)] {
            reports.session(id(n), Arc::new(Carries(bytes)));
        }
        let FromEdge::Sessions { sessions } = reports.snapshot() else { panic!("no snapshot") };
        assert_eq!(sessions.into_keys().collect::<Vec<_>>(), [id(1), id(3)]);
        assert!(matches!(reports.change().await, FromEdge::Session { session, .. } if session == id(2)));
    }

    #[test]
    fn an_event_has_a_largest_size() {
        const EVENT_BYTES_MAX: usize = 40 << 10;
        let (reports, mut queue) = Reports::new(Counter::default());
        let mut send = |logs: usize, path: &str| {
            let event = RequestEvent {
                path: path.into(),
                policy_logs: vec![json!({ "x": "y".repeat(16_000) }); logs],
                ..RequestEvent::default()
            };
            reports.event(FromEdge::Request(Box::new(event)));
            let FromEdge::Request(event) = queue.try_recv().unwrap() else { panic!("another event") };
            event
        };
        let large = send(64, &"é".repeat(4_000));
        assert!(serde_json::to_vec(&large).unwrap().len() < EVENT_BYTES_MAX);
        assert_eq!((large.policy_logs.len(), large.path.len()), (3, PATH_BYTES_MAX));
        assert!(large.policy_logs[2]["dropped"].as_str().unwrap().starts_with("62 entries"));
        let small = send(2, "/a");
        assert_eq!((small.policy_logs.len(), small.path.as_str()), (2, "/a"));
    }

    #[test]
    fn lost_events_are_counted() {
        let dropped = Counter::default();
        let (reports, _queue) = Reports::new(dropped.clone());
        for _ in 0..EVENTS_MAX + 3 {
            reports.event(FromEdge::Draining);
        }
        assert_eq!(dropped.get(), 3);
    }
}
