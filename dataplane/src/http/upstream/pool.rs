//! `UpstreamPools`: the upstream connections of one shard that wait for their next request. One [`UpstreamPool`] for each
//! endpoint, used by all visitors of the shard.
//!
//! The connection that was used last is used next, so a pool becomes no wider than the requests in flight. Decides which
//! connection goes when there are too many, and gives up idle ones when the agent's session needs their streams.
//! Does not know requests.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::{self, Arc};
use std::time::Duration;

use ebbgate_model::AccountId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep};

use super::http1;
use super::http2::{self, Dials};
use super::identity::{Sharing, VisitorId};
use crate::http::limits::{IDLE_OF_ENDPOINT_MAX, IDLE_OF_SHARD_MAX};
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::metrics::Metrics;
use crate::tunnel::session::SessionState;

/// A pool looks for expired connections this often in the time that a connection is kept.
const LOOKS: u32 = 4;

/// The pools of one shard. Clones are handles to the same pools.
#[derive(Clone)]
pub struct UpstreamPools(Rc<Inner>);

struct Inner {
    pools: RefCell<HashMap<PoolKey, Rc<UpstreamPool>>>,
    /// Idle connections of each account with a pool.
    accounts: RefCell<HashMap<AccountId, Rc<Cell<usize>>>>,
    /// Idle connections of the shard.
    total: Cell<usize>,
    visitors: Cell<u64>,
    bounds: Bounds,
    opened: Counter,
    reused: Counter,
    idle: Gauge,
}

/// What the pools of a shard may hold.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How long an idle connection is kept.
    kept: Duration,
    /// Idle connections of one endpoint.
    of_endpoint_max: usize,
    /// Idle connections of all endpoints.
    of_shard_max: usize,
}

/// One generation of an endpoint: the address of the endpoint object. A bind, a patch and a change of the program each
/// make a new object. The pool's weak reference keeps the address from being used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PoolKey(usize);

impl PoolKey {
    fn of(endpoint: &Arc<Endpoint>) -> Self {
        Self(Arc::as_ptr(endpoint).addr())
    }
}

/// The upstream connections to one endpoint from one shard.
pub(super) struct UpstreamPool {
    pools: Weak<Inner>,
    key: PoolKey,
    endpoint: sync::Weak<Endpoint>,
    session: Arc<SessionState>,
    account: AccountId,
    account_idle: Rc<Cell<usize>>,
    /// Oldest first.
    idle: RefCell<VecDeque<IdleConn>>,
    http2: RefCell<Vec<SharedConn>>,
    /// HTTP/2 connections under way.
    pub(super) dials: Rc<Dials>,
}

/// A connection that carries no request.
struct IdleConn {
    sharing: Sharing,
    since: Instant,
    connection: http1::Connection,
    _counted: Counted,
}

/// An HTTP/2 connection, which several requests use at once.
struct SharedConn {
    sharing: Sharing,
    /// When a request was last seen on it.
    used: Instant,
    connection: http2::Connection,
    /// Set while no request uses it.
    counted: Option<Counted>,
}

/// Counts one idle connection until it is dropped.
struct Counted {
    pools: Weak<Inner>,
    session: Arc<SessionState>,
    account: Rc<Cell<usize>>,
}

