//! A soak's result: one JSON file and one table.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Result;
use ebbgate_lab::census::{Census, Held};
use ebbgate_lab::figures::{machine, write_result};
use serde::Serialize;

use super::engine::{Counts, Tally};
use super::plan::{Kind, Pattern};

/// One load on one way.
pub(super) struct Run {
    pub(super) way: &'static str,
    pub(super) kind: Kind,
    pub(super) seconds: f64,
    pub(super) tally: Tally,
    /// The most that each process was seen to hold meanwhile.
    pub(super) most: BTreeMap<String, Held>,
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.tally.sum();
        write!(
            f,
            "{} connections, {:.2} GB, {:.1} s ({:.0} /s, {:.2} GB/s), {} mismatches",
            sum.connections,
            sum.bytes as f64 / 1e9,
            self.seconds,
            sum.connections as f64 / self.seconds,
            sum.bytes as f64 / 1e9 / self.seconds,
            self.tally.mismatches()
        )
    }
}

#[derive(Serialize)]
struct Row {
    way: &'static str,
    kind: Kind,
    seconds: f64,
    mismatches: u64,
    sum: Counts,
    patterns: BTreeMap<Pattern, Counts>,
    failures: Vec<String>,
    most_held: BTreeMap<String, Held>,
}

/// One soak.
#[derive(Serialize)]
pub(super) struct Report {
    machine: BTreeMap<&'static str, String>,
    seed: u64,
    bytes: u64,
    connections: u64,
    mismatches: u64,
    leaks: Vec<String>,
    runs: Vec<Row>,
    /// In order of time: what was held before, after each load, and at the end.
    held: Vec<(String, Census)>,
    #[serde(skip)]
    shown: Vec<String>,
}

impl Report {
    /// Notes the machine before anything runs.
    pub(super) fn begin(root: &Path, seed: u64) -> Result<Self> {
        Ok(Self {
            machine: machine(root)?,
            seed,
            bytes: 0,
            connections: 0,
            mismatches: 0,
            leaks: Vec::new(),
            runs: Vec::new(),
            held: Vec::new(),
            shown: Vec::new(),
        })
    }

    pub(super) fn before(&mut self, census: &Census) {
        self.held.push(("before".to_owned(), census.clone()));
    }

    pub(super) fn between(&mut self, after: &str, census: Census) {
        self.held.push((format!("after {after}"), census));
    }

    pub(super) fn after(&mut self, census: Census, before: &Census) {
        self.leaks = census.leaks(before);
        self.held.push(("after".to_owned(), census));
    }

    pub(super) fn add(&mut self, run: Run) {
        let sum = run.tally.sum();
        self.shown.push(run.to_string());
        self.bytes += sum.bytes;
        self.connections += sum.connections;
        self.mismatches += run.tally.mismatches();
        self.runs.push(Row {
            way: run.way,
            kind: run.kind,
            seconds: run.seconds,
            mismatches: run.tally.mismatches(),
            sum,
            patterns: run.tally.patterns,
            failures: run.tally.failures,
            most_held: run.most,
        });
    }

    /// Neither a mismatch nor a leak.
    pub(super) fn is_clean(&self) -> bool {
        self.mismatches == 0 && self.leaks.is_empty()
    }

    /// Writes `DIR/DATE-soak.json`, numbered when there is one already.
    pub(super) fn end(&self, dir: &Path) -> Result<PathBuf> {
        write_result(dir, "soak", self)
    }

    /// The result for people, in Markdown.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    pub(super) fn table(&self) -> String {
        let machine: Vec<_> = self.machine.iter().map(|(key, value)| format!("{key} {value}")).collect();
        let mut out = format!("{}\n\n| way | load | result |\n|---|---|---|\n", machine.join(", "));
        for (row, shown) in self.runs.iter().zip(&self.shown) {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "| {} | {:?} | {shown} |", row.way, row.kind);
        }
        let _ = writeln!(out, "\n| process | before | most during | after |\n|---|---|---|---|");
        for name in self.held.first().iter().flat_map(|(_, census)| census.processes.keys()) {
            let at = |moment: Option<&(String, Census)>| {
                let held = moment.and_then(|(_, census)| census.processes.get(name));
                held.map_or_else(|| "-".to_owned(), Held::to_string)
            };
            let most = self.runs.iter().filter_map(|run| run.most_held.get(name).copied());
            let most = most.reduce(Held::most).map_or_else(|| "-".to_owned(), |held| held.to_string());
            let _ =
                writeln!(out, "| {name} | {} | {most} | {} |", at(self.held.first()), at(self.held.last()));
        }
        for run in &self.runs {
            for failure in &run.failures {
                let _ = writeln!(out, "\nmismatch on {}: {failure}", run.way);
            }
        }
        for leak in &self.leaks {
            let _ = writeln!(out, "\nleak: {leak}");
        }
        let _ = write!(
            out,
            "\nseed {}: {:.2} GB in {} connections compared, {} mismatches, {} leaks",
            self.seed,
            self.bytes as f64 / 1e9,
            self.connections,
            self.mismatches,
            self.leaks.len()
        );
        out
    }
}
