//! `Row`: what is measured with one number of endpoints. Knows neither how it is measured nor how it is shown.

use crate::meter::Latency;

/// What was measured with one number of endpoints.
pub(super) struct Row {
    pub(super) endpoints: usize,
    /// From the start of control to its answers.
    pub(super) control_start_ms: u128,
    /// From the start of control to the plan of all endpoints.
    pub(super) control_planned_ms: u128,
    pub(super) control_kb: u64,
    /// From the start of an edge without anything to its readiness.
    pub(super) sync_ms: u128,
    /// From the start of an edge that has everything on disk to its readiness.
    pub(super) edge_start_ms: u128,
    pub(super) edge_kb: u64,
    pub(super) live: Option<Latency>,
    pub(super) cpu: Cpu,
    /// Nanoseconds of a look-up: median and 99th percentile.
    pub(super) lookup: (u64, u64),
}

/// Processor milliseconds of one change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    pub(super) control_ms: f64,
    pub(super) edge_ms: f64,
}
