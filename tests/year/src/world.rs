//! `World`: the fleet at a moment, and what is to happen. What happens is in `dialling`, `feeds`, `faults` and `checks`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use ebbgate::config::ConnectAddress;
use ebbgate::edges::Edges;
use ebbgate::edges_dialer::Round;
use ebbgate::plan::{Plan, RetryPolicy};
use ebbgate_edge::net::handshakes::turns::Turns;
use ebbgate_edge::state::peers::PeerList;
use ebbgate_lab::random::Random;
use ebbgate_model::feed::EdgeReach;
use ebbgate_wire::rpc::{AuthExtra, Bind, Opts};
use serde_json::json;

use crate::capacity::Capacity;
use crate::control::Control;
use crate::fault::Fault;
use crate::ids::{self, Life, Slot};
use crate::report::Report;
use crate::said::Said;
use crate::settings::Settings;
use crate::views::Views;
use crate::witness::Witness;

/// Agents of one account.
pub(crate) const AGENTS_OF_ACCOUNT: usize = 100;
/// Services of one account; its agents share them.
pub(crate) const SERVICES: usize = 20;
/// Agents behind one address.
const AGENTS_OF_SITE: usize = 20;
/// Parts of the network that are cut off from an edge as a whole.
pub(crate) const GROUPS: usize = 40;
/// What happened last, kept for the search for a fault.
const TRACE_MAX: usize = 400;

/// What is to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// An agent's session dials anew.
    Dial { slot: Slot, attempt: u32 },
    /// The edge that is dialled is not reached; it is busy for so long, if it said so.
    Failed { slot: Slot, attempt: u32, busy: Option<Duration> },
    /// The turn of a handshake.
    Begins { slot: Slot, attempt: u32, edge: usize, incarnation: u32 },
    /// A handshake is done.
    Done { slot: Slot, attempt: u32, edge: usize, incarnation: u32 },
    /// An agent's session is over.
    Lost { slot: Slot, life: Life },
    /// Edge and agent notice that they have not heard from each other since they were cut off.
    Silent { slot: Slot, life: Life, since: Duration },
    /// An agent is to connect to the process that took over.
    Move { slot: Slot, life: Life },
    /// An agent is to leave a drained edge.
    Leave { slot: Slot, life: Life },
    /// An edge looks for control.
    Connect { edge: usize },
    /// Control and edge notice that they have not heard from each other since they were cut off.
    FeedSilent { edge: usize, since: Duration },
    /// The lease of an edge is over.
    LeaseEnds { edge: usize, broken: u32 },
    /// Something fails.
    Break,
    /// It works again.
    Heal(Fault),
    /// Visitors come.
    Visit,
    /// An agent that lost all its sessions is to be back.
    BackBy { agent: usize, since: Duration },
    /// Everything is to agree, unless something failed meanwhile.
    Settled { faults: u64 },
}

struct Entry {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The earliest is the greatest; among equals the first that was written down.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// One of an agent's sessions.
pub(crate) struct Session {
    pub(crate) plan: Plan,
    pub(crate) round: Round,
    /// When the dial began.
    pub(crate) began: Duration,
    /// Counts dials of edges; what belongs to an earlier one is over.
    pub(crate) attempt: u32,
    pub(crate) life: Life,
    pub(crate) state: State,
}

/// What an agent's session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It pauses.
    Paused,
    /// Every edge that it knows has another session of its agent.
    Waiting,
    /// It is on its way to an edge.
    Dialling(usize),
    /// An edge let it in.
    Online,
}

pub(crate) struct Agent {
    pub(crate) account: usize,
    pub(crate) service: usize,
    pub(crate) site: usize,
    pub(crate) group: usize,
    pub(crate) edges: Edges,
    pub(crate) configured: Vec<usize>,
    pub(crate) told: Vec<usize>,
    pub(crate) sessions: Vec<Session>,
    /// Since when no edge has a session of it.
    pub(crate) away: Option<Duration>,
}

