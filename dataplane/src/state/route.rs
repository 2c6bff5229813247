//! `RouteTable`: which endpoints answer for a URL. Exact before the longest wildcard; only what is online is in it, so an
//! exact name that goes offline leaves its traffic to a wildcard.
//!
//! After a start it also knows what agents had bound before and lets visitors wait for it ([`returning`]).
//!
//! Lookups take no lock. A change copies a few nodes of one part, so that it costs the same among ten endpoints and among a
//! million, and a thousand agents coming back at once stay cheap.

mod key;
pub mod returning;

pub use key::RouteKey;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use ebbgate_model::{AccountId, EndpointId, EndpointUrl, Host, Scheme, TunnelSessionId};
use tokio::time::{Duration, Instant, sleep};

use crate::net::wildcard::candidates;
use crate::persistent::Map;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::pool::Pool;
use returning::{Away, Returning};

/// Parts that are changed apart.
const BUCKETS: usize = 256;
/// Milliseconds between a waiting visitor's looks.
const LOOK_MS: u64 = 20;

type Bucket = Map<RouteKey, Pool>;

/// The online endpoints of all accounts.
pub struct RouteTable {
    buckets: Box<[ArcSwap<Bucket>]>,
    hasher: RandomState,
    /// Held by whoever changes a route: the places that agents serve.
    agents: Mutex<BTreeSet<RouteKey>>,
    /// Counts changes of the places that agents serve.
    changes: AtomicU64,
    returning: OnceLock<Returning>,
}

/// Another endpoint has the URL, and not both of them enable pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {0} is already online on this URL, and not both have pooling enabled")]
pub struct AlreadyOnline(pub EndpointId);

impl Default for RouteTable {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| ArcSwap::default()).collect();
        Self {
            buckets,
            hasher: RandomState::new(),
            agents: Mutex::default(),
            changes: AtomicU64::new(0),
            returning: OnceLock::new(),
        }
    }
}

impl RouteTable {
    /// Adds an agent's endpoint if the pool rule allows: endpoints that share a URL have pooling enabled (wire.md section 6).
    pub fn bind(&self, endpoint: Arc<Endpoint>) -> Result<(), AlreadyOnline> {
        let mut agents = self.agents();
        let place = RouteKey::of(&endpoint);
        let pool = self.exact(&place);
        let others = pool.iter().flat_map(Pool::members).filter(|other| other.id != endpoint.id);
        let refuses = |other: &&Arc<Endpoint>| {
            (!other.pooling_enabled || !endpoint.pooling_enabled) && !other.gives_way_to(&endpoint)
        };
        if let Some(other) = others.into_iter().find(refuses) {
            return Err(AlreadyOnline(other.id));
        }
        self.write(&mut agents, place, |pool| pool.with(endpoint));
        Ok(())
    }

    /// Adds or replaces an endpoint whatever else is there: the Program says so.
    pub fn put(&self, endpoint: Arc<Endpoint>) {
        let mut agents = self.agents();
        self.write(&mut agents, RouteKey::of(&endpoint), |pool| pool.with(endpoint));
    }

    /// Removes an endpoint.
    pub fn remove(&self, endpoint: &Endpoint) {
        let mut agents = self.agents();
        self.write(&mut agents, RouteKey::of(endpoint), |pool| pool.without(endpoint.id));
    }

    /// Adds or replaces many at once, each as [`RouteTable::put`] does.
    pub fn put_all(&self, endpoints: &[Arc<Endpoint>]) {
        if let [one] = endpoints {
            return self.put(Arc::clone(one));
        }
        let mut agents = self.agents();
        let mut parts: Vec<Vec<&Arc<Endpoint>>> = vec![Vec::new(); BUCKETS];
        for endpoint in endpoints {
            let index = self.index(&RouteKey::of(endpoint));
            parts.get_mut(index).expect("an index is below BUCKETS").push(endpoint);
        }
        for (bucket, part) in self.buckets.iter().zip(parts) {
            if !part.is_empty() {
                let mut copy = Bucket::clone(&bucket.load());
                for endpoint in part {
                    let with = |pool: Pool| pool.with(Arc::clone(endpoint));
                    self.change(&mut agents, &mut copy, RouteKey::of(endpoint), with);
                }
                bucket.store(Arc::new(copy));
            }
        }
    }

