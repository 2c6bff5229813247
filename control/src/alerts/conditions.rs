//! What is not as it should be, from what control knows: edges, agents, plans, certificates, destinations. Reads, decides
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use ebbgate_model::{AccountId, EdgeId};

use super::state::Condition;
use crate::App;
use crate::api::timestamp;
use crate::clock::UnixSecs;

/// Edges and agents remembered after they went.
const REMEMBERED_MAX: usize = 10_000;
/// Seconds that something gone is remembered; then it counts as taken away on purpose.
const REMEMBERED_SECS: i64 = 7 * 86_400;
/// Seconds before a certificate ends that it is told.
const EXPIRY_SECS: i64 = 14 * 86_400;
/// Seconds after which a dropped event is old news.
const DROPPED_SECS: i64 = 300;
/// Objects of the plan's trouble that are told one by one.
const LEFT_OUT_MAX: usize = 100;

/// How long conditions last before they are alerts, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waits {
    /// Agents, their endpoints, and edges that are gone.
    pub offline: i64,
    /// Everything else.
    pub other: i64,
}

/// A certificate as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expiry {
    pub(super) account: Option<AccountId>,
    /// Id, or the key it is stored under.
    pub(super) subject: String,
    pub(super) not_after: UnixSecs,
}

/// What is stored that tells of trouble.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) certificates: Vec<Expiry>,
    /// Edges of other machines that have joined and were not removed.
    pub(super) joined: BTreeSet<EdgeId>,
}

/// What was seen online, and when last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Edges that joined, when control looked last: of those that are removed nothing is expected.
    joined: BTreeSet<EdgeId>,
    edges: BTreeMap<EdgeId, UnixSecs>,
    agents: BTreeMap<(AccountId, String), UnixSecs>,
}

impl Seen {
    /// Everything that holds now, with the name of its kind.
    pub(super) fn conditions(
        &mut self,
        app: &App,
        stored: &Stored,
        now: UnixSecs,
        waits: Waits,
    ) -> Vec<(&'static str, Condition)> {
        self.take_joined(&stored.joined, now);
        let mut found = self.edges(app, now, waits);
        found.extend(self.agents(app, now, waits));
        found.extend(plan(app, waits));
        found.extend(expiring(&stored.certificates, now));
        found.extend(destinations(app, now, waits));
        found
    }

    /// Edges that joined are expected from the first look on; those that were removed no more.
    fn take_joined(&mut self, joined: &BTreeSet<EdgeId>, now: UnixSecs) {
        for edge in joined.difference(&self.joined) {
            if !self.edges.contains_key(edge) {
                remember(&mut self.edges, *edge, now - 1);
            }
        }
        for removed in self.joined.difference(joined) {
            self.edges.remove(removed);
        }
        self.joined.clone_from(joined);
    }

    fn edges(&mut self, app: &App, now: UnixSecs, waits: Waits) -> Vec<(&'static str, Condition)> {
        let newest = app.planned.borrow().generation;
        let mut found = Vec::new();
        for edge in app.presence.edges() {
            if edge.connected {
                remember(&mut self.edges, edge.id, now);
            }
            let subject = edge.id.to_string();
            if let Some((generation, reason)) = &edge.refused {
                let message = format!("the edge {subject} refused generation {generation}: {reason}");
                found.push(("edge_refused", condition(subject.clone(), None, message, waits.other)));
            }
            if edge.connected && newest.is_some_and(|newest| edge.applied < newest) {
                let message = format!(
                    "the edge {subject} is behind: it has generation {}, the newest is {}",
                    edge.applied,
                    newest.unwrap_or(0)
                );
                // A message of the moment; the subject alone tells conditions apart.
                found.push(("edge_behind", condition(subject, None, message, waits.other)));
            }
        }
        for (id, last) in gone(&mut self.edges, now) {
            let message = format!("the edge {id} is gone since {}", timestamp(last));
            found.push(("edge_gone", condition(id.to_string(), None, message, waits.offline)));
        }
        found
    }

    fn agents(&mut self, app: &App, now: UnixSecs, waits: Waits) -> Vec<(&'static str, Condition)> {
        for (account, name) in app.presence.online() {
            remember(&mut self.agents, (account, name), now);
        }
        let told = |((account, name), last): ((AccountId, String), UnixSecs)| {
            let (kind, what) = if name.contains("://") {
                ("endpoint_offline", "the endpoint")
            } else {
                ("agent_offline", "every agent of")
            };
            let message = format!("{what} {name} is offline since {}", timestamp(last));
            (kind, condition(name, Some(account), message, waits.offline))
        };
        gone(&mut self.agents, now).into_iter().map(told).collect()
    }
}

fn condition(subject: String, account: Option<AccountId>, message: String, raise_secs: i64) -> Condition {
    Condition { subject, account, message, raise_secs, clear_secs: raise_secs.min(60) }
}

fn remember<K: Ord>(seen: &mut BTreeMap<K, UnixSecs>, key: K, now: UnixSecs) {
    if seen.len() < REMEMBERED_MAX || seen.contains_key(&key) {
        seen.insert(key, now);
    }
}

/// What was seen and is not there now. What is gone for very long is forgotten.
fn gone<K: Ord + Clone>(seen: &mut BTreeMap<K, UnixSecs>, now: UnixSecs) -> Vec<(K, UnixSecs)> {
    seen.retain(|_, last| now - *last < REMEMBERED_SECS);
    seen.iter().filter(|(_, last)| **last != now).map(|(key, last)| (key.clone(), *last)).collect()
}

