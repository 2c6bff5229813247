//! `Pool`: the members that share one URL, and which of them is asked next.
//!
//! Takes turns among the best members that can take a stream just now: one that was set aside is asked when a trial is due,
//! or when no other is left; one whose agent is not heard is the last. Does not know how a stream is opened: a caller whose member fails before a byte was sent
//! picks again and names the ones it has tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ebbgate_model::EndpointId;
use tokio::time::Instant;

use crate::state::endpoint::{Endpoint, Kind};
use crate::tunnel::health::Standing;

/// Most members tried for one connection or request.
pub const TRIES_MAX: usize = 4;

/// The work that asks for a member.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Whether the work can be repeated on another member when this one refuses it.
    pub repeats: bool,
    /// When.
    pub now: Instant,
}

impl Ask {
    /// Work that can be repeated, now.
    pub fn repeatable() -> Self {
        Self { repeats: true, now: Instant::now() }
    }
}

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

    /// The next member whose turn it is, of the best that are not in `tried` and can take a stream. None: none is left.
    ///
    /// Only the first pick of a visitor takes a turn: were a retry to take one too, the turns of two members of whom one
    /// fails would always begin with that one.
    pub fn pick(&self, tried: &[EndpointId], ask: Ask) -> Option<Arc<Endpoint>> {
        if tried.len() >= TRIES_MAX {
            return None;
        }
        let turn = match tried {
            [] => self.0.turn.fetch_add(1, Ordering::Relaxed),
            _ => self.0.turn.load(Ordering::Relaxed),
        };
        // Several ends: of those that find the same trial due, one gets it and the others look again.
        (0..=self.0.endpoints.len()).find_map(|_| {
            let (member, rank) = self.best(turn, tried, ask)?;
            (rank != Rank::Trial || member.begin_trial(ask.now)).then(|| Arc::clone(member))
        })
    }

    /// Whether another member than these could do the work and is heard.
    pub fn has_other(&self, than: &[EndpointId]) -> bool {
        let others = self.0.endpoints.iter().filter(|member| !than.contains(&member.id));
        let ranks = others.filter_map(|member| member.rank(Ask::repeatable()));
        than.len() < TRIES_MAX && ranks.into_iter().any(|rank| rank.class() == 0)
    }

    /// The member whose turn it is among those of the best rank.
    fn best(&self, turn: usize, tried: &[EndpointId], ask: Ask) -> Option<(&Arc<Endpoint>, Rank)> {
        let ranked = || {
            let members = self.0.endpoints.iter().filter(|member| !tried.contains(&member.id));
            members.filter_map(|member| Some((member, member.rank(ask)?)))
        };
        let best = ranked().map(|(_, rank)| rank.class()).min()?;
        let alike = || ranked().filter(|(_, rank)| rank.class() == best);
        alike().nth(turn.checked_rem(alike().count())?)
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

/// How much a member is worth asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    /// Nothing is known against it.
    Good,
    /// It was set aside, and may be tried by one visitor now.
    Trial,
    /// It is set aside.
    Aside,
    /// Nothing is heard from its agent.
    Silent,
}

impl Rank {
    /// Members of a lower class go first. A trial is as good as any: work that it fails goes to another member.
    fn class(self) -> u8 {
        match self {
            Self::Good | Self::Trial => 0,
            Self::Aside => 1,
            Self::Silent => 2,
        }
    }
}

impl Endpoint {
    /// None: it can take no connection. Cloud endpoints always can, agents while their session lives and has room.
    fn rank(&self, ask: Ask) -> Option<Rank> {
        let Kind::Agent(agent) = &self.kind else { return Some(Rank::Good) };
        agent.session.has_room().then(|| match agent.health.standing(ask.now) {
            _ if agent.session.is_silent() => Rank::Silent,
            Standing::Good => Rank::Good,
            Standing::Due if ask.repeats => Rank::Trial,
            Standing::Overdue => Rank::Trial,
            Standing::Due | Standing::Aside => Rank::Aside,
        })
    }

