//! The links of agents on one shard: idle ones ready to be claimed, and how to end those in use with their session.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::TunnelSessionId;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Duration, interval};

use crate::tunnel::carrier::{Cut, Link, RawLink};
use crate::tunnel::session::SessionState;

/// Seconds between looks at idle links: one that ended meanwhile goes.
const SWEEP_SECS: u64 = 5;

/// The links of one shard. Clones share them and stay on its thread.
#[derive(Clone)]
pub struct IdleLinks(Rc<Inner>);

struct Inner {
    table: RefCell<Table>,
    /// How many wait, on all shards.
    waiting: Gauge,
    /// How long a link in use may take to become free once its visitor is gone.
    freed_max: Duration,
}

#[derive(Default)]
struct Table {
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

impl Table {
    fn of(&mut self, state: &Arc<SessionState>) -> &mut OfSession {
        let new = || OfSession {
            state: Arc::clone(state),
            idle: Vec::new(),
            raw: Vec::new(),
            in_use: BTreeMap::new(),
        };
        self.sessions.entry(state.id).or_insert_with(new)
    }
}

impl IdleLinks {
    /// No links. `waiting` counts them; a link whose visitor is gone becomes free within `freed_max`, or closes.
    pub fn new(waiting: Gauge, freed_max: Duration) -> Self {
        Self(Rc::new(Inner { table: RefCell::default(), waiting, freed_max }))
    }

    /// How long a link in use may take to become free once its visitor is gone.
    pub fn freed_max(&self) -> Duration {
        self.0.freed_max
    }

    /// Whether a link of the session waits here.
    pub fn has_idle(&self, id: TunnelSessionId) -> bool {
        self.0.table.borrow().sessions.get(&id).is_some_and(|of| !of.idle.is_empty())
    }

    /// Whether a raw link of the session waits here.
    pub fn has_raw(&self, id: TunnelSessionId) -> bool {
        self.0.table.borrow().sessions.get(&id).is_some_and(|of| !of.raw.is_empty())
    }

    /// Notes a stream, to be ended with its session; [`IdleLinks::done`] forgets it.
    pub fn in_use(&self, state: &Arc<SessionState>) -> (u64, Rc<Cut>) {
        let mut table = self.0.table.borrow_mut();
        table.next += 1;
        let (key, cut) = (table.next, Rc::<Cut>::default());
        table.of(state).in_use.insert(key, Rc::clone(&cut));
        (key, cut)
    }

    /// A stream is over.
    pub fn done(&self, id: TunnelSessionId, key: u64) {
        let mut table = self.0.table.borrow_mut();
        if let Some(of) = table.sessions.get_mut(&id) {
            of.in_use.remove(&key);
            if of.is_empty() {
                table.sessions.remove(&id);
            }
        }
    }

    /// Takes a link into the list; one whose session has ended closes.
    pub fn park(&self, mut link: Link) {
        if !link.is_usable() {
            return;
        }
        self.0.waiting.inc();
        let state = Arc::clone(link.session());
        self.0.table.borrow_mut().of(&state).idle.push(link);
    }

    /// A link came from another shard.
    pub fn park_arrived(&self, mut link: Link) {
        if link.attach().is_ok() {
            self.park(link);
        }
    }

    /// Takes a raw link into the list; one whose session has ended closes.
    pub fn park_raw(&self, mut link: RawLink) {
        if !link.is_usable() {
            return;
        }
        self.0.waiting.inc();
        let state = Arc::clone(link.session());
        self.0.table.borrow_mut().of(&state).raw.push(link);
    }

    /// A raw link came from another shard.
    pub fn park_raw_arrived(&self, mut link: RawLink) {
        if link.attach().is_ok() {
            self.park_raw(link);
        }
    }

    /// A raw link of the session that can be claimed.
    pub fn take_raw(&self, id: TunnelSessionId) -> Option<RawLink> {
        loop {
            let mut link = self.0.table.borrow_mut().sessions.get_mut(&id)?.raw.pop()?;
            self.0.waiting.dec();
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    /// A link of the session that can be claimed.
    pub fn take_link(&self, id: TunnelSessionId) -> Option<Link> {
        loop {
            let mut link = self.0.table.borrow_mut().sessions.get_mut(&id)?.idle.pop()?;
            self.0.waiting.dec();
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    /// The session is over, and with it all its links here.
    pub fn end(&self, id: TunnelSessionId) {
        // Dropped after the table is free again: what goes may look into it.
        let ended = self.0.table.borrow_mut().sessions.remove(&id);
        let Some(of) = ended else { return };
        self.0.waiting.dec_by(of.waiting());
        for cut in of.in_use.values() {
            cut.cut();
        }
    }

    /// Closes idle links that ended or spoke, and whatever outlived its session, for ever.
    pub async fn sweep(&self) {
        let mut tick = interval(Duration::from_secs(SWEEP_SECS));
        loop {
            tick.tick().await;
            let ended: Vec<_> = {
                let table = self.0.table.borrow();
                table.sessions.iter().filter(|(_, of)| !of.state.is_alive()).map(|(id, _)| *id).collect()
            };
            for id in ended {
                self.end(id);
            }
            // As in `end`.
            let over: (Vec<_>, Vec<_>) = {
                let sessions = &mut self.0.table.borrow_mut().sessions;
                let idle = sessions.values_mut().flat_map(|of| of.idle.extract_if(.., |l| !l.is_usable()));
                let idle = idle.collect();
                let raw = sessions.values_mut().flat_map(|of| of.raw.extract_if(.., |l| !l.is_usable()));
                let raw = raw.collect();
                sessions.retain(|_, of| !of.is_empty());
                (idle, raw)
            };
            let count = over.0.len() + over.1.len();
            self.0.waiting.dec_by(i64::try_from(count).unwrap_or(0));
        }
    }
}