pub(crate) struct EdgeProcess {
    /// Faults that keep it down.
    pub(crate) down: u32,
    pub(crate) up_since: Duration,
    pub(crate) incarnation: u32,
    pub(crate) turns: Turns,
    pub(crate) capacity: Capacity,
    /// The incarnation that opened its feed.
    pub(crate) fed: Option<u32>,
    /// Counts ends of its feed.
    pub(crate) broken: u32,
    /// The other edges, as it was told.
    pub(crate) peers: PeerList,
    /// Seconds by which its clock is ahead.
    pub(crate) clock_ahead_secs: i64,
    pub(crate) drained: bool,
}

/// A way that is cut: how often, and since when, or until when it was.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cut {
    pub(crate) count: u32,
    pub(crate) since: Duration,
    pub(crate) healed: Duration,
}

/// Ways that are cut or were.
#[derive(Default)]
pub(crate) struct Cuts<K>(BTreeMap<K, Cut>);

impl<K: Ord + Copy> Cuts<K> {
    pub(crate) fn of(&self, way: K) -> Cut {
        self.0.get(&way).copied().unwrap_or_default()
    }

    pub(crate) fn is_cut(&self, way: K) -> bool {
        self.of(way).count > 0
    }

    /// Cuts it once more; true: it was whole.
    pub(crate) fn cut(&mut self, way: K, now: Duration) -> bool {
        let cut = self.0.entry(way).or_default();
        cut.count += 1;
        if cut.count == 1 {
            cut.since = now;
        }
        cut.count == 1
    }

    /// Takes one cut back; true: it is whole again.
    pub(crate) fn heal(&mut self, way: K, now: Duration) -> bool {
        let cut = self.0.entry(way).or_default();
        cut.count = cut.count.saturating_sub(1);
        if cut.count == 0 {
            cut.healed = now;
        }
        cut.count == 0
    }
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) now: Duration,
    pub(crate) random: Random,
    queue: BinaryHeap<Entry>,
    number: u64,
    pub(crate) agents: Vec<Agent>,
    pub(crate) edges: Vec<EdgeProcess>,
    pub(crate) control: Control,
    pub(crate) views: Views,
    pub(crate) witnesses: BTreeMap<usize, Witness>,
    /// Between an edge and control.
    pub(crate) from_control: Cuts<usize>,
    /// Between a group of agents and an edge.
    pub(crate) from_agents: Cuts<(usize, usize)>,
    /// Between two edges, the smaller first.
    pub(crate) from_edges: Cuts<(usize, usize)>,
    /// Faults that last, and all so far.
    pub(crate) lasting: u32,
    pub(crate) faults: u64,
    /// When a session began or ended last.
    pub(crate) changed: Duration,
    pub(crate) report: Report,
    pub(crate) said: Said,
    trace: VecDeque<(Duration, String)>,
}

