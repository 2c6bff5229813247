//! Performs what policies ask for beyond their own data: fetches key sets, caches them, and keeps them off private
//! networks.

mod fetch;
mod guard;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::AccountId;
use ebbgate_policy::KeySet;
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

pub use fetch::{Call, FETCH_SECS_MAX, FetchError, Fetcher};
pub use guard::is_public;

use super::metrics::Metrics;

/// Seconds a key set is served without asking again.
const FRESH_SECS: u64 = 15 * 60;
/// Seconds after which a served key set is fetched anew behind the request's back.
const REFRESH_SECS: u64 = 10 * 60;
/// Seconds an old key set is still served when its source fails.
const STALE_SECS: u64 = 60 * 60;
/// Seconds within which a set is not fetched anew because a token names a key it lacks: any visitor can make such tokens.
const ANEW_SECS: u64 = 30;
/// Seconds a failure is remembered.
const FAILED_SECS: u64 = 15;
/// Key sets kept.
const KEY_SETS_MAX: usize = 1024;

type Place = (AccountId, String);
type Fetched = Option<Result<Arc<KeySet>, String>>;

/// The key sets of all accounts, apart from each other even when their URL is the same. Clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    fetcher: Arc<Fetcher>,
    /// Where fetches run.
    background: Handle,
    fetches: Counter,
    fetches_failed: Counter,
    cache: Mutex<HashMap<Place, Entry>>,
}

#[derive(Default)]
struct Entry {
    keys: Option<(Arc<KeySet>, Instant)>,
    failed: Option<(String, Instant)>,
    fetching: Option<watch::Receiver<Fetched>>,
    used: Option<Instant>,
}

enum Plan {
    Serve(Result<Arc<KeySet>, String>),
    Wait(watch::Receiver<Fetched>),
}

impl Keys {
    /// An empty cache. Fetches run on `background`, counted in `metrics`.
    pub fn new(fetcher: Arc<Fetcher>, background: Handle, metrics: &Metrics) -> Self {
        Self(Arc::new(Inner {
            fetcher,
            background,
            fetches: metrics.key_fetches.clone(),
            fetches_failed: metrics.key_fetches_failed.clone(),
            cache: Mutex::default(),
        }))
    }

    /// The key set at `url` for an account's policy, or a sentence on why not. One fetch at a time per URL and account.
    /// `fresh`: the cached set lacks a token's key, so one that is not brand new is fetched anew.
    pub async fn get(&self, account: AccountId, url: &str, fresh: bool) -> Result<Arc<KeySet>, String> {
        match self.plan(account, url, fresh) {
            Plan::Serve(result) => result,
            Plan::Wait(mut fetched) => match fetched.wait_for(Option::is_some).await {
                Ok(result) => result.clone().unwrap_or_else(|| Err("the fetch was given up".into())),
                Err(_) => Err("the fetch was given up".into()),
            },
        }
    }

    fn plan(&self, account: AccountId, url: &str, fresh: bool) -> Plan {
        let now = Instant::now();
        let place = (account, url.to_owned());
        let mut cache = self.cache();
        make_room(&mut cache, &place);
        let entry = cache.entry(place.clone()).or_default();
        entry.used = Some(now);
        let (served, fetch) =
            if fresh && entry.may_be_outdated(now) { (None, true) } else { entry.judge(now) };
        if fetch && entry.fetching.is_none() {
            let (done, fetching) = watch::channel(None);
            entry.fetching = Some(fetching);
            let fetch = Fetch { keys: self.clone(), place, done };
            self.0.background.spawn(fetch.perform());
        }
        match (served, &entry.fetching) {
            (Some(result), _) => Plan::Serve(result),
            (None, Some(fetching)) => Plan::Wait(fetching.clone()),
            (None, None) => Plan::Serve(Err("no fetch could be started".into())),
        }
    }

    async fn fetch(&self, place: &Place) -> Result<Arc<KeySet>, String> {
        self.0.fetches.inc();
        let fetching = self.0.fetcher.key_set(&place.1);
        let limit = Duration::from_secs(FETCH_SECS_MAX);
        let result = tokio::time::timeout(limit, fetching).await.unwrap_or(Err(FetchError::TimedOut));
        let result = result.map(Arc::new).map_err(|e| e.to_string());
        if let Err(error) = &result {
            self.0.fetches_failed.inc();
            tracing::warn!(account = %place.0, url = place.1, error, "a key set could not be fetched");
        }
        self.store_result(place, result)
    }

