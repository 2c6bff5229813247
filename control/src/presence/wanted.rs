//! What the operator wants of edges: that they are out of service, or get changes first.

use ebbgate_model::EdgeId;

use super::Presence;
use super::edges::{Entry, Feed};

impl Presence {
    /// Takes an edge out of service, or puts it into service again. It is told, and so are the others.
    pub fn set_drained(&self, edge: EdgeId, drained: bool) {
        let mut edges = self.0.locked();
        let is_new = if drained { edges.drained.insert(edge) } else { edges.drained.remove(&edge) };
        if !is_new {
            return;
        }
        if let Some(Entry { feed: Feed::Open { news, wake, .. }, .. }) = edges.entries.get_mut(&edge) {
            news.own();
            wake.notify_one();
        }
        edges.edge_changed(edge);
    }

    /// Whether an edge gets changes before others. It is fed accordingly from now on.
    pub fn set_canary(&self, edge: EdgeId, canary: bool) {
        let mut edges = self.0.locked();
        let is_new = if canary { edges.canaries.insert(edge) } else { edges.canaries.remove(&edge) };
        if is_new && let Some(Entry { feed: Feed::Open { wake, .. }, .. }) = edges.entries.get(&edge) {
            wake.notify_one();
        }
    }

    /// Whether all that other controls feed is known here: there are none, or what they tell was read once.
    pub fn knows_others(&self) -> bool {
        self.0.locked().joined.as_ref().is_none_or(|joined| joined.is_read)
    }

    /// Canary edges that are fed here.
    pub fn canaries(&self) -> Vec<EdgeId> {
        self.edges().into_iter().filter(|edge| edge.canary && edge.connected).map(|edge| edge.id).collect()
    }
}
