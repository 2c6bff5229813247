//! Raw cells, their medians and ranges, and what ran: one JSON file and the tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ebbgate_lab::figures::{Spread, load_average, machine, write_result};

use super::cell::{Cell, Report, Row};
use super::idle::IdleCell;
use super::load::{Kind, Load, Table};
use super::{plot, verdict};
use crate::meter::Latency;

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

    /// Sums up and writes `DIR/DATE-chain.json`, numbered when there is one already, with tables and picture beside it.
    pub(super) fn end(&mut self, dir: &Path) -> Result<PathBuf> {
        self.machine.insert("load average after".to_owned(), load_average()?.to_string());
        self.sum_up();
        let file = write_result(dir, "chain", self)?;
        self.write_beside(&file)?;
        Ok(file)
    }

    /// Tables and picture with the name of a result file.
    pub(super) fn write_beside(&self, file: &Path) -> Result<()> {
        fs::write(file.with_extension("md"), self.tables())?;
        Ok(fs::write(file.with_extension("svg"), plot::svg(self))?)
    }

    /// Everything for people, in Markdown. Writing to a String cannot fail.
    pub(super) fn tables(&self) -> String {
        let machine: Vec<String> =
            self.machine.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut out = format!("# Chains\n\n{}; {} s in all.\n", machine.join(", "), self.seconds);
        out += "\n## Goals\n\nRatios of medians, connections in brackets.\n\n";
        out += &verdict::goals(self);
        for table in Table::ALL {
            out += &self.table(table);
            out += &self.idle_table(table);
        }
        out +=
            "\n## Where the best of the others is better\n\nBy more than 15 %, next to the best of ours.\n\n";
        for line in verdict::losses(self) {
            let _ = writeln!(out, "- {line}");
        }
        out += "\n## What ran\n\n";
        for (table, name, note) in &self.chains {
            let _ = writeln!(out, "- {} `{name}`: {note}", format!("{table:?}").to_lowercase());
        }
        for line in self.loads.iter().chain(&self.versions) {
            let _ = writeln!(out, "- {line}");
        }
        for line in &self.skipped {
            let _ = writeln!(out, "- **not measured**: {}", line.lines().next().unwrap_or_default());
        }
        out
    }

    /// One table of loads. Writing to a String cannot fail.
    fn table(&self, table: Table) -> String {
        let rows: Vec<&Row> = self.summary.iter().filter(|row| row.load.table == table).collect();
        let mut out = String::new();
        if rows.is_empty() {
            return out;
        }
        let _ = writeln!(out, "\n## {}\n", table.title());
        out += "| load | conns | chain | CPU, median (range) | throughput | p50 us | p99 us |\n|---|---|---|---|---|---|---|\n";
        for row in rows {
            let bulk = row.load.kind == Kind::Bulk;
            let (cpu_digits, digits, unit) = if bulk { (3, 2, "GB/s") } else { (1, 0, "/s") };
            let unit_cpu = row.load.kind.unit();
            let cpu = row.cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.cpu_digits$} {unit_cpu}"));
            let late = |late: Option<Spread>| late.map_or("-".to_owned(), |late| format!("{late:.0}"));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {cpu} | {:.digits$} {unit} | {} | {} |",
                row.load.kind.title(),
                row.load.connections,
                row.chain,
                row.per_second,
                late(row.p50_us),
                late(row.p99_us)
            );
        }
        out
    }

    fn idle_table(&self, table: Table) -> String {
        let cells: Vec<&IdleCell> = self.idle.iter().filter(|cell| cell.table == table).collect();
        let mut out = String::new();
        if cells.is_empty() {
            return out;
        }
        out += "\n| silent | chain | RSS, KB each | CPU in silence, ms/s | CPU of a request beside them | p50 us | p99 us |\n|---|---|---|---|---|---|---|\n";
        for cell in cells {
            let each = cell.kb_each.map_or("-".to_owned(), |kb| format!("{kb:.2}"));
            let late = |late: Option<f64>| late.map_or("-".to_owned(), |late| format!("{late:.0}"));
            let _ = writeln!(
                out,
                "| {} | {} | {each} | {:.1} | {:.1} us | {} | {} |",
                cell.idle,
                cell.chain,
                cell.silence_cpu_ms_per_s,
                cell.request_cpu_us,
                late(cell.latency.map(|latency| latency.p50_us)),
                late(cell.latency.map(|latency| latency.p99_us))
            );
        }
        out
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
