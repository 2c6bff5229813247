//! A shard's thread: its runtime, its listeners and its mailbox. Composes the rooms; only the process and tests import it.

mod accept;
mod balancer;
mod shared_port;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Duration;

use crate::agents::{Agents, peers, quic};
use crate::http::UpstreamPools;
use crate::http::limits::KEPT_UPSTREAM_SECS_MAX;
use crate::net::listen::{self, Listener};
use crate::net::ring::{self, Form};
use crate::state::edge::Stage;
use crate::state::mailbox::{Entrance, Message, QuicSocket};
use crate::state::shard::Shard;
use accept::Accepting;

/// Runs one shard until the edge stops. Call on a thread of its own.
pub fn run(
    index: usize,
    form: Form,
    agents: Arc<Agents>,
    mailbox: mpsc::Receiver<Message>,
) -> io::Result<()> {
    let stop = agents.edge().reached(Stage::Stopped);
    ring::run(index, form, async move {
        let shard = Shard::new(index, Arc::clone(agents.edge()));
        let kept = Duration::from_secs(KEPT_UPSTREAM_SECS_MAX);
        let upstreams = UpstreamPools::new(&shard.edge().metrics, kept);
        let mut listening = Listening { shard: shard.clone(), agents, upstreams, ports: HashMap::new() };
        tokio::select! {
            () = listening.read_mail(mailbox) => {}
            () = shard.dialer().sweep() => {}
            () = stop => {}
        }
    })
}

/// What a shard accepts.
struct Listening {
    shard: Shard,
    agents: Arc<Agents>,
    /// Connections to upstreams, shared by the clients of this shard.
    upstreams: UpstreamPools,
    /// Listeners of TCP ports, to be ended.
    ports: HashMap<u16, AbortHandle>,
}

impl Listening {
    /// Serves the mailbox for ever.
    async fn read_mail(&mut self, mut mailbox: mpsc::Receiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            match message {
                Message::Listen(entrance, listener) => self.listen(entrance, listener),
                Message::Quic(served) => self.listen_quic(*served),
                Message::Close(port) => {
                    if let Some(listener) = self.ports.remove(&port) {
                        listener.abort();
                    }
                }
                Message::Park(mut link) => {
                    if link.attach().is_ok() {
                        self.shard.dialer().park(*link);
                    }
                }
                Message::Peer(way) => drop(spawn_local(peers::keep(self.shard.clone(), way))),
                Message::Newer(stream) => {
                    spawn_local(peers::serve_newer(self.shard.clone(), Arc::clone(&self.agents), stream));
                }
                Message::EndLinks(session) => self.shard.dialer().end_links(session),
            }
        }
    }

    fn listen_quic(&self, served: QuicSocket) {
        let serving = quic::serve(self.shard.clone(), Arc::clone(&self.agents), served);
        spawn_local(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "agents cannot come over QUIC");
            }
        });
    }

    fn listen(&mut self, entrance: Entrance, listener: Listener) {
        let edge = Arc::clone(self.shard.edge());
        let over = edge.reached(Stage::HandedOver);
        let port = if let Entrance::Tcp { port, .. } = entrance { Some(port) } else { None };
        let accepting = Accepting {
            shard: self.shard.clone(),
            agents: Arc::clone(&self.agents),
            upstreams: self.upstreams.clone(),
            entrance,
        };
        let task = spawn_local(async move {
            let accept = listen::accept(listener, &edge.gate, |stream| accepting.begin(stream));
            tokio::select! {
                Err(error) = accept => {
                    tracing::error!(%error, entrance = ?accepting.entrance, "a listener failed");
                }
                () = over => {}
            }
        });
        if let Some(port) = port {
            self.ports.insert(port, task.abort_handle());
        }
    }
}
