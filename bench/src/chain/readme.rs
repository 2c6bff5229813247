//! The short form of a run for the README: our cost next to each rival's, losses first, and links to the tables.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::load::{Kind, Table};
use super::losses::{self, Compared};
use super::report::Report;

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Puts a run's lines between the markers of a file; `kept` are the tables' files, relative to it.
pub(super) fn write(readme: &Path, report: &Report, kept: &[String]) -> Result<()> {
    let text = fs::read_to_string(readme).with_context(|| format!("read {}", readme.display()))?;
    let place = format!("{} has no {BEGIN} with {END} after it", readme.display());
    let text = between(&text, &section(report, kept)).context(place)?;
    fs::write(readme, text).with_context(|| format!("write {}", readme.display()))
}

fn between(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

/// One line for each comparison of CPU, the worst for us first. Writing to a String cannot fail.
fn section(report: &Report, kept: &[String]) -> String {
    let files: Vec<String> = kept.iter().map(|file| format!("[{file}]({file})")).collect();
    let mut out = format!(
        "{date}, commit {commit}, kernel {kernel}, {processors} processors: CPU of the cheapest of our chains next to the cheapest of the \
         others, medians of {rounds} rounds. Tables: {files}.\n\n",
        date = report.fact("date"),
        commit = report.fact("commit"),
        kernel = report.fact("kernel"),
        processors = report.fact("processors"),
        rounds = report.rounds(),
        files = files.join(", "),
    );
    let mut lines: Vec<(f64, String)> = Table::ALL
        .into_iter()
        .flat_map(|table| Kind::IN_ROUNDS.map(|kind| (table, kind)))
        .filter_map(|(table, kind)| line(report, table, kind))
        .collect();
    lines.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    for (_, line) in lines {
        let _ = writeln!(out, "- {line}");
    }
    out
}

/// The worst ratio of a comparison, and its line; none where one side was not measured.
fn line(report: &Report, table: Table, kind: Kind) -> Option<(f64, String)> {
    let all = losses::cpu(report, table, kind);
    let worst = all.iter().map(|compared| compared.ratio).max_by(f64::total_cmp)?;
    let digits = if kind == Kind::Bulk { 2 } else { 0 };
    let join = |of: &dyn Fn(&Compared<'_>) -> String| all.iter().map(of).collect::<Vec<_>>().join(" / ");
    let names = |of: &dyn Fn(&Compared<'_>) -> String| {
        let mut names: Vec<String> = all.iter().map(|compared| format!("`{}`", of(compared))).collect();
        names.dedup();
        names.join(", ")
    };
    let line = format!(
        "{table:?}, {unit}: {ours} ({our_names}) next to {theirs} ({their_names}), {ratios} times as much at {connections} connections",
        unit = match kind {
            Kind::Bulk => "s/GB",
            Kind::Requests => "us/request",
            _ => "us/connection",
        },
        ours = join(&|compared| format!("{:.digits$}", compared.ours.1)),
        our_names = names(&|compared| compared.ours.0.to_owned()),
        theirs = join(&|compared| format!("{:.digits$}", compared.theirs.1)),
        their_names = names(&|compared| compared.theirs.0.to_owned()),
        ratios = join(&|compared| format!("{:.2}", compared.ratio)),
        connections = join(&|compared| compared.connections.to_string()),
    );
    Some((worst, line))
}

#[cfg(test)]
mod tests {
    use ebbgate_lab::figures::Spread;

    use super::super::load::load;
    use super::super::report::Row;
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

    #[test]
    fn the_worst_comparison_comes_first_and_names_both_chains() {
        let row = |table, connections, chain: &str, cpu| Row {
            load: load(table, Kind::Requests, connections),
            chain: chain.to_owned(),
            cpu: Spread::of(vec![cpu]),
            per_second: Spread::of(vec![1.0]).unwrap(),
            p50_us: None,
            p99_us: None,
            rounds: 3,
        };
        let mut report = Report::empty();
        report.summary = vec![
            row(Table::Relay, 1, "ebbgate relay", 20.0),
            row(Table::Relay, 1, "haproxy", 40.0),
            row(Table::Https, 1, "ebbgate link", 100.0),
            row(Table::Https, 1, "haproxy > rathole", 100.0),
            row(Table::Https, 16, "ebbgate link", 150.0),
            row(Table::Https, 16, "ebbgate mux", 120.0),
            row(Table::Https, 16, "haproxy > rathole", 60.0),
        ];
        let text = section(&report, &["bench/results/x.md".to_owned()]);
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("- ")).collect();
        assert_eq!(
            lines,
            [
                "Https, us/request: 100 / 120 (`ebbgate link`, `ebbgate mux`) next to 100 / 60 (`haproxy > rathole`), \
                 1.00 / 2.00 times as much at 1 / 16 connections",
                "Relay, us/request: 20 (`ebbgate relay`) next to 40 (`haproxy`), 0.50 times as much at 1 connections",
            ]
        );
    }
}
