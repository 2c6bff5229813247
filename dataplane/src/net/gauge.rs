//! Counts something in a gauge for as long as it exists.

use prometheus_client::metrics::gauge::Gauge;

/// One more in a gauge, until dropped.
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Counts one in.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
