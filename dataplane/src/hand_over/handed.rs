//! What a process was given by the one before it, by name.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::give::Given;
use super::message::Item;
use crate::net::channel::Channel;
use crate::net::listen::Claim;
use crate::state::listening::Listened;
use crate::state::mailbox::Entrance;
use crate::state::ports::HandedPort;

/// Name of the lock of an address.
const CLAIM: &str = "claim";
/// Name of a socket over which an older process gets its packets.
const PASSAGE: &str = "passage";
/// Name of a channel over which an older process is connected to.
const OLDER: &str = "older";
/// Name of a socket that holds the keys of session tickets.
const TICKET_KEYS: &str = "ticket_keys";
/// Name of the lock of the filter's pins.
const PINS: &str = "xdp_pins";
/// Name of a TCP port's sockets.
const TCP: &str = "tcp";

/// Descriptors of the process before. What nobody asks for is closed with this.
#[derive(Default)]
pub struct Handed(Vec<Given>);

/// The sockets of a listener, and the lock of their address.
pub type Sockets = (Vec<TcpListener>, Option<UnixListener>);

impl Handed {
    pub(super) fn keep(&mut self, given: impl Iterator<Item = Given>) {
        self.0.extend(given);
    }

    /// The sockets of the listener of this name, if there was one.
    pub fn listener(&mut self, name: &str) -> Option<Sockets> {
        let sockets: Vec<TcpListener> =
            self.take(|item| item.name == name).into_iter().map(|(_, fd)| fd.into()).collect();
        let lock =
            self.take(|item| item.name == CLAIM && item.port.is_none() && item.of.as_deref() == Some(name));
        (!sockets.is_empty()).then(|| (sockets, lock.into_iter().next().map(|(_, fd)| fd.into())))
    }

    /// The descriptor of this name.
    pub fn one(&mut self, name: &str) -> Option<OwnedFd> {
        self.take(|item| item.name == name).into_iter().next().map(|(_, fd)| fd)
    }

    /// The sockets of TCP ports.
    pub fn ports(&mut self) -> Vec<(u16, HandedPort)> {
        let mut ports: Vec<u16> =
            self.0.iter().filter(|(item, _)| item.name == TCP).filter_map(|(item, _)| item.port).collect();
        ports.dedup();
        ports.sort_unstable();
        ports.dedup();
        ports
            .into_iter()
            .map(|port| {
                let of = |name: &str, item: &Item| item.name == name && item.port == Some(port);
                let sockets = self.take(|item| of(TCP, item)).into_iter().map(|(_, fd)| fd.into()).collect();
                let lock = self.take(|item| of(CLAIM, item)).into_iter().next().map(|(_, fd)| fd.into());
                (port, HandedPort { sockets, lock })
            })
            .collect()
    }

    /// The ends of passages to older processes and their generations, newest first.
    pub fn passages(&mut self) -> Vec<(u8, UnixDatagram)> {
        let passages = self.take(|item| item.name == PASSAGE);
        passages.into_iter().filter_map(|(item, fd)| Some((item.generation?, fd.into()))).collect()
    }

    /// Channels over which older processes are connected to, newest first.
    pub fn older(&mut self) -> Vec<Channel> {
        self.take(|item| item.name == OLDER).into_iter().map(|(_, fd)| Channel::from_fd(fd)).collect()
    }

    /// The socket that holds the keys of session tickets.
    pub fn ticket_keys(&mut self) -> Option<UnixStream> {
        self.one(TICKET_KEYS).map(UnixStream::from)
    }

    /// The lock of the filter's pins.
    pub fn pins(&mut self) -> Option<File> {
        self.one(PINS).map(File::from)
    }

    /// Names of what nobody has asked for.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(item, _)| item.name.as_str()).collect()
    }

    fn take(&mut self, which: impl Fn(&Item) -> bool) -> Vec<Given> {
        self.0.extract_if(.., |(item, _)| which(item)).collect()
    }
}

/// A listener of this name, to be given.
pub fn listener(name: &str, sockets: Vec<TcpListener>, claim: &Claim) -> Vec<Given> {
    let lock =
        claim.lock_copy().map(|lock| (Item { of: Some(name.to_owned()), ..Item::named(CLAIM) }, lock.into()));
    sockets.into_iter().map(|socket| (Item::named(name), socket.into())).chain(lock).collect()
}

/// What shards listen on, to be given.
pub fn listened(listened: Listened) -> Vec<Given> {
    let Listened { entrance, sockets, claim } = listened;
    let Entrance::Tcp { host, port } = entrance else { return listener(entrance.name(), sockets, &claim) };
    let item = |name: &str| Item { host: Some(host.clone()), port: Some(port), ..Item::named(name) };
    let lock = claim.lock_copy().map(|lock| (item(CLAIM), lock.into()));
    sockets.into_iter().map(|socket| (item(TCP), socket.into())).chain(lock).collect()
}

/// An end of a passage for packets, to be given.
pub fn passage(generation: u8, socket: UnixDatagram) -> Given {
    (Item { generation: Some(generation), ..Item::named(PASSAGE) }, socket.into())
}

/// A channel over which an older process is connected to, to be given.
pub fn older(channel: OwnedFd) -> Given {
    (Item::named(OLDER), channel)
}

/// A socket that holds the keys of session tickets, to be given.
pub fn ticket_keys(socket: UnixStream) -> Given {
    (Item::named(TICKET_KEYS), socket.into())
}

/// The lock of the filter's pins, to be given.
pub fn pins(lock: File) -> Given {
    (Item::named(PINS), lock.into())
}
