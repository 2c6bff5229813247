//! `Directory`: what control tells of the other edges, over one feed after another.
//!
//! Nothing is withdrawn because a feed breaks: an edge that lost control goes on with what it knows. A feed that begins names
//! everything anew. What it has not named [`GRACE_SECS`] after it named all it knew is withdrawn: so long a control that was
//! just started may not have heard of an edge.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::EdgeId;
use ebbgate_model::feed::{PeerEdge, ToEdge};
use tokio::time::{Duration, sleep};

use crate::state::edge::Edge;

/// Other edges at most.
pub const PEERS_MAX: usize = 1024;
/// Seconds in which control hears of every edge that is there: the lease of an edge's feed.
pub const GRACE_SECS: u64 = 15;

/// See the module.
#[derive(Debug, Default)]
pub struct Directory(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    own: Option<EdgeId>,
    /// Counts feeds.
    feed: u64,
    peers: BTreeMap<EdgeId, Peer>,
}

#[derive(Debug)]
struct Peer {
    /// The feed that named it last.
    named: u64,
}

impl Directory {
    /// A feed begins. `own`: this edge, of which nothing is to be told here.
    pub fn begin(&self, own: EdgeId) {
        let mut table = self.table();
        table.feed += 1;
        table.own = Some(own);
    }

    /// Takes what control tells; other messages are not for this.
    pub fn take(self: &Arc<Self>, edge: &Arc<Edge>, message: ToEdge) {
        match message {
            ToEdge::Peer(peer) => self.peer(edge, peer),
            ToEdge::PeerGone { edge: gone } => self.gone(edge, gone),
            ToEdge::PeersTold => {
                let (directory, told, of) = (Arc::clone(self), self.table().feed, Arc::clone(edge));
                edge.background.spawn(async move {
                    sleep(Duration::from_secs(GRACE_SECS)).await;
                    directory.sweep(&of, told);
                });
            }
            _ => {}
        }
    }

    fn peer(&self, edge: &Edge, peer: PeerEdge) {
        let mut table = self.table();
        if table.own == Some(peer.edge) {
            return tracing::warn!("control tells this edge of itself as of another; ignored");
        }
        if table.peers.len() >= PEERS_MAX && !table.peers.contains_key(&peer.edge) {
            return tracing::error!(peer = %peer.edge, "there are more than {PEERS_MAX} edges; this one is left out");
        }
        let named = table.feed;
        table.peers.insert(peer.edge, Peer { named });
        let PeerEdge { reach, draining, .. } = &peer;
        tracing::info!(peer = %peer.edge, address = reach.peers, agents = reach.agents, draining, "another edge is there");
        edge.peers.put(peer);
    }

    fn gone(&self, edge: &Edge, gone: EdgeId) {
        let mut table = self.table();
        if table.peers.remove(&gone).is_some() {
            tracing::info!(peer = %gone, "another edge is gone");
            edge.peers.remove(gone);
        }
    }

    /// Withdraws what the feed has not named, if no other feed has begun since.
    fn sweep(&self, edge: &Edge, feed: u64) {
        let unnamed: Vec<EdgeId> = {
            let table = self.table();
            if table.feed != feed {
                return;
            }
            table.peers.iter().filter(|(_, peer)| peer.named != feed).map(|(id, _)| *id).collect()
        };
        for gone in unnamed {
            self.gone(edge, gone);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
