//! Tells agents that can hold sessions at several edges which other edges there are; and that they are to leave, when this edge
//! is being drained. SDKs are told nothing.

use std::sync::Arc;

use ebbgate_model::feed::PeerEdge;
use ebbgate_tunnel::rpc_io::notify;
use ebbgate_wire::rpc::{ConnectAddress, Edges, StreamKind};
use tokio::time::{Duration, sleep, timeout};

use super::registry::Agents;
use super::session::{AgentSession, COMMAND_SECS_MAX};
use crate::state::edge::Stage;
use crate::state::peers::PeerList;
use crate::state::random;

/// Edges that one agent is told of.
const OTHERS_MAX: usize = 16;
/// Milliseconds between words to two agents: each word may bring another edge a handshake.
const PACE_MS: u64 = 5;

/// Edges where an agent may go, from a place in their order that is drawn for each agent, so that no edge gets all of them.
pub fn others(peers: &PeerList, drawn: u64) -> Vec<ConnectAddress> {
    let takes_agents = |peer: &&PeerEdge| !peer.draining && !peer.reach.agents.is_empty();
    let open: Vec<&PeerEdge> = peers.values().filter(takes_agents).collect();
    let Some(from) = u64::try_from(open.len()).ok().and_then(|count| drawn.checked_rem(count)) else {
        return Vec::new();
    };
    let (before, after) = open.split_at(usize::try_from(from).unwrap_or(0));
    let named =
        |peer: &&PeerEdge| ConnectAddress { region: String::new(), server_addr: peer.reach.agents.clone() };
    after.iter().chain(before).take(OTHERS_MAX).map(named).collect()
}

/// Tells every agent of each change, for ever; and to leave while this edge is drained or drains, if another takes agents.
pub async fn tell(agents: Arc<Agents>) {
    let edge = Arc::clone(agents.edge());
    let mut changes = edge.peers.changes();
    let mut draining = std::pin::pin!(edge.reached(Stage::Draining));
    let mut drained = edge.drained();
    let mut ends = false;
    loop {
        tokio::select! {
            () = &mut draining, if !ends => ends = true,
            is_there = drained.changed() => {
                if is_there.is_err() {
                    return;
                }
            }
            is_there = changes.changed() => {
                if is_there.is_err() {
                    return;
                }
            }
        }
        let peers = PeerList::clone(&changes.borrow_and_update());
        let leave = ends || *drained.borrow_and_update();
        for session in agents.sessions.all() {
            let connect_addresses = others(&peers, random::number());
            let leave = leave && !connect_addresses.is_empty();
            if session.several_edges {
                edge.background.spawn(say(session, Edges { connect_addresses, leave }));
                sleep(Duration::from_millis(PACE_MS)).await;
            }
        }
    }
}

async fn say(session: Arc<AgentSession>, notice: Edges) {
    let say = async {
        if let Ok(stream) = session.mux.open(StreamKind::Edges).await
            && let Err(error) = notify(stream, &notice).await
        {
            tracing::debug!(session = %session.state.id, %error, "an agent did not hear of the other edges");
        }
    };
    // An agent that does not listen knows the edges that it was told of before.
    let _ = timeout(Duration::from_secs(COMMAND_SECS_MAX), say).await;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ebbgate_model::feed::EdgeReach;
    use ebbgate_model::{EdgeId, Ksuid};

    use super::*;

    fn peers(count: u8, change: impl Fn(u8, &mut PeerEdge)) -> PeerList {
        let peer = |n: u8| {
            let edge = EdgeId::new(Ksuid::new(1_700_000_000, [n; 16]));
            let reach = EdgeReach { agents: format!("e{n}:443"), ..EdgeReach::default() };
            let mut peer = PeerEdge { edge, reach, draining: false };
            change(n, &mut peer);
            (edge, peer)
        };
        Arc::new((0..count).map(peer).collect::<BTreeMap<_, _>>())
    }

    fn named(peers: &PeerList, drawn: u64) -> String {
        others(peers, drawn).iter().map(|other| other.server_addr.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_agent_is_told_of_edges_from_a_place_of_its_own() {
        let three = peers(3, |_, _| {});
        assert_eq!(named(&three, 0), "e0:443 e1:443 e2:443");
        assert_eq!(named(&three, 7), "e1:443 e2:443 e0:443");
        assert_eq!(others(&peers(200, |_, _| {}), u64::MAX).len(), OTHERS_MAX);
        assert_eq!(named(&peers(0, |_, _| {}), 5), "");
    }

    #[test]
    fn edges_that_take_no_agents_are_not_named() {
        let some = peers(4, |n, peer| match n {
            1 => peer.draining = true,
            2 => peer.reach.agents.clear(),
            _ => {}
        });
        assert_eq!(named(&some, 0), "e0:443 e3:443");
    }
}
