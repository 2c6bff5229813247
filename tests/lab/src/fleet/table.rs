//! What was done, judged by the rules of docs/reliability.md, and as the tables of that page.

use serde::Serialize;

use super::clocks::WrongClock;
use super::run::{Kill, Partition};
use super::upgrades::Upgrade;

/// One thing that was done to the fleet.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Done {
    /// A kill.
    Kill(Kill),
    /// A partition.
    Partition(Partition),
    /// An upgrade.
    Upgrade(Upgrade),
    /// A wrong clock.
    WrongClock(Box<WrongClock>),
}

impl Done {
    /// Which rule it broke; None: none.
    pub fn broken(&self) -> Option<&'static str> {
        match self {
            Self::Kill(Kill { killed, others, .. })
                if (killed.starts_with("control") || killed.starts_with("etcd")) && others.failures() > 0 =>
            {
                Some("neither control nor the store is on the way of a visitor")
            }
            Self::Kill(kill) if kill.others_later.failures() > 0 => {
                Some("nothing fails at other edges two seconds after a kill")
            }
            Self::Partition(cut) if cut.all.failed_requests > 0 => Some("requests wait, and go another way"),
            Self::Partition(cut) if cut.later.failures() > 0 => {
                Some("nothing fails two seconds after a partition began")
            }
            Self::Upgrade(Upgrade { all, .. }) if all.failures() + all.refused > 0 => {
                Some("an upgrade fails nothing and cuts nothing")
            }
            Self::WrongClock(clock)
                if !clock.started && clock.own.failures() + clock.others.failures() > 0 =>
            {
                Some("nothing follows the clock of a part that runs")
            }
            Self::WrongClock(clock) if clock.others_later.failures() > 0 => {
                Some("a part whose clock is wrong is no other part's trouble")
            }
            _ => None,
        }
    }

    /// Title and headings of its table, in Markdown.
    fn head(&self) -> &'static str {
        match self {
            Self::Kill(_) => {
                "| killed | answered | failed requests | cut streams | cut WebSockets | failed or cut, later | ready after the start | all as before |\n\
                 |---|---|---|---|---|---|---|---|"
            }
            Self::Partition(_) => {
                "| cut off from each other | s | answered | failed requests | cut streams | cut WebSockets | slowest | slowest, later | all as before, after the end |\n\
                 |---|---|---|---|---|---|---|---|---|"
            }
            Self::Upgrade(_) => {
                "| upgraded | to | the command took | answered | failed requests | refused connections | cut TCP streams | cut WebSockets | ended sessions of agents |\n\
                 |---|---|---|---|---|---|---|---|---|"
            }
            Self::WrongClock(_) => {
                "| clock of | ahead | while it | answered | failed or cut, its own | failed or cut, others | others, later | edges ahead of their control | all as before, after the end |\n\
                 |---|---|---|---|---|---|---|---|---|"
            }
        }
    }

    fn row(&self) -> String {
        let cells = match self {
            Self::Kill(Kill { killed, others, others_later, ready_ms, back_ms, .. }) => vec![
                killed.clone(),
                count(others.requests),
                count(others.failed_requests),
                count(others.cut_streams),
                count(others.cut_websockets),
                count(others_later.failures()),
                secs(*ready_ms),
                secs(*back_ms),
            ],
            Self::Partition(Partition { cut: [one, other], secs: lasted, all, later, back_ms }) => vec![
                format!("{one} and {other}"),
                lasted.to_string(),
                count(all.requests),
                count(all.failed_requests),
                count(all.cut_streams),
                count(all.cut_websockets),
                secs(all.slowest_request_ms),
                secs(later.slowest_request_ms),
                secs(*back_ms),
            ],
            Self::Upgrade(Upgrade { upgraded, bad, took_ms, ended_sessions, all, .. }) => vec![
                upgraded.clone(),
                bad.map_or_else(|| "a copy of its program".to_owned(), |bad| format!("{bad:?}")),
                secs(*took_ms),
                count(all.requests),
                count(all.failed_requests),
                count(all.refused),
                count(all.cut_streams),
                count(all.cut_websockets),
                ended_sessions.to_string(),
            ],
            Self::WrongClock(clock) => {
                let ahead = clock.edges_ahead_secs.iter();
                let ahead: Vec<_> = ahead
                    .map(|secs| secs.map_or_else(|| "not fed".to_owned(), |secs| format!("{secs} s")))
                    .collect();
                vec![
                    clock.clock.clone(),
                    format!("{:+} s", clock.ahead_secs),
                    if clock.started { "starts" } else { "runs" }.to_owned(),
                    count(clock.own.requests + clock.others.requests),
                    count(clock.own.failures()),
                    count(clock.others.failures()),
                    count(clock.others_later.failures()),
                    ahead.join(", "),
                    secs(clock.back_ms),
                ]
            }
        };
        format!("| {} |", cells.join(" | "))
    }
}

/// The tables of what was done, in Markdown.
pub fn table(done: &[Done]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut head = "";
    for done in done {
        if done.head() != head {
            head = done.head();
            lines.extend([String::new(), head.to_owned()]);
        }
        lines.push(done.row());
    }
    lines.join("\n")
}

/// Thousands apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| str::from_utf8(part).ok()).collect();
    parts.join(",")
}

fn secs(ms: u128) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::super::tally::Seen;
    use super::*;

    fn seen(requests: u64, failed_requests: u64, cut_streams: u64) -> Seen {
        Seen { requests, failed_requests, cut_streams, ..Seen::default() }
    }

    fn kill(killed: &str, others: Seen, others_later: Seen) -> Done {
        let (killed, own) = (killed.to_owned(), Seen::default());
        Done::Kill(Kill { killed, own, others, others_later, ready_ms: 640, back_ms: 12_345 })
    }

    #[test]
    fn rows_and_rules() {
        let none = Seen::default();
        let good = kill("edge 0", seen(1_234_567, 3, 2), none);
        assert_eq!(good.broken(), None);
        assert!(kill("edge 0", none, seen(9, 0, 1)).broken().is_some());
        assert!(kill("etcd 0", seen(9, 1, 0), none).broken().is_some());
        let cut = |all, later| {
            let cut = ["edge 0".to_owned(), "edge 2".to_owned()];
            Done::Partition(Partition { cut, secs: 60, all, later, back_ms: 90 })
        };
        let fine = cut(seen(999, 0, 4), none);
        assert_eq!(fine.broken(), None);
        assert!(cut(seen(9, 1, 0), none).broken().is_some() && cut(none, seen(9, 0, 1)).broken().is_some());
        let shown = table(&[good.clone(), good, fine]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[3], "| edge 0 | 1,234,567 | 3 | 2 | 0 | 0 | 0.6 s | 12.3 s |");
        assert_eq!((lines[3], lines.len()), (lines[4], 9));
        assert_eq!(lines[8], "| edge 0 and edge 2 | 60 | 999 | 0 | 4 | 0 | 0.0 s | 0.0 s | 0.0 s |");
    }
}
