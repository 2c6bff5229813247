//! `Shard`: the handle to the shard a task runs on, and what that shard alone has: TLS configurations, and the dialer with
//! agents' links.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Duration;

use super::edge::Edge;
use super::mailbox::Message;
use crate::net::tls::Configs;
use crate::tunnel::dialer::{AgentDialer, IdleLink};
use crate::tunnel::metrics::TunnelMetrics;

/// The handle to the shard a task runs on. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Shard(Rc<Local>);

struct Local {
    index: usize,
    edge: Arc<Edge>,
    configs: RefCell<Configs>,
    dialer: AgentDialer,
}

impl Shard {
    /// A shard on this thread's runtime, without listeners.
    pub fn new(index: usize, edge: Arc<Edge>) -> Self {
        let metrics = &edge.metrics;
        let counters = TunnelMetrics {
            streams: metrics.streams.clone(),
            streams_failed: metrics.streams_failed.clone(),
            links_idle: metrics.links_idle.clone(),
            claims_unconfirmed: metrics.claims_unconfirmed.clone(),
            peer_raw_unconfirmed: metrics.peer_raw_unconfirmed.clone(),
            sessions_silent: metrics.sessions_silent.clone(),
        };
        let drain = Duration::from_millis(edge.waits.idle().half_closed_ms);
        let dialer = AgentDialer::new(counters, drain);
        Self(Rc::new(Local { index, edge, configs: RefCell::default(), dialer }))
    }

    /// What all shards share.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.0.edge
    }

    /// Which shard this is.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// This shard's ready TLS configurations.
    pub fn configs(&self) -> &RefCell<Configs> {
        &self.0.configs
    }

    /// Opens streams to agents.
    pub fn dialer(&self) -> &AgentDialer {
        &self.0.dialer
    }

    /// Parks a link on the shard of its choice.
    pub fn park(&self, index: usize, mut link: IdleLink) {
        if index == self.index() {
            return self.dialer().park(link);
        }
        // The peer is gone, or the shard takes nothing: the link closes and the agent opens another.
        if link.detach().is_ok() {
            let _ = self.edge().mailboxes.send(index, Message::Park(Box::new(link)));
        }
    }
}
