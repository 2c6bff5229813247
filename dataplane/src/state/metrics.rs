//! Counters and gauges of the edge, in OpenMetrics. Names carry no names of accounts, endpoints or visitors.

use std::sync::atomic::AtomicU64;

use ebbgate_model::event::NotEnforced;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use crate::net::gauge::GaugeGuard;
pub use crate::tunnel::metrics::CarrierLabel;

/// Which listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    /// `http`, `tls`, `tcp`, `connect`, `peers` or `quic`.
    pub listener: &'static str,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    /// Published error code, or "none".
    pub code: String,
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One word of a fixed set.
    pub reason: &'static str,
}

/// What joins two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JoinedLabel {
    /// `spliced` or `copied`.
    pub joined: &'static str,
}

/// Class of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    /// `2xx` and so on; `dropped` without an answer.
    pub status: &'static str,
}

/// What a policy that is not enforced came to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NotEnforcedLabel {
    /// `on_tcp_connect` and so on.
    pub phase: String,
    /// `continue`, `forward`, `respond`, `close`, `fail` or `unknown`.
    pub outcome: String,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $field:ident: $kind:ty = $name:literal, $help:literal;)*) => {
        /// All metrics. Clones of a metric share its value.
        #[derive(Default)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $doc])* pub $field: $kind,)*
        }

        impl Metrics {
            /// All at zero.
            pub fn new() -> Self {
                let mut metrics = Self::default();
                let registry = metrics.registry.sub_registry_with_prefix("ebbgate_edge");
                $(registry.register($name, $help, metrics.$field.clone());)*
                metrics
            }
        }
    };
}

