//! `Shard`: the handle to the shard a task runs on, and what that shard alone has: TLS configurations, agents' links, and the
//! sessions that live there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::TunnelSessionId;
use tokio::time::Duration;

use super::edge::Edge;
use super::mailbox::Message;
use crate::net::tls::Configs;
use crate::tunnel::carrier::{Carrier, Link, RawLink};
use crate::tunnel::links::IdleLinks;

/// The handle to the shard a task runs on. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Shard(Rc<Local>);

struct Local {
    index: usize,
    edge: Arc<Edge>,
    carriers: RefCell<HashMap<TunnelSessionId, Carrier>>,
    configs: RefCell<Configs>,
    links: IdleLinks,
}

impl Shard {
    /// A shard on this thread's runtime, without listeners.
    pub fn new(index: usize, edge: Arc<Edge>) -> Self {
        let freed_max = Duration::from_millis(edge.waits.idle().half_closed_ms);
        let links = IdleLinks::new(edge.metrics.links_idle.clone(), freed_max);
        let (carriers, configs) = (RefCell::default(), RefCell::default());
        Self(Rc::new(Local { index, edge, carriers, configs, links }))
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

    /// Agents' links on this shard.
    pub fn links(&self) -> &IdleLinks {
        &self.0.links
    }

    /// A session that lives here can take streams.
    pub fn add_carrier(&self, id: TunnelSessionId, carrier: Carrier) {
        self.0.carriers.borrow_mut().insert(id, carrier);
    }

    /// A session that lived here has ended.
    pub fn remove_carrier(&self, id: TunnelSessionId) {
        self.0.carriers.borrow_mut().remove(&id);
    }

    /// The carrier of a session that lives here.
    pub(super) fn carrier(&self, id: TunnelSessionId) -> Option<Carrier> {
        self.0.carriers.borrow().get(&id).cloned()
    }

    /// Parks a link on the shard of its choice.
    pub fn park(&self, index: usize, mut link: Link) {
        if index == self.index() {
            return self.links().park(link);
        }
        // The peer is gone, or the shard takes nothing: the link closes and the agent opens another.
        if link.detach().is_ok() {
            let _ = self.edge().mailboxes.send(index, Message::Park(Box::new(link)));
        }
    }

    /// Parks a raw link on the shard of its choice.
    pub fn park_raw(&self, index: usize, mut link: RawLink) {
        if index == self.index() {
            return self.links().park_raw(link);
        }
        // As for links.
        if link.detach().is_ok() {
            let _ = self.edge().mailboxes.send(index, Message::ParkRaw(Box::new(link)));
        }
    }
}
