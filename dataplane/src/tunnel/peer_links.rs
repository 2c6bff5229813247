//! Raw connections to other edges, as the edge with the visitor has them: those of one shard that wait for a visitor's own TLS,
//! by way. The connections of a pool were proven by the key that one mux connection gave, and end with it.
//!
//! Keys, proof, claim and answer are `ebbgate_wire::link::raw::between`'s.

mod demand;

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_model::TunnelSessionId;
use ebbgate_tunnel::driver;
use ebbgate_wire::link::raw::between::{ANSWER_BYTES, Awaited};
use ebbgate_wire::link::raw::{Claim, Sealing};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::claim::CLAIM_MS_MAX;
use super::peer::PeerHeader;
use super::raw_link::{RawFailed, RawStream};
use super::session::{SessionState, Slot};
use crate::net::gauge::GaugeGuard;
use crate::net::socket::Socket;
use demand::Demand;

/// Seconds within which a connection that ends unused was hardly wanted by the other edge.
const YOUNG_SECS: u64 = 10;

/// A raw connection that waits for a visitor.
pub struct PeerLink {
    /// The connection, greeted and proven.
    pub socket: Socket,
    /// Seals its claim.
    pub sealing: Sealing<PeerHeader>,
    /// Opens its answer.
    pub awaited: Awaited,
    /// When it was proven.
    pub since: Instant,
    /// When it is too old to be claimed.
    pub until: Instant,
    /// Counts it among those that wait.
    pub idle: GaugeGuard,
    /// Counts it among this edge's connections.
    pub permit: Box<dyn Any + Send>,
}

/// The raw connections beside one mux connection.
pub struct PeerPool {
    way: Arc<SessionState>,
    /// While a stream has it the mux connection does not end for lack of others.
    mux: driver::Session,
    /// Cancelled when the mux connection ends.
    ended: CancellationToken,
    idle: RefCell<Vec<PeerLink>>,
    demand: RefCell<Demand>,
    wake: Notify,
}

impl PeerPool {
    /// Takes a connection in.
    pub fn park(&self, link: PeerLink) {
        self.idle.borrow_mut().push(link);
    }

    /// A connection did not come about.
    pub fn failed(&self) {
        self.demand.borrow_mut().failed(Instant::now());
    }

    /// Closes what cannot be used or is not wanted any more. How many connections are lacking, and until when none is to be made.
    pub fn lacking(&self) -> (usize, Option<Instant>) {
        let now = Instant::now();
        let (mut idle, mut demand) = (self.idle.borrow_mut(), self.demand.borrow_mut());
        for over in idle.extract_if(.., |link| !self.is_usable(link, now)) {
            if now < over.until && now.saturating_duration_since(over.since) < Duration::from_secs(YOUNG_SECS)
            {
                demand.failed(now);
            }
        }
        let wanted = demand.wanted(now, idle.len());
        let surplus = idle.len().saturating_sub(wanted);
        idle.drain(..surplus);
        (wanted - idle.len(), demand.paused_until(now))
    }

    /// Completes when a visitor has come since.
    pub async fn visited(&self) {
        self.wake.notified().await;
    }

    /// Whether it can be claimed: neither too old nor ended, and its way is heard.
    fn is_usable(&self, link: &mut PeerLink, now: Instant) -> bool {
        now < link.until && self.way.is_alive() && !self.way.is_silent() && link.socket.is_quiet()
    }

    /// One that can be claimed. The last one parked comes first: the others may go if there are too many.
    fn take(&self) -> Option<PeerLink> {
        let (mut idle, mut demand) = (self.idle.borrow_mut(), self.demand.borrow_mut());
        let now = Instant::now();
        let mut last = || idle.pop().map(|mut link| self.is_usable(&mut link, now).then_some(link));
        let link = std::iter::from_fn(&mut last).flatten().next();
        match link {
            Some(_) => demand.taken(idle.len()),
            None => demand.missed(),
        }
        self.wake.notify_one();
        link
    }

