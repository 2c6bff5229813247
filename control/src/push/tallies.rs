//! `Tallies`: what edges say of endpoints with a change that not all edges have: requests, errors, refusals.
//!
//! Counts nothing of other endpoints, so it is as large as the changes under way times the edges. In memory only: after a
//! restart of control counting begins anew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ebbgate_model::event::{ConnectionEvent, RequestEvent};
use ebbgate_model::{AccountId, EdgeId, EndpointId, EndpointUrl, ObjectKey, PolicyHash};

use crate::store::Revision;

/// Status from which on an answer is an error.
const ERROR_STATUS: u16 = 500;

/// A change that is counted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Owner of the endpoint.
    pub account: AccountId,
    /// Its URL.
    pub url: EndpointUrl,
    /// The policy that is new.
    pub policy: Option<PolicyHash>,
    /// An edge that has applied this generation has the change, if it is to have it.
    pub from: Revision,
}

/// What one edge said of one endpoint since it has the change, or since others have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were answered, and connections that ended where there are no requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Why the edge cannot use the change.
    pub refused: Option<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Most of the time nothing is.
    is_counting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watched: BTreeMap<EndpointId, Counted>,
    /// Endpoints by account and canonical URL.
    by_url: BTreeMap<(AccountId, String), EndpointId>,
}

#[derive(Debug)]
struct Counted {
    change: Watched,
    edges: BTreeMap<EdgeId, Tally>,
}

impl Tallies {
    /// Counts for these changes from now on, and for no others. What was counted for a change that goes on is kept.
    pub fn watch(&self, changes: BTreeMap<EndpointId, Watched>) {
        let mut state = self.state();
        let by_url = changes.iter().map(|(id, change)| ((change.account, change.url.to_string()), *id));
        state.by_url = by_url.collect();
        let watched = &mut state.watched;
        watched.retain(|id, counted| {
            changes.get(id).is_some_and(|change| change.policy == counted.change.policy)
        });
        self.is_counting.store(!changes.is_empty(), Ordering::Relaxed);
        for (id, change) in changes {
            match watched.get_mut(&id) {
                Some(counted) => counted.change = change,
                None => {
                    watched.insert(id, Counted { change, edges: BTreeMap::new() });
                }
            }
        }
    }

    /// A request was answered by an edge that has applied this generation.
    pub fn request(&self, edge: EdgeId, applied: Revision, event: &RequestEvent) {
        let failed = event.status >= ERROR_STATUS;
        self.count(edge, applied, (event.account, event.endpoint, &event.forwarded_to), failed);
    }

    /// A connection ended at such an edge. Where there are requests, those are counted.
    pub fn connection(&self, edge: EdgeId, applied: Revision, event: &ConnectionEvent) {
        if event.url.starts_with("tcp://") || event.url.starts_with("tls://") {
            let failed = event.error.is_some();
            self.count(edge, applied, (event.account, event.endpoint, &event.forwarded_to), failed);
        }
    }

    /// An edge cannot use an object.
    pub fn refused(&self, edge: EdgeId, object: &ObjectKey, reason: &str) {
        if !self.is_counting.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state();
        let meant: Vec<&mut Counted> = match object {
            ObjectKey::Endpoint(id) => state.watched.get_mut(id).into_iter().collect(),
            ObjectKey::Policy(hash) => {
                let all = state.watched.values_mut();
                all.filter(|counted| counted.change.policy == Some(*hash)).collect()
            }
            _ => Vec::new(),
        };
        for counted in meant {
            counted.edges.entry(edge).or_default().refused = Some(reason.to_owned());
        }
    }

    /// What each edge said of an endpoint.
    pub fn of(&self, endpoint: EndpointId) -> BTreeMap<EdgeId, Tally> {
        self.state().watched.get(&endpoint).map(|counted| counted.edges.clone()).unwrap_or_default()
    }

