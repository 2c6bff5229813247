//! What is kept of a run: for each table one Markdown file of medians, `DATE-TABLE.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::load::{Kind, Table};
use super::report::{DIRECT, Report, Row};

/// A column: its head, the kind of load, a figure of it, and digits behind the point.
type Column = (&'static str, Kind, fn(&Row) -> Option<f64>, usize);
const COLUMNS: [Column; 7] = [
    ("CPU s/GB", Kind::Bulk, |row| row.cpu.map(|cpu| cpu.median), 2),
    ("GB/s", Kind::Bulk, |row| Some(row.per_second.median), 2),
    ("CPU us/request", Kind::Requests, |row| row.cpu.map(|cpu| cpu.median), 1),
    ("requests/s", Kind::Requests, |row| Some(row.per_second.median), 0),
    ("p99 us", Kind::Requests, |row| row.p99_us.map(|late| late.median), 0),
    ("CPU us/connection", Kind::Connections, |row| row.cpu.map(|cpu| cpu.median), 0),
    ("connections/s", Kind::Connections, |row| Some(row.per_second.median), 0),
];

/// Writes the file of each table that was measured, over one of the same date; returns their paths.
pub(super) fn write(report: &Report, dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let mut files = Vec::new();
    for table in Table::ALL {
        if let Some(text) = medians(report, table) {
            let name = format!("{}-{table:?}.md", report.fact("date")).to_lowercase();
            let file = dir.join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            files.push(file);
        }
    }
    Ok(files)
}

/// Nothing of a table that was not measured.
fn medians(report: &Report, table: Table) -> Option<String> {
    let mut chains: Vec<&str> =
        report.summary.iter().filter(|row| row.load.table == table).map(|row| row.chain.as_str()).collect();
    chains.sort_unstable();
    chains.dedup();
    chains.retain(|chain| *chain != DIRECT);
    if chains.is_empty() {
        return None;
    }
    let connections: Vec<String> =
        connections(report, table).into_iter().map(|connections| connections.to_string()).collect();
    let machine: Vec<String> = report.machine.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let mut out = format!(
        "# {}\n\n{}. Medians of {} rounds at {} connections.\n\n| chain |",
        table.title(),
        machine.join(", "),
        report.rounds(),
        connections.join(" / ")
    );
    for (head, ..) in COLUMNS {
        // Writing to a String cannot fail, here and below.
        let _ = write!(out, " {head} |");
    }
    let _ = writeln!(out, " RSS KB/silent connection |\n|{}", "---|".repeat(COLUMNS.len() + 2));
    for chain in chains {
        let _ = write!(out, "| {chain} |");
        for column in COLUMNS {
            let _ = write!(out, " {} |", cell(report, table, chain, column));
        }
        let _ = writeln!(out, " {} |", memory(report, table, chain));
    }
    Some(out)
}

/// Numbers of connections of a table's loads, fewest first.
fn connections(report: &Report, table: Table) -> Vec<u32> {
    let rows = report.summary.iter().filter(|row| row.load.table == table);
    let mut all: Vec<u32> = rows.map(|row| row.load.connections).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// One figure at each number of connections.
fn cell(report: &Report, table: Table, chain: &str, (_, kind, figure, digits): Column) -> String {
    let at = |connections: u32| {
        let wanted = (table, kind, connections, chain);
        let is_it =
            |row: &&Row| (row.load.table, row.load.kind, row.load.connections, row.chain.as_str()) == wanted;
        let figure = report.summary.iter().find(is_it).and_then(figure);
        figure.map_or("-".to_owned(), |figure| format!("{figure:.digits$}"))
    };
    connections(report, table).into_iter().map(at).collect::<Vec<_>>().join(" / ")
}

/// At the most silent connections that were measured.
pub(super) fn memory(report: &Report, table: Table, chain: &str) -> String {
    let cells = report.idle.iter().filter(|cell| cell.table == table && cell.chain == chain);
    let most = cells.filter_map(|cell| Some((cell.idle, cell.kb_each?))).max_by_key(|(idle, _)| *idle);
    most.map_or("-".to_owned(), |(idle, kb)| format!("{kb:.1} (of {idle})"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::load::load;
    use super::super::report::Cell;
    use super::*;

    #[test]
    fn a_table_that_was_measured_has_a_file_with_a_line_for_each_chain() {
        let cell = |chain: &str, connections, cpu| Cell {
            round: 1,
            load: load(Table::Https, Kind::Requests, connections),
            chain: chain.to_owned(),
            seconds: 2.0,
            count: 1_000,
            bytes: 0,
            cpu_seconds: BTreeMap::from([("edge".to_owned(), cpu)]),
            latency: None,
            load_average: 0.0,
        };
        let mut report = Report::empty();
        report.machine.insert("date".to_owned(), "2026-01-02".to_owned());
        report.cells =
            vec![cell("ebbgate mux", 16, 0.02), cell("ebbgate mux", 1, 0.05), cell(DIRECT, 1, 0.01)];
        report.sum_up();
        let dir = tempfile::tempdir().unwrap();
        let files = write(&report, dir.path()).unwrap();
        assert_eq!(files, [dir.path().join("2026-01-02-https.md")]);
        let text = fs::read_to_string(&files[0]).unwrap();
        assert!(
            text.ends_with(
                "| ebbgate mux | - / - | - / - | 50.0 / 20.0 | 500 / 500 | - / - | - / - | - / - | - |\n"
            ),
            "{text}"
        );
    }
}
