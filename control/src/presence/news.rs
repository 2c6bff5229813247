//! `News`: what one edge has not been told yet of the others. Names alone: what is told is the state at that time, so what
//! piles up while an edge is slow costs a name for each session, and delays no other edge.

use std::collections::BTreeSet;

use ebbgate_model::{EdgeId, TunnelSessionId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct News {
    edges: BTreeSet<EdgeId>,
    sessions: BTreeSet<(EdgeId, TunnelSessionId)>,
    /// Whether the edge is to be told of itself.
    own: bool,
    /// Whether everything has been told once.
    complete: bool,
}

/// What is told next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// Whether the edge itself is drained.
    Own,
    /// How it is with an edge.
    Edge(EdgeId),
    /// How it is with a session of an edge.
    Session(EdgeId, TunnelSessionId),
    /// Everything has been told once.
    Complete,
}

impl News {
    /// Something changed about an edge.
    pub(super) fn edge(&mut self, edge: EdgeId) {
        self.edges.insert(edge);
    }

    /// Something changed about a session of an edge.
    pub(super) fn session(&mut self, edge: EdgeId, session: TunnelSessionId) {
        self.sessions.insert((edge, session));
    }

    /// Something changed about the edge itself.
    pub(super) fn own(&mut self) {
        self.own = true;
    }

    /// What is told next: edges before their sessions. `is_all`: whether all that there is has been noted once.
    pub(super) fn next(&mut self, is_all: bool) -> Option<Item> {
        if std::mem::take(&mut self.own) {
            return Some(Item::Own);
        }
        if let Some(edge) = self.edges.pop_first() {
            return Some(Item::Edge(edge));
        }
        if let Some((edge, session)) = self.sessions.pop_first() {
            return Some(Item::Session(edge, session));
        }
        (is_all && !std::mem::replace(&mut self.complete, true)).then_some(Item::Complete)
    }
}
