//! `Pool`: the members that share one URL, and who of them is asked next.
//!
//! Spreads evenly by taking turns and passes over members that cannot take a stream just now. Does not know how a stream
//! is opened: a caller whose member fails before a byte was sent picks again and names the ones it has tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ebbgate_model::EndpointId;

use crate::gateway::{Endpoint, Kind};

/// Most members tried for one connection or request.
pub const TRIES_MAX: usize = 4;

/// Endpoints with the same URL, all online. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Members>);

#[derive(Debug)]
struct Members {
    endpoints: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
}

impl Pool {
    /// A pool of these members, in this order.
    pub fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self(Arc::new(Members { endpoints, turn: AtomicUsize::new(0) }))
    }

    /// All members, whether or not they can take a stream.
    pub fn members(&self) -> &[Arc<Endpoint>] {
        &self.0.endpoints
    }

    /// The next member whose turn it is, that is not in `tried` and that can take a stream. None: nobody is left.
    pub fn pick(&self, tried: &[EndpointId]) -> Option<Arc<Endpoint>> {
        if tried.len() >= TRIES_MAX {
            return None;
        }
        let first = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.0.endpoints.len();
        (0..count)
            .filter_map(|i| self.0.endpoints.get(first.wrapping_add(i).checked_rem(count)?))
            .find(|member| !tried.contains(&member.id) && member.is_available())
            .cloned()
    }

    /// A pool with one member more, keeping its place in the turn.
    #[must_use]
    pub fn with(&self, endpoint: Arc<Endpoint>) -> Self {
        let mut endpoints = self.without(endpoint.id).0.endpoints.clone();
        endpoints.push(endpoint);
        Self(Arc::new(Members { endpoints, turn: AtomicUsize::new(self.0.turn.load(Ordering::Relaxed)) }))
    }

    /// A pool without this member; possibly empty.
    #[must_use]
    pub fn without(&self, id: EndpointId) -> Self {
        let endpoints = self.0.endpoints.iter().filter(|e| e.id != id).cloned().collect();
        Self(Arc::new(Members { endpoints, turn: AtomicUsize::new(self.0.turn.load(Ordering::Relaxed)) }))
    }
}

impl Endpoint {
    /// Whether the endpoint can take one more connection: cloud endpoints always, agents while their session lives and
    /// has room.
    pub fn is_available(&self) -> bool {
        match &self.kind {
            Kind::Cloud => true,
            Kind::Agent(agent) => agent.session.has_room(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{agent, cloud};

    #[test]
    fn takes_turns_and_spreads_evenly() {
        let pool = Pool::new(vec![
            agent(1, "tcp://a.internal:1"),
            agent(2, "tcp://a.internal:1"),
            cloud(3, "tcp://a.internal:1"),
        ]);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..300 {
            *counts.entry(pool.pick(&[]).unwrap().id).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|n| *n == 100), "{counts:?}");
    }

    #[test]
    fn skips_the_dead_the_full_and_the_tried() {
        let (dead, full, good) =
            (agent(1, "tcp://a.internal:1"), agent(2, "tcp://a.internal:1"), agent(3, "tcp://a.internal:1"));
        let pool = Pool::new(vec![dead.clone(), full.clone(), good.clone()]);
        let session = |e: &Endpoint| match &e.kind {
            Kind::Agent(agent) => agent.session.clone(),
            Kind::Cloud => unreachable!("built as an agent"),
        };
        session(&dead).end();
        let full = session(&full);
        let slots: Vec<_> = std::iter::from_fn(|| full.clone().take_slot()).collect();
        for _ in 0..5 {
            assert_eq!(pool.pick(&[]).unwrap().id, good.id);
        }
        assert!(pool.pick(&[good.id]).is_none());
        drop(slots);
        assert!(pool.pick(&[good.id]).is_some());
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        assert!(Pool::new(Vec::new()).pick(&[]).is_none());
    }
}
