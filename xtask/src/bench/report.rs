//! Raw cells, their medians and ranges, and the machine they come from: one JSON file and one table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::meter::Sample;
use super::{https, tcp};

/// The load generator and the sink without anything between them.
pub(super) const DIRECT: &str = "direct";
/// Edge and agent.
pub(super) const OURS: &str = "ebbgate";
/// HAProxy, one hop, two, and two with TLS between them.
pub(super) const HAPROXY: [&str; 3] = ["haproxy", "haproxy x2", "haproxy x2 tls"];
/// Files one day may have.
const FILES_PER_DAY_MAX: u32 = 100;
const GIGABYTE: f64 = 1e9;

/// One load through one chain in one round.
#[derive(Serialize)]
pub(super) struct Cell {
    round: u32,
    load: &'static str,
    chain: &'static str,
    seconds: f64,
    count: u64,
    bytes: u64,
    cpu_seconds: BTreeMap<&'static str, f64>,
    load_average: f64,
}

impl Cell {
    pub(super) fn new(round: u32, load: &'static str, chain: &'static str, sample: &Sample) -> Result<Self> {
        Ok(Self {
            round,
            load,
            chain,
            seconds: sample.seconds,
            count: sample.moved.count,
            bytes: sample.moved.bytes,
            cpu_seconds: sample.cpu.clone(),
            load_average: load_average()?,
        })
    }

    /// Gigabytes, requests or connections.
    #[expect(clippy::cast_precision_loss, reason = "a bench's counts are far below 2^52")]
    fn units(&self) -> f64 {
        if is_bulk(self.load) { self.bytes as f64 / GIGABYTE } else { self.count as f64 }
    }
}

fn is_bulk(load: &str) -> bool {
    load.ends_with("-bulk")
}

/// The middle and the ends of some measurements.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// `median (min-max)`, with the digits that the format asks for.
impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max)
    }
}

impl Spread {
    /// None of no values.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min: *values.first()?, max: *values.last()? })
    }
}

#[derive(Serialize)]
struct Row {
    load: &'static str,
    chain: &'static str,
    /// Seconds for each gigabyte; microseconds for each request or connection. Absent without a process to charge.
    cpu: Option<Spread>,
    cpu_unit: &'static str,
    /// Gigabytes, requests or connections in a second of wall clock.
    per_second: Spread,
    samples: usize,
}

/// One run.
#[derive(Serialize)]
pub(super) struct Report {
    date: String,
    commit: String,
    kernel: String,
    processors: usize,
    haproxy: String,
    load_average_before: f64,
    load_average_after: f64,
    loads: BTreeMap<&'static str, String>,
    summary: Vec<Row>,
    pub(super) cells: Vec<Cell>,
}

impl Report {
    /// Notes the machine before anything runs.
    pub(super) fn begin(root: &Path, haproxy: String) -> Result<Self> {
        Ok(Self {
            date: date()?,
            commit: commit(root)?,
            kernel: kernel()?,
            processors: std::thread::available_parallelism()?.get(),
            haproxy,
            load_average_before: load_average()?,
            load_average_after: 0.0,
            loads: tcp::describe().into_iter().chain(https::describe()).collect(),
            summary: Vec::new(),
            cells: Vec::new(),
        })
    }

    /// Sums up and writes `DIR/DATE-chain.json`, numbered when there is one already.
    pub(super) fn end(&mut self, dir: &Path) -> Result<PathBuf> {
        self.load_average_after = load_average()?;
        self.summary = summary(&self.cells);
        write_result(dir, "chain", self)
    }

    /// The summary for people, in Markdown.
    pub(super) fn table(&self) -> String {
        let mut out = format!(
            "commit {}, kernel {}, {} processors, load average {:.1} before and {:.1} after\n{}\n\n\
             | load | chain | CPU, median (range) | throughput, median (range) |\n|---|---|---|---|\n",
            self.commit,
            self.kernel,
            self.processors,
            self.load_average_before,
            self.load_average_after,
            self.haproxy,
        );
        for row in &self.summary {
            let bulk = is_bulk(row.load);
            let digits = if bulk { 2 } else { 0 };
            let cpu_digits = if bulk { 2 } else { 1 };
            let cpu = row.cpu.as_ref();
            let cpu = cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.cpu_digits$} {}", row.cpu_unit));
            let unit = if bulk { "GB/s" } else { "/s" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {cpu} | {:.digits$} {unit} |",
                row.load, row.chain, row.per_second
            );
        }
        out
    }
}

