//! The TCP ports this edge listens on beyond its fixed ones: those of reserved addresses, as programmed, and those lent
//! to agents that asked for any.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use ebbgate_model::Host;

use crate::net::listen::{self, Claim, ListenError, Listener};

/// Ports open now. The shards have the sockets.
#[derive(Debug)]
pub struct Ports {
    address: IpAddr,
    shards: usize,
    open: BTreeMap<u16, Open>,
    /// Reserved ports that could not be bound, and were reported.
    failed: BTreeMap<u16, Host>,
    /// Ports of the process before, which nobody has asked for again yet. Connections wait in their queues.
    handed: BTreeMap<u16, HandedPort>,
}

/// A port that the process before had.
#[derive(Debug)]
pub struct HandedPort {
    /// Its sockets.
    pub sockets: Vec<TcpListener>,
    /// The lock of its address.
    pub lock: Option<UnixListener>,
}

#[derive(Debug)]
struct Open {
    used: Use,
    host: Host,
    /// None: another process has the address.
    claim: Option<Arc<Claim>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Reserved,
    Lent,
}

/// What the shards are to do, one listener for each.
#[derive(Debug)]
pub enum PortChange {
    /// Accept here.
    Open {
        /// The host part of the address.
        host: Host,
        /// The port.
        port: u16,
        /// One socket per shard.
        listeners: Vec<Listener>,
    },
    /// Stop accepting here.
    Close {
        /// The port.
        port: u16,
    },
}

/// No port is free to lend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every port for random addresses is taken")]
pub struct NonePort;

