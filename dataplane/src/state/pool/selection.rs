//! `Selections`: the parts of a pool that policies select, each made once until the pool changes.
//!
//! The weight of a member is a matter of what is known of it alone; so a pool with one member more judges that one only.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};
use ebbgate_model::EndpointId;
use ebbgate_policy::{Balancing, EndpointFacts, Strategy, Work};

use super::spread::Spread;
use crate::state::endpoint::{Endpoint, Kind};

/// Policies that a pool keeps a selection for. One of a further policy takes the place of the oldest.
const SELECTIONS_MAX: usize = 256;

/// See the module. `P`: the pool of selected members.
#[derive(Debug)]
pub(super) struct Selections<P>(ArcSwap<Vec<Selection<P>>>);

#[derive(Debug, Clone)]
struct Selection<P> {
    by: Weak<Balancing>,
    judged: Arc<Judged>,
    /// None: members may be missing.
    pool: Option<P>,
    /// The turn of its pool.
    turn: u64,
}

/// Members that a policy selects, and how one is chosen among them.
pub(super) struct Selected {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) share: Share,
    /// The turn to begin with.
    pub(super) turn: u64,
}

/// The weight of each member, with what it follows from.
type Judged = HashMap<EndpointId, (Arc<EndpointFacts>, u32)>;

/// How a part of a pool chooses among its members.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) by: Arc<Balancing>,
    /// By the order of the members; none is 0.
    pub(super) weights: Vec<u32>,
    pub(super) spread: Spread,
    /// By the order of the members; empty where the strategy needs none.
    pub(super) marks: Vec<Mark>,
}

/// By what a member is known again. Two edges, and the same edge after the member's return, find the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of the agent's process.
    pub(super) process: u64,
    /// Of the endpoint's name, if it has one.
    pub(super) name: Option<u64>,
    /// Whether no other member has the name.
    pub(super) is_named: bool,
}

impl<P> Default for Selections<P> {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Vec::new()))
    }
}

impl<P: Clone> Selections<P> {
    /// What a policy selects of these members, which are the same until the selections are [`carried`](Self::carried) on.
    pub(super) fn get(
        &self,
        members: &[Arc<Endpoint>],
        by: &Arc<Balancing>,
        pool_of: impl FnOnce(Selected) -> P,
    ) -> P {
        let made = self.0.load();
        let found = made.iter().find(|selection| selection.by.as_ptr() == Arc::as_ptr(by));
        if let Some(pool) = found.and_then(|selection| selection.pool.as_ref()) {
            return pool.clone();
        }
        let (judged, is_whole) = judge(members, by, found.map(|selection| &*selection.judged));
        let turn = found.map_or(0, |selection| selection.turn);
        let pool = pool_of(select(members, by, &judged, turn));
        let kept = is_whole.then(|| pool.clone());
        let selection = Selection { by: Arc::downgrade(by), judged: Arc::new(judged), pool: kept, turn };
        self.0.rcu(|made| {
            let is_other =
                |other: &&Selection<P>| other.by.strong_count() > 0 && other.by.as_ptr() != Arc::as_ptr(by);
            let mut all: Vec<_> = made.iter().filter(is_other).cloned().collect();
            all.drain(..(all.len() + 1).saturating_sub(SELECTIONS_MAX));
            all.push(selection.clone());
            all
        });
        pool
    }

    /// What the selections of a changed pool begin with.
    pub(super) fn carried(&self, turn: impl Fn(&P) -> u64) -> Self {
        let made = self.0.load();
        let carried = made.iter().map(|selection| Selection {
            turn: selection.pool.as_ref().map_or(selection.turn, &turn),
            pool: None,
            ..selection.clone()
        });
        Self(ArcSwap::from_pointee(carried.collect()))
    }
}

/// The weights of members; those known before are not asked again. False: the work did not suffice for all.
fn judge(members: &[Arc<Endpoint>], by: &Balancing, before: Option<&Judged>) -> (Judged, bool) {
    let work = Work::default();
    let known = |member: &Endpoint| {
        let (facts, weight) = before?.get(&member.id)?;
        Arc::ptr_eq(facts, &member.facts).then_some(*weight)
    };
    let mut judged = Judged::with_capacity(members.len());
    for member in members {
        let Some(weight) = known(member).or_else(|| by.weight(&member.facts, &work)) else { continue };
        judged.insert(member.id, (Arc::clone(&member.facts), weight));
    }
    let is_whole = judged.len() == members.len();
    (judged, is_whole)
}

fn select(members: &[Arc<Endpoint>], by: &Arc<Balancing>, judged: &Judged, turn: u64) -> Selected {
    let weight = |member: &Endpoint| judged.get(&member.id).map_or(0, |(_, weight)| *weight);
    let chosen = members.iter().map(|member| (member, weight(member))).filter(|(_, weight)| *weight > 0);
    let (endpoints, weights): (Vec<_>, Vec<_>) =
        chosen.map(|(member, weight)| (Arc::clone(member), weight)).unzip();
    let marks = match by.strategy() {
        Strategy::StickyClientAddress | Strategy::StickyCookie(_) => marks(&endpoints),
        Strategy::RoundRobin | Strategy::LeastConnections => Vec::new(),
    };
    let spread = Spread::new(&weights);
    Selected { endpoints, share: Share { by: Arc::clone(by), weights, spread, marks }, turn }
}

fn marks(endpoints: &[Arc<Endpoint>]) -> Vec<Mark> {
    let mut named: HashMap<u64, usize> = HashMap::new();
    let mut marks: Vec<Mark> = endpoints.iter().map(|endpoint| Mark::of(endpoint)).collect();
    for name in marks.iter().filter_map(|mark| mark.name) {
        *named.entry(name).or_default() += 1;
    }
    for mark in &mut marks {
        mark.is_named = mark.name.is_some_and(|name| named.get(&name) == Some(&1));
    }
    marks
}

impl Mark {
    fn of(endpoint: &Endpoint) -> Self {
        let process = match &endpoint.kind {
            Kind::Agent(agent) => hashed(endpoint, b"process", &agent.identity),
            Kind::Cloud => hashed(endpoint, b"process", &endpoint.id.to_string()),
        };
        let name = endpoint.facts.member.as_ref().map(|member| member.name.as_str());
        let name = name.filter(|name| !name.is_empty()).map(|name| hashed(endpoint, b"name", name));
        Self { process, name, is_named: false }
    }

    /// What addresses are matched with.
    pub(super) fn key(self) -> u64 {
        self.name.filter(|_| self.is_named).unwrap_or(self.process)
    }

    /// The value of a cookie that names the member. It tells a visitor neither agent nor endpoint.
    pub(super) fn value(self) -> String {
        format!("{:016x}{:016x}", self.process, self.name.unwrap_or(0))
    }

    /// The process and the name of a cookie's value.
    pub(super) fn read(value: &str) -> Option<(u64, u64)> {
        let number = |part: &str| u64::from_str_radix(part, 16).ok();
        let is_written = value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (process, name) = value.split_at_checked(16).filter(|_| is_written)?;
        Some((number(process)?, number(name)?))
    }
}

/// A number made of a text and of the account's id, which visitors are not told.
fn hashed(endpoint: &Endpoint, kind: &[u8], text: &str) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in [endpoint.account.to_string().as_bytes(), endpoint.url.to_string().as_bytes(), kind] {
        context.update(part);
        context.update(&[0]);
    }
    context.update(text.as_bytes());
    let digest = context.finish();
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first)
}