    /// The public pool for a host, and the name that matched.
    pub fn public(&self, scheme: Scheme, host: &Host, port: u16) -> Option<(Host, Pool)> {
        self.find(None, scheme, host, port)
    }

    /// The pool for an internal URL of an account.
    pub fn internal(&self, account: AccountId, url: &EndpointUrl) -> Option<Pool> {
        self.find(Some(account), url.scheme(), url.host(), url.port()).map(|(_, pool)| pool)
    }

    /// The pool at the place of an endpoint.
    pub fn beside(&self, endpoint: &Endpoint) -> Option<Pool> {
        self.exact(&RouteKey::of(endpoint))
    }

    /// Sessions of the agents that serve a public name under any scheme; `port`: of `tcp://` alone.
    pub fn agents_at(&self, host: &Host, port: Option<u16>) -> Vec<TunnelSessionId> {
        let places = match port {
            Some(port) => vec![(Scheme::Tcp, port)],
            None => [Scheme::Http, Scheme::Https, Scheme::Tls]
                .into_iter()
                .filter_map(|scheme| Some((scheme, scheme.default_port()?)))
                .collect(),
        };
        let places =
            places.into_iter().filter_map(|(scheme, port)| RouteKey::new(None, scheme, host.clone(), port));
        let pools: Vec<Pool> = places.filter_map(|place| self.exact(&place)).collect();
        let sessions = pools.iter().flat_map(Pool::members).filter_map(|member| match &member.kind {
            Kind::Agent(agent) => Some(agent.session.id),
            Kind::Cloud => None,
        });
        sessions.collect()
    }

    /// Expects what agents had bound before this process served; once.
    pub fn expect(&self, places: impl IntoIterator<Item = RouteKey>, away: Away, now: Instant) {
        let _ = self.returning.set(Returning::new(places, away, now));
    }

    /// Waits a little, if an agent that served a host under one of these schemes is on its way back and nothing as close is
    /// online. `account`: whose internal names are meant; None: public ones.
    pub async fn returned(&self, account: Option<AccountId>, schemes: &[Scheme], host: &Host, port: u16) {
        let Some(returning) = self.returning.get().filter(|returning| returning.is_open(Instant::now()))
        else {
            return;
        };
        let is_away = || {
            let found = |scheme: &Scheme| {
                let mut all = self.found(account, *scheme, host, port);
                all.find(|(_, pool)| is_reached(pool)).map(|(name, _)| name)
            };
            let away =
                |scheme: &Scheme| returning.covers(account, *scheme, host, port, found(scheme).as_ref());
            schemes.iter().any(away) && !schemes.iter().any(|scheme| found(scheme).as_ref() == Some(host))
        };
        if !is_away() {
            return;
        }
        let Some(_room) = returning.room() else { return };
        let deadline = Instant::now() + returning.away.wait();
        while Instant::now() < deadline && is_away() {
            sleep(Duration::from_millis(LOOK_MS)).await;
        }
    }

    /// Changes of the places that agents serve, so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What agents serve now, or may serve again: as much as is remembered.
    pub fn places_of_agents(&self, now: Instant) -> BTreeSet<RouteKey> {
        let mut places = self.agents().clone();
        let away = self.returning.get().into_iter().flat_map(|returning| returning.places(now));
        places.extend(away.cloned());
        while places.len() > returning::PLACES_MAX {
            places.pop_last();
        }
        places
    }

    fn find(
        &self,
        account: Option<AccountId>,
        scheme: Scheme,
        host: &Host,
        port: u16,
    ) -> Option<(Host, Pool)> {
        self.found(account, scheme, host, port).next()
    }

    /// All that matches, the closest first.
    fn found(
        &self,
        account: Option<AccountId>,
        scheme: Scheme,
        host: &Host,
        port: u16,
    ) -> impl Iterator<Item = (Host, Pool)> {
        candidates(host).filter_map(move |name| {
            let place = RouteKey::new(account, scheme, name.clone(), port)?;
            Some((name, self.exact(&place)?))
        })
    }

    fn exact(&self, place: &RouteKey) -> Option<Pool> {
        self.bucket(place).load().get(place).cloned()
    }

