//! How large a fleet is simulated, for how long, and which rule is broken on purpose.

use std::time::Duration;

/// A rule that is broken on purpose, to see that the simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Broken {
    /// Edges begin every handshake at once.
    Turns,
    /// One of a thousand messages about sessions does not reach its edge.
    News,
    /// Agents wait a thousand times as long as they would.
    Backoff,
    /// One of a thousand sessions is told as one of another account.
    Account,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// Days.
    pub days: u64,
    /// Edges.
    pub edges: usize,
    /// Agents, each with two sessions.
    pub agents: usize,
    /// Edges that know the others by the edge's own code.
    pub witnesses: usize,
    /// Faults in a year and for each edge, of all kinds together.
    pub faults_of_edge: u64,
    /// Handshakes a second that each edge states.
    pub handshakes_per_sec: u32,
    /// The rule that is broken.
    pub broken: Option<Broken>,
}

impl Settings {
    /// The year of docs/reliability.md.
    pub fn year(seed: u64) -> Self {
        Self {
            seed,
            days: 365,
            edges: 200,
            agents: 50_000,
            witnesses: 2,
            faults_of_edge: 10,
            handshakes_per_sec: 200,
            broken: None,
        }
    }

    /// A small fleet with as many faults in a few days as the large one has in a year, for tests.
    pub fn short(seed: u64) -> Self {
        Self {
            days: 2,
            edges: 12,
            agents: 600,
            faults_of_edge: 1_500,
            handshakes_per_sec: 20,
            ..Self::year(seed)
        }
    }

    /// Sessions of each agent.
    pub(crate) const SESSIONS: usize = 2;

    pub(crate) fn slots(&self) -> usize {
        self.agents * Self::SESSIONS
    }

    /// Edges in one place: an eighth of all.
    pub(crate) fn region(&self) -> usize {
        self.edges.div_ceil(8)
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_hours(self.days * 24)
    }
}