    fn begin_trial(&self, now: Instant) -> bool {
        matches!(&self.kind, Kind::Agent(agent) if agent.health.begin_trial(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::endpoint::fixture::{agent, cloud};
    use crate::tunnel::health::FIRST_TRIAL_MS;
    use std::collections::BTreeMap;
    use tokio::time::Duration;

    const URL: &str = "tcp://a.internal:1";

    fn health(member: &Endpoint) -> &crate::tunnel::health::Health {
        match &member.kind {
            Kind::Agent(agent) => &agent.health,
            Kind::Cloud => unreachable!("built as an agent"),
        }
    }

    fn ask() -> Ask {
        Ask::repeatable()
    }

    #[test]
    fn takes_turns_and_spreads_evenly() {
        let pool = Pool::new(vec![agent(1, URL), agent(2, URL), cloud(3, URL)]);
        let mut counts = BTreeMap::new();
        for _ in 0..300 {
            *counts.entry(pool.pick(&[], ask()).unwrap().id).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|n| *n == 100), "{counts:?}");
    }

    #[test]
    fn a_retry_takes_no_turn_so_that_the_dead_one_is_not_always_first() {
        let (dead, good) = (agent(1, URL), agent(2, URL));
        let pool = Pool::new(vec![dead.clone(), good.clone()]);
        let mut firsts = Vec::new();
        for _ in 0..4 {
            let first = pool.pick(&[], ask()).unwrap();
            if first.id == dead.id {
                assert_eq!(pool.pick(&[dead.id], ask()).unwrap().id, good.id);
            }
            firsts.push(first.id);
        }
        assert_eq!(firsts, [dead.id, good.id, dead.id, good.id]);
    }

    #[test]
    fn what_a_member_leaves_is_spread_over_all_others() {
        let members = [agent(1, URL), agent(2, URL), agent(3, URL)];
        let pool = Pool::new(members.to_vec());
        health(&members[0]).refused(Instant::now());
        let mut counts = BTreeMap::new();
        for _ in 0..100 {
            *counts.entry(pool.pick(&[], ask()).unwrap().id).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([(members[1].id, 50), (members[2].id, 50)]));
    }

    #[test]
    fn a_member_set_aside_is_tried_by_one_visitor_and_only_by_one_that_can_be_repeated() {
        let (aside, good) = (agent(1, URL), agent(2, URL));
        let pool = Pool::new(vec![aside.clone(), good.clone()]);
        let start = Instant::now();
        let asked = |repeats, now| -> Vec<_> {
            (0..4).map(|_| pool.pick(&[], Ask { repeats, now }).unwrap().id).collect()
        };
        health(&aside).refused(start);
        assert_eq!(asked(true, start), [good.id; 4]);
        let due = start + Duration::from_millis(FIRST_TRIAL_MS);
        assert_eq!(asked(false, due), [good.id; 4]);
        assert_eq!(asked(true, due).iter().filter(|id| **id == aside.id).count(), 1);
        health(&aside).answered();
        assert_eq!(asked(false, due).iter().filter(|id| **id == aside.id).count(), 2);
    }

    #[test]
    fn where_all_are_set_aside_all_are_asked() {
        let members = [agent(1, URL), agent(2, URL)];
        let pool = Pool::new(members.to_vec());
        let now = Instant::now();
        for member in &members {
            health(member).refused(now);
        }
        let first = pool.pick(&[], Ask { repeats: false, now }).unwrap();
        let second = pool.pick(&[first.id], Ask { repeats: false, now }).unwrap();
        assert_ne!(first.id, second.id);
        assert!(pool.pick(&[first.id, second.id], ask()).is_none());
    }

    #[test]
    fn a_silent_member_is_asked_only_when_nobody_else_is_left() {
        use crate::tunnel::agent_liveness::SILENT_MS;
        let (silent, aside, good) = (agent(1, URL), agent(2, URL), agent(3, URL));
        let Kind::Agent(agent) = &silent.kind else { unreachable!("built as an agent") };
        let (liveness, now) = (&agent.session.liveness, Instant::now());
        let _ = liveness.sent(now);
        liveness.look(now + Duration::from_millis(SILENT_MS));
        health(&aside).refused(now);
        let pool = Pool::new(vec![silent.clone(), aside.clone(), good.clone()]);
        let ask = Ask { repeats: true, now };
        for _ in 0..3 {
            assert_eq!(pool.pick(&[], ask).unwrap().id, good.id);
        }
        assert!(pool.has_other(&[silent.id]) && !pool.has_other(&[good.id]));
        assert_eq!(pool.pick(&[good.id], ask).unwrap().id, aside.id);
        assert_eq!(pool.pick(&[good.id, aside.id], ask).unwrap().id, silent.id);
        liveness.heard(now);
        assert_eq!(pool.pick(&[good.id], ask).unwrap().id, silent.id);
    }

    #[test]
    fn skips_the_dead_the_full_and_the_tried() {
        let (dead, full, good) = (agent(1, URL), agent(2, URL), agent(3, URL));
        let pool = Pool::new(vec![dead.clone(), full.clone(), good.clone()]);
        let session = |e: &Endpoint| match &e.kind {
            Kind::Agent(agent) => agent.session.clone(),
            Kind::Cloud => unreachable!("built as an agent"),
        };
        session(&dead).end();
        let full = session(&full);
        let slots: Vec<_> = std::iter::from_fn(|| full.slot().ok()).collect();
        for _ in 0..5 {
            assert_eq!(pool.pick(&[], ask()).unwrap().id, good.id);
        }
        assert!(pool.pick(&[good.id], ask()).is_none());
        drop(slots);
        assert!(pool.pick(&[good.id], ask()).is_some());
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        assert!(Pool::new(Vec::new()).pick(&[], ask()).is_none());
    }
}
