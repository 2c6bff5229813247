//! `Returning`: what agents had bound before the edge started, and may bind again any moment. Its visitors wait a little
//! instead of hearing that nothing is there.
//!
//! Pure: places, a deadline, and how many may wait. Does not know how it is kept on disk.

use std::collections::HashSet;
use std::sync::Arc;

use ebbgate_model::{AccountId, Host, Scheme};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use super::key::RouteKey;
use crate::net::wildcard::candidates;

/// Places remembered at most.
pub const PLACES_MAX: usize = 10_000;
/// Seconds after the start in which agents are expected back.
pub const RETURN_SECS_MAX: u64 = 60;
/// Milliseconds a visitor waits for an agent at most.
pub const WAIT_MS_MAX: u64 = 2_000;
/// Visitors that wait at once; one more hears at once that nothing is there.
pub const WAITING_MAX: usize = 1_024;
/// The same where agents were told to come by a process that has handed over: they are on their way, however busy all are.
pub const HANDED_OVER_WAIT_MS_MAX: u64 = 15_000;
/// See [`HANDED_OVER_WAIT_MS_MAX`].
pub const HANDED_OVER_WAITING_MAX: usize = 65_536;

/// Why agents are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// The edge has started again.
    Restarted,
    /// Another process of it has told them to come.
    HandedOver,
}

impl Away {
    /// How long a visitor waits at most.
    pub(super) fn wait(self) -> Duration {
        Duration::from_millis(match self {
            Self::Restarted => WAIT_MS_MAX,
            Self::HandedOver => HANDED_OVER_WAIT_MS_MAX,
        })
    }

    fn waiting_max(self) -> usize {
        match self {
            Self::Restarted => WAITING_MAX,
            Self::HandedOver => HANDED_OVER_WAITING_MAX,
        }
    }
}

/// See the module.
pub(super) struct Returning {
    places: HashSet<RouteKey>,
    until: Instant,
    pub(super) away: Away,
    room: Arc<Semaphore>,
}

impl Returning {
    /// These places, as many as are remembered, may come back from now on.
    pub(super) fn new(places: impl IntoIterator<Item = RouteKey>, away: Away, now: Instant) -> Self {
        Self {
            places: places.into_iter().take(PLACES_MAX).collect(),
            until: now + Duration::from_secs(RETURN_SECS_MAX),
            away,
            room: Arc::new(Semaphore::new(away.waiting_max())),
        }
    }

    /// Whether agents may still come back.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        now < self.until && !self.places.is_empty()
    }

    /// Places that may still come back.
    pub(super) fn places(&self, now: Instant) -> impl Iterator<Item = &RouteKey> {
        self.places.iter().filter(move |_| now < self.until)
    }

    /// Whether a host had a closer match than `found`, the name that matches now.
    pub(super) fn covers(
        &self,
        account: Option<AccountId>,
        scheme: Scheme,
        host: &Host,
        port: u16,
        found: Option<&Host>,
    ) -> bool {
        let closer = candidates(host).take_while(|name| Some(name) != found);
        closer
            .filter_map(|name| RouteKey::new(account, scheme, name, port))
            .any(|place| self.places.contains(&place))
    }

    /// Room to wait in. None: enough wait.
    pub(super) fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(account: Option<u8>, url: &str) -> RouteKey {
        RouteKey { account: account.map(crate::state::endpoint::fixture::account), url: url.parse().unwrap() }
    }

    #[test]
    fn a_place_is_waited_for_until_something_as_close_is_there_or_the_time_is_over() {
        let now = Instant::now();
        let returning = Returning::new(
            [
                place(None, "https://a.example.com"),
                place(None, "https://*.b.example.com"),
                place(Some(1), "tcp://x.internal:1"),
            ],
            Away::Restarted,
            now,
        );
        let covers = |scheme, host: &str, port, found: Option<&str>| {
            let found: Option<Host> = found.map(|name| name.parse().unwrap());
            returning.covers(None, scheme, &host.parse().unwrap(), port, found.as_ref())
        };
        assert!(covers(Scheme::Https, "a.example.com", 443, None));
        assert!(covers(Scheme::Https, "a.example.com", 443, Some("*.example.com")));
        assert!(!covers(Scheme::Https, "a.example.com", 443, Some("a.example.com")));
        assert!(covers(Scheme::Https, "x.b.example.com", 443, None));
        assert!(!covers(Scheme::Https, "c.example.com", 443, None), "nobody had it");
        assert!(!covers(Scheme::Tls, "a.example.com", 443, None));
        let account = Some(crate::state::endpoint::fixture::account(1));
        let internal =
            |account| returning.covers(account, Scheme::Tcp, &"x.internal".parse().unwrap(), 1, None);
        assert!(
            internal(account)
                && !internal(Some(crate::state::endpoint::fixture::account(2)))
                && !internal(None)
        );
        let over = now + Duration::from_secs(RETURN_SECS_MAX);
        assert!(returning.is_open(now) && !returning.is_open(over));
        assert_eq!((returning.places(now).count(), returning.places(over).count()), (3, 0));
    }

    #[test]
    fn places_and_visitors_that_wait_are_bounded() {
        let many = (0..=PLACES_MAX).map(|n| place(None, &format!("https://n{n}.example.com")));
        for (away, max) in [(Away::Restarted, WAITING_MAX), (Away::HandedOver, HANDED_OVER_WAITING_MAX)] {
            let returning = Returning::new(many.clone(), away, Instant::now());
            assert_eq!(returning.places(Instant::now()).count(), PLACES_MAX);
            let waiting: Vec<_> = std::iter::from_fn(|| returning.room()).collect();
            assert_eq!(waiting.len(), max);
            drop(waiting);
            assert!(returning.room().is_some());
        }
    }
}
