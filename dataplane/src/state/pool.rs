//! `Pool`: the members that share one URL, and which of them is asked next.
//!
//! Members take turns, or are chosen as a policy says ([`Pool::select`]), among the best that can take a stream just now: one
//! that an operator drains is asked when no such one is left; one that was set aside, when a trial is due or behind those, as are
//! unhealthy and ejected ones; one with an agent that is not heard is the last. Does not know how a stream is opened: where a
//! member fails before a byte was sent, the caller picks again and names the ones it has tried.

mod selection;
mod spread;

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use ebbgate_model::{EndpointId, canonical_ip};
use ebbgate_policy::{Balancing, Strategy};
use tokio::time::Instant;

use crate::state::endpoint::{Endpoint, Kind};
use crate::tunnel::health;
use selection::{Mark, Selected, Selections, Share};
use spread::{mixed, score};

/// Most members tried for one connection or request.
pub const TRIES_MAX: usize = 4;
/// Most members whose connections are compared for one pick. In a larger pool another part of it is looked at each time.
const COMPARED_MAX: usize = 32;

/// The work that asks for a member.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Whether the work can be repeated on another member when this one refuses it.
    pub repeats: bool,
    /// When.
    pub now: Instant,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Values of the cookie that may name a member.
    pub cookies: &'a [String],
}

impl Ask<'_> {
    /// Work of nobody in particular.
    pub fn at(now: Instant, repeats: bool) -> Self {
        Self { repeats, now, client: None, cookies: &[] }
    }

    /// Work that can be repeated, now.
    pub fn repeatable() -> Self {
        Self::at(Instant::now(), true)
    }
}

/// Endpoints with the same URL, all online. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Members>);

#[derive(Debug)]
struct Members {
    endpoints: Vec<Arc<Endpoint>>,
    turn: AtomicU64,
    /// Turns of those whose member could not take them.
    spilt: AtomicU64,
    /// None: all members, by turns.
    share: Option<Share>,
    selections: Selections<Pool>,
}

impl Pool {
    /// A pool of these members, in this order.
    pub fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self::of(endpoints, 0, None, Selections::default())
    }

    fn of(
        endpoints: Vec<Arc<Endpoint>>,
        turn: u64,
        share: Option<Share>,
        selections: Selections<Self>,
    ) -> Self {
        let (turn, spilt) = (AtomicU64::new(turn), AtomicU64::new(0));
        Self(Arc::new(Members { endpoints, turn, spilt, share, selections }))
    }

    /// The members that a policy selects, by the strategy it names. Made once until the pool changes.
    #[must_use]
    pub fn select(&self, by: &Arc<Balancing>) -> Self {
        self.0.selections.get(&self.0.endpoints, by, |selected| {
            let Selected { endpoints, share, turn } = selected;
            Self::of(endpoints, turn, Some(share), Selections::default())
        })
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
        if tried.is_empty() {
            let turn = self.0.turn.fetch_add(1, Relaxed);
            let member = self.0.wanted(turn, ask).and_then(|index| self.0.endpoints.get(index));
            if let Some(member) = member.filter(|member| member.takes(ask, self.0.is_sticky())) {
                return Some(Arc::clone(member));
            }
        }
        let turn = self.0.spilt.fetch_add(1, Relaxed);
        // Several ends: of those that find the same trial due, one gets it and the others look again.
        (0..=self.0.endpoints.len()).find_map(|_| {
            let (member, rank) = self.0.best(turn, tried, ask)?;
            (rank.standing != Standing::Trial || member.begin_trial(ask.now)).then(|| Arc::clone(member))
        })
    }

    /// How many members are ejected.
    pub fn ejected(&self, now: Instant) -> usize {
        let agents = self.0.endpoints.iter().filter_map(|member| match &member.kind {
            Kind::Agent(agent) => Some(agent),
            Kind::Cloud => None,
        });
        agents.filter(|agent| agent.health.is_ejected(now)).count()
    }

    /// Whether another member than these could do the work and is heard.
    pub fn has_other(&self, than: &[EndpointId]) -> bool {
        let others = self.0.endpoints.iter().filter(|member| !than.contains(&member.id));
        let ranks = others.filter_map(|member| member.rank(Ask::repeatable()));
        than.len() < TRIES_MAX && ranks.into_iter().any(|rank| rank.class() < DRAINED)
    }

    /// What a cookie says that names this member. None: cookies name none here, or one of these names it already.
    pub fn cookie(&self, member: EndpointId, presented: &[String]) -> Option<String> {
        let share = self.0.share.as_ref()?;
        let Strategy::StickyCookie(_) = share.by.strategy() else { return None };
        let index = self.0.endpoints.iter().position(|endpoint| endpoint.id == member)?;
        let value = share.marks.get(index)?.value();
        // The value is looked for, not the member: a member that is found by its name has another process now.
        (!presented.contains(&value)).then_some(value)
    }

    /// A pool with one member more, keeping its place in the turn. Agents of other edges stand last.
    #[must_use]
    pub fn with(&self, endpoint: Arc<Endpoint>) -> Self {
        let id = endpoint.id;
        let others = self.0.endpoints.iter().filter(|other| other.id != id).cloned();
        let (far, mut members): (Vec<_>, Vec<_>) = others.partition(|other| other.is_elsewhere());
        if endpoint.is_elsewhere() {
            members.extend(far.into_iter().chain([endpoint]));
        } else {
            members.extend([endpoint].into_iter().chain(far));
        }
        self.changed(members)
    }

    /// A pool without this member; possibly empty.
    #[must_use]
    pub fn without(&self, id: EndpointId) -> Self {
        self.changed(self.0.endpoints.iter().filter(|e| e.id != id).cloned().collect())
    }

    fn changed(&self, endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self::of(endpoints, self.turn(), None, self.0.selections.carried(Self::turn))
    }

    fn turn(&self) -> u64 {
        self.0.turn.load(Relaxed)
    }
}

