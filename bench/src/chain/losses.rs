//! Our chains next to the best of the others, figure by figure. Computed.

use super::load::{Kind, Load, Table};
use super::report::{DIRECT, Report, Row};

/// Names of our chains begin so.
const OURS: &str = "ebbgate";
/// Another chain is better only by more than this: less is a tie on a machine like ours.
const TIE: f64 = 1.15;

/// A figure of a row, and whether less of it is better.
type Figure = (&'static str, fn(&Row) -> Option<f64>, bool);
const CPU: Figure = ("CPU", |row| row.cpu.map(|cpu| cpu.median), true);
const FIGURES: [Figure; 4] = [
    CPU,
    ("throughput", |row| Some(row.per_second.median), false),
    ("p50", |row| row.p50_us.map(|late| late.median), true),
    ("p99", |row| row.p99_us.map(|late| late.median), true),
];

/// The best of ours and the best of the others at one load.
pub(super) struct Compared<'a> {
    pub(super) connections: u32,
    /// Chain and figure.
    pub(super) ours: (&'a str, f64),
    pub(super) theirs: (&'a str, f64),
    /// How many times better theirs is.
    pub(super) ratio: f64,
}

/// CPU at each number of connections, fewest first.
pub(super) fn cpu(report: &Report, table: Table, kind: Kind) -> Vec<Compared<'_>> {
    let loads = loads(report).into_iter().filter(|load| (load.table, load.kind) == (table, kind));
    let mut all: Vec<_> = loads.filter_map(|load| compare(report, load, CPU)).collect();
    all.sort_by_key(|compared| compared.connections);
    all
}

/// Every figure in which the best of the others beats each of our chains by more than a tie: one line each.
pub(super) fn losses(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for load in loads(report) {
        for figure in FIGURES {
            let Some(compared) = compare(report, load, figure) else { continue };
            if compared.ratio > TIE {
                lines.push(format!(
                    "{:?} {}, {}: {} of {} is {:.2} times better than of {}",
                    load.table,
                    load.kind.title(),
                    load.connections,
                    figure.0,
                    compared.theirs.0,
                    compared.ratio,
                    compared.ours.0
                ));
            }
        }
    }
    lines
}

fn loads(report: &Report) -> Vec<Load> {
    let mut loads: Vec<_> = report.summary.iter().map(|row| row.load).collect();
    loads.dedup();
    loads
}

fn compare(report: &Report, load: Load, (_, figure, less): Figure) -> Option<Compared<'_>> {
    let better = |a: f64, b: f64| if less { a.total_cmp(&b) } else { b.total_cmp(&a) };
    let best = |ours: bool| {
        let rows = report.summary.iter().filter(|row| row.load == load && row.chain != DIRECT);
        let rows = rows.filter(|row| row.chain.starts_with(OURS) == ours);
        rows.filter_map(|row| Some((row.chain.as_str(), figure(row)?))).min_by(|a, b| better(a.1, b.1))
    };
    let (ours, theirs) = (best(true)?, best(false)?);
    let ratio = if less { ours.1 / theirs.1 } else { theirs.1 / ours.1 };
    Some(Compared { connections: load.connections, ours, theirs, ratio })
}

#[cfg(test)]
mod tests {
    use super::super::load::load;
    use super::*;
    use ebbgate_lab::figures::Spread;

    fn row(table: Table, kind: Kind, connections: u32, chain: &str, cpu: f64) -> Row {
        Row {
            load: load(table, kind, connections),
            chain: chain.to_owned(),
            cpu: Spread::of(vec![cpu]),
            per_second: Spread::of(vec![1.0]).unwrap(),
            p50_us: None,
            p99_us: None,
            rounds: 1,
        }
    }

    #[test]
    fn a_loss_is_named_and_a_tie_is_not() {
        let mut report = Report::empty();
        report.summary = vec![
            row(Table::Relay, Kind::Bulk, 1, "ebbgate relay", 1.1),
            row(Table::Relay, Kind::Bulk, 1, "haproxy", 1.0),
            row(Table::Relay, Kind::Bulk, 16, "ebbgate relay", 1.3),
            row(Table::Relay, Kind::Bulk, 16, "haproxy", 1.0),
        ];
        let lines = losses(&report);
        assert_eq!(lines, ["Relay bulk, 16: CPU of haproxy is 1.30 times better than of ebbgate relay"]);
    }
}
