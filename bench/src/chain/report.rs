//! Raw cells, their medians and ranges, and what ran: one JSON file. Knows nothing of how they are shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ebbgate_lab::figures::{Spread, load_average, machine, write_result};
use serde::{Deserialize, Serialize};

use super::idle::IdleCell;
use super::load::{Kind, Load, Table};
use crate::meter::{Latency, Sample};

/// The load generator and the sink without anything between them.
pub(super) const DIRECT: &str = "direct";
const GIGABYTE: f64 = 1e9;

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
    fn units(&self) -> f64 {
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

impl Report {
    /// Notes the machine before anything runs.
    pub(super) fn begin(root: &Path) -> Result<Self> {
        let machine = machine(root)?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Self { machine, ..Self::empty() })
    }

    /// Nothing was measured yet.
    pub(super) fn empty() -> Self {
        Self {
            machine: BTreeMap::new(),
            versions: Vec::new(),
            seconds: 0,
            loads: Vec::new(),
            chains: Vec::new(),
            skipped: Vec::new(),
            summary: Vec::new(),
            idle: Vec::new(),
            cells: Vec::new(),
        }
    }

    /// One that was written before.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let mut report: Self =
            serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        report.sum_up();
        Ok(report)
    }

    /// Notes, visibly, that something is not measured.
    pub(super) fn skip(&mut self, what: &str, error: &anyhow::Error) {
        let line = format!("{what}: {error:#}");
        eprintln!("NOT MEASURED: {line}");
        self.skipped.push(line);
    }

    /// Medians and ranges of all cells.
    pub(super) fn sum_up(&mut self) {
        self.summary = summary(&self.cells);
    }

    /// Sums up and writes `DIR/DATE-chain.json`, numbered when there is one already.
    pub(super) fn end(&mut self, dir: &Path) -> Result<PathBuf> {
        self.machine.insert("load average after".to_owned(), load_average()?.to_string());
        self.sum_up();
        write_result(dir, "chain", self)
    }

    /// The most rounds that a row has.
    pub(super) fn rounds(&self) -> usize {
        self.summary.iter().map(|row| row.rounds).max().unwrap_or(0)
    }

    /// A fact about the machine; empty where it is not known.
    pub(super) fn fact(&self, name: &str) -> &str {
        self.machine.get(name).map_or("", String::as_str)
    }
}

/// One row for each load and chain, in the order in which they were first measured.
fn summary(cells: &[Cell]) -> Vec<Row> {
    let mut keys: Vec<(Load, &str)> = Vec::new();
    for cell in cells {
        if !keys.contains(&(cell.load, &cell.chain)) {
            keys.push((cell.load, &cell.chain));
        }
    }
    let row = |(load, chain): (Load, &str)| {
        let cells: Vec<&Cell> =
            cells.iter().filter(|c| (c.load, c.chain.as_str()) == (load, chain)).collect();
        let factor = if load.kind == Kind::Bulk { 1.0 } else { 1e6 };
        let charged = cells.iter().filter(|cell| !cell.cpu_seconds.is_empty());
        let cpu =
            charged.map(|cell| cell.cpu_seconds.values().sum::<f64>() * factor / cell.units()).collect();
        let late = |of: fn(&Latency) -> f64| {
            Spread::of(cells.iter().filter_map(|cell| cell.latency.as_ref().map(of)).collect())
        };
        Some(Row {
            load,
            chain: chain.to_owned(),
            cpu: Spread::of(cpu),
            per_second: Spread::of(cells.iter().map(|cell| cell.units() / cell.seconds).collect())?,
            p50_us: late(|latency| latency.p50_us),
            p99_us: late(|latency| latency.p99_us),
            rounds: cells.len(),
        })
    };
    keys.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_charged_by_their_unit() {
        let cell = |kind, cpu| Cell {
            round: 1,
            load: Load { table: Table::Relay, kind, connections: 1, amount: 1 },
            chain: "ours".to_owned(),
            seconds: 2.0,
            count: 1_000,
            bytes: 500_000_000,
            cpu_seconds: BTreeMap::from([("edge".to_owned(), cpu), ("agent".to_owned(), cpu)]),
            latency: None,
            load_average: 0.0,
        };
        let rows = summary(&[cell(Kind::Bulk, 0.25), cell(Kind::Requests, 0.01), cell(Kind::Requests, 0.03)]);
        let medians: Vec<_> =
            rows.iter().map(|row| (row.cpu.as_ref().map(|cpu| cpu.median), row.per_second.median)).collect();
        let [bulk, requests] = medians.as_slice() else { panic!("{medians:?}") };
        assert_eq!(*bulk, (Some(1.0), 0.25));
        assert!(requests.0.is_some_and(|cpu| (cpu - 40.0).abs() < 1e-6), "{requests:?}");
    }
}
