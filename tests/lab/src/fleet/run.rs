//! A fleet under load: its parts are killed and cut off from each other, and what visitors see of it is counted.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::load::{Load, Visitors};
use super::part::{Cut, Part};
use super::parts::{Fleet, HOST};
use super::tally::{Seen, after};
use crate::lab::Programs;
use crate::mesh::Mesh;

/// Seconds of load before a fault.
pub(super) const QUIET_SECS: u64 = 2;
/// Milliseconds after which a part that is gone is no other part's trouble any more.
pub(super) const LATER_MS: u64 = 2_000;
/// One kill and what visitors saw of it, until all were served again.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// What was killed.
    pub killed: String,
    /// At the edge that was killed; nothing for other kills.
    pub own: Seen,
    /// At the other edges.
    pub others: Seen,
    /// At the other edges, what began later than two seconds after the kill.
    pub others_later: Seen,
    /// Milliseconds from the restart until it is ready.
    pub ready_ms: u128,
    /// Milliseconds from the restart until every visitor is served and every agent is at two edges.
    pub back_ms: u128,
}

/// Two parts, or sides, that were cut off from each other, and what visitors saw of it, until all were served again.
#[derive(Debug, Clone, Serialize)]
pub struct Partition {
    /// The two sides.
    pub cut: [String; 2],
    /// Seconds for which nothing came through.
    pub secs: u64,
    /// At all edges.
    pub all: Seen,
    /// At all edges, what began later than two seconds after the cut.
    pub later: Seen,
    /// Milliseconds from its end until every visitor is served and every agent is at two edges.
    pub back_ms: u128,
}

/// A fleet with visitors; gone when dropped.
pub struct Run<'a> {
    // Visitors leave first.
    pub(super) load: Load,
    pub(super) fleet: Fleet<'a>,
    /// Upgrades so far.
    pub(super) upgrades: usize,
    /// Until when visitors were looked at, if the last fault was an upgrade: what comes late counts with the next.
    pub(super) looked: Option<Instant>,
}

impl<'a> Run<'a> {
    /// Starts all of it in a directory, and returns when every visitor is served. With a mesh of [`super::MACHINES`] it must be called
    /// in the hub.
    pub fn start(
        dir: &Path,
        programs: &Programs,
        mesh: Option<&'a Mesh>,
        visitors: Visitors,
    ) -> Result<Self> {
        let fleet = Fleet::start(dir, programs, mesh)?;
        let load = Load::start(&fleet.places(), HOST, visitors).with_context(|| fleet.logs())?;
        Ok(Self { load, fleet, upgrades: 0, looked: None })
    }

    /// Kills a part and starts it again some seconds later.
    pub fn kill(&mut self, part: Part, away_secs: u64) -> Result<Kill> {
        self.quiet()?;
        let killed = Instant::now();
        self.fleet.kill(part)?;
        thread::sleep(Duration::from_secs(away_secs));
        let started = Instant::now();
        self.fleet.restart(part)?;
        let ready_ms = started.elapsed().as_millis();
        let back_ms = self.back(started)?;
        let is_own = |edge: usize| part == Part::Edge(edge);
        let tally = self.load.tally();
        Ok(Kill {
            killed: part.name(),
            own: tally.since(killed, is_own),
            others: tally.since(killed, |edge| !is_own(edge)),
            others_later: tally.new_since(after(killed, LATER_MS), |edge| !is_own(edge)),
            ready_ms,
            back_ms,
        })
    }

    /// Cuts two sides off from each other for a time.
    pub fn partition(&mut self, cut: &Cut, secs: u64) -> Result<Partition> {
        self.quiet()?;
        let began = Instant::now();
        self.fleet.cut(cut)?;
        thread::sleep(Duration::from_secs(secs));
        self.fleet.heal()?;
        let back_ms = self.back(Instant::now())?;
        let tally = self.load.tally();
        Ok(Partition {
            cut: cut.names(),
            secs,
            all: tally.since(began, |_| true),
            later: tally.new_since(after(began, LATER_MS), |_| true),
            back_ms,
        })
    }

    /// Lets the load run for a while, and forgets what was before.
    pub(super) fn quiet(&mut self) -> Result<()> {
        self.looked = None;
        self.load.settled()?;
        thread::sleep(Duration::from_secs(QUIET_SECS));
        self.load.tally().reset();
        Ok(())
    }

    /// Waits until all is as before; milliseconds since a moment.
    pub(super) fn back(&self, from: Instant) -> Result<u128> {
        let settled = self.load.settled().and_then(|()| self.fleet.whole());
        settled.with_context(|| self.fleet.logs())?;
        Ok(from.elapsed().as_millis())
    }
}
