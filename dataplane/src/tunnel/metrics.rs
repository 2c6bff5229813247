//! What this room counts. The registry is `state::metrics`'s; these are handles to it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// What carries a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CarrierLabel {
    /// `mux`, `link`, `raw` or `quic`.
    pub carrier: &'static str,
}

/// Handles to the counters of streams and links.
#[derive(Debug, Clone, Default)]
pub struct TunnelMetrics {
    /// Streams to agents opened, by what carries them.
    pub streams: Family<CarrierLabel, Counter>,
    /// Streams to agents that could not be opened.
    pub streams_failed: Counter,
    /// Links that wait for a claim.
    pub links_idle: Gauge,
    /// Claims of links that were not confirmed in time.
    pub claims_unconfirmed: Counter,
    /// Claims of raw connections to other edges that were not confirmed.
    pub peer_raw_unconfirmed: Counter,
    /// Sessions from which nothing is heard.
    pub sessions_silent: Gauge,
}