metrics! {
    /// Connections accepted.
    connections: Family<ListenerLabel, Counter> = "connections", "Connections accepted";
    /// Connections open.
    connections_open: Gauge = "connections_open", "Connections open";
    /// HTTP connections open.
    http_connections_open: Gauge = "http_connections_open", "HTTP connections open";
    /// HTTP connections that have left HTTP.
    http_tunnels_open: Gauge = "http_tunnels_open", "HTTP connections that have left HTTP, as WebSockets do";
    /// Agents' connections open, authenticated or not.
    agent_connections_open: Gauge = "agent_connections_open", "Connections of agents open, authenticated or not";
    /// QUIC connections attached to sessions that run elsewhere.
    quic_attached: Gauge = "agent_quic_attached", "QUIC connections attached to agent sessions that run elsewhere";
    /// QUIC connections that went on under another address.
    quic_migrations: Counter = "agent_quic_migrations", "QUIC connections of agents that went on under another address";
    /// QUIC connections from which nothing is heard.
    quic_silent: Gauge = "agent_quic_silent", "QUIC connections of agents from which nothing is heard";
    /// Sources asked to prove their address before a QUIC handshake.
    quic_retries: Counter = "agent_quic_retries", "Sources asked to prove their address before a QUIC handshake";
    /// Connections closed at once because a cap was reached.
    connections_refused: Counter = "connections_refused", "Connections closed at once because a cap was reached";
    /// Address databases that changed and were at fault.
    address_databases_refused: Counter = "address_databases_refused", "Address databases that changed and were at fault, so that the one before stayed in use";
    /// Connections closed at once because the blocklist names their source.
    connections_blocked: Counter = "connections_blocked", "Connections closed at once because the blocklist names their source";
    /// PROXY headers of load balancers that were taken.
    proxy_headers: Counter = "proxy_protocol_headers", "PROXY headers of load balancers that were taken";
    /// Connections closed for the lack of a PROXY header, or for one that is not believed.
    proxy_headers_refused: Family<ReasonLabel, Counter> = "proxy_protocol_refused", "Connections closed because a load balancer sent no good PROXY header in time (missing, malformed, slow), or another peer came in the place of one (stranger)";
    /// Connections ended, by error code.
    connections_ended: Family<CodeLabel, Counter> = "connections_ended", "Connections ended, by error code";
    /// Bytes received from visitors.
    bytes_received: Counter = "visitor_received_bytes", "Bytes received from visitors";
    /// Bytes sent to visitors.
    bytes_sent: Counter = "visitor_sent_bytes", "Bytes sent to visitors";
    /// Requests answered, by class of status.
    requests: Family<StatusLabel, Counter> = "requests", "Requests answered, by class of status";
    /// TLS handshakes that failed, visitors' and agents'.
    handshakes_failed: Counter = "tls_handshakes_failed", "TLS handshakes that failed";
    /// Agent sessions online.
    sessions: Gauge = "agent_sessions", "Agent sessions online";
    /// Connections to other edges, for visitors of this one.
    peer_ways_open: Gauge = "peer_ways", "Connections to other edges, for visitors of this one";
    /// Endpoints of other edges' agents that are served here.
    peer_endpoints: Gauge = "peer_endpoints", "Endpoints of other edges' agents that are served here";
    /// Connections of other edges, for agents of this one.
    peer_connections_open: Gauge = "peer_connections_open", "Connections of other edges, for agents of this one";
    /// Connections of edges that were refused.
    peers_refused: Counter = "peers_refused", "Connections of edges refused: their certificate, TLS, or control does not name them";
    /// Streams of other edges that were refused.
    peer_streams_refused: Counter = "peer_streams_refused", "Streams of other edges that are not served here";
    /// Raw connections to other edges that wait for a visitor.
    peer_raw_idle: Gauge = "peer_raw_idle", "Raw connections to other edges that wait for a visitor";
    /// Claims of raw connections that were not confirmed; their visitors went over the mux.
    peer_raw_unconfirmed: Counter = "peer_raw_unconfirmed", "Visitors that went over the mux because a raw connection to another edge was not confirmed";
    /// Raw connections of other edges, proven.
    peer_raw_connections_open: Gauge = "peer_raw_connections_open", "Raw connections of other edges, idle or in use";
    /// Streams of other edges on raw connections, by what joins them to their agents.
    peer_raw_streams: Family<JoinedLabel, Counter> = "peer_raw_streams", "Streams of other edges on raw connections, by how they go on to their agents (spliced, copied)";
    /// Raw connections of other edges that were refused.
    peer_raw_refused: Counter = "peer_raw_refused", "Raw connections at the listener for edges that were refused: not proven in time, too many, or a bad claim";
    /// Agent sessions from which nothing is heard.
    sessions_silent: Gauge = "agent_sessions_silent", "Agent sessions from which nothing is heard";
    /// Agent endpoints online.
    agent_endpoints: Gauge = "agent_endpoints", "Agent endpoints online";
    /// Handshakes of agents that began.
    agent_handshakes: Counter = "agent_handshakes", "Handshakes of agents' sessions that began";
    /// Handshakes of agents that wait for their turn.
    agent_handshakes_waiting: Gauge = "agent_handshakes_waiting", "Handshakes of agents' sessions that wait for their turn";
    /// Handshakes of agents for which there was no turn.
    agent_handshakes_refused: Counter = "agent_handshakes_refused", "Handshakes of agents' sessions refused because as many as may be were under way or waiting";
    /// Authentications of agents refused.
    auth_failed: Counter = "agent_auth_failed", "Authentications of agents refused";
    /// Binds refused.
    binds_refused: Counter = "agent_binds_refused", "Binds refused";
    /// Streams to agents, by what carries them.
    streams: Family<CarrierLabel, Counter> = "agent_streams", "Streams to agents opened, by what carries them";
    /// Agents' links, in use or not.
    links: Gauge = "agent_links", "Links of agents open, in use or not";
    /// Agents' links that wait for a visitor.
    links_idle: Gauge = "agent_links_idle", "Links of agents that wait for a visitor";
    /// Links refused, or closed for what they did.
    links_refused: Counter = "agent_links_refused", "Links of agents refused at their hello";
    /// Claims of links that no agent confirmed in time, and whose visitors were sent another way.
    claims_unconfirmed: Counter = "agent_claims_unconfirmed", "Claims of links that were not confirmed in time and went another way";
    /// Streams to agents that could not be opened.
    streams_failed: Counter = "agent_streams_failed", "Streams to agents that could not be opened";
    /// Upstream connections opened for HTTP requests.
    upstream_connections_opened: Counter = "upstream_connections_opened", "Connections to upstreams opened for HTTP requests";
    /// HTTP requests sent on an upstream connection that had carried another one.
    upstream_connections_reused: Counter = "upstream_connections_reused", "HTTP requests sent on a connection to an upstream that had carried another one";
    /// Upstream connections that wait for an HTTP request.
    upstream_connections_idle: Gauge = "upstream_connections_idle", "Connections to upstreams that wait for an HTTP request";
    /// Connections and requests tried again on another member of a pool.
    retries: Counter = "pool_retries", "Connections and requests tried again on another member of a pool";
    /// Requests over the quota of a `rate-limit` action, enforced or not.
    rate_limited: Counter = "requests_over_quota", "Requests over the quota of a rate-limit action, enforced or not";
    /// Phases of policies that are not enforced, by what they came to.
    not_enforced: Family<NotEnforcedLabel, Counter> = "policy_phases_not_enforced", "Phases of policies with enforce: false, by what they came to";
    /// Messages that the Core Rule Set judged.
    waf_judged: Counter = "waf_judged", "Requests and responses that the Core Rule Set judged";
    /// Messages that reached its threshold, refused or not.
    waf_denied: Counter = "waf_denied", "Requests and responses that reached the threshold of the Core Rule Set, refused or not";
    /// Messages that could not be judged.
    waf_failed: Counter = "waf_failed", "Requests and responses that the Core Rule Set could not judge";
    /// Processes that run the Core Rule Set.
    waf_workers: Gauge = "waf_workers", "Processes that run the Core Rule Set and take questions";
    /// Processes that ended or were killed.
    waf_workers_lost: Counter = "waf_workers_lost", "Processes of the Core Rule Set that ended, or were killed because they did not answer in time";
    /// Changes of the Core Rule Set's files that were at fault.
    waf_rules_refused: Counter = "waf_rules_refused", "Changes of the Core Rule Set's files that were at fault, so that the rules before stayed in use";
    /// Circuits of `circuit-breaker` actions that opened.
    circuits_opened: Counter = "circuits_opened", "Circuits of circuit-breaker actions opened";
    /// Requests that met an open circuit, enforced or not.
    circuit_refusals: Counter = "requests_at_open_circuits", "Requests that met an open circuit, enforced or not";
    /// Requests with a password from addresses that had guessed wrong too often.
    guesses_refused: Counter = "guesses_refused", "Requests with a password from addresses that had guessed wrong too often";
    /// Requests of policies that were not made, because as many as may be were on their way.
    calls_refused: Counter = "policy_calls_refused", "Requests of policies not made, because as many as may be were on their way";
    /// Bodies that were not held for a policy, because as many bytes as may be were.
    bodies_refused: Counter = "policy_bodies_refused", "Bodies not held for a policy, because as many bytes as may be were held";
    /// Memory of changed bodies' decoders and encoders.
    coder_bytes: Gauge = "policy_coder_bytes", "Memory of the decoders and encoders of bodies that policies change";
    /// Bodies that were not changed, because that memory was used up.
    coders_refused: Counter = "policy_coders_refused", "Bodies not compressed or not changed for a policy, because as much memory as may be was used for others";
    /// Agents' endpoints that are set aside because their upstream refused.
    endpoints_aside: Gauge = "agent_endpoints_set_aside", "Endpoints of agents set aside because the agent could not reach its upstream";
    /// Agents' endpoints with checks that fail.
    endpoints_unhealthy: Gauge = "agent_endpoints_unhealthy", "Endpoints of agents that get no work because the agent's checks of their upstreams fail";
    /// Agents' endpoints that are drained.
    endpoints_drained: Gauge = "agent_endpoints_drained", "Endpoints of agents that get no work because an operator drains them";
    /// Agents' endpoints that are ejected.
    endpoints_ejected: Gauge = "agent_endpoints_ejected", "Endpoints of agents that get no work because they answered too many requests in a row with errors";
    /// Ejections.
    ejections: Counter = "agent_endpoint_ejections", "Endpoints of agents ejected because they answered too many requests in a row with errors";
    /// Endpoints that were to be ejected and were not.
    ejections_held: Counter = "agent_endpoint_ejections_held_back", "Endpoints of agents not ejected because so much of their pool may be and no more";
    /// Generation in force.
    generation: Gauge = "program_generation", "Generation of the program in force";
    /// Generations refused.
    programs_refused: Counter = "programs_refused", "Generations with objects that could not be used as they were told";
    /// Objects of the program in force that cannot be served and are closed.
    objects_unserved: Gauge = "program_objects_unserved", "Objects that cannot be served as they were told: the version before is in use, or they are closed";
    /// Whether the feed from control is open.
    feed_connected: Gauge = "feed_connected", "Whether the feed from control is open";
    /// Whether the disk takes no writes.
    disk_unwritable: Gauge = "disk_unwritable", "1 while the disk that holds the edge's files takes no writes";
    /// Events lost because control was away.
    events_dropped: Counter<u64, AtomicU64> = "events_dropped", "Events lost because control was away";
    /// Lines of connections and requests lost because whoever reads the log did not keep up.
    log_lines_lost: Counter = "log_lines_lost", "Lines of connections and requests lost because whoever reads the log did not keep up";
    /// Refused connections and requests that had no line of their own.
    refusals_summed: Counter = "refusals_summed", "Refused connections and requests that are in the log as a sum only";
    /// Fetches of key sets.
    key_fetches: Counter = "jwks_fetches", "Fetches of key sets";
    /// Fetches of key sets that failed.
    key_fetches_failed: Counter = "jwks_fetches_failed", "Fetches of key sets that failed";
    /// Counter.
    provider_requests: Counter = "identity_provider_requests", "Requests to identity providers, and for certificates of webhook senders";
    /// Counter.
    provider_requests_failed: Counter = "identity_provider_requests_failed", "Those of these requests that had no answer";
}

impl Metrics {
    /// Adds metrics that are gathered when asked for.
    pub fn collect(&mut self, collector: Box<dyn Collector>) {
        self.registry.sub_registry_with_prefix("ebbgate_edge").register_collector(collector);
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

impl NotEnforcedLabel {
    /// Of what was told.
    pub fn of(told: &NotEnforced) -> Self {
        Self { phase: told.phase.clone(), outcome: told.outcome.clone() }
    }
}

impl StatusLabel {
    /// The class of a status; 0 is a dropped request.
    pub fn of(status: u16) -> Self {
        let status = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "dropped",
        };
        Self { status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_open_metrics() {
        let metrics = Metrics::new();
        metrics.connections.get_or_create(&ListenerLabel { listener: "tcp" }).inc();
        metrics.requests.get_or_create(&StatusLabel::of(204)).inc();
        let text = metrics.text();
        for line in [
            "ebbgate_edge_connections_total{listener=\"tcp\"} 1",
            "ebbgate_edge_requests_total{status=\"2xx\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        let text = ebbgate_telemetry::Exposition::Prometheus.write(text);
        assert_eq!(ebbgate_telemetry::exposition::defects(&text), Vec::<String>::new());
    }
}
