//! Clocks that are a day off: of a part that runs, and of one that starts.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use super::part::{EDGES, Part};
use super::run::{LATER_MS, Run};
use super::tally::{Seen, after};
use crate::clock::Clock;
use crate::wait::{SOON, until};

/// Seconds for which a clock is wrong: beyond every silence after which a part gives another up.
const WRONG_SECS: u64 = 16;
/// Seconds by which a clock may be listed otherwise than it was set.
const NEAR_SECS: u64 = 60;

/// By how many seconds each edge is ahead, and what was said of clocks.
type Named = (Vec<Option<i64>>, Option<String>);

/// A clock that was wrong, and what visitors saw of it.
#[derive(Debug, Clone, Serialize)]
pub struct WrongClock {
    /// Which part has it.
    pub clock: String,
    /// Seconds by which it was ahead.
    pub ahead_secs: i64,
    /// Whether the part was killed and started with it; otherwise it was turned while the part ran.
    pub started: bool,
    /// At the part's own edge; nothing for other parts.
    pub own: Seen,
    /// At the other edges.
    pub others: Seen,
    /// At the other edges, what began later than two seconds after it.
    pub others_later: Seen,
    /// By how many seconds each edge is ahead of the control that feeds it, as the second control lists it; None: no control
    /// feeds it.
    pub edges_ahead_secs: Vec<Option<i64>>,
    /// The last that the part, or else an edge, said of clocks.
    pub said: Option<String>,
    /// Milliseconds from its end until every visitor is served and every agent is at two edges.
    pub back_ms: u128,
}

impl Run<'_> {
    /// Gives a part a clock that can be turned, and starts it anew with it. If it is a control, all edges are fed by it then.
    pub fn clock_of(&mut self, part: Part) -> Result<Clock> {
        let clock = Clock::new(self.fleet.dir(), &part.name())?;
        self.fleet.give_clock(part, &clock)?;
        self.restart(part)?;
        self.all_come(part)?;
        self.back(Instant::now())?;
        Ok(clock)
    }

    /// Turns the clock of a part that runs, or, if it is to start with it, of one that is killed; and turns it back the same way.
    pub fn wrong_clock(
        &mut self,
        (part, clock): (Part, &Clock),
        ahead_secs: i64,
        started: bool,
    ) -> Result<WrongClock> {
        self.quiet()?;
        let began = Instant::now();
        clock.set_ahead(ahead_secs)?;
        if started {
            self.restart(part)?;
            self.all_come(part)?;
        }
        thread::sleep(Duration::from_secs(WRONG_SECS));
        let is_own = |edge: usize| part == Part::Edge(edge);
        self.load.settled_at(|edge| !is_own(edge)).with_context(|| self.fleet.logs())?;
        let (edges_ahead_secs, said) = self.named(part, ahead_secs, started)?;
        clock.set_ahead(0)?;
        let ended = Instant::now();
        if started {
            self.restart(part)?;
        }
        let back_ms = self.back(ended)?;
        let tally = self.load.tally();
        Ok(WrongClock {
            clock: part.name(),
            ahead_secs,
            started,
            own: tally.since(began, is_own),
            others: tally.since(began, |edge| !is_own(edge)),
            others_later: tally
                .between(after(began, LATER_MS), started.then_some(ended), |edge| !is_own(edge)),
            edges_ahead_secs,
            said,
            back_ms,
        })
    }

    /// What the second control lists of edges' clocks, and the last that was said of clocks: as soon as these name the clock as
    /// they should, or what there is after [`SOON`].
    fn named(&mut self, part: Part, ahead_secs: i64, started: bool) -> Result<Named> {
        let waited = Instant::now();
        until(2 * SOON, "the edges to be listed", || {
            let listed: Vec<_> = self.fleet.listed()?.iter().map(ahead_of_control).collect();
            let said = self.said_of_clocks(part)?;
            let is_ahead =
                |edge: &Option<i64>, by: i64| edge.is_some_and(|secs| secs.abs_diff(by) <= NEAR_SECS);
            let all_ahead = |by| listed.iter().all(|edge| is_ahead(edge, by));
            let is_named = match part {
                Part::Edge(at) if started && ahead_secs < 0 => {
                    said.is_some() && listed.get(at).is_some_and(Option::is_none)
                }
                Part::Edge(at) => listed.get(at).is_some_and(|edge| is_ahead(edge, ahead_secs)),
                Part::Control(_) if started => said.is_some() && all_ahead(0),
                Part::Control(_) => all_ahead(-ahead_secs),
                _ => said.is_some() || !started || ahead_secs > 0,
            };
            Ok((is_named || waited.elapsed() > SOON).then_some((listed, said)))
        })
    }

    /// Has all edges look for a control again, if the part is one.
    fn all_come(&mut self, part: Part) -> Result<()> {
        if part == Part::Control(0) { self.restart(Part::Control(1)) } else { Ok(()) }
    }

    /// The last that the part, or an edge, said of clocks since it started.
    fn said_of_clocks(&mut self, part: Part) -> Result<Option<String>> {
        for part in std::iter::once(part).chain((0..EDGES).map(Part::Edge)) {
            let said = self.fleet.said(part)?;
            let of_clocks =
                |line: &&str| line.contains("a clock is wrong") || line.contains("the clock of this machine");
            if let Some(line) = said.lines().rev().find(of_clocks) {
                return Ok(Some(line.to_owned()));
            }
        }
        Ok(None)
    }

    fn restart(&mut self, part: Part) -> Result<()> {
        self.fleet.kill(part)?;
        self.fleet.restart(part)
    }
}

/// What a control lists of an edge that it, or another, feeds.
fn ahead_of_control(edge: &Value) -> Option<i64> {
    let is_fed = edge.get("connected").and_then(Value::as_bool) == Some(true);
    edge.get("clock_ahead_secs").and_then(Value::as_i64).filter(|_| is_fed)
}
