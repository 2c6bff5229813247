//! Messages to shards, and the entrances where they accept connections.

use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use ebbgate_model::TunnelSessionId;
use ebbgate_tunnel::quic::{Port, ServerKeys};
use tokio::sync::mpsc;

pub use super::entrance::Entrance;
use super::listening::ListeningCopies;
use crate::net::listen::Listener;
use crate::state::peers::PeerWay;
use crate::tunnel::dialer::IdleLink;

/// Messages waiting for one shard.
const MAILBOX_MAX: usize = 4096;

/// A message to a shard.
pub enum Message {
    /// Accept connections here.
    Listen(Entrance, Listener),
    /// Serve agents that come over QUIC.
    Quic(Box<QuicSocket>),
    /// Stop accepting on a port.
    Close(u16),
    /// Keep a link ready here.
    Park(Box<IdleLink>),
    /// Keep a connection to another edge open.
    Peer(Arc<PeerWay>),
    /// Serve visitors of the process of this edge that has taken over.
    Newer(UnixStream),
    /// A session has ended: end its links.
    EndLinks(TunnelSessionId),
}

/// A UDP socket for agents.
pub struct QuicSocket {
    /// The socket.
    pub socket: UdpSocket,
    /// What the server keeps over restarts.
    pub keys: ServerKeys,
    /// When the socket is read.
    pub port: Port,
}

/// The mailboxes of all shards, and copies of what they listen on.
#[derive(Default)]
pub struct Mailboxes {
    senders: OnceLock<Vec<mpsc::Sender<Message>>>,
    /// For a successor of this process.
    pub listening: ListeningCopies,
}

impl Mailboxes {
    /// Makes the mailboxes of the shards; once, before they start.
    pub fn open(&self, shards: usize) -> Vec<mpsc::Receiver<Message>> {
        let (senders, receivers) = (0..shards).map(|_| mpsc::channel(MAILBOX_MAX)).unzip();
        self.senders.get_or_init(|| senders);
        receivers
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.senders.get().map_or(0, Vec::len)
    }

    /// Leaves a message for a shard; gives it back when the shard is gone or its mailbox is full.
    pub fn send(&self, shard: usize, message: Message) -> Result<(), Message> {
        match self.senders.get().and_then(|all| all.get(shard)) {
            None => Err(message),
            Some(mailbox) => mailbox.try_send(message).map_err(|e| match e {
                mpsc::error::TrySendError::Full(m) | mpsc::error::TrySendError::Closed(m) => m,
            }),
        }
    }

    /// Gives every shard its socket of an entrance, and the first ones another if there are more.
    pub fn listen(&self, entrance: &Entrance, listeners: Vec<Listener>) {
        self.listening.note(entrance, &listeners);
        for (index, listener) in listeners.into_iter().enumerate() {
            let shard = index % self.shards().max(1);
            // Full only if the shard is stuck; then its share of the socket is closed and the others serve.
            if self.send(shard, Message::Listen(entrance.clone(), listener)).is_err() {
                tracing::error!(shard, ?entrance, "a shard does not take a listener");
            }
        }
    }

    /// Has every shard stop accepting on a port.
    pub fn close(&self, port: u16) {
        self.listening.forget(port);
        for shard in 0..self.shards() {
            if self.send(shard, Message::Close(port)).is_err() {
                tracing::error!(shard, port, "a shard does not close a port");
            }
        }
    }

    /// A session has ended: its links go on every shard. A shard that takes no message finds out by itself.
    pub fn end_links(&self, session: TunnelSessionId) {
        for shard in 0..self.shards() {
            let _ = self.send(shard, Message::EndLinks(session));
        }
    }
}
