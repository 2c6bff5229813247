//! Whether upstreams pass their checks: the verdict of each endpoint from its checks, and the board that sessions read. Pure.
//!
//! Knows neither checks nor sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// What is known of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether new work may come.
    pub healthy: bool,
    /// Kind of the check.
    pub check: &'static str,
    /// Why not; empty when healthy.
    pub reason: String,
}

/// The verdicts of all endpoints that are checked, by name. Clones show the same board.
#[derive(Debug, Clone)]
pub struct Board(Arc<watch::Sender<BTreeMap<String, Health>>>);

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(watch::channel(BTreeMap::new()).0))
    }
}

impl Board {
    /// Hears of changes.
    pub fn read(&self) -> watch::Receiver<BTreeMap<String, Health>> {
        self.0.subscribe()
    }

    /// Says what is known now.
    pub fn write(&self, name: &str, health: Health) {
        self.0.send_modify(|board| drop(board.insert(name.to_owned(), health)));
    }
}

/// Counts checks in a row.
#[derive(Debug, Default)]
pub struct Verdict {
    /// None: no check has decided yet, and the endpoint is served.
    healthy: Option<bool>,
    /// Checks in a row that contradict the verdict.
    run: u32,
}

impl Verdict {
    /// Takes the outcome of a check; gives the verdict when it is a new one.
    pub fn checked(&mut self, passed: bool, rise: u32, fall: u32) -> Option<bool> {
        if self.healthy == Some(passed) {
            self.run = 0;
            return None;
        }
        self.run += 1;
        // The first check that passes is enough for an endpoint about which nothing bad is known.
        let needed = match (self.healthy, passed) {
            (None, true) => 1,
            (_, true) => rise,
            (_, false) => fall,
        };
        if passed && self.healthy.is_none() || self.run >= needed {
            *self = Self { healthy: Some(passed), run: 0 };
            return self.healthy;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_and_falls_after_checks_in_a_row() {
        let mut verdict = Verdict::default();
        let mut check = |outcomes: &str, expect: &[Option<bool>]| {
            let found: Vec<_> = outcomes.chars().map(|c| verdict.checked(c == '+', 2, 3)).collect();
            assert_eq!(found, expect, "{outcomes}");
        };
        check("--", &[None, None]);
        check("+", &[Some(true)]);
        check("--+--+", &[None; 6]);
        check("---", &[None, None, Some(false)]);
        check("--+-+", &[None; 5]);
        check("+", &[Some(true)]);
        check("++", &[None, None]);
    }

    #[test]
    fn an_upstream_that_never_passed_falls_too() {
        let mut verdict = Verdict::default();
        let found: Vec<_> = (0..4).map(|_| verdict.checked(false, 2, 3)).collect();
        assert_eq!(found, [None, None, Some(false), None]);
    }
}
