//! `PeerEdges`: where this edge is reached, and the other edges of the installation as control tells. Knows no agent and no
//! connection.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ebbgate_model::EdgeId;
use ebbgate_model::feed::{EdgeReach, PeerEdge};
use tokio::sync::watch;

/// The other edges, by id.
pub type PeerList = Arc<BTreeMap<EdgeId, PeerEdge>>;

/// See the module.
#[derive(Debug, Default)]
pub struct PeerEdges {
    own: OnceLock<EdgeReach>,
    known: watch::Sender<PeerList>,
}

impl PeerEdges {
    /// Says where this edge is reached; once.
    pub fn announce(&self, own: EdgeReach) {
        let _ = self.own.set(own);
    }

    /// Where this edge is reached. Empty before it was said.
    pub fn own(&self) -> EdgeReach {
        self.own.get().cloned().unwrap_or_default()
    }

    /// The other edges that control knows, without this one.
    pub fn list(&self) -> PeerList {
        Arc::clone(&self.known.borrow())
    }

    /// The list as it changes.
    pub fn changes(&self) -> watch::Receiver<PeerList> {
        self.known.subscribe()
    }

    /// An edge is there, or is reached otherwise.
    pub fn put(&self, peer: PeerEdge) {
        self.known.send_if_modified(|known| {
            if known.get(&peer.edge) == Some(&peer) {
                return false;
            }
            Arc::make_mut(known).insert(peer.edge, peer);
            true
        });
    }

    /// An edge is gone.
    pub fn remove(&self, edge: EdgeId) {
        self.known.send_if_modified(|known| {
            known.contains_key(&edge) && Arc::make_mut(known).remove(&edge).is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn the_list_changes_only_with_what_is_told() {
        let edge = EdgeId::new(Ksuid::new(1_700_000_000, [1; 16]));
        let peer = |draining| PeerEdge { edge, reach: EdgeReach::default(), draining };
        let peers = PeerEdges::default();
        let mut heard = peers.changes();
        let mut changed = || {
            let is_new = heard.has_changed().unwrap();
            heard.mark_unchanged();
            is_new
        };
        peers.put(peer(false));
        assert!(changed() && peers.list().contains_key(&edge));
        peers.put(peer(false));
        assert!(!changed());
        peers.put(peer(true));
        assert!(changed());
        peers.remove(edge);
        peers.remove(edge);
        assert!(changed() && peers.list().is_empty() && !changed());
    }
}
