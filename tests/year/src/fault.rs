//! `Fault`: what can be broken.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process of an edge is away.
    Edge(usize),
    /// Those of a whole region.
    Region(usize),
    /// Control is away.
    Control,
    /// Nothing passes between control and an edge.
    FromControl(usize),
    /// Nothing passes between a group of agents and an edge.
    FromAgents(usize, usize),
    /// Nothing passes between two edges.
    FromEdges(usize, usize),
    /// An edge is out of service.
    Drained(usize),
    /// Another process of an edge takes over; it is over at once.
    Upgrade(usize),
}