fn plan(app: &App, waits: Waits) -> Vec<(&'static str, Condition)> {
    let planned = app.planned.borrow().clone();
    let stopped = planned.trouble.map(|trouble| {
        let message = format!("edges keep what they have: {trouble}");
        ("plan_stopped", condition("plan".into(), None, message, waits.other))
    });
    let left_out = planned.left_out.iter().take(LEFT_OUT_MAX).map(|(key, reason)| {
        let account =
            key.strip_prefix(crate::record::ACCOUNTS_PREFIX).and_then(|rest| rest.split('/').next());
        let account = account.and_then(|account| account.parse().ok());
        let message = format!("edges do not get {key}: {reason}");
        ("object_left_out", condition(key.clone(), account, message, waits.other))
    });
    stopped.into_iter().chain(left_out).collect()
}

fn expiring(certificates: &[Expiry], now: UnixSecs) -> Vec<(&'static str, Condition)> {
    let soon = certificates.iter().filter(|certificate| certificate.not_after - now < EXPIRY_SECS);
    soon.map(|certificate| {
        let message =
            format!("the certificate {} ends at {}", certificate.subject, timestamp(certificate.not_after));
        ("certificate_expiring", condition(certificate.subject.clone(), certificate.account, message, 0))
    })
    .collect()
}

fn destinations(app: &App, now: UnixSecs, waits: Waits) -> Vec<(&'static str, Condition)> {
    let mut found = Vec::new();
    for (id, (account, stats)) in app.events.stats.all() {
        if stats.failing_since.is_some() {
            let message = format!("the event destination {id} takes no events: {}", stats.reason);
            found.push((
                "destination_failing",
                condition(id.to_string(), Some(account), message, waits.other),
            ));
        }
        if stats.dropped_at.is_some_and(|at| now - at < DROPPED_SECS) {
            let message = format!("{} events for {id} were dropped since control started", stats.dropped);
            found.push(("events_dropped", condition(id.to_string(), Some(account), message, 0)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use ebbgate_model::{EventDestinationId, Ksuid};

    const WAITS: Waits = Waits { offline: 60, other: 30 };

    fn names(found: &[(&'static str, Condition)]) -> Vec<(&'static str, String)> {
        found.iter().map(|(name, condition)| (*name, condition.subject.clone())).collect()
    }

    #[tokio::test]
    async fn what_is_wrong_is_found_and_what_is_right_is_not() {
        let lab = Lab::new().await;
        let mut seen = Seen::default();
        let mut find = |certificates: &[Expiry], now| {
            let stored = Stored { certificates: certificates.to_vec(), ..Stored::default() };
            names(&seen.conditions(&lab.app, &stored, now, WAITS))
        };
        assert_eq!(find(&[], 0), []);
        let edge = EdgeId::new(Ksuid::new(1_700_000_000, [1; 16]));
        let (hold, _commands) = lab.app.presence.join(edge, "1".into(), 0);
        assert_eq!(find(&[], 1), []);
        hold.refused(3, "no room".into());
        assert_eq!(find(&[], 2), [("edge_refused", edge.to_string())]);
        drop(hold);
        assert!(find(&[], 3).contains(&("edge_gone", edge.to_string())));
        lab.app.presence.expire(std::time::Instant::now() + std::time::Duration::from_mins(1));
        assert_eq!(find(&[], 4), [("edge_gone", edge.to_string())]);
        assert_eq!(find(&[], 4 + REMEMBERED_SECS), [], "taken away on purpose");
        let certificate = |not_after| Expiry { account: None, subject: "cert_1".into(), not_after };
        assert_eq!(find(&[certificate(EXPIRY_SECS + 5)], 5), []);
        assert_eq!(find(&[certificate(EXPIRY_SECS)], 9), [("certificate_expiring", "cert_1".to_owned())]);
        let id = EventDestinationId::new(Ksuid::new(1_700_000_000, [2; 16]));
        lab.app.events.stats.change(id, lab.account, |stats| {
            stats.failing_since = Some(1);
            stats.dropped_at = Some(1);
        });
        let found = [("destination_failing", id.to_string()), ("events_dropped", id.to_string())];
        assert_eq!(find(&[], 10), found);
        assert_eq!(find(&[], 10 + DROPPED_SECS), found[..1]);
    }

    #[tokio::test]
    async fn an_edge_that_joined_is_missed_though_control_never_saw_it_until_it_is_removed() {
        let lab = Lab::new().await;
        let mut seen = Seen::default();
        let mut find = |joined: &[EdgeId], now| {
            let stored = Stored { joined: joined.iter().copied().collect(), ..Stored::default() };
            names(&seen.conditions(&lab.app, &stored, now, WAITS))
        };
        let [one, two] = [1, 2].map(|n| EdgeId::new(Ksuid::new(1_700_000_000, [n; 16])));
        let gone = |edge: EdgeId| ("edge_gone", edge.to_string());
        let (hold, _commands) = lab.app.presence.join(one, "1".into(), 0);
        assert_eq!(find(&[one, two], 1), [gone(two)]);
        drop(hold);
        assert_eq!(find(&[one, two], 2), [gone(one), gone(two)]);
        lab.app.presence.expire(std::time::Instant::now() + std::time::Duration::from_mins(1));
        assert_eq!(find(&[one], 3), [gone(one)]);
        assert_eq!(find(&[], 4), []);
    }
}