    /// A claim had no answer. Those that wait may have none either: new ones are proven first.
    fn unanswered(&self, is_late: bool) {
        self.idle.borrow_mut().clear();
        if !is_late {
            self.demand.borrow_mut().failed(Instant::now());
        }
        self.wake.notify_one();
    }

    /// Claims a connection for a visitor, and waits until the other edge confirms. After a failure the caller sends the visitor's
    /// bytes another way; the upstream may have had them already.
    async fn claim(
        &self,
        link: PeerLink,
        slot: Slot,
        header: PeerHeader,
        first: Bytes,
    ) -> Result<RawStream, RawFailed> {
        let PeerLink { mut socket, sealing, awaited, permit, idle, .. } = link;
        drop(idle);
        let sealed = sealing.seal(&Claim { header, first }).map_err(|_| RawFailed::Lost)?;
        let exchange = async {
            socket.write_all(&sealed).await?;
            let mut answer = [0; ANSWER_BYTES];
            socket.read_exact(&mut answer).await.map(|_| answer)
        };
        let answer = tokio::select! {
            answer = timeout(Duration::from_millis(CLAIM_MS_MAX), exchange) => answer.ok(),
            () = self.way.liveness.silenced() => None,
            () = self.ended.cancelled() => None,
        };
        // One agent may be slow to answer: that is nothing against other connections.
        let is_late = answer.is_none() && !self.way.is_silent();
        let answer = answer.and_then(Result::ok).map(|answer| awaited.open(answer));
        let Some(Ok(answer)) = answer else {
            // Whatever it began there ends at once.
            socket.abort_on_close();
            self.unanswered(is_late);
            return Err(RawFailed::Lost);
        };
        slot.heard();
        self.demand.borrow_mut().served();
        answer.map_err(RawFailed::Refused)?;
        // Whatever stays unacknowledged from now on, a service may be pausing.
        socket.give_up_on_silence(false).map_err(|_| RawFailed::Lost)?;
        let held = Box::new((permit, self.mux.clone()));
        Ok(RawStream::new(socket, self.ended.clone(), held, slot))
    }
}

/// The pools of one shard, by way. Clones share them; they stay on its thread.
#[derive(Clone, Default)]
pub(super) struct PeerLinks(Rc<RefCell<HashMap<TunnelSessionId, Rc<PeerPool>>>>);

impl PeerLinks {
    /// Has visitors take connections of a new pool, and no longer those of the one before.
    pub(super) fn open(
        &self,
        way: &Arc<SessionState>,
        mux: driver::Session,
        ended: CancellationToken,
    ) -> OpenPool {
        let pool = Rc::new(PeerPool {
            way: Arc::clone(way),
            mux,
            ended,
            idle: RefCell::default(),
            demand: RefCell::new(Demand::new(Instant::now())),
            wake: Notify::new(),
        });
        self.0.borrow_mut().insert(way.id, Rc::clone(&pool));
        OpenPool { of: self.clone(), pool }
    }

    /// Claims a raw connection of a way. None: none is ready.
    pub(super) async fn claim(
        &self,
        slot: Slot,
        way: TunnelSessionId,
        header: PeerHeader,
        first: Bytes,
    ) -> Option<Result<RawStream, RawFailed>> {
        let pool = self.0.borrow().get(&way).map(Rc::clone)?;
        let link = pool.take()?;
        Some(pool.claim(link, slot, header, first).await)
    }
}

/// A pool that visitors take connections of; until it is dropped, with all that wait.
pub struct OpenPool {
    of: PeerLinks,
    pool: Rc<PeerPool>,
}

impl std::ops::Deref for OpenPool {
    type Target = PeerPool;

    fn deref(&self) -> &PeerPool {
        &self.pool
    }
}

impl Drop for OpenPool {
    fn drop(&mut self) {
        let mut pools = self.of.0.borrow_mut();
        if pools.get(&self.pool.way.id).is_some_and(|pool| Rc::ptr_eq(pool, &self.pool)) {
            pools.remove(&self.pool.way.id);
        }
        drop(pools);
        // A visitor under way holds the pool a little longer.
        self.pool.idle.borrow_mut().clear();
    }
}
