//! The goals that were set before, next to what a run reached; and every figure in which somebody else is better. Computed.

use std::fmt::Write as _;

use super::cell::{DIRECT, Report, Row};
use super::load::{Kind, Table};

/// Names of our chains begin so.
const OURS: &str = "ebbgate";
/// Somebody is better only by more than this: less is a tie on a machine like ours.
const TIE: f64 = 1.15;

/// A ratio of CPU, ours over theirs, or of memory for silent connections.
struct Goal {
    what: &'static str,
    table: Table,
    kind: Kind,
    ours: &'static str,
    theirs: Theirs,
    bound: Bound,
}

enum Theirs {
    Chain(&'static str),
    /// Whoever spends least.
    Best,
    /// Whoever spends least among those that encrypt the way to the agent, as we do.
    BestEncrypted,
}

enum Bound {
    /// Ours over theirs.
    AtMost(f64),
    /// Theirs over ours: how much more is done for the same CPU.
    AtLeast(f64),
}

const fn goal(
    what: &'static str,
    (table, kind): (Table, Kind),
    ours: &'static str,
    theirs: Theirs,
    bound: Bound,
) -> Goal {
    Goal { what, table, kind, ours, theirs, bound }
}

const RELAY: &str = "ebbgate relay";
const GOALS: [Goal; 11] = [
    goal(
        "relay, CPU/GB over HAProxy",
        (Table::Relay, Kind::Bulk),
        RELAY,
        Theirs::Chain("haproxy"),
        Bound::AtMost(0.60),
    ),
    goal(
        "relay, CPU/GB over HAProxy with equal pipes",
        (Table::Relay, Kind::Bulk),
        RELAY,
        Theirs::Chain("haproxy 1m pipes"),
        Bound::AtMost(0.90),
    ),
    goal(
        "relay, CPU/GB over nginx",
        (Table::Relay, Kind::Bulk),
        RELAY,
        Theirs::Chain("nginx"),
        Bound::AtMost(0.25),
    ),
    goal(
        "relay, CPU/GB over Envoy",
        (Table::Relay, Kind::Bulk),
        RELAY,
        Theirs::Chain("envoy"),
        Bound::AtMost(0.20),
    ),
    goal(
        "relay, CPU/request over HAProxy",
        (Table::Relay, Kind::Requests),
        RELAY,
        Theirs::Chain("haproxy"),
        Bound::AtMost(0.85),
    ),
    goal(
        "relay, CPU/connection over HAProxy",
        (Table::Relay, Kind::Connections),
        RELAY,
        Theirs::Chain("haproxy"),
        Bound::AtMost(0.85),
    ),
    goal(
        "relay, memory of a silent connection over HAProxy",
        (Table::Relay, Kind::Idle),
        RELAY,
        Theirs::Chain("haproxy"),
        Bound::AtMost(0.30),
    ),
    goal(
        "TLS links, CPU/GB over rathole with TLS",
        (Table::Tunnel, Kind::Bulk),
        "ebbgate link",
        Theirs::Chain("rathole tls"),
        Bound::AtMost(0.60),
    ),
    goal(
        "pass-through links, CPU/GB over plain rathole",
        (Table::Tunnel, Kind::Bulk),
        "ebbgate raw",
        Theirs::Chain("rathole"),
        Bound::AtMost(0.35),
    ),
    goal(
        "HTTPS, requests per CPU second over the best chain",
        (Table::Https, Kind::Requests),
        "ebbgate link",
        Theirs::Best,
        Bound::AtLeast(1.5),
    ),
    goal(
        "the same, over the best chain that encrypts to the agent too",
        (Table::Https, Kind::Requests),
        "ebbgate link",
        Theirs::BestEncrypted,
        Bound::AtLeast(1.5),
    ),
];

/// The goals in Markdown.
pub(super) fn goals(report: &Report) -> String {
    let mut out = "| goal | bound | reached | |\n|---|---|---|---|\n".to_owned();
    for goal in &GOALS {
        let reached = goal.reached(report);
        let bound = match goal.bound {
            Bound::AtMost(bound) => format!("<= {bound:.2}"),
            Bound::AtLeast(bound) => format!(">= {bound:.2}"),
        };
        let said: Vec<String> =
            reached.iter().map(|(connections, ratio)| format!("{ratio:.2} ({connections})")).collect();
        let missed: Vec<String> =
            reached.iter().filter(|(_, ratio)| !goal.met(*ratio)).map(|(at, _)| at.to_string()).collect();
        let verdict = match (reached.len(), missed.len()) {
            (0, _) => "not measured".to_owned(),
            (_, 0) => "met".to_owned(),
            (all, count) if all == count => "**missed**".to_owned(),
            _ => format!("**missed at {}**", missed.join(", ")),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| {} | {bound} | {} | {verdict} |", goal.what, said.join(" · "));
    }
    out
}

impl Goal {
    fn met(&self, ratio: f64) -> bool {
        match self.bound {
            Bound::AtMost(bound) => ratio <= bound,
            Bound::AtLeast(bound) => ratio >= bound,
        }
    }

    /// The ratio at each number of connections.
    fn reached(&self, report: &Report) -> Vec<(u32, f64)> {
        if self.kind == Kind::Idle {
            return self.memory(report).into_iter().collect();
        }
        let rows =
            || report.summary.iter().filter(|r| (r.load.table, r.load.kind) == (self.table, self.kind));
        let cpu = |row: &Row| row.cpu.map(|cpu| cpu.median);
        let ratio = |mine: &Row| {
            let others = rows().filter(|row| row.load.connections == mine.load.connections);
            let theirs =
                others.filter(|row| self.is_theirs(&row.chain)).filter_map(cpu).min_by(f64::total_cmp)?;
            Some((mine.load.connections, self.of(cpu(mine)?, theirs)))
        };
        rows().filter(|row| row.chain == self.ours).filter_map(ratio).collect()
    }

    fn memory(&self, report: &Report) -> Option<(u32, f64)> {
        let each = |chain: &str, idle: u32| {
            let mut cells = report.idle.iter().filter(|cell| cell.table == self.table && cell.chain == chain);
            cells.find(|cell| cell.idle == idle)?.kb_each
        };
        let most = report.idle.iter().filter(|cell| cell.chain == self.ours).map(|cell| cell.idle).max()?;
        let Theirs::Chain(theirs) = self.theirs else { return None };
        Some((most, self.of(each(self.ours, most)?, each(theirs, most)?)))
    }

    fn is_theirs(&self, chain: &str) -> bool {
        match self.theirs {
            Theirs::Chain(name) => chain == name,
            Theirs::Best => !chain.starts_with(OURS) && chain != DIRECT,
            Theirs::BestEncrypted => !chain.starts_with(OURS) && chain.ends_with(" tls"),
        }
    }

    fn of(&self, ours: f64, theirs: f64) -> f64 {
        match self.bound {
            Bound::AtMost(_) => ours / theirs,
            Bound::AtLeast(_) => theirs / ours,
        }
    }
}

/// A figure of a row and whether less of it is better.
type Figure = (&'static str, fn(&Row) -> Option<f64>, bool);
const FIGURES: [Figure; 4] = [
    ("CPU", |row| row.cpu.map(|cpu| cpu.median), true),
    ("throughput", |row| Some(row.per_second.median), false),
    ("p50", |row| row.p50_us.map(|late| late.median), true),
    ("p99", |row| row.p99_us.map(|late| late.median), true),
];

/// Every figure in which the best of the others beats each of our chains by more than a tie: one line each.
pub(super) fn losses(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut loads: Vec<_> = report.summary.iter().map(|row| row.load).collect();
    loads.dedup();
    for load in loads {
        for (name, figure, less) in FIGURES {
            let better = |a: f64, b: f64| if less { a.total_cmp(&b) } else { b.total_cmp(&a) };
            let best = |ours: bool| {
                let rows = report.summary.iter().filter(|row| row.load == load && row.chain != DIRECT);
                let rows = rows.filter(|row| row.chain.starts_with(OURS) == ours);
                rows.filter_map(|row| Some((row.chain.as_str(), figure(row)?)))
                    .min_by(|a, b| better(a.1, b.1))
            };
            let (Some(mine), Some(theirs)) = (best(true), best(false)) else { continue };
            let ratio = if less { mine.1 / theirs.1 } else { theirs.1 / mine.1 };
            if ratio > TIE {
                lines.push(format!(
                    "{:?} {}, {}: {name} of {} is {ratio:.2} times better than of {}",
                    load.table,
                    load.kind.title(),
                    load.connections,
                    theirs.0,
                    mine.0
                ));
            }
        }
    }
    lines
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
    fn goals_are_judged_at_every_number_of_connections() {
        let mut report = Report::empty();
        report.summary = vec![
            row(Table::Relay, Kind::Bulk, 1, RELAY, 0.5),
            row(Table::Relay, Kind::Bulk, 1, "haproxy", 1.0),
            row(Table::Relay, Kind::Bulk, 16, RELAY, 0.7),
            row(Table::Relay, Kind::Bulk, 16, "haproxy", 1.0),
            row(Table::Https, Kind::Requests, 16, "ebbgate link", 50.0),
            row(Table::Https, Kind::Requests, 16, "caddy > rathole", 80.0),
            row(Table::Https, Kind::Requests, 16, "haproxy > rathole tls", 100.0),
        ];
        let said = goals(&report);
        let check = |line: &str| assert!(said.contains(line), "{line} is not in\n{said}");
        check("| relay, CPU/GB over HAProxy | <= 0.60 | 0.50 (1) · 0.70 (16) | **missed at 16** |");
        check("over nginx | <= 0.25 |  | not measured |");
        check("over the best chain | >= 1.50 | 1.60 (16) | met |");
        check("to the agent too | >= 1.50 | 2.00 (16) | met |");
    }

    #[test]
    fn a_loss_is_named_and_a_tie_is_not() {
        let mut report = Report::empty();
        report.summary = vec![
            row(Table::Relay, Kind::Bulk, 1, RELAY, 1.1),
            row(Table::Relay, Kind::Bulk, 1, "haproxy", 1.0),
            row(Table::Relay, Kind::Bulk, 16, RELAY, 1.3),
            row(Table::Relay, Kind::Bulk, 16, "haproxy", 1.0),
        ];
        let lines = losses(&report);
        assert_eq!(lines, ["Relay bulk, 16: CPU of haproxy is 1.30 times better than of ebbgate relay"]);
    }
}
