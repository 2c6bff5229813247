//! `cargo xtask bench xdp`: nanoseconds that the XDP program takes for a packet, by the kernel's own clock; root only. Knows
//! nothing of the program: `bench/src/bin/xdp-cost.rs` runs it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::figures::{Spread, machine, write_result};
use ebbgate_lab::program::is_root;
use ebbgate_lab::workspace;
use serde::{Deserialize, Serialize};

/// What the other program prints.
#[derive(Deserialize)]
struct Measured {
    what: String,
    entries: u32,
    source: String,
    ns: Vec<f64>,
}

#[derive(Serialize)]
struct Report {
    machine: BTreeMap<&'static str, String>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    what: String,
    entries: u32,
    /// `hot`: one packet over and over, mean of a round. `random`: another source each time, median of a round.
    source: String,
    /// Over the rounds.
    ns: Spread,
}

/// Measures, writes the result and prints it.
pub(super) fn run() -> Result<()> {
    ensure!(is_root(), "running an XDP program needs root");
    let root = workspace::root();
    let machine = machine(root)?;
    let mut program = Command::new("cargo");
    program.args(["run", "--quiet", "--locked", "--package", "ebbgate-bench", "--bin", "xdp-cost"]);
    let output = program.current_dir(root).stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "xdp-cost failed ({})", output.status);
    let measured: Vec<Measured> =
        serde_json::from_slice(&output.stdout).context("read what xdp-cost says")?;
    let row =
        |Measured { what, entries, source, ns }| Some(Row { what, entries, source, ns: Spread::of(ns)? });
    let report = Report { machine, rows: measured.into_iter().filter_map(row).collect() };
    let file = write_result(&workspace::target_dir()?.join("bench"), "xdp", &report)?;
    println!("{}\n{}", table(&report), workspace::shown(&file));
    Ok(())
}

/// One row for each packet and kind of source, one column for each size of the list.
fn table(report: &Report) -> String {
    let mut sizes: Vec<u32> = report.rows.iter().map(|row| row.entries).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for row in &report.rows {
        let kind = (row.what.as_str(), row.source.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let mut out = String::new();
    for (name, value) in &report.machine {
        // Writing to a String cannot fail.
        let _ = write!(out, "{name} {value}; ");
    }
    let _ = write!(out, "ns, median (range)\n\n| packet | source |");
    for size in &sizes {
        let _ = write!(out, " {size} entries |");
    }
    let _ = writeln!(out, "\n|---|---|{}", "---|".repeat(sizes.len()));
    for (what, source) in kinds {
        let _ = write!(out, "| {what} | {source} |");
        for size in &sizes {
            let row = report
                .rows
                .iter()
                .find(|row| (row.what.as_str(), row.source.as_str(), row.entries) == (what, source, *size));
            let _ = match row {
                Some(row) => write!(out, " {:.0} |", row.ns),
                None => write!(out, " - |"),
            };
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_columns() {
        let row = |what: &str, entries, ns: &[f64]| Row {
            what: what.to_owned(),
            entries,
            source: "hot".to_owned(),
            ns: Spread::of(ns.to_vec()).unwrap(),
        };
        let rows = vec![row("pass", 10, &[1.0, 2.0, 4.0]), row("drop", 10, &[7.0]), row("pass", 100, &[9.0])];
        let table = table(&Report { machine: BTreeMap::new(), rows });
        let expect = "ns, median (range)\n\n| packet | source | 10 entries | 100 entries |\n|---|---|---|---|\n\
                      | pass | hot | 2 (1-4) | 9 (9-9) |\n| drop | hot | 7 (7-7) | - |\n";
        assert_eq!(table, expect);
    }
}
