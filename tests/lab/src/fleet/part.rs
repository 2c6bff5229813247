//! The parts of a fleet, and which of them are killed and cut off from each other.

use serde::Serialize;

/// Edges.
pub(super) const EDGES: usize = 3;
/// Members of the etcd.
pub(super) const MEMBERS: usize = 3;
/// Controls.
pub(super) const CONTROLS: usize = 2;
/// Agents, each with both endpoints: one on each carrier.
pub(super) const AGENTS: usize = CARRIERS.len();
/// What carries the streams of each agent.
pub(super) const CARRIERS: [&str; 3] = ["link", "mux", "quic"];
/// Machines that a fleet needs besides the hub.
pub const MACHINES: usize = MEMBERS + CONTROLS + EDGES + AGENTS;

/// A part of the fleet, by its place among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// An edge.
    Edge(usize),
    /// A control.
    Control(usize),
    /// A member of the etcd.
    Etcd(usize),
    /// An agent.
    Agent(usize),
}

impl Part {
    /// Those that are killed: each once.
    pub fn all() -> Vec<Self> {
        let edges = (0..EDGES).map(Self::Edge);
        let agents = (0..AGENTS).map(Self::Agent);
        edges.chain((0..CONTROLS).map(Self::Control)).chain(Self::etcd()).chain(agents).collect()
    }

    /// All members of the etcd.
    fn etcd() -> Vec<Self> {
        (0..MEMBERS).map(Self::Etcd).collect()
    }

    /// As people call it.
    pub fn name(self) -> String {
        match self {
            Self::Edge(at) => format!("edge {at}"),
            Self::Control(at) => format!("control {at}"),
            Self::Etcd(at) => format!("etcd {at}"),
            Self::Agent(at) => format!("agent {at}"),
        }
    }

    /// Its machine's place in a mesh.
    pub(super) fn machine(self) -> usize {
        match self {
            Self::Etcd(at) => at,
            Self::Control(at) => MEMBERS + at,
            Self::Edge(at) => MEMBERS + CONTROLS + at,
            Self::Agent(at) => MEMBERS + CONTROLS + EDGES + at,
        }
    }
}

/// Parts on two sides, between which nothing passes.
#[derive(Debug, Clone)]
pub struct Cut {
    /// One side.
    pub one: Vec<Part>,
    /// The other.
    pub other: Vec<Part>,
}

impl Cut {
    /// Between two parts.
    pub fn pair(one: Part, other: Part) -> Self {
        Self { one: vec![one], other: vec![other] }
    }

    /// Between controls and the whole etcd.
    pub fn from_etcd(controls: &[usize]) -> Self {
        Self { one: Part::etcd(), other: controls.iter().copied().map(Part::Control).collect() }
    }

    /// Each once. Edge 2 has no agent, until agents lose the others. Control 0 feeds edges 0 and 2, control 1 edge 1.
    pub fn all() -> Vec<Self> {
        let edges = (0..EDGES).map(Part::Edge).collect();
        vec![
            Self::pair(Part::Edge(0), Part::Edge(2)),
            Self::pair(Part::Control(0), Part::Edge(0)),
            Self::pair(Part::Control(0), Part::Edge(2)),
            Self::pair(Part::Control(0), Part::Agent(0)),
            Self::pair(Part::Edge(0), Part::Agent(0)),
            Self::pair(Part::Edge(2), Part::Agent(0)),
            Self::pair(Part::Control(1), Part::Edge(1)),
            Self { one: vec![Part::Control(1)], other: edges },
            Self::pair(Part::Etcd(0), Part::Control(0)),
            Self::from_etcd(&[0]),
            Self::from_etcd(&[0, 1]),
        ]
    }

    /// As people call its sides.
    pub fn names(&self) -> [String; 2] {
        [&self.one, &self.other].map(|side| {
            let names: Vec<_> = side.iter().map(|part| part.name()).collect();
            names.join(", ")
        })
    }
}