    fn count(
        &self,
        edge: EdgeId,
        applied: Revision,
        (account, endpoint, forwarded_to): (Option<AccountId>, Option<EndpointId>, &str),
        failed: bool,
    ) {
        if !self.is_counting.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state();
        let target = account.map(|account| (account, forwarded_to.to_owned()));
        let target =
            target.and_then(|target| state.by_url.get(&target)).copied().filter(|id| endpoint != Some(*id));
        for id in [endpoint, target].into_iter().flatten() {
            let counted = state.watched.get_mut(&id).filter(|counted| applied >= counted.change.from);
            if let Some(counted) = counted {
                let tally = counted.edges.entry(edge).or_default();
                tally.requests += 1;
                tally.errors += u64::from(failed);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000, [n; 16])
    }

    fn watched(policy: u8, from: Revision) -> BTreeMap<EndpointId, Watched> {
        let url = "https://a.internal".parse().unwrap();
        let change =
            Watched { account: AccountId::new(ksuid(1)), url, policy: Some(PolicyHash([policy; 32])), from };
        [(EndpointId::new(ksuid(2)), change)].into()
    }

    fn request(account: u8, endpoint: u8, forwarded_to: &str, status: u16) -> RequestEvent {
        RequestEvent {
            account: Some(AccountId::new(ksuid(account))),
            endpoint: Some(EndpointId::new(ksuid(endpoint))),
            forwarded_to: forwarded_to.into(),
            status,
            ..RequestEvent::default()
        }
    }

    #[test]
    fn only_what_the_change_serves_is_counted_and_only_since_the_edge_has_it() {
        let (tallies, edge, id) = (Tallies::default(), EdgeId::new(ksuid(9)), EndpointId::new(ksuid(2)));
        tallies.request(edge, 7, &request(1, 2, "", 200));
        tallies.watch(watched(1, 7));
        for (applied, event) in [
            (6, request(1, 2, "", 500)),
            (7, request(1, 2, "", 200)),
            (8, request(1, 3, "https://a.internal", 502)),
            (8, request(4, 3, "https://a.internal", 502)),
            (8, request(1, 3, "", 502)),
            (8, request(1, 2, "", 499)),
        ] {
            tallies.request(edge, applied, &event);
        }
        let expect = Tally { requests: 3, errors: 1, refused: None };
        assert_eq!(tallies.of(id), [(edge, expect.clone())].into());
        // The same change written again keeps its counts, another begins anew.
        tallies.watch(watched(1, 9));
        assert_eq!(tallies.of(id), [(edge, expect)].into());
        tallies.refused(edge, &ObjectKey::Policy(PolicyHash([2; 32])), "another's");
        tallies.refused(edge, &ObjectKey::Policy(PolicyHash([1; 32])), "no");
        assert_eq!(tallies.of(id).get(&edge).unwrap().refused.as_deref(), Some("no"));
        tallies.watch(watched(2, 10));
        assert!(tallies.of(id).is_empty());
        tallies.watch(BTreeMap::new());
        tallies.request(edge, 11, &request(1, 2, "", 500));
        assert!(tallies.of(id).is_empty());
    }

    #[test]
    fn connections_count_where_there_are_no_requests() {
        let (tallies, edge, id) = (Tallies::default(), EdgeId::new(ksuid(9)), EndpointId::new(ksuid(2)));
        tallies.watch(watched(1, 7));
        let ended = |url: &str, error| ConnectionEvent {
            account: Some(AccountId::new(ksuid(1))),
            endpoint: Some(id),
            url: url.into(),
            error,
            ..ConnectionEvent::default()
        };
        let failed = Some(ebbgate_model::ErrorCode::OFFLINE);
        for event in [ended("tcp://a:1", failed), ended("https://a", failed), ended("tls://a", None)] {
            tallies.connection(edge, 7, &event);
        }
        assert_eq!(tallies.of(id).get(&edge), Some(&Tally { requests: 2, errors: 1, refused: None }));
    }
}