impl World {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let mut random = Random::new(settings.seed);
        let edges = (0..settings.edges).map(|_| EdgeProcess::new(settings, &mut random)).collect();
        let agents = (0..settings.agents).map(|number| Agent::new(settings, number)).collect::<Vec<_>>();
        let accounts = settings.agents.div_ceil(AGENTS_OF_ACCOUNT);
        let mut world = Self {
            settings: settings.clone(),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            number: 0,
            agents,
            edges,
            control: Control::new(settings.edges),
            views: Views::new(settings.slots(), settings.edges),
            witnesses: BTreeMap::new(),
            from_control: Cuts::default(),
            from_agents: Cuts::default(),
            from_edges: Cuts::default(),
            lasting: 0,
            faults: 0,
            changed: Duration::ZERO,
            report: Report::new(settings),
            said: Said::new()?,
            trace: VecDeque::new(),
            random,
        };
        while world.witnesses.len() < settings.witnesses.min(settings.edges) {
            let edge = world.below(settings.edges);
            if let std::collections::btree_map::Entry::Vacant(free) = world.witnesses.entry(edge) {
                free.insert(Witness::new(edge, accounts)?);
            }
        }
        Ok(world)
    }

    /// Something is to happen so long from now.
    pub(crate) fn after(&mut self, wait: Duration, event: Event) {
        self.number += 1;
        self.queue.push(Entry { at: self.now + wait, number: self.number, event });
    }

    /// The same within so many milliseconds, at random.
    pub(crate) fn within_ms(&mut self, ms: u64, event: Event) {
        let wait = Duration::from_micros(self.random.below(ms * 1_000));
        self.after(wait, event);
    }

    /// What happens next; the clock is set.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let entry = self.queue.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(0);
        usize::try_from(self.random.below(end)).unwrap_or(0)
    }

    /// A random number as agents draw it.
    pub(crate) fn drawn(&mut self) -> u32 {
        u32::try_from(self.random.number() >> 32).unwrap_or(0)
    }

    /// Whether agents of a group and an edge's machine hear each other.
    pub(crate) fn hears(&self, group: usize, edge: usize) -> bool {
        !self.from_agents.is_cut((group, edge))
    }

    /// Whether an edge's process runs.
    pub(crate) fn is_up(&self, edge: usize) -> bool {
        self.edges[edge].down == 0
    }

    /// Remembers what happens.
    pub(crate) fn trace(&mut self, what: impl FnOnce() -> String) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back((self.now, what()));
    }

    /// What happened last, a line each.
    pub(crate) fn traced(&self) -> String {
        let line = |(at, what): &(Duration, String)| format!("{:>14.3} s  {what}\n", at.as_secs_f64());
        self.trace.iter().map(line).collect()
    }

    /// Slots with sessions at an edge.
    pub(crate) fn slots_at(&self, edge: usize) -> Vec<(Slot, Life)> {
        let all = (0..self.settings.slots()).map(|slot| (slot, self.views.truth(slot)));
        all.filter(|(_, (at, life))| *life > 0 && *at == edge).map(|(slot, (_, life))| (slot, life)).collect()
    }

    pub(crate) fn agent_of(slot: Slot) -> (usize, usize) {
        (slot / Settings::SESSIONS, slot % Settings::SESSIONS)
    }

    pub(crate) fn session(&mut self, slot: Slot) -> &mut Session {
        let (agent, session) = Self::agent_of(slot);
        &mut self.agents[agent].sessions[session]
    }

    pub(crate) fn reach(&self, edge: usize) -> EdgeReach {
        EdgeReach {
            incarnation: self.edges[edge].incarnation.to_string(),
            peers: format!("p{edge}:4485"),
            agents: ids::address(edge),
        }
    }
}

impl EdgeProcess {
    fn new(settings: &Settings, random: &mut Random) -> Self {
        let day = 24 * 3600;
        Self {
            down: 0,
            up_since: Duration::ZERO,
            incarnation: 1,
            turns: Turns::new(settings.handshakes_per_sec),
            capacity: Capacity::default(),
            fed: None,
            broken: 0,
            peers: Arc::default(),
            clock_ahead_secs: i64::try_from(random.below(2 * day)).unwrap_or(0) - 24 * 3600,
            drained: false,
        }
    }
}

impl Agent {
    fn new(settings: &Settings, number: usize) -> Self {
        let site = number / AGENTS_OF_SITE;
        // Two edges of the agent's own region, and one of the next.
        let regions = settings.edges.div_ceil(settings.region());
        let region = site % regions;
        let of_region = |region: usize, n: usize| {
            let first = region % regions * settings.region();
            first + n % settings.region().min(settings.edges - first)
        };
        let mut configured =
            vec![of_region(region, number), of_region(region, number + 1), of_region(region + 1, number + 2)];
        configured.dedup();
        let address = |edge: &usize| ConnectAddress { host: format!("e{edge}"), port: 443 };
        let service = number % SERVICES;
        let session = |_| {
            let mut plan = Plan::new(AuthExtra { several_edges: true, ..AuthExtra::default() });
            let opts = Opts(json!({ "URL": ids::url(service).to_string() }));
            let bind = Bind { proto: "tcp".into(), opts, ..Bind::default() };
            plan.add(1, bind, RetryPolicy::Forever, Duration::ZERO);
            let (began, state) = (Duration::ZERO, State::Paused);
            Session { plan, round: Round::default(), began, attempt: 0, life: 0, state }
        };
        Self {
            account: number / AGENTS_OF_ACCOUNT,
            service,
            site,
            group: site % GROUPS,
            edges: Edges::new(configured.iter().map(address).collect(), Settings::SESSIONS),
            configured,
            told: Vec::new(),
            sessions: (0..Settings::SESSIONS).map(session).collect(),
            away: Some(Duration::ZERO),
        }
    }
}
