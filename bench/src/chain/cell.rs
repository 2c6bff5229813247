//! What a run measured: cells, and the rows and tables that they make.

use std::collections::BTreeMap;

use anyhow::Result;
use ebbgate_lab::figures::{Spread, load_average};
use serde::{Deserialize, Serialize};

use super::idle::IdleCell;
use super::load::{Kind, Load, Table};
use crate::meter::{Latency, Sample};

const GIGABYTE: f64 = 1e9;
/// The load generator and the sink without anything between them.
pub(super) const DIRECT: &str = "direct";

/// One load through one chain in one round.
#[derive(Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) round: u32,
    pub(super) load: Load,
    pub(super) chain: String,
    pub(super) seconds: f64,
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) cpu_seconds: BTreeMap<String, f64>,
    pub(super) latency: Option<Latency>,
    pub(super) load_average: f64,
}

impl Cell {
    pub(super) fn new(round: u32, load: &Load, chain: &str, sample: &Sample) -> Result<Self> {
        Ok(Self {
            round,
            load: *load,
            chain: chain.to_owned(),
            seconds: sample.seconds,
            count: sample.moved.count,
            bytes: sample.moved.bytes,
            cpu_seconds: sample.cpu.iter().map(|(name, secs)| ((*name).to_owned(), *secs)).collect(),
            latency: sample.latency,
            load_average: load_average()?,
        })
    }

    /// Gigabytes, requests or connections.
    #[expect(clippy::cast_precision_loss, reason = "a bench's counts are far below 2^52")]
    pub(super) fn units(&self) -> f64 {
        if self.load.kind == Kind::Bulk { self.bytes as f64 / GIGABYTE } else { self.count as f64 }
    }
}

/// One load through one chain over all rounds.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) load: Load,
    pub(super) chain: String,
    /// Seconds for each gigabyte; microseconds for each request or connection. Absent without a process to charge.
    pub(super) cpu: Option<Spread>,
    /// Gigabytes, requests or connections in a second of wall clock.
    pub(super) per_second: Spread,
    pub(super) p50_us: Option<Spread>,
    pub(super) p99_us: Option<Spread>,
    pub(super) rounds: usize,
}

/// One run.
#[derive(Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) machine: BTreeMap<String, String>,
    pub(super) versions: Vec<String>,
    pub(super) seconds: u64,
    pub(super) loads: Vec<String>,
    /// Table, name, how it is set up.
    pub(super) chains: Vec<(Table, String, String)>,
    pub(super) skipped: Vec<String>,
    pub(super) summary: Vec<Row>,
    pub(super) idle: Vec<IdleCell>,
    pub(super) cells: Vec<Cell>,
}
