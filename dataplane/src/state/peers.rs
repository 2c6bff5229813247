//! `PeerEdges`: where this edge is reached, and the other edges of the installation as control tells. Knows no agent and no
//! connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ebbgate_model::EdgeId;
use ebbgate_model::feed::{EdgeReach, PeerEdge};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use super::older::OlderProcess;
use crate::net::tls::PeerTls;
use crate::tunnel::session::SessionState;

/// The other edges, by id.
pub type PeerList = Arc<BTreeMap<EdgeId, PeerEdge>>;

/// A way to another edge that a shard is to keep open.
#[derive(Debug)]
pub struct PeerWay {
    /// Which edge.
    pub edge: EdgeId,
    /// Where it is.
    pub place: Place,
    /// Ends when the edge is gone.
    pub session: Arc<SessionState>,
}

/// Where a way leads.
#[derive(Debug, Clone)]
pub enum Place {
    /// To another edge, at `host:port`.
    Address(String),
    /// To a process of this edge that has handed over.
    Older(Arc<OlderProcess>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Older(_) => f.write_str("an older process of this edge"),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct PeerEdges {
    own: OnceLock<EdgeReach>,
    known: watch::Sender<PeerList>,
    ways: Mutex<BTreeMap<EdgeId, Arc<PeerWay>>>,
    proof: Mutex<Option<PeerTls>>,
    staying: Gauge,
    raw: AtomicBool,
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

    /// Has this edge make and take raw connections between edges from now on.
    pub fn allow_raw(&self) {
        self.raw.store(true, Ordering::Release);
    }

    /// Whether it makes and takes raw connections between edges: not before [`PeerEdges::allow_raw`].
    pub fn has_raw(&self) -> bool {
        self.raw.load(Ordering::Acquire)
    }

    /// Connections of other edges that are not to go to a process that has taken over, or have not gone.
    pub fn staying(&self) -> &Gauge {
        &self.staying
    }

    /// What proves this edge to others from now on.
    pub fn prove_by(&self, proof: PeerTls) {
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
    }

    /// What proves this edge to others. None: it has not joined.
    pub fn proof(&self) -> Option<PeerTls> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the agents of another edge are reached; None: the edge is gone.
    pub fn set_way(&self, edge: EdgeId, way: Option<Arc<PeerWay>>) {
        let mut ways = self.ways_locked();
        match way {
            Some(way) => drop(ways.insert(edge, way)),
            None => drop(ways.remove(&edge)),
        }
    }

    /// The ways to the other edges, by id.
    pub fn ways(&self) -> BTreeMap<EdgeId, Arc<PeerWay>> {
        self.ways_locked().clone()
    }

    fn ways_locked(&self) -> MutexGuard<'_, BTreeMap<EdgeId, Arc<PeerWay>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
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
