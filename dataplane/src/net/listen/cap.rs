//! How many connections may be open, in all and per source, so that one source cannot take what all need, and visitors
//! cannot take what agents need.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use crate::shared::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// Independent parts of the table of sources: shards accepting at once rarely meet on one.
const STRIPES: usize = 64;
/// One connection in so many is kept for agents.
const AGENTS_PART: usize = 8;

/// Who comes: their connections are counted apart for each source, so that agents come in beside visitors of one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comer {
    /// To an endpoint.
    Visitor,
    /// To the agent listener, authenticated or not.
    Agent,
}

/// The table of open connections.
#[derive(Debug)]
pub struct Caps {
    total_max: usize,
    source_max: usize,
    total: AtomicUsize,
    sources: Box<[Mutex<Sources>]>,
}

type Sources = HashMap<(IpAddr, Comer), usize>;

/// Why a connection is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The edge is full.
    #[error("the edge has as many connections as it may")]
    Total,
    /// The source has enough.
    #[error("the source has as many connections as it may")]
    Source,
}

impl Caps {
    /// `total_max` connections in all, an eighth of them for agents alone; `source_max` visitors and as many agents from
    /// one IPv4 address or one IPv6 /64.
    pub fn new(total_max: usize, source_max: usize) -> Arc<Self> {
        let sources = (0..STRIPES).map(|_| Mutex::default()).collect();
        Arc::new(Self { total_max, source_max, total: AtomicUsize::new(0), sources })
    }

    /// Counts a connection from `peer` in, until the result is dropped.
    pub fn admit(self: &Arc<Self>, peer: IpAddr, comer: Comer) -> Result<Admitted, Refused> {
        let source = (source(peer), comer);
        let kept = if comer == Comer::Agent { 0 } else { self.total_max / AGENTS_PART };
        let room = |n: usize| (n < self.total_max - kept).then_some(n + 1);
        self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map_err(|_| Refused::Total)?;
        let mut admitted = Admitted { caps: Arc::clone(self), source: None };
        let mut stripe = self.stripe(source.0);
        let count = stripe.entry(source).or_insert(0);
        if *count >= self.source_max {
            return Err(Refused::Source);
        }
        *count += 1;
        drop(stripe);
        admitted.source = Some(source);
        Ok(admitted)
    }

    /// Connections open now.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn stripe(&self, source: IpAddr) -> MutexGuard<'_, Sources> {
        let low = match source {
            IpAddr::V4(ip) => ip.octets().iter().fold(0, |all, part| all * 31 + usize::from(*part)),
            IpAddr::V6(ip) => ip.segments().iter().take(4).fold(0, |all, part| all * 31 + usize::from(*part)),
        };
        let stripe = self.sources.get(low % STRIPES).expect("a remainder of STRIPES indexes STRIPES stripes");
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection that counts.
#[derive(Debug)]
pub struct Admitted {
    caps: Arc<Caps>,
    source: Option<(IpAddr, Comer)>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.caps.total.fetch_sub(1, Ordering::Relaxed);
        let Some(source) = self.source else { return };
        let mut stripe = self.caps.stripe(source.0);
        if let Some(count) = stripe.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                stripe.remove(&source);
            }
        }
    }
}

/// What counts as one source: a site with IPv6 has a whole /64 of addresses.
pub(crate) fn source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        IpAddr::V4(ip) => IpAddr::V4(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn caps_hold_and_give_back() {
        let caps = Caps::new(3, 2);
        let visit = |from| caps.admit(ip(from), Comer::Visitor);
        let a = visit("192.0.2.1").unwrap();
        let _b = visit("::ffff:192.0.2.1").unwrap();
        assert_eq!(visit("192.0.2.1").unwrap_err(), Refused::Source);
        let _c = visit("2001:db8::1").unwrap();
        assert_eq!(visit("192.0.2.9").unwrap_err(), Refused::Total);
        drop(a);
        assert_eq!(caps.total(), 2);
        let _d = visit("192.0.2.1").unwrap();
    }

    #[test]
    fn visitors_leave_room_for_agents() {
        let caps = Caps::new(16, 10);
        let take = |from, comer| std::iter::from_fn(|| caps.admit(ip(from), comer).ok()).collect::<Vec<_>>();
        let visitors = [take("192.0.2.1", Comer::Visitor), take("192.0.2.2", Comer::Visitor)];
        assert_eq!(visitors.each_ref().map(Vec::len), [10, 4]);
        assert_eq!(take("192.0.2.3", Comer::Agent).len(), 2);
    }

    #[test]
    fn a_site_full_of_visitors_has_agents() {
        let caps = Caps::new(16, 1);
        let _visitor = caps.admit(ip("192.0.2.1"), Comer::Visitor).unwrap();
        assert_eq!(caps.admit(ip("192.0.2.1"), Comer::Visitor).unwrap_err(), Refused::Source);
        let _agent = caps.admit(ip("192.0.2.1"), Comer::Agent).unwrap();
        assert_eq!(caps.admit(ip("192.0.2.1"), Comer::Agent).unwrap_err(), Refused::Source);
    }

    #[test]
    fn a_slash_64_is_one_source_and_nothing_is_kept() {
        let caps = Caps::new(9, 1);
        let visit = |from| caps.admit(ip(from), Comer::Visitor);
        let one = visit("2001:db8::1").unwrap();
        assert_eq!(visit("2001:db8::2").unwrap_err(), Refused::Source);
        assert!(visit("2001:db8:0:1::1").is_ok());
        drop(one);
        assert_eq!(caps.total(), 0);
        assert!(caps.sources.iter().all(|s| s.lock().unwrap().is_empty()));
    }
}
