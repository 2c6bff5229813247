//! Counts something in a gauge for as long as it exists.

use prometheus_client::metrics::gauge::Gauge;

/// One more in a gauge, until dropped.
pub struct Open(Gauge);

impl Open {
    /// Counts one in.
    pub fn count(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