    fn agents(&self) -> MutexGuard<'_, BTreeSet<RouteKey>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, agents: &mut BTreeSet<RouteKey>, place: RouteKey, change: impl FnOnce(Pool) -> Pool) {
        let bucket = self.bucket(&place);
        let mut copy = Bucket::clone(&bucket.load());
        self.change(agents, &mut copy, place, change);
        bucket.store(Arc::new(copy));
    }

    fn change(
        &self,
        agents: &mut BTreeSet<RouteKey>,
        bucket: &mut Bucket,
        place: RouteKey,
        change: impl FnOnce(Pool) -> Pool,
    ) {
        let before = bucket.get(&place).cloned();
        let had_agents = before.as_ref().is_some_and(has_agents);
        let pool = change(before.unwrap_or_else(|| Pool::new(Vec::new())));
        let changed = match (had_agents, has_agents(&pool)) {
            (false, true) => agents.insert(place.clone()),
            (true, false) => agents.remove(&place),
            _ => false,
        };
        self.changes.fetch_add(u64::from(changed), Ordering::Release);
        if pool.members().is_empty() {
            bucket.remove(&place);
        } else {
            bucket.insert(place, pool);
        }
    }

    fn bucket(&self, place: &RouteKey) -> &ArcSwap<Bucket> {
        self.buckets.get(self.index(place)).expect("a remainder of BUCKETS indexes BUCKETS buckets")
    }

    fn index(&self, place: &RouteKey) -> usize {
        usize::try_from(self.hasher.hash_one(place) % BUCKETS as u64).unwrap_or(0)
    }
}

/// Whether there is a way to one of its members. To agents of another edge there is none before the first connection.
fn is_reached(pool: &Pool) -> bool {
    pool.members().iter().any(|member| match &member.kind {
        Kind::Cloud => true,
        Kind::Agent(agent) => agent.session.carriers() > 0,
    })
}

fn has_agents(pool: &Pool) -> bool {
    pool.members().iter().any(|member| matches!(member.kind, Kind::Agent(_)))
}

#[cfg(test)]
mod tests {
    use super::returning::WAIT_MS_MAX;
    use super::*;
    use crate::state::endpoint::fixture::{agent, cloud};
    use crate::tunnel::session::SessionState;

    fn found(table: &RouteTable, scheme: Scheme, host: &str) -> Option<String> {
        Some(table.public(scheme, &host.parse().unwrap(), 443)?.0.as_str().to_owned())
    }

    #[test]
    fn exact_then_longest_wildcard_of_what_is_online() {
        let table = RouteTable::default();
        let exact = cloud(1, "https://api.a.example.com");
        table.put(cloud(2, "https://*.example.com"));
        table.put(cloud(3, "https://*.a.example.com"));
        table.put(exact.clone());
        let at = |host| found(&table, Scheme::Https, host);
        assert_eq!(at("api.a.example.com").as_deref(), Some("api.a.example.com"));
        assert_eq!(at("x.y.a.example.com").as_deref(), Some("*.a.example.com"));
        assert_eq!(at("b.example.com").as_deref(), Some("*.example.com"));
        assert_eq!(at("example.com"), None);
        assert_eq!(at("a.example.org"), None);
        table.remove(&exact);
        assert_eq!(at("api.a.example.com").as_deref(), Some("*.a.example.com"));
    }

    #[test]
    fn schemes_ports_and_namespaces_are_apart() {
        let table = RouteTable::default();
        table.put(cloud(1, "https://db.clinic1.internal"));
        table.put(cloud(2, "tls://db.example.com"));
        table.put(cloud(3, "https://db.example.com"));
        let account = crate::state::endpoint::fixture::account(1);
        let internal = |url: &str| table.internal(account, &url.parse().unwrap()).is_some();
        assert!(internal("https://db.clinic1.internal"));
        assert!(!internal("https://db.clinic1.internal:444"));
        assert!(!internal("http://db.clinic1.internal:443"));
        let other = crate::state::endpoint::fixture::account(9);
        assert!(table.internal(other, &"https://db.clinic1.internal".parse().unwrap()).is_none());
        assert_eq!(
            found(&table, Scheme::Https, "db.clinic1.internal"),
            None,
            "internal names are not public"
        );
        assert!(found(&table, Scheme::Tls, "db.example.com").is_some());
        assert!(found(&table, Scheme::Https, "db.example.com").is_some());
    }

