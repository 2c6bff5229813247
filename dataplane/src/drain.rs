//! The orderly end: nothing new, a bounded wait for requests in flight, then agents are asked to disconnect, then the shards
//! stop. Connections without a request in flight end at once. TCP and TLS connections, and those that have left HTTP, may
//! last for days and are not waited for.
//!
//! From the word to the agents on it is short on purpose: some agents' second attempt to come back is late (wire.md
//! section 7.2), so an edge that restarts must be gone and back before it.

use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep};

use crate::agents::Agents;
use crate::state::edge::{Edge, Stage};

/// Milliseconds agents get to close once they are asked to.
const ENDING_MS_MAX: u64 = 500;
/// Milliseconds other edges get to connect to the process that has taken over, before agents do.
const PEERS_MS_MAX: u64 = 3_000;
/// Milliseconds between looks at streams that may last for days.
const REST_LOOK_MS: u64 = 200;
/// Milliseconds between looks.
const LOOK_MS: u64 = 10;

/// Brings the edge to its end. `wait` is for requests in flight. No session stays any longer, also after a hand-over.
pub async fn drain(edge: &Arc<Edge>, agents: &Arc<Agents>, wait: Duration) {
    edge.enter(Stage::Draining);
    let (open, connected) = (&edge.metrics.http_connections_open, &edge.metrics.agent_connections_open);
    tracing::info!(http_connections = open.get(), "stopping: nothing new is accepted");
    wait_until(wait, || open.get() <= edge.metrics.http_tunnels_open.get()).await;
    agents.staying.end();
    edge.enter(Stage::Ending);
    tracing::info!(
        http_connections = open.get(),
        agents = connected.get(),
        "stopping: agents are told to go"
    );
    wait_until(Duration::from_millis(ENDING_MS_MAX), || connected.get() == 0).await;
    edge.enter(Stage::Stopped);
}

/// Ends what has begun, after another process has taken over: connections of HTTP and sessions that cannot be had twice get `wait`
/// at most, others have no limit. Agents are told first, so that visitors find them at the other process.
pub async fn hand_over(edge: &Arc<Edge>, agents: &Arc<Agents>, wait: Duration) {
    // Visitors of other edges find the agents where they go.
    wait_until(Duration::from_millis(PEERS_MS_MAX), || edge.peers.staying().get() == 0).await;
    agents.leave();
    let (open, http) = (&edge.metrics.connections_open, &edge.metrics.http_connections_open);
    tracing::info!(connections = open.get(), "another process serves; what has begun here goes on");
    let streams = || edge.peer_streams.used();
    let rests = || open.get() == 0 && agents.staying.count() == 0 && streams() == 0;
    wait_until(wait, rests).await;
    edge.enter(Stage::Draining);
    agents.staying.end();
    tracing::info!(connections = open.get(), http_connections = http.get(), "connections of HTTP end");
    while !rests() {
        sleep(Duration::from_millis(REST_LOOK_MS)).await;
    }
    edge.enter(Stage::Ending);
    wait_until(Duration::from_millis(ENDING_MS_MAX), || edge.metrics.agent_connections_open.get() == 0).await;
    edge.enter(Stage::Stopped);
}

async fn wait_until(limit: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() && Instant::now() < deadline {
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}