    /// Notes what a fetch brought, and gives what is served now: an old set while its source fails.
    fn store_result(
        &self,
        place: &Place,
        result: Result<Arc<KeySet>, String>,
    ) -> Result<Arc<KeySet>, String> {
        let now = Instant::now();
        let mut cache = self.cache();
        let Some(entry) = cache.get_mut(place) else { return result };
        match result {
            Ok(keys) => {
                entry.keys = Some((Arc::clone(&keys), now));
                entry.failed = None;
                Ok(keys)
            }
            Err(error) => {
                entry.failed = Some((error.clone(), now));
                match &entry.keys {
                    Some((keys, at)) if age(now, *at) < STALE_SECS => Ok(Arc::clone(keys)),
                    _ => Err(error),
                }
            }
        }
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<Place, Entry>> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fetch that is under way. Dropped, another one may begin, also where the task ends without a result; then those that wait are
/// told.
struct Fetch {
    keys: Keys,
    place: Place,
    done: watch::Sender<Fetched>,
}

impl Fetch {
    async fn perform(self) {
        let result = self.keys.fetch(&self.place).await;
        let done = self.done.clone();
        drop(self);
        done.send_replace(Some(result));
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(entry) = self.keys.cache().get_mut(&self.place) {
            entry.fetching = None;
        }
    }
}

impl Entry {
    /// Whether the set could have got another key since: not right after a fetch, nor while its source fails.
    fn may_be_outdated(&self, now: Instant) -> bool {
        let failing = self.failed.as_ref().is_some_and(|(_, at)| age(now, *at) < FAILED_SECS);
        !failing && self.keys.as_ref().is_none_or(|(_, at)| age(now, *at) >= ANEW_SECS)
    }

    /// What to serve at once, and whether to fetch.
    fn judge(&self, now: Instant) -> (Option<Result<Arc<KeySet>, String>>, bool) {
        let failing = self.failed.as_ref().filter(|(_, at)| age(now, *at) < FAILED_SECS);
        match &self.keys {
            Some((keys, at)) if age(now, *at) < REFRESH_SECS => (Some(Ok(Arc::clone(keys))), false),
            Some((keys, at)) if age(now, *at) < FRESH_SECS => (Some(Ok(Arc::clone(keys))), failing.is_none()),
            Some((keys, at)) if age(now, *at) < STALE_SECS && failing.is_some() => {
                (Some(Ok(Arc::clone(keys))), false)
            }
            _ => match failing {
                Some((error, _)) => (Some(Err(error.clone())), false),
                None => (None, true),
            },
        }
    }
}

fn age(now: Instant, then: Instant) -> u64 {
    now.saturating_duration_since(then).as_secs()
}

/// Forgets the set that was asked for longest ago, never one that is being fetched.
fn make_room(cache: &mut HashMap<Place, Entry>, place: &Place) {
    if cache.len() < KEY_SETS_MAX || cache.contains_key(place) {
        return;
    }
    let idle = cache.iter().filter(|(_, entry)| entry.fetching.is_none());
    if let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used).map(|(place, _)| place.clone()) {
        cache.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn freshness() {
        let keys = Arc::new(KeySet::default());
        let mut entry = Entry::default();
        let at = |secs| Instant::now() + Duration::from_secs(secs);
        assert!(matches!(entry.judge(at(0)), (None, true)));
        entry.keys = Some((Arc::clone(&keys), at(0)));
        assert!(matches!(entry.judge(at(REFRESH_SECS - 1)), (Some(Ok(_)), false)));
        assert!(matches!(entry.judge(at(REFRESH_SECS)), (Some(Ok(_)), true)));
        assert!(matches!(entry.judge(at(FRESH_SECS)), (None, true)));
        entry.failed = Some(("down".into(), at(FRESH_SECS)));
        assert!(
            matches!(entry.judge(at(FRESH_SECS + 1)), (Some(Ok(_)), false)),
            "old keys while the source is down"
        );
        assert!(
            matches!(entry.judge(at(FRESH_SECS + FAILED_SECS)), (None, true)),
            "asked again after a while"
        );
        entry.failed = Some(("down".into(), at(STALE_SECS)));
        assert!(matches!(entry.judge(at(STALE_SECS)), (Some(Err(_)), false)), "too old to be trusted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_is_fetched_anew_at_most_twice_a_minute() {
        let at = |secs| Instant::now() + Duration::from_secs(secs);
        let mut entry = Entry { keys: Some((Arc::default(), at(0))), ..Entry::default() };
        assert!(!entry.may_be_outdated(at(ANEW_SECS - 1)));
        assert!(entry.may_be_outdated(at(ANEW_SECS)));
        entry.failed = Some(("down".into(), at(ANEW_SECS)));
        assert!(!entry.may_be_outdated(at(ANEW_SECS + 1)));
        assert!(entry.may_be_outdated(at(ANEW_SECS + FAILED_SECS)));
    }

    #[test]
    fn a_fetch_whose_task_ends_without_a_result_lets_another_begin() {
        // One thread: a second one could see the closed connection as a failed fetch before the fetch is dropped.
        let background =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fetcher = Arc::new(Fetcher::new(None, true).unwrap());
        let keys = Keys::new(fetcher, background.handle().clone(), &Metrics::new());
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/jwks", silent.local_addr().unwrap());
        let account = crate::state::endpoint::fixture::account(1);
        let place = (account, url.clone());
        let Plan::Wait(mut outcome) = keys.plan(account, &url, false) else { panic!("nothing is cached") };
        let _asked = silent.accept().unwrap();
        assert!(keys.cache()[&place].fetching.is_some());
        // Drops the task where it waits, as a panic does.
        background.shutdown_background();
        let here = tokio::runtime::Runtime::new().unwrap();
        let waiting = async {
            tokio::time::timeout(Duration::from_secs(30), outcome.wait_for(Option::is_some))
                .await
                .map(|end| end.is_err())
        };
        assert_eq!(here.block_on(waiting), Ok(true), "given up");
        assert!(keys.cache()[&place].fetching.is_none(), "the next request fetches");
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = HashMap::new();
        for n in 0..KEY_SETS_MAX + 10 {
            let place = (crate::state::endpoint::fixture::account(1), n.to_string());
            make_room(&mut cache, &place);
            cache.insert(place, Entry::default());
        }
        assert_eq!(cache.len(), KEY_SETS_MAX);
    }
}
