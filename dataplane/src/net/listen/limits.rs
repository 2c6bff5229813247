//! How many connections may be open, in all and per source, so that one source cannot take what all need, and visitors
//! cannot take what agents need.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// Independent parts of the table of sources: shards accepting at once rarely meet on one.
const STRIPES: usize = 64;
/// One connection in so many is kept for agents.
const AGENTS_PART: usize = 8;

/// The kind of a peer. Connections of each kind are counted apart for each source: clients of a site do not keep out its agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// A client of an endpoint.
    Client,
    /// A peer on the agent listener, authenticated or not.
    Agent,
}

/// The limits, and the connections that are open.
#[derive(Debug)]
pub struct ConnLimits {
    total_max: usize,
    source_max: usize,
    total: AtomicUsize,
    sources: Box<[Mutex<Sources>]>,
}

type Sources = HashMap<(IpAddr, PeerKind), usize>;

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

impl ConnLimits {
    /// `total_max` connections in all, an eighth of them for agents alone; `source_max` visitors and as many agents from
    /// one IPv4 address or one IPv6 /64.
    pub fn new(total_max: usize, source_max: usize) -> Arc<Self> {
        let sources = (0..STRIPES).map(|_| Mutex::default()).collect();
        Arc::new(Self { total_max, source_max, total: AtomicUsize::new(0), sources })
    }

    /// Counts a connection from `peer` in, until the result is dropped.
    pub fn admit(self: &Arc<Self>, peer: IpAddr, kind: PeerKind) -> Result<ConnPermit, Refused> {
        let source = (source(peer), kind);
        let mut admitted = self.admit_balancer(kind)?;
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

    /// Counts a connection in that can be done without, by no source: only while half of all are free.
    pub fn admit_spare(self: &Arc<Self>) -> Result<ConnPermit, Refused> {
        self.admit_below(self.total_max / 2)
    }

    /// Counts a connection in that a trusted load balancer opened, by no source: all its clients' connections come from it.
    pub fn admit_balancer(self: &Arc<Self>, kind: PeerKind) -> Result<ConnPermit, Refused> {
        let kept = if kind == PeerKind::Agent { 0 } else { self.total_max / AGENTS_PART };
        self.admit_below(self.total_max - kept)
    }

    fn admit_below(self: &Arc<Self>, most: usize) -> Result<ConnPermit, Refused> {
        let room = |n: usize| (n < most).then_some(n + 1);
        self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map_err(|_| Refused::Total)?;
        Ok(ConnPermit { limits: Arc::clone(self), source: None })
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

/// Permission for one connection, given back on drop.
#[derive(Debug)]
pub struct ConnPermit {
    limits: Arc<ConnLimits>,
    source: Option<(IpAddr, PeerKind)>,
}

impl Drop for ConnPermit {
    fn drop(&mut self) {
        self.limits.total.fetch_sub(1, Ordering::Relaxed);
        let Some(source) = self.source else { return };
        let mut stripe = self.limits.stripe(source.0);
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
        let limits = ConnLimits::new(3, 2);
        let visit = |from| limits.admit(ip(from), PeerKind::Client);
        let a = visit("192.0.2.1").unwrap();
        let _b = visit("::ffff:192.0.2.1").unwrap();
        assert_eq!(visit("192.0.2.1").unwrap_err(), Refused::Source);
        let _c = visit("2001:db8::1").unwrap();
        assert_eq!(visit("192.0.2.9").unwrap_err(), Refused::Total);
        drop(a);
        assert_eq!(limits.total(), 2);
        let _d = visit("192.0.2.1").unwrap();
    }

    #[test]
    fn visitors_leave_room_for_agents() {
        let limits = ConnLimits::new(16, 10);
        let take = |from, kind| std::iter::from_fn(|| limits.admit(ip(from), kind).ok()).collect::<Vec<_>>();
        let visitors = [take("192.0.2.1", PeerKind::Client), take("192.0.2.2", PeerKind::Client)];
        assert_eq!(visitors.each_ref().map(Vec::len), [10, 4]);
        assert_eq!(take("192.0.2.3", PeerKind::Agent).len(), 2);
    }

    #[test]
    fn a_site_full_of_visitors_has_agents() {
        let limits = ConnLimits::new(16, 1);
        let _visitor = limits.admit(ip("192.0.2.1"), PeerKind::Client).unwrap();
        assert_eq!(limits.admit(ip("192.0.2.1"), PeerKind::Client).unwrap_err(), Refused::Source);
        let _agent = limits.admit(ip("192.0.2.1"), PeerKind::Agent).unwrap();
        assert_eq!(limits.admit(ip("192.0.2.1"), PeerKind::Agent).unwrap_err(), Refused::Source);
    }

    #[test]
    fn a_balancer_is_counted_in_all_and_by_no_source() {
        let limits = ConnLimits::new(16, 1);
        let all = std::iter::from_fn(|| limits.admit_balancer(PeerKind::Client).ok()).collect::<Vec<_>>();
        assert_eq!(all.len(), 14, "what is kept for agents is kept");
        assert!(limits.admit_balancer(PeerKind::Agent).is_ok());
        drop(all);
        assert_eq!(limits.total(), 0);
    }

    #[test]
    fn what_can_be_done_without_leaves_half_to_others() {
        let limits = ConnLimits::new(16, 1);
        let spare = std::iter::from_fn(|| limits.admit_spare().ok()).collect::<Vec<_>>();
        assert_eq!(spare.len(), 8);
        assert!(limits.admit(ip("192.0.2.1"), PeerKind::Client).is_ok());
        drop(spare);
        let _most = (0..8).map(|_| limits.admit_balancer(PeerKind::Client).unwrap()).collect::<Vec<_>>();
        assert_eq!(limits.admit_spare().unwrap_err(), Refused::Total);
    }

    #[test]
    fn a_slash_64_is_one_source_and_nothing_is_kept() {
        let limits = ConnLimits::new(9, 1);
        let visit = |from| limits.admit(ip(from), PeerKind::Client);
        let one = visit("2001:db8::1").unwrap();
        assert_eq!(visit("2001:db8::2").unwrap_err(), Refused::Source);
        assert!(visit("2001:db8:0:1::1").is_ok());
        drop(one);
        assert_eq!(limits.total(), 0);
        assert!(limits.sources.iter().all(|s| s.lock().unwrap().is_empty()));
    }
}