    /// An agent's endpoint at another edge, to which there is no way yet.
    fn unreached(n: u8, url: &str) -> Arc<Endpoint> {
        let mut endpoint = Arc::into_inner(agent(n, url)).unwrap();
        if let Kind::Agent(agent) = &mut endpoint.kind {
            agent.session = Arc::new(SessionState::of_peer(agent.session.id, 1));
        }
        Arc::new(endpoint)
    }

    #[tokio::test(start_paused = true)]
    async fn visitors_wait_for_an_agent_that_is_on_its_way_back_and_not_for_others() {
        let before = RouteTable::default();
        before.put(agent(1, "https://a.example.com"));
        before.put(agent(2, "tcp://b.internal:1"));
        before.put(cloud(3, "https://c.example.com"));
        let places = before.places_of_agents(Instant::now());
        let text = serde_json::to_string(&places).unwrap();
        let places: BTreeSet<RouteKey> = serde_json::from_str(&text).unwrap();
        assert_eq!(places.len(), 2, "cloud endpoints come from the Program: {text}");
        let table = RouteTable::default();
        table.expect(places.clone(), Away::Restarted, Instant::now());
        assert_eq!(table.places_of_agents(Instant::now()), places, "a second crash forgets nothing");
        let waited = async |host: &str| {
            let began = Instant::now();
            table.returned(None, &[Scheme::Https, Scheme::Tls], &host.parse().unwrap(), 443).await;
            began.elapsed() > Duration::ZERO
        };
        assert!(!waited("c.example.com").await && !waited("nobody.example.com").await);
        // What another edge serves is not there before there is a way to that edge.
        table.put(unreached(1, "https://a.example.com"));
        assert!(waited("a.example.com").await);
        let back = async {
            sleep(Duration::from_millis(WAIT_MS_MAX / 2)).await;
            table.put(agent(1, "https://a.example.com"));
        };
        let began = Instant::now();
        let (has_waited, ()) = tokio::join!(waited("a.example.com"), back);
        assert!(has_waited && began.elapsed() < Duration::from_millis(WAIT_MS_MAX));
        assert!(!waited("a.example.com").await);
        let account = Some(crate::state::endpoint::fixture::account(1));
        let began = Instant::now();
        table.returned(account, &[Scheme::Tcp], &"b.internal".parse().unwrap(), 1).await;
        assert_eq!(began.elapsed(), Duration::from_millis(WAIT_MS_MAX), "and no longer");
        tokio::time::advance(Duration::from_secs(returning::RETURN_SECS_MAX)).await;
        let began = Instant::now();
        table.returned(account, &[Scheme::Tcp], &"b.internal".parse().unwrap(), 1).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(table.places_of_agents(Instant::now()).len(), 1);
        let told = RouteTable::default();
        told.expect(places, Away::HandedOver, Instant::now());
        let began = Instant::now();
        told.returned(account, &[Scheme::Tcp], &"b.internal".parse().unwrap(), 1).await;
        assert_eq!(
            began.elapsed(),
            Away::HandedOver.wait(),
            "agents that were told to come are waited for longer"
        );
    }

    #[test]
    fn sharing_a_url_takes_two() {
        let table = RouteTable::default();
        let alone = |n| {
            let mut endpoint = Arc::into_inner(agent(n, "tcp://a.internal:1")).unwrap();
            endpoint.pooling_enabled = false;
            Arc::new(endpoint)
        };
        let first = agent(1, "tcp://a.internal:1");
        table.bind(first.clone()).unwrap();
        table.bind(agent(2, "tcp://a.internal:1")).unwrap();
        assert_eq!(table.bind(alone(3)), Err(AlreadyOnline(first.id)));
        table.remove(&first);
        table.remove(&agent(2, "tcp://a.internal:1"));
        table.bind(alone(3)).unwrap();
        assert!(table.bind(agent(4, "tcp://a.internal:1")).is_err());
        table.bind(alone(3)).unwrap();
    }
}
