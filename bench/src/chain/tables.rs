//! A run for people: every median with its range, in Markdown.

use std::fmt::Write as _;

use ebbgate_lab::figures::Spread;

use super::idle::IdleCell;
use super::load::{Kind, Table};
use super::losses;
use super::report::{Report, Row};

/// Everything for people, in Markdown. Writing to a String cannot fail.
pub(super) fn tables(report: &Report) -> String {
    let machine: Vec<String> = report.machine.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let mut out = format!("# Chains\n\n{}; {} s in all.\n", machine.join(", "), report.seconds);
    for table in Table::ALL {
        out += &loads(report, table);
        out += &silent(report, table);
    }
    out += "\n## Where the best of the others is better\n\nBy more than 15 %, next to the best of ours.\n\n";
    for line in losses::losses(report) {
        let _ = writeln!(out, "- {line}");
    }
    out += "\n## What ran\n\n";
    for (table, name, note) in &report.chains {
        let _ = writeln!(out, "- {} `{name}`: {note}", format!("{table:?}").to_lowercase());
    }
    for line in report.loads.iter().chain(&report.versions) {
        let _ = writeln!(out, "- {line}");
    }
    for line in &report.skipped {
        let _ = writeln!(out, "- **not measured**: {}", line.lines().next().unwrap_or_default());
    }
    out
}

/// One table of loads. Writing to a String cannot fail.
fn loads(report: &Report, table: Table) -> String {
    let rows: Vec<&Row> = report.summary.iter().filter(|row| row.load.table == table).collect();
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

fn silent(report: &Report, table: Table) -> String {
    let cells: Vec<&IdleCell> = report.idle.iter().filter(|cell| cell.table == table).collect();
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