impl Members {
    /// Whether the strategy wants a client to come to the member that it had before.
    fn is_sticky(&self) -> bool {
        let strategy = self.share.as_ref().map(|share| share.by.strategy());
        matches!(strategy, Some(Strategy::StickyClientAddress | Strategy::StickyCookie(_)))
    }

    /// The member that the strategy wants, whatever its rank. None: the rank decides.
    fn wanted(&self, turn: u64, ask: Ask) -> Option<usize> {
        let members = u64::try_from(self.endpoints.len()).ok()?;
        let Some(share) = &self.share else { return usize::try_from(turn.checked_rem(members)?).ok() };
        match share.by.strategy() {
            Strategy::RoundRobin => share.spread.at(turn),
            Strategy::LeastConnections => {
                let from = usize::try_from(turn.checked_rem(members)?).ok()?;
                let indices = (from..self.endpoints.len()).chain(0..from).take(COMPARED_MAX);
                let takes = |index: &usize| {
                    let rank = self.endpoints.get(*index).and_then(|member| member.rank(ask));
                    rank.is_some_and(|rank| rank.class() <= 1)
                };
                indices.filter(takes).min_by(|a, b| self.by_load(*a, *b))
            }
            Strategy::StickyClientAddress => {
                let client = address(ask.client?);
                // Of one process at two edges, the one that is here stands first.
                (0..self.endpoints.len()).rev().max_by(|a, b| share.by_score(client, *a, *b))
            }
            Strategy::StickyCookie(_) => {
                let named = ask.cookies.iter().filter_map(|value| Mark::read(value));
                named.into_iter().find_map(|cookie| share.named(cookie)).or_else(|| share.spread.at(turn))
            }
        }
    }

    /// The member that comes next among those of the best rank.
    fn best(&self, turn: u64, tried: &[EndpointId], ask: Ask) -> Option<(&Arc<Endpoint>, Rank)> {
        let ranked = || {
            let members = self.endpoints.iter().enumerate();
            let members = members.filter(|(_, member)| !tried.contains(&member.id));
            members.filter_map(|(index, member)| Some((index, member, member.rank(ask)?)))
        };
        let best = ranked().map(|(_, _, rank)| rank.class()).min()?;
        let alike = || ranked().filter(|(_, _, rank)| rank.class() == best);
        let strategy = self.share.as_ref().map(|share| (share, share.by.strategy()));
        let found = match (strategy, ask.client) {
            (Some((_, Strategy::LeastConnections)), _) => {
                let count = alike().count();
                let from = usize::try_from(turn).unwrap_or(usize::MAX).checked_rem(count)?;
                let in_turn = alike().skip(from).chain(alike().take(from)).take(COMPARED_MAX);
                in_turn.min_by(|(a, ..), (b, ..)| self.by_load(*a, *b))
            }
            (Some((share, Strategy::StickyClientAddress)), Some(client)) => {
                let client = address(client);
                alike().max_by(|(a, ..), (b, ..)| share.by_score(client, *a, *b))
            }
            _ => {
                let all: u64 = alike().map(|(index, ..)| self.weight(index)).sum();
                let mut place = turn.checked_rem(all)?;
                alike().find(|(index, ..)| {
                    let weight = self.weight(*index);
                    let is_it = place < weight;
                    place = place.saturating_sub(weight);
                    is_it
                })
            }
        };
        found.map(|(_, member, rank)| (member, rank))
    }

    fn weight(&self, index: usize) -> u64 {
        let weights = self.share.as_ref().map(|share| share.weights.as_slice());
        weights.map_or(1, |weights| weights.get(index).copied().unwrap_or(0).into())
    }

