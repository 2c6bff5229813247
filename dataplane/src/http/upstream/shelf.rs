//! `Shelf`: the upstream connections that one visitor connection keeps for its next request. Each holds a stream of an
//! agent's session, so a timer takes back what is not used.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::EndpointId;
use tokio::time::{Instant, sleep};

use super::{http1, http2};
use crate::http::limits::{KEPT_UPSTREAMS_MAX, KEPT_WHILE_IN_FLIGHT_MAX, Limits};
use crate::state::endpoint::{Endpoint, Kind};
use crate::tunnel::session::SessionState;

/// The timer looks this often in the time a connection is kept.
const LOOKS: u32 = 4;

/// Where a connection leads, and whose streams it takes.
#[derive(Clone)]
pub(super) struct Behind {
    id: EndpointId,
    session: Option<Arc<SessionState>>,
}

impl Behind {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        let session = match &endpoint.kind {
            Kind::Agent(agent) => Some(agent.session.clone()),
            Kind::Cloud => None,
        };
        Self { id: endpoint.id, session }
    }

    /// Whether the session has streams to spare.
    fn has_room(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.in_flight() <= KEPT_WHILE_IN_FLIGHT_MAX)
    }
}

struct Kept<C> {
    behind: Behind,
    /// When it was last seen in use.
    used: Instant,
    connection: C,
}

/// See the module.
pub(super) struct Shelf {
    http1: RefCell<Vec<Kept<http1::Connection>>>,
    http2: RefCell<Vec<Kept<http2::Connection>>>,
    watched: Cell<bool>,
    limits: Rc<Limits>,
}

impl Shelf {
    pub(super) fn new(limits: Rc<Limits>) -> Rc<Self> {
        Rc::new(Self {
            http1: RefCell::default(),
            http2: RefCell::default(),
            watched: Cell::default(),
            limits,
        })
    }

    /// Keeps a free connection, if there is room for it.
    pub(super) fn keep_http1(self: &Rc<Self>, behind: Behind, connection: http1::Connection) {
        if behind.has_room() && self.http1.borrow().len() < KEPT_UPSTREAMS_MAX {
            self.http1.borrow_mut().push(Kept { behind, used: Instant::now(), connection });
            self.watch();
        }
    }

    /// A free connection, which is the caller's from now on.
    pub(super) fn take_http1(&self, id: EndpointId) -> Option<http1::Connection> {
        self.tidy();
        let mut kept = self.http1.borrow_mut();
        let at = kept.iter().position(|k| k.behind.id == id && k.connection.is_ready())?;
        Some(kept.swap_remove(at).connection)
    }

    /// Keeps a connection that requests share, for as long as any of them uses it and a little longer.
    pub(super) fn keep_http2(self: &Rc<Self>, behind: Behind, connection: http2::Connection) {
        self.tidy();
        if self.http2.borrow().len() < KEPT_UPSTREAMS_MAX {
            self.http2.borrow_mut().push(Kept { behind, used: Instant::now(), connection });
            self.watch();
        }
    }

    /// The connection that requests to this endpoint share.
    pub(super) fn http2(&self, id: EndpointId) -> Option<http2::Connection> {
        let kept = self.http2.borrow();
        kept.iter().find(|k| k.behind.id == id && !k.connection.is_closed()).map(|k| k.connection.clone())
    }

    /// Forgets the connection that requests to this endpoint share.
    pub(super) fn drop_http2(&self, id: EndpointId) {
        self.http2.borrow_mut().retain(|k| k.behind.id != id);
    }

    /// Lets go of what is closed, was not used for too long, or holds streams that requests need.
    fn tidy(&self) {
        let now = Instant::now();
        let stays =
            |behind: &Behind, used: Instant| now - used < self.limits.kept_upstream && behind.has_room();
        self.http1.borrow_mut().retain(|k| !k.connection.is_closed() && stays(&k.behind, k.used));
        self.http2.borrow_mut().retain_mut(|k| {
            if k.connection.is_in_use() {
                k.used = now;
            }
            !k.connection.is_closed() && (k.used == now || stays(&k.behind, k.used))
        });
    }

    /// Tidies from time to time, until nothing is kept.
    fn watch(self: &Rc<Self>) {
        if self.watched.replace(true) {
            return;
        }
        let (weak, pause) = (Rc::downgrade(self), self.limits.kept_upstream / LOOKS);
        tokio::task::spawn_local(async move {
            loop {
                sleep(pause).await;
                let Some(kept) = weak.upgrade() else { return };
                kept.tidy();
                if kept.http1.borrow().is_empty() && kept.http2.borrow().is_empty() {
                    kept.watched.set(false);
                    return;
                }
            }
        });
    }
}
