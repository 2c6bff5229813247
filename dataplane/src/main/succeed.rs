//! Serves in the place of the process before, once that says so.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use ebbgate_edge::agents::{Agents, older};
use ebbgate_edge::feed::installer::Installer;
use ebbgate_edge::hand_over::handed::Handed;
use ebbgate_edge::hand_over::{Hand, upgrade};
use ebbgate_edge::net::tls;
use ebbgate_edge::state::bound;
use ebbgate_edge::state::route::returning::Away;
use ebbgate_edge::state::saved::Saved;
use ebbgate_edge::xdp::XdpHandle;
use ebbgate_model::Ksuid;
use tokio::task::spawn_blocking;

/// What the process before said of itself.
pub(super) struct Follows {
    /// Generation of the Program that it serves.
    pub(super) generation: u64,
    /// Generation for connection ids of QUIC.
    pub(super) quic_generation: u8,
    /// The edge's incarnation, if the process before said it: other edges keep the sessions that they know.
    pub(super) incarnation: Option<Ksuid>,
    /// What this process goes on with.
    pub(super) hand: Hand,
}

/// Says that this process is ready, and begins to serve at the word of the process before.
pub(super) async fn take_over(
    follows: Follows,
    mut handed: Handed,
    agents: &Arc<Agents>,
    installer: &Arc<Mutex<Installer>>,
    saved: &Arc<Saved>,
    xdp: &XdpHandle,
) -> Result<()> {
    let edge = agents.edge();
    let (theirs, ours) = (follows.generation, edge.generation());
    anyhow::ensure!(
        theirs == ours,
        "the directory holds generation {ours}, the process before serves {theirs}"
    );
    let channels = handed.older();
    for name in handed.names() {
        tracing::warn!(name, "the process before gave a socket of an unknown name; closing it");
    }
    drop(handed);
    let mut taken = spawn_blocking(move || follows.hand.ready()).await??;
    {
        let mut ports = edge.ports();
        ports.take_over(taken.late.ports());
        ports.leave_handed(Some(&taken.closed));
    }
    if let Some(keys) = taken.late.ticket_keys()
        && let Err(error) = tls::take_ticket_keys(keys)
    {
        tracing::warn!(%error, "the keys of session tickets did not come; clients of HTTPS do not resume");
    }
    older::meet(agents, channels).await;
    bound::expect(edge, &saved.bound_file(), Away::HandedOver);
    edge.drains.restore(&saved.drains_file());
    if let Some(quic) = edge.quic() {
        quic.port.resume();
    }
    edge.gate.open();
    let pins = taken.late.pins();
    spawn_blocking(move || taken.serving()).await??;
    // The process before is gone, or has left it.
    xdp.take_over(pins);
    let (own, saved) = (Arc::clone(installer), Arc::clone(saved));
    spawn_blocking(move || own.lock().unwrap_or_else(PoisonError::into_inner).own(&saved)).await?;
    tokio::spawn(upgrade::close_unclaimed(Arc::clone(edge)));
    Ok(())
}
