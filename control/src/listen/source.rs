//! Connections open from each source, so that one source cannot take what all need. Knows no sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use ebbgate_model::canonical_ip;

/// How many connections each source has open.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// Counts a connection in; None: its source has enough.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Counted> {
        let source = source_of(peer);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.entry(source).or_insert(0);
        if *open >= SOURCE_CONNECTIONS_MAX {
            return None;
        }
        *open += 1;
        Some(Counted { sources: Arc::clone(self), source })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&self.source) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.source);
            }
        }
    }
}

/// One IPv4 address or one IPv6 /64.
pub(crate) fn source_of(peer: IpAddr) -> IpAddr {
    match canonical_ip(peer) {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// Of these, from one source: one IPv4 address or one IPv6 /64.
pub(super) const SOURCE_CONNECTIONS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_counted_apart_and_forgotten() {
        let sources = Arc::new(Sources::default());
        let admit = |peer: &str| sources.admit(peer.parse().unwrap());
        let open: Vec<_> = (0..SOURCE_CONNECTIONS_MAX).map(|_| admit("2001:db8::1").unwrap()).collect();
        assert!(admit("2001:db8::2").is_none() && admit("2001:db8:0:1::1").is_some());
        assert!(admit("203.0.113.9").is_some());
        drop(open);
        assert!(admit("2001:db8::2").is_some());
        assert!(sources.0.lock().unwrap().is_empty());
    }
}