/// One row for each load and chain, in the order in which they were first measured.
fn summary(cells: &[Cell]) -> Vec<Row> {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for cell in cells {
        if !keys.contains(&(cell.load, cell.chain)) {
            keys.push((cell.load, cell.chain));
        }
    }
    let row = |(load, chain): (&'static str, &'static str)| {
        let cells: Vec<&Cell> = cells.iter().filter(|c| (c.load, c.chain) == (load, chain)).collect();
        let (factor, cpu_unit) = if is_bulk(load) { (1.0, "s/GB") } else { (1e6, "us") };
        let charged = cells.iter().filter(|cell| !cell.cpu_seconds.is_empty());
        let cpu =
            charged.map(|cell| cell.cpu_seconds.values().sum::<f64>() * factor / cell.units()).collect();
        let per_second = cells.iter().map(|cell| cell.units() / cell.seconds).collect();
        Some(Row {
            load,
            chain,
            cpu: Spread::of(cpu),
            cpu_unit,
            per_second: Spread::of(per_second)?,
            samples: cells.len(),
        })
    };
    keys.into_iter().filter_map(row).collect()
}

/// Writes a run as `DIR/DATE-KIND.json`, numbered when there is one already.
pub(crate) fn write_result(dir: &Path, kind: &str, run: &impl Serialize) -> Result<PathBuf> {
    let text = serde_json::to_string_pretty(run)? + "\n";
    fs::create_dir_all(dir)?;
    let date = date()?;
    for turn in 1..=FILES_PER_DAY_MAX {
        let number = if turn == 1 { String::new() } else { format!("-{turn}") };
        let path = dir.join(format!("{date}-{kind}{number}.json"));
        match File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes())?;
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("write {}", path.display())),
        }
    }
    bail!("{} holds {FILES_PER_DAY_MAX} results of today; move some away", dir.display())
}

/// What a run's figures depend on: date, commit, kernel, processors, load.
pub(crate) fn machine(root: &Path) -> Result<BTreeMap<&'static str, String>> {
    Ok(BTreeMap::from([
        ("date", date()?),
        ("commit", commit(root)?),
        ("kernel", kernel()?),
        ("processors", std::thread::available_parallelism()?.to_string()),
        ("load average before", load_average()?.to_string()),
    ]))
}

fn date() -> Result<String> {
    said(Command::new("date").args(["--utc", "+%Y-%m-%d"]))
}

fn commit(root: &Path) -> Result<String> {
    said(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(root))
}

fn kernel() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// The load average of the last minute.
pub(super) fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().with_context(|| format!("/proc/loadavg says {text}"))
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even_counts() {
        let check = |values: &[f64], expect: Option<Spread>| assert_eq!(Spread::of(values.to_vec()), expect);
        check(&[], None);
        check(&[2.0], Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
        check(&[3.0, 1.0, 9.0], Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        check(&[4.0, 1.0, 9.0, 2.0], Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn cells_are_charged_by_their_unit() {
        let cell = |load, cpu| Cell {
            round: 1,
            load,
            chain: OURS,
            seconds: 2.0,
            count: 1_000,
            bytes: 500_000_000,
            cpu_seconds: BTreeMap::from([("edge", cpu), ("agent", cpu)]),
            load_average: 0.0,
        };
        let rows = summary(&[cell("tcp-bulk", 0.25), cell("tcp-ping", 0.01), cell("tcp-ping", 0.03)]);
        let medians: Vec<_> =
            rows.iter().map(|row| (row.cpu.as_ref().map(|cpu| cpu.median), row.per_second.median)).collect();
        let [bulk, ping] = medians.as_slice() else { panic!("{medians:?}") };
        assert_eq!(*bulk, (Some(1.0), 0.25));
        assert!(ping.0.is_some_and(|cpu| (cpu - 40.0).abs() < 1e-6), "{ping:?}");
    }
}
