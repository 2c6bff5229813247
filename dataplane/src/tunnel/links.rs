//! The links of agents on one shard: idle ones ready to be claimed, and how to end those in use with their session.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::TunnelSessionId;
use tokio::time::{Duration, interval};

use crate::shard::{Message, Shard};
use crate::tunnel::carrier::{Cut, Link, RawLink};
use crate::tunnel::session::SessionState;

/// Seconds between looks at idle links: one that ended meanwhile goes.
const SWEEP_SECS: u64 = 5;

/// The table of one shard.
#[derive(Default)]
pub struct Links {
    sessions: HashMap<TunnelSessionId, OfSession>,
    /// Names the next stream.
    next: u64,
}

struct OfSession {
    state: Arc<SessionState>,
    /// The last one parked is the first one claimed: it is warm, and the others may go if there are too many.
    idle: Vec<Link>,
    raw: Vec<RawLink>,
    in_use: BTreeMap<u64, Rc<Cut>>,
}

impl OfSession {
    fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.raw.is_empty() && self.in_use.is_empty()
    }

    fn waiting(&self) -> i64 {
        i64::try_from(self.idle.len() + self.raw.len()).unwrap_or(i64::MAX)
    }
}

impl Links {
    /// Whether a link of the session waits here.
    pub fn has_idle(&self, id: TunnelSessionId) -> bool {
        self.sessions.get(&id).is_some_and(|of| !of.idle.is_empty())
    }

    /// Whether a raw link of the session waits here.
    pub fn has_raw(&self, id: TunnelSessionId) -> bool {
        self.sessions.get(&id).is_some_and(|of| !of.raw.is_empty())
    }

    /// Notes a stream, to be ended with its session; [`Links::done`] forgets it.
    pub fn in_use(&mut self, state: &Arc<SessionState>) -> (u64, Rc<Cut>) {
        self.next += 1;
        let (key, cut) = (self.next, Rc::<Cut>::default());
        self.of(state).in_use.insert(key, Rc::clone(&cut));
        (key, cut)
    }

    fn of(&mut self, state: &Arc<SessionState>) -> &mut OfSession {
        let new = || OfSession {
            state: Arc::clone(state),
            idle: Vec::new(),
            raw: Vec::new(),
            in_use: BTreeMap::new(),
        };
        self.sessions.entry(state.id).or_insert_with(new)
    }

    /// A stream is over.
    pub fn done(&mut self, id: TunnelSessionId, key: u64) {
        if let Some(of) = self.sessions.get_mut(&id) {
            of.in_use.remove(&key);
            if of.is_empty() {
                self.sessions.remove(&id);
            }
        }
    }
}

impl Shard {
    /// Takes a link into the list; one whose session has ended closes.
    pub fn park(&self, mut link: Link) {
        if !link.is_usable() {
            return;
        }
        self.edge().metrics.links_idle.inc();
        let state = Arc::clone(link.session());
        self.links().borrow_mut().of(&state).idle.push(link);
    }

    /// A link came from another shard.
    pub(crate) fn park_arrived(&self, mut link: Link) {
        if link.attach().is_ok() {
            self.park(link);
        }
    }

    /// Parks a link on the shard of its choice.
    pub fn park_at(&self, index: usize, mut link: Link) {
        if index == self.index() {
            return self.park(link);
        }
        // The peer is gone, or the shard takes nothing: the link closes and the agent opens another.
        if link.detach().is_ok() {
            let _ = self.edge().send(index, Message::Park(Box::new(link)));
        }
    }

    /// Takes a raw link into the list; one whose session has ended closes.
    pub fn park_raw(&self, mut link: RawLink) {
        if !link.is_usable() {
            return;
        }
        self.edge().metrics.links_idle.inc();
        let state = Arc::clone(link.session());
        self.links().borrow_mut().of(&state).raw.push(link);
    }

    /// A raw link came from another shard.
    pub(crate) fn park_raw_arrived(&self, mut link: RawLink) {
        if link.attach().is_ok() {
            self.park_raw(link);
        }
    }

    /// Parks a raw link on the shard of its choice.
    pub fn park_raw_at(&self, index: usize, mut link: RawLink) {
        if index == self.index() {
            return self.park_raw(link);
        }
        // As for links.
        if link.detach().is_ok() {
            let _ = self.edge().send(index, Message::ParkRaw(Box::new(link)));
        }
    }

    /// A raw link of the session that can be claimed.
    pub fn take_raw(&self, id: TunnelSessionId) -> Option<RawLink> {
        loop {
            let mut link = self.links().borrow_mut().sessions.get_mut(&id)?.raw.pop()?;
            self.edge().metrics.links_idle.dec();
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    /// A link of the session that can be claimed.
    pub(crate) fn take_link(&self, id: TunnelSessionId) -> Option<Link> {
        loop {
            let mut link = self.links().borrow_mut().sessions.get_mut(&id)?.idle.pop()?;
            self.edge().metrics.links_idle.dec();
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    /// The session is over, and with it all its links here.
    pub(crate) fn end_links(&self, id: TunnelSessionId) {
        let Some(of) = self.links().borrow_mut().sessions.remove(&id) else { return };
        self.edge().metrics.links_idle.dec_by(of.waiting());
        for cut in of.in_use.values() {
            cut.cut();
        }
    }

    /// Closes idle links that ended or spoke, and whatever outlived its session, for ever.
    pub(crate) async fn sweep_links(&self) {
        let mut tick = interval(Duration::from_secs(SWEEP_SECS));
        loop {
            tick.tick().await;
            let ended: Vec<_> = {
                let links = self.links().borrow();
                links.sessions.iter().filter(|(_, of)| !of.state.is_alive()).map(|(id, _)| *id).collect()
            };
            for id in ended {
                self.end_links(id);
            }
            // Dropped after the table is free again: what goes may look into it.
            let over: (Vec<_>, Vec<_>) = {
                let sessions = &mut self.links().borrow_mut().sessions;
                let idle = sessions.values_mut().flat_map(|of| of.idle.extract_if(.., |l| !l.is_usable()));
                let idle = idle.collect();
                let raw = sessions.values_mut().flat_map(|of| of.raw.extract_if(.., |l| !l.is_usable()));
                let raw = raw.collect();
                sessions.retain(|_, of| !of.is_empty());
                (idle, raw)
            };
            let count = over.0.len() + over.1.len();
            self.edge().metrics.links_idle.dec_by(i64::try_from(count).unwrap_or(0));
        }
    }
}