    /// Which of two members has less to do, for its weight, once it has this work too.
    fn by_load(&self, a: usize, b: usize) -> Ordering {
        let load = |index: usize| {
            let load = self.endpoints.get(index).map_or(usize::MAX, |member| member.load().now());
            u64::try_from(load).unwrap_or(u64::MAX).saturating_add(1)
        };
        (load(a).saturating_mul(self.weight(b))).cmp(&load(b).saturating_mul(self.weight(a)))
    }
}

impl Share {
    fn by_score(&self, client: u64, a: usize, b: usize) -> Ordering {
        let of = |index: usize| match (self.marks.get(index), self.weights.get(index)) {
            (Some(mark), Some(weight)) => score(client, mark.key(), *weight),
            _ => 0.0,
        };
        of(a).total_cmp(&of(b))
    }

    /// The member that a cookie names: by the agent's process, or by the endpoint's name after the process was replaced.
    fn named(&self, (process, name): (u64, u64)) -> Option<usize> {
        let position = |is_it: &dyn Fn(&Mark) -> bool| self.marks.iter().position(is_it);
        position(&|mark| mark.process == process)
            .or_else(|| position(&|mark| mark.is_named && mark.name == Some(name)))
    }
}

/// A number for a client's address.
fn address(client: IpAddr) -> u64 {
    match canonical_ip(client) {
        IpAddr::V4(ip) => mixed(u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let [high, low] =
                [64, 0].map(|shift| u64::try_from(ip.to_bits() >> shift & u128::from(u64::MAX)));
            mixed(mixed(high.unwrap_or(0)) ^ low.unwrap_or(0))
        }
    }
}

/// The class of members that are drained and work. What may be asked without a doubt is below it.
const DRAINED: u8 = 2 * (DISTANCE_MAX + 1);
/// The largest distance that is told apart.
const DISTANCE_MAX: u8 = 2;

/// How much a member is worth asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rank {
    standing: Standing,
    /// 0: its agent is connected here; 1: to another edge; 2: to one that is about to end.
    distance: u8,
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing is known against it.
    Good,
    /// The same, and it gets its share little by little: what it leaves goes to the others.
    Starting,
    /// It was set aside, and may be tried by one visitor now.
    Trial,
    /// An operator wants no new work there, and nothing else is known against it.
    Drained,
    /// It is set aside.
    Aside,
    /// The same, and an operator wants no new work there.
    DrainedAside,
    /// Nothing is heard from its agent.
    Silent,
}

impl Rank {
    /// Members of a lower class go first. A trial is as good as any: work that it fails goes to another member. One that is drained
    /// and works comes before those that may not work: a few tries must not be spent on those alone.
    fn class(self) -> u8 {
        match self.standing {
            Standing::Good | Standing::Trial => 2 * self.distance.min(DISTANCE_MAX),
            Standing::Starting => 2 * self.distance.min(DISTANCE_MAX) + 1,
            Standing::Drained => DRAINED,
            Standing::Aside => DRAINED + 1,
            Standing::DrainedAside => DRAINED + 2,
            Standing::Silent => DRAINED + 3,
        }
    }
}

impl Endpoint {
    /// None: it can take no connection. Cloud endpoints always can, agents while their session lives and has room.
    fn rank(&self, ask: Ask) -> Option<Rank> {
        let Kind::Agent(agent) = &self.kind else {
            return Some(Rank { standing: Standing::Good, distance: 0 });
        };
        let session = &agent.session;
        let standing = || match agent.health.standing(ask.now) {
            _ if session.is_silent() => Standing::Silent,
            health::Standing::Good => Standing::Good,
            health::Standing::Starting => Standing::Starting,
            health::Standing::Due if ask.repeats => Standing::Trial,
            health::Standing::Overdue => Standing::Trial,
            health::Standing::Due | health::Standing::Aside => Standing::Aside,
            health::Standing::Drained => Standing::Drained,
            health::Standing::DrainedAside => Standing::DrainedAside,
        };
        let distance = u8::from(agent.elsewhere.is_some()) + u8::from(session.yields());
        session.has_room().then(|| Rank { standing: standing(), distance })
    }

    /// Whether it is as good as any; begins the trial that it may need. `far`: or as good as any of another edge.
    fn takes(&self, ask: Ask, far: bool) -> bool {
        match self.rank(ask) {
            Some(Rank { distance: 1.., .. }) if !far => false,
            Some(Rank { standing: Standing::Good, .. }) => true,
            Some(Rank { standing: Standing::Starting, .. }) => {
                far || matches!(&self.kind, Kind::Agent(agent) if agent.health.takes_turn(ask.now))
            }
            Some(Rank { standing: Standing::Trial, .. }) => self.begin_trial(ask.now),
            _ => false,
        }
    }

    fn begin_trial(&self, now: Instant) -> bool {
        matches!(&self.kind, Kind::Agent(agent) if agent.health.begin_trial(now))
    }
}

#[cfg(test)]
mod tests;
