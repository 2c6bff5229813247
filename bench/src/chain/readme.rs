//! The short form of a run for the README: medians in one table for each comparison, the goals, and where the rest is.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cell::{DIRECT, Report, Row};
use super::load::{Kind, Table};
use super::verdict;

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Puts a run's tables between the markers of a file.
pub(super) fn write(readme: &Path, report: &Report, result: &str) -> Result<()> {
    let text = fs::read_to_string(readme).with_context(|| format!("read {}", readme.display()))?;
    let place = format!("{} has no {BEGIN} with {END} after it", readme.display());
    let text = between(&text, &section(report, result)).context(place)?;
    fs::write(readme, text).with_context(|| format!("write {}", readme.display()))
}

fn between(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

fn section(report: &Report, result: &str) -> String {
    let machine = |name: &str| report.machine.get(name).cloned().unwrap_or_default();
    let plain = result.strip_suffix(".json").unwrap_or(result);
    let rounds = report.summary.iter().map(|row| row.rounds).max().unwrap_or(0);
    let mut out = format!(
        "{}, kernel {}, {} processors, commit {}; medians of {rounds} rounds, each column at 1 / 16 / 256 connections. Ranges, throughput and \
         latency: [tables]({plain}.md), [figures]({result}), [picture]({plain}.svg).\n",
        machine("date"),
        machine("kernel"),
        machine("processors"),
        machine("commit"),
    );
    for table in Table::ALL {
        out += &short(report, table);
    }
    out += "\nGoals set before, as ratios of medians; connections in brackets:\n\n";
    out += &verdict::goals(report);
    out
}

/// One line for each chain. Writing to a String cannot fail.
fn short(report: &Report, table: Table) -> String {
    let mut chains: Vec<&str> = Vec::new();
    for row in report.summary.iter().filter(|row| row.load.table == table && row.chain != DIRECT) {
        if !chains.contains(&row.chain.as_str()) {
            chains.push(&row.chain);
        }
    }
    let mut out = String::new();
    if chains.is_empty() {
        return out;
    }
    chains.sort_unstable();
    let _ = writeln!(
        out,
        "\n**{}**\n\n| | CPU s/GB | CPU us/request | CPU us/connection | RSS KB/silent connection |\n|---|---|---|---|---|",
        table.title()
    );
    for chain in chains {
        let cells = Kind::IN_ROUNDS.map(|kind| figures(report, table, kind, chain)).join(" | ");
        let memory = report.idle.iter().filter(|cell| cell.table == table && cell.chain == chain);
        let memory = memory.filter_map(|cell| Some((cell.idle, cell.kb_each?))).max_by_key(|(idle, _)| *idle);
        let memory = memory.map_or("-".to_owned(), |(idle, kb)| format!("{kb:.1} (of {idle})"));
        let _ = writeln!(out, "| {chain} | {cells} | {memory} |");
    }
    out
}

fn figures(report: &Report, table: Table, kind: Kind, chain: &str) -> String {
    let is_it = |row: &&Row| {
        (row.load.table, row.load.kind, row.chain.as_str()) == (table, kind, chain) && row.cpu.is_some()
    };
    let mut rows: Vec<&Row> = report.summary.iter().filter(is_it).collect();
    rows.sort_by_key(|row| row.load.connections);
    let digits = if kind == Kind::Bulk { 2 } else { 0 };
    let medians = rows.iter().filter_map(|row| row.cpu).map(|cpu| format!("{:.digits$}", cpu.median));
    let said = medians.collect::<Vec<_>>().join(" / ");
    if said.is_empty() { "-".to_owned() } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(between(text, "new\n").as_deref(), expect, "{text}");
        };
        check(
            "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb",
            Some("a\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb"),
        );
        check("a\n<!-- bench:end --> <!-- bench:begin -->", None);
        check("a", None);
    }
}