impl Counted {
    fn new(pool: &UpstreamPool) -> Self {
        pool.session.idle.hold();
        pool.account_idle.update(|idle| idle + 1);
        if let Some(pools) = pool.pools.upgrade() {
            pools.total.update(|total| total + 1);
            pools.idle.inc();
        }
        Self {
            pools: pool.pools.clone(),
            session: Arc::clone(&pool.session),
            account: pool.account_idle.clone(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.session.idle.release();
        self.account.update(|idle| idle.saturating_sub(1));
        if let Some(pools) = self.pools.upgrade() {
            pools.total.update(|total| total.saturating_sub(1));
            pools.idle.dec();
        }
    }
}

impl UpstreamPools {
    /// Empty pools, which keep an idle connection for `kept`.
    pub fn new(metrics: &Metrics, kept: Duration) -> Self {
        let bounds = Bounds { kept, of_endpoint_max: IDLE_OF_ENDPOINT_MAX, of_shard_max: IDLE_OF_SHARD_MAX };
        Self::bounded(metrics, bounds)
    }

    fn bounded(metrics: &Metrics, bounds: Bounds) -> Self {
        Self(Rc::new(Inner {
            pools: RefCell::default(),
            accounts: RefCell::default(),
            total: Cell::default(),
            visitors: Cell::default(),
            bounds,
            opened: metrics.upstream_connections_opened.clone(),
            reused: metrics.upstream_connections_reused.clone(),
            idle: metrics.upstream_connections_idle.clone(),
        }))
    }

    /// The number of a new visitor connection.
    pub(super) fn next_visitor(&self) -> VisitorId {
        let id = self.0.visitors.get();
        self.0.visitors.set(id.wrapping_add(1));
        VisitorId(id)
    }

    /// A request uses a connection that was opened for it.
    pub(super) fn count_opened(&self) {
        self.0.opened.inc();
    }

    /// A request uses a connection that carried another one before.
    pub(super) fn count_reused(&self) {
        self.0.reused.inc();
    }

    /// The pool of this generation of an endpoint. None: the endpoint has no agent.
    pub(super) fn of(&self, endpoint: &Arc<Endpoint>) -> Option<Rc<UpstreamPool>> {
        let key = PoolKey::of(endpoint);
        if let Some(pool) = self.0.pools.borrow().get(&key) {
            return Some(pool.clone());
        }
        let Kind::Agent(agent) = &endpoint.kind else { return None };
        let account_idle = self.0.accounts.borrow_mut().entry(endpoint.account).or_default().clone();
        let pool = Rc::new(UpstreamPool {
            pools: Rc::downgrade(&self.0),
            key,
            endpoint: Arc::downgrade(endpoint),
            session: Arc::clone(&agent.session),
            account: endpoint.account,
            account_idle,
            idle: RefCell::default(),
            http2: RefCell::default(),
            dials: Rc::default(),
        });
        tokio::task::spawn_local(look_after(
            Rc::downgrade(&pool),
            Arc::clone(&pool.session),
            self.0.bounds.kept,
        ));
        self.0.pools.borrow_mut().insert(key, pool.clone());
        Some(pool)
    }
}

impl Inner {
    /// Closes idle connections beyond the shard's limit. The account with the most gives up its oldest, `own` among equals:
    /// an account cannot take the place of one that has no more than itself.
    fn shrink(&self, own: AccountId) {
        while self.total.get() > self.bounds.of_shard_max {
            let accounts = self.accounts.borrow();
            let most = accounts.iter().max_by_key(|(account, idle)| (idle.get(), **account == own));
            let Some((account, _)) = most else { return };
            let pools = self.pools.borrow();
            let of_account = pools.values().filter(|pool| pool.account == *account);
            let oldest =
                of_account.min_by_key(|pool| pool.oldest().map_or((true, None), |at| (false, Some(at))));
            if !oldest.is_some_and(|pool| pool.close_oldest()) {
                return;
            }
        }
    }

    /// Forgets a pool that is not used.
    fn forget(&self, pool: &UpstreamPool) {
        self.pools.borrow_mut().remove(&pool.key);
        let mut accounts = self.accounts.borrow_mut();
        // The map and the pool itself.
        if Rc::strong_count(&pool.account_idle) == 2 {
            accounts.remove(&pool.account);
        }
    }
}

impl UpstreamPool {
    /// An idle connection that this visitor may use, and that can take a request at once. The caller owns it.
    pub(super) fn take(&self, sharing: Sharing) -> Option<http1::Connection> {
        let kept = self.pools.upgrade()?.bounds.kept;
        loop {
            let mut idle = self.idle.borrow_mut();
            let at = idle.iter().rposition(|conn| conn.sharing == sharing)?;
            let conn = idle.remove(at)?;
            drop(idle);
            if conn.connection.is_ready() && conn.since.elapsed() < kept {
                return Some(conn.connection);
            }
        }
    }

    /// Whether a connection waits that this visitor may use.
    pub(super) fn has_idle(&self, sharing: Sharing) -> bool {
        self.idle.borrow().iter().any(|conn| conn.sharing == sharing)
    }

    /// Keeps a connection once its response is over. `replaces`: an idle connection was left alone when this one was opened,
    /// so the oldest one makes place. Closed instead: a connection that cannot take another request, or of an endpoint
    /// that is gone, or with a stream that another request waits for.
    pub(super) fn keep(&self, connection: http1::Connection, sharing: Sharing, replaces: bool) {
        let Some(pools) = self.pools.upgrade() else { return };
        if !connection.is_ready() || !self.session.is_alive() || self.endpoint.strong_count() == 0 {
            return;
        }
        if self.session.idle.take_request() {
            return connection.close_now();
        }
        let conn = IdleConn { sharing, since: Instant::now(), connection, _counted: Counted::new(self) };
        self.idle.borrow_mut().push_back(conn);
        if replaces {
            self.close_oldest_of(sharing);
        }
        if self.idle.borrow().len() > pools.bounds.of_endpoint_max {
            self.close_oldest();
        }
        pools.shrink(self.account);
    }

    /// Keeps an HTTP/2 connection for other requests.
    pub(super) fn share(&self, connection: http2::Connection, sharing: Sharing) {
        let conn = SharedConn { sharing, used: Instant::now(), connection, counted: None };
        self.http2.borrow_mut().push(conn);
    }

    /// An HTTP/2 connection with room for one more request of this visitor. The first with room is used, so that others
    /// become idle.
    pub(super) fn shared(&self, sharing: Sharing) -> Option<http2::Connection> {
        let mut http2 = self.http2.borrow_mut();
        let conn = http2.iter_mut().find(|conn| conn.sharing == sharing && conn.connection.has_room())?;
        conn.counted = None;
        Some(conn.connection.clone())
    }

    /// Takes an HTTP/2 connection out of the pool. Requests under way go on.
    pub(super) fn retire(&self, connection: &http2::Connection) {
        self.http2.borrow_mut().retain(|conn| !conn.connection.is_same(connection));
    }

    /// Closes the connections of one visitor.
    pub(super) fn close_visitor(&self, visitor: VisitorId) {
        let own = [Sharing::Visitor(visitor), Sharing::Authenticated(visitor)];
        let idle = self.idle.take();
        let (gone, stay) = idle.into_iter().partition::<VecDeque<_>, _>(|conn| own.contains(&conn.sharing));
        self.idle.replace(stay);
        drop(gone);
        self.http2.borrow_mut().retain(|conn| !own.contains(&conn.sharing));
    }

    fn oldest(&self) -> Option<Instant> {
        self.idle.borrow().front().map(|conn| conn.since)
    }

    /// Closes the connection that has been idle longest, of those with the same visitors, unless it is the only one.
    fn close_oldest_of(&self, sharing: Sharing) {
        let mut idle = self.idle.borrow_mut();
        let mut alike = idle.iter().enumerate().filter(|(_, conn)| conn.sharing == sharing);
        if let (Some((at, _)), Some(_)) = (alike.next(), alike.next()) {
            let oldest = idle.remove(at);
            drop(idle);
            drop(oldest);
        }
    }

    /// Closes the connection that has been idle longest. False: none is.
    fn close_oldest(&self) -> bool {
        let oldest = self.idle.borrow_mut().pop_front();
        oldest.is_some()
    }

    /// Closes an idle connection at once, because its stream is needed. False: none is idle.
    fn yield_stream(&self) -> bool {
        if let Some(conn) = self.idle.borrow_mut().pop_front() {
            conn.connection.close_now();
            return true;
        }
        let mut http2 = self.http2.borrow_mut();
        let unused = http2.iter().position(|conn| !conn.connection.is_in_use());
        unused.is_some_and(|at| {
            http2.swap_remove(at);
            true
        })
    }

    /// Whether a stream can be yielded.
    fn has_any(&self) -> bool {
        !self.idle.borrow().is_empty() || self.http2.borrow().iter().any(|conn| !conn.connection.is_in_use())
    }

    /// Closes what has been idle too long, forgets what is closed. True: nothing is left.
    fn tidy(&self, kept: Duration) -> bool {
        let now = Instant::now();
        let gone = {
            let idle = self.idle.take();
            let stays = |conn: &IdleConn| now - conn.since < kept && !conn.connection.is_closed();
            let (stay, gone): (VecDeque<_>, VecDeque<_>) = idle.into_iter().partition(stays);
            self.idle.replace(stay);
            gone
        };
        drop(gone);
        self.http2.borrow_mut().retain_mut(|conn| {
            if conn.connection.is_in_use() {
                (conn.used, conn.counted) = (now, None);
            } else if conn.counted.is_none() {
                conn.counted = Some(Counted::new(self));
            }
            !conn.connection.is_closed() && now - conn.used < kept
        });
        self.idle.borrow().is_empty() && self.http2.borrow().is_empty()
    }
}

impl Drop for UpstreamPool {
    /// The shard may be gone, and with it what closes connections in order.
    fn drop(&mut self) {
        for conn in self.idle.take() {
            conn.connection.close_now();
        }
    }
}

/// Tidies a pool from time to time, and closes idle connections when the session needs their streams. Ends with the pool,
/// and ends a pool that stays empty.
async fn look_after(pool: Weak<UpstreamPool>, session: Arc<SessionState>, kept: Duration) {
    let mut was_empty = false;
    loop {
        let can_yield = || pool.upgrade().is_some_and(|pool| pool.has_any());
        let asked = tokio::select! {
            () = session.idle.asked(can_yield) => true,
            () = sleep(kept / LOOKS) => false,
        };
        let Some(pool) = pool.upgrade() else { return };
        if asked {
            if session.idle.take_request() {
                pool.yield_stream();
            }
            continue;
        }
        let is_empty = pool.tidy(kept);
        // The map and this task.
        if is_empty && was_empty && Rc::strong_count(&pool) == 2 {
            if let Some(pools) = pool.pools.upgrade() {
                pools.forget(&pool);
            }
            return;
        }
        was_empty = is_empty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::endpoint::fixture::{account, agent};
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::LocalSet;

    const BOUNDS: Bounds = Bounds { kept: Duration::from_secs(4), of_endpoint_max: 3, of_shard_max: 5 };

    fn endpoint(n: u8, of: u8) -> Arc<Endpoint> {
        let endpoint = agent(n, "https://a.internal");
        Arc::new(Endpoint { account: account(of), ..Arc::into_inner(endpoint).unwrap() })
    }

    /// Adds `n` connections, and returns the upstream's ends of them.
    async fn keep(pool: &UpstreamPool, n: usize) -> Vec<DuplexStream> {
        let mut ends = Vec::new();
        for _ in 0..n {
            sleep(Duration::from_millis(1)).await;
            let (near, far) = duplex(64);
            pool.keep(http1::connect(near), Sharing::Everyone, false);
            ends.push(far);
        }
        ends
    }

    fn idle(pool: &UpstreamPool) -> usize {
        pool.idle.borrow().len()
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_takes_no_place_from_one_that_has_fewer() {
        let test = async {
            let pools = UpstreamPools::bounded(&Metrics::new(), BOUNDS);
            let [small, large, other] = [endpoint(1, 1), endpoint(2, 2), endpoint(3, 2)];
            let of = |endpoint| pools.of(endpoint).unwrap();
            let _ends_1 = keep(&of(&small), 2).await;
            let _ends_2 = keep(&of(&large), 4).await;
            assert_eq!((idle(&of(&small)), idle(&of(&large))), (2, 3), "the endpoint's own limit");
            let _ends_3 = keep(&of(&other), 10).await;
            assert_eq!(idle(&of(&small)), 2, "the account with the most gives up its own");
            assert_eq!(idle(&of(&large)) + idle(&of(&other)), 3);
            let _ends_4 = keep(&of(&small), 1).await;
            assert_eq!((idle(&of(&small)), pools.0.total.get()), (2, 5), "among equals it gives up its own");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_stays_empty_is_forgotten() {
        let test = async {
            let pools = UpstreamPools::bounded(&Metrics::new(), BOUNDS);
            let endpoint = endpoint(1, 1);
            let _ends_5 = keep(&pools.of(&endpoint).unwrap(), 2).await;
            sleep(BOUNDS.kept * 3).await;
            assert!(pools.0.pools.borrow().is_empty() && pools.0.accounts.borrow().is_empty());
            assert_eq!((pools.0.total.get(), pools.0.idle.get()), (0, 0));
        };
        LocalSet::new().run_until(test).await;
    }
}
