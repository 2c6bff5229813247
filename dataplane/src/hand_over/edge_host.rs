//! The edge that hands over: what it has, and how it stops and goes on.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Duration, timeout};

use super::give::{Frozen, Host, Stopped};
use super::handed;
use super::message::Item;
use crate::agents::{Agents, newer};
use crate::feed::installer::Installer;
use crate::net::channel::Channel;
use crate::net::listen::Claim;
use crate::net::tls;
use crate::state::bound;
use crate::state::edge::Edge;
use crate::state::mailbox::Entrance;
use crate::state::saved::Saved;
use crate::xdp::XdpHandle;

/// Processes before this one that may still have streams or sessions when it is upgraded.
pub const OLDER_MAX: usize = 32;
/// Seconds until what is being written to the filter in the kernel is written.
const FILTER_SECS_MAX: u64 = 10;

/// A listener that no shard has.
pub struct Beside {
    /// Its name.
    pub name: &'static str,
    /// A copy of its socket.
    pub socket: TcpListener,
    /// The claim of its address.
    pub claim: Arc<Claim>,
}

/// An edge, and what of it only its process knows.
pub struct EdgeHost {
    /// What all shards share.
    pub edge: Arc<Edge>,
    /// The sessions of agents.
    pub agents: Arc<Agents>,
    /// Puts in force what control tells.
    pub installer: Arc<Mutex<Installer>>,
    /// Its directory.
    pub saved: Arc<Saved>,
    /// The filter in the kernel.
    pub xdp: Arc<XdpHandle>,
    /// Listeners that no shard has.
    pub beside: Vec<Beside>,
    /// Where upgrades are asked for.
    pub door: UnixListener,
    /// The runtime of everything that is no visitor's traffic.
    pub runtime: Handle,
    /// How far a hand-over has come.
    pub begun: Begun,
}

/// What a hand-over under way holds.
#[derive(Default)]
pub struct Begun {
    /// While this lives nothing that control tells is put in force.
    changing: Option<OwnedMutexGuard<()>>,
    sent: BTreeSet<u16>,
    passage: Option<UnixDatagram>,
    /// Whether the newer process takes the filter over.
    filter_rests: bool,
}

impl Host for EdgeHost {
    fn freeze(&mut self) -> io::Result<Frozen> {
        self.begun.changing = Some(self.runtime.block_on(Arc::clone(&self.edge.changing).lock_owned()));
        self.installer.lock().unwrap_or_else(PoisonError::into_inner).settle();
        let mut given = Vec::new();
        for listened in self.edge.mailboxes.listening.all()? {
            if let Entrance::Tcp { port, .. } = listened.entrance {
                self.begun.sent.insert(port);
            }
            given.extend(handed::listened(listened));
        }
        for beside in &self.beside {
            given.extend(handed::listener(beside.name, vec![beside.socket.try_clone()?], &beside.claim));
        }
        given.push((Item::named("door"), self.door.try_clone()?.into()));
        if let Some(lock) = self.saved.lock_copy()? {
            given.push((Item::named("directory"), lock.into()));
        }
        let (channel, own) = Channel::pair()?;
        newer::serve(&self.agents, own)?;
        given.push(handed::older(channel.into_fd()));
        given.extend(self.edge.older.copies()?.into_iter().map(handed::older));
        let mut quic_generation = 0;
        if let Some(quic) = self.edge.quic() {
            let generation = quic.port.generation();
            quic_generation = generation.wrapping_add(1);
            given.push((Item::named("quic"), quic.socket.try_clone()?.into()));
            let (reader, own) = ebbgate_tunnel::quic::passage()?;
            self.begun.passage = Some(own);
            given.push(handed::passage(generation, reader));
            given.extend(quic.port.older()?.into_iter().map(|(of, socket)| handed::passage(of, socket)));
        }
        let incarnation = Some(self.edge.peers.own().incarnation);
        Ok(Frozen { given, generation: self.edge.generation(), quic_generation, incarnation })
    }

    fn stop(&mut self, takes_filter: bool) -> io::Result<Stopped> {
        let mut given = Vec::new();
        if takes_filter {
            self.begun.filter_rests = true;
            let rest = async { timeout(Duration::from_secs(FILTER_SECS_MAX), self.xdp.rest()).await };
            let lock = self.runtime.block_on(rest).map_err(|_| {
                io::Error::other("lists are being written to the filter in the kernel; try again later")
            })?;
            given.extend(lock.map(handed::pins));
        }
        self.runtime.block_on(self.edge.gate.close());
        if let Some(quic) = self.edge.quic() {
            quic.port.pause();
        }
        let mut closed = self.begun.sent.clone();
        for listened in self.edge.mailboxes.listening.all()? {
            let Entrance::Tcp { port, .. } = listened.entrance else { continue };
            if !closed.remove(&port) {
                given.extend(handed::listened(listened));
            }
        }
        match tls::give_ticket_keys() {
            Ok(keys) => given.push(handed::ticket_keys(keys)),
            Err(error) => tracing::warn!(%error, "clients of HTTPS will not resume at the other process"),
        }
        bound::save(&self.edge, &self.saved.disk(), &self.saved.bound_file());
        self.edge.drains.save(&self.saved.disk(), &self.saved.drains_file());
        Ok(Stopped { given, closed: closed.into_iter().collect() })
    }

    fn resume(&mut self) {
        if let Some(quic) = self.edge.quic() {
            quic.port.resume();
        }
        self.edge.gate.open();
        if self.begun.filter_rests {
            self.xdp.resume();
        }
        self.begun = Begun::default();
    }
}

impl EdgeHost {
    /// Another process is the edge now: it has the directory and the filter in the kernel, and reads the UDP socket.
    pub fn leave(&mut self) {
        self.saved.leave();
        if self.begun.filter_rests {
            self.xdp.leave();
        }
        self.edge.older.leave();
        self.edge.ports().leave();
        self.installer.lock().unwrap_or_else(PoisonError::into_inner).leave();
        if let (Some(quic), Some(passage)) = (self.edge.quic(), self.begun.passage.take()) {
            quic.port.leave(passage);
        }
        self.begun = Begun::default();
    }
}