impl Ports {
    /// Nothing open yet; ports will be bound on this address.
    pub fn new(address: IpAddr, shards: usize) -> Self {
        let (open, failed, handed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { address, shards, open, failed, handed }
    }

    /// Keeps ports of the process before for whoever asks for them.
    pub fn take_over(&mut self, handed: impl IntoIterator<Item = (u16, HandedPort)>) {
        self.handed.extend(handed);
    }

    /// Closes ports of the process before that nobody has asked for: these, or all.
    pub fn leave_handed(&mut self, these: Option<&[u16]>) {
        self.handed.retain(|port, _| these.is_some_and(|these| !these.contains(port)));
    }

    /// Opens and closes these ports of reserved addresses: each with the host part of its address, or None when it is
    /// reserved no longer. A port that cannot be bound is reported once, with the process that has it, and tried again by
    /// [`Ports::retry`]; it does not hold up the others.
    pub fn sync(
        &mut self,
        ports: impl IntoIterator<Item = (u16, Option<Host>)>,
    ) -> (Vec<PortChange>, Vec<ListenError>) {
        let (mut changes, mut errors, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (port, host) in ports {
            if let Some(host) = host {
                wanted.push((port, host));
                continue;
            }
            self.failed.remove(&port);
            if self.open.get(&port).is_some_and(|open| open.used == Use::Reserved) {
                changes.extend(self.close(port));
            }
        }
        for (port, host) in wanted {
            match self.open.get_mut(&port) {
                Some(open) => open.used = Use::Reserved,
                None => match self.bind(port, host.clone(), Use::Reserved) {
                    Ok(change) => {
                        self.failed.remove(&port);
                        changes.push(change);
                    }
                    Err(error) if self.failed.insert(port, host).is_none() => errors.push(error.named()),
                    Err(_) => {}
                },
            }
        }
        (changes, errors)
    }

    /// Tries again to bind reserved ports that were taken.
    pub fn retry(&mut self) -> (Vec<PortChange>, Vec<ListenError>) {
        let failed = self.failed.clone();
        self.sync(failed.into_iter().map(|(port, host)| (port, Some(host))))
    }

    /// Lends a port of the range: `wanted` if it is free (an agent coming back), otherwise any, tried from `start` on.
    pub fn lend(
        &mut self,
        range: RangeInclusive<u16>,
        host: &Host,
        wanted: Option<u16>,
        start: u64,
    ) -> Result<(u16, PortChange), NonePort> {
        if let Some(port) = wanted {
            let free = range.contains(&port).then(|| self.bind_free(port, host)).flatten();
            return free.map(|change| (port, change)).ok_or(NonePort);
        }
        let taken: Vec<u16> = self.handed.keys().copied().collect();
        let count = u64::from(range.end().saturating_sub(*range.start())) + 1;
        (0..count)
            .filter_map(|i| range.start().checked_add(u16::try_from((start % count + i) % count).ok()?))
            // Those are for agents that come back for them.
            .filter(|port| !taken.contains(port))
            .find_map(|port| Some((port, self.bind_free(port, host)?)))
            .ok_or(NonePort)
    }

    /// Takes a lent port back.
    pub fn give_back(&mut self, port: u16) -> Option<PortChange> {
        self.open.get(&port).filter(|open| open.used == Use::Lent)?;
        self.close(port)
    }

    /// The shards close its sockets in their own time; until then the port may be opened again from here only.
    fn close(&mut self, port: u16) -> Option<PortChange> {
        if let Some(claim) = self.open.remove(&port)?.claim {
            claim.release();
        }
        Some(PortChange::Close { port })
    }

    /// Another process has taken over: when that ends, the addresses are free.
    pub fn leave(&mut self) {
        self.handed.clear();
        self.open.values_mut().for_each(|open| open.claim = None);
    }

    /// The address ports are bound on.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Ports open now, with the host part of their endpoints.
    pub fn open(&self) -> impl Iterator<Item = (u16, &Host)> {
        self.open.iter().map(|(port, open)| (*port, &open.host))
    }

    fn bind_free(&mut self, port: u16, host: &Host) -> Option<PortChange> {
        if self.open.contains_key(&port) {
            return None;
        }
        self.bind(port, host.clone(), Use::Lent).ok()
    }

    fn bind(&mut self, port: u16, host: Host, used: Use) -> Result<PortChange, ListenError> {
        let name = format!("tcp://{host}:{port}");
        let address = SocketAddr::new(self.address, port);
        let (_, listeners) = match self.handed.remove(&port) {
            Some(HandedPort { sockets, lock }) => listen::adopt(&name, &sockets, lock, self.shards)
                .map_err(|source| ListenError::Bind { address, source })?,
            None => listen::bind(&name, address, self.shards)?,
        };
        if let Some(first) = listeners.first() {
            let claim = Some(Arc::clone(&first.claim));
            self.open.insert(port, Open { used, host: host.clone(), claim });
        }
        Ok(PortChange::Open { host, port, listeners })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn reserved(ports: &[u16]) -> Vec<(u16, Option<Host>)> {
        ports.iter().map(|port| (*port, Some("tcp.example.com".parse().unwrap()))).collect()
    }

    #[test]
    fn follows_what_is_reserved() {
        let mut ports = Ports::new("127.0.0.1".parse().unwrap(), 2);
        let (a, b) = (free_port(), free_port());
        let (opened, errors) = ports.sync(reserved(&[a, b]));
        assert!(errors.is_empty());
        assert!(
            matches!(&opened[..], [PortChange::Open { listeners, .. }, PortChange::Open { .. }] if listeners.len() == 2)
        );
        assert!(ports.sync(reserved(&[a, b])).0.is_empty());
        let (closed, _) = ports.sync([(a, None)]);
        assert!(matches!(&closed[..], [PortChange::Close { port }] if *port == a));
    }

    #[test]
    fn a_taken_port_does_not_hold_up_others() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ports = Ports::new("127.0.0.1".parse().unwrap(), 1);
        let wanted = reserved(&[taken.local_addr().unwrap().port(), free_port()]);
        let (opened, errors) = ports.sync(wanted.clone());
        assert_eq!((opened.len(), errors.len()), (1, 1));
        let message = errors[0].to_string();
        assert!(message.contains("for tcp://tcp.example.com:") && message.contains("process"), "{message}");
        assert!(ports.sync(wanted.clone()).1.is_empty() && ports.retry().1.is_empty(), "said once");
        drop((taken, opened));
        assert_eq!(ports.retry().0.len(), 1);
        assert!(ports.retry().0.is_empty());
    }

    #[test]
    fn a_port_that_is_a_listeners_of_this_edge_is_refused_by_its_name() {
        let (https, _sockets) = listen::bind("--https", "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let mut ports = Ports::new("0.0.0.0".parse().unwrap(), 2);
        let (opened, errors) = ports.sync(reserved(&[https.port()]));
        assert_eq!((opened.len(), errors.len()), (0, 1));
        assert!(errors[0].to_string().contains("--https of this edge"), "{}", errors[0]);
        let host: Host = "tcp.example.com".parse().unwrap();
        assert!(ports.lend(https.port()..=https.port(), &host, None, 0).is_err(), "nor is it lent");
    }

    #[test]
    fn a_port_given_back_is_lent_again_before_the_shards_have_closed_it() {
        let mut ports = Ports::new("127.0.0.1".parse().unwrap(), 2);
        let host: Host = "tcp.example.com".parse().unwrap();
        let only = free_port();
        let (_, _still_open) = ports.lend(only..=only, &host, None, 0).unwrap();
        ports.give_back(only).unwrap();
        assert!(ports.lend(only..=only, &host, Some(only), 0).is_ok());
    }

    #[test]
    fn a_port_of_the_process_before_waits_for_its_agent_and_is_lent_to_no_other() {
        let mut before = Ports::new("127.0.0.1".parse().unwrap(), 2);
        let host: Host = "tcp.example.com".parse().unwrap();
        let only = free_port();
        let (_, change) = before.lend(only..=only, &host, None, 0).unwrap();
        let PortChange::Open { listeners, .. } = change else { panic!("{change:?}") };
        let handed = || HandedPort {
            sockets: listeners.iter().map(|listener| listener.socket.try_clone().unwrap()).collect(),
            lock: None,
        };
        let mut after = Ports::new("127.0.0.1".parse().unwrap(), 1);
        after.take_over([(only, handed())]);
        assert!(after.lend(only..=only, &host, None, 0).is_err());
        let (_, change) = after.lend(only..=only, &host, Some(only), 0).unwrap();
        assert!(
            matches!(change, PortChange::Open { listeners, .. } if listeners.len() == 2),
            "each queue has a shard"
        );
        let mut after = Ports::new("127.0.0.1".parse().unwrap(), 1);
        after.take_over([(only, handed())]);
        let (opened, errors) = after.sync(reserved(&[only]));
        assert_eq!((opened.len(), errors.len()), (1, 0));
        let mut after = Ports::new("127.0.0.1".parse().unwrap(), 1);
        after.take_over([(only, handed())]);
        after.leave_handed(Some(&[]));
        assert!(after.handed.contains_key(&only));
        after.leave_handed(None);
        assert!(after.handed.is_empty());
    }

    #[test]
    fn lends_and_takes_back() {
        let mut ports = Ports::new("127.0.0.1".parse().unwrap(), 1);
        let host: Host = "tcp.example.com".parse().unwrap();
        let only = free_port();
        let (port, change) = ports.lend(only..=only, &host, None, 17).unwrap();
        assert_eq!(port, only);
        assert!(ports.lend(only..=only, &host, None, 0).is_err());
        assert!(ports.lend(only..=only, &host, Some(only), 0).is_err());
        assert!(ports.give_back(only).is_some() && ports.give_back(only).is_none());
        drop(change);
        assert!(ports.lend(only..=only, &host, Some(only), 0).is_ok());
    }
}
