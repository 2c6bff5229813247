//! What streams of another edge share, whatever they come on: their account, whether one is served, and to which agent it goes.

use std::fmt;
use std::sync::Arc;

use ebbgate_model::EdgeId;
use ebbgate_wire::mux::Code;

use super::super::registry::Agents;
use super::judge::{Asker, NotServed, judge};
use super::limits::STREAM_PARTS;
use super::raw_keys::Given;
use crate::state::shard::Shard;
use crate::state::shares::Share;
use crate::tunnel::origin::Origin;
use crate::tunnel::peer::PeerHeader;
use crate::tunnel::session::AgentRef;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    /// Another edge.
    Edge(EdgeId),
    /// The process of this edge that has taken over.
    Newer,
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge(id) => id.fmt(f),
            Self::Newer => f.write_str("this edge's newer process"),
        }
    }
}

/// What the streams of one connection share.
pub(super) struct Serving {
    pub(super) shard: Shard,
    pub(super) agents: Arc<Agents>,
    pub(super) from: From,
    /// The key of raw connections, if the other end may have any.
    pub(super) key: Option<Arc<Given>>,
}

/// A stream that is to be served.
pub(super) struct Served {
    pub(super) agent: AgentRef,
    pub(super) origin: Origin,
    /// Its part of what the account may have.
    pub(super) share: Share,
}

impl Serving {
    /// Whether a stream is served, and to which agent it goes. Err: why it is not, as the other edge is told.
    pub(super) fn admit(&self, header: &PeerHeader) -> Result<Served, Code> {
        let session = self.agents.sessions.get(header.session);
        // Another edge reaches sessions of this edge's older processes through this one; a process of this edge connects to each.
        let (found, asker) = match (self.from, session) {
            (From::Newer, session) => {
                (session.and_then(|session| session.endpoint(header.endpoint)), Asker::Newer)
            }
            (From::Edge(_), Some(session)) => (session.endpoint(header.endpoint), Asker::Edge),
            (From::Edge(_), None) => {
                let peers = &self.agents.peers;
                let found = peers.older_endpoint(self.shard.edge(), header.session, header.endpoint);
                let is_here = found.as_ref().is_some_and(|endpoint| !endpoint.is_elsewhere());
                (found, if is_here { Asker::Edge } else { Asker::EdgeOfOlder })
            }
        };
        let (agent, origin) = judge(header, found.as_ref(), asker).map_err(|why| {
            self.refused(header, &why);
            // Loops end here; whatever else it was, another member may serve.
            if why == NotServed::Hops { Code::CANCELLED } else { Code::REFUSED }
        })?;
        let share = self.shard.edge().peer_streams.take(header.account, STREAM_PARTS).ok_or_else(|| {
            self.refused(header, &"the account has as many streams from other edges as it may");
            Code::REFUSED
        })?;
        Ok(Served { agent, origin, share })
    }

    /// Notes a stream that is not served.
    pub(super) fn refused(&self, header: &PeerHeader, why: &dyn fmt::Display) {
        self.shard.edge().metrics.peer_streams_refused.inc();
        tracing::info!(edge = %self.from, account = %header.account, endpoint = %header.endpoint, %why, "a stream of another edge is not served");
    }
}
