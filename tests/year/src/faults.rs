//! Faults: which one comes when, what it breaks, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use ebbgate_edge::net::handshakes::turns::Turns;

use crate::checks::SETTLE_SECS;
use crate::fault::Fault;
use crate::settings::Settings;
use crate::witness::Witness;
use crate::world::{AGENTS_OF_ACCOUNT, Event, GROUPS, World};

/// Seconds that faults last.
const LASTS_SECS: [u64; 4] = [1, 10, 60, 3_600];
/// Milliseconds until an agent hears from the machine of an edge that its process is gone.
const RESET_MS: u64 = 50;
/// Milliseconds between two agents of a drained edge that are told to leave.
const PACE_MS: u64 = 5;
/// Milliseconds after which silence is noticed, at the least and beyond that at random: a heartbeat's tolerance and interval.
const SILENCE_MS: (u64, u64) =
    (1_000 * ebbgate_tunnel::heartbeat::TOLERANCE_SECS, 1_000 * ebbgate_tunnel::heartbeat::HEARTBEAT_SECS);
/// Of so many faults one is a whole region, and one control.
const RARE_PART: u64 = 120;

impl World {
    /// The next fault is written down.
    pub(crate) fn next_fault(&mut self) {
        let Settings { faults_of_edge, edges, .. } = self.settings;
        let year = Duration::from_hours(365 * 24);
        let all =
            u32::try_from(faults_of_edge).unwrap_or(1).saturating_mul(u32::try_from(edges).unwrap_or(1));
        let mean = year / all.max(1);
        let wait = Duration::from_millis(self.random.below(2 * u64::try_from(mean.as_millis()).unwrap_or(1)));
        self.after(wait, Event::Break);
    }

    /// Something fails, at random.
    pub(crate) fn fail(&mut self) -> Result<()> {
        let (edge, other, group) =
            (self.below(self.edges.len()), self.below(self.edges.len()), self.below(GROUPS));
        let rare = self.random.below(RARE_PART);
        // The rare ones come first, so that a short run has them.
        let fault = match (rare.min(self.faults), self.random.below(100)) {
            (0, _) => Fault::Region(edge / self.settings.region()),
            (1, _) if self.control.is_up => Fault::Control,
            (_, 0..22) => Fault::Edge(edge),
            (_, 22..37) => Fault::Upgrade(edge),
            (_, 37..42) if !self.edges[edge].drained => Fault::Drained(edge),
            (_, 42..56) => Fault::FromControl(edge),
            (_, 56..72) if other != edge => Fault::FromEdges(edge.min(other), edge.max(other)),
            _ => Fault::FromAgents(group, edge),
        };
        let lasts = LASTS_SECS[self.below(LASTS_SECS.len())] * 1_000;
        let lasts = Duration::from_millis(lasts + self.random.below(1_000));
        self.faults += 1;
        self.trace(|| format!("{fault:?} for {:.1} s", lasts.as_secs_f64()));
        self.next_fault();
        if let Fault::Upgrade(edge) = fault {
            self.upgrade(edge)?;
            self.settle_soon();
            return Ok(());
        }
        self.lasting += 1;
        self.after(lasts, Event::Heal(fault));
        match fault {
            Fault::Edge(edge) => self.crash(edge)?,
            Fault::Region(region) => {
                for edge in self.of_region(region) {
                    self.crash(edge)?;
                }
            }
            Fault::Control => self.crash_control(),
            Fault::FromControl(edge) => self.cut_feed(edge),
            Fault::FromAgents(group, edge) => self.cut_agents(group, edge),
            Fault::FromEdges(one, two) => drop(self.from_edges.cut((one, two), self.now)),
            Fault::Drained(edge) => self.drain(edge),
            Fault::Upgrade(_) => {}
        }
        Ok(())
    }

    /// A fault is over.
    pub(crate) fn heal(&mut self, fault: Fault) {
        self.trace(|| format!("{fault:?} is over"));
        self.lasting -= 1;
        match fault {
            Fault::Edge(edge) => self.start(edge),
            Fault::Region(region) => self.of_region(region).for_each(|edge| self.start(edge)),
            Fault::Control => self.start_control(),
            Fault::FromControl(edge) => self.heal_feed(edge),
            Fault::FromAgents(group, edge) => drop(self.from_agents.heal((group, edge), self.now)),
            Fault::FromEdges(one, two) => drop(self.from_edges.heal((one, two), self.now)),
            Fault::Drained(edge) => {
                self.edges[edge].drained = false;
                self.control.set_drained(edge, false);
            }
            Fault::Upgrade(_) => {}
        }
        self.settle_soon();
    }

    fn of_region(&self, region: usize) -> std::ops::Range<usize> {
        let size = self.settings.region();
        region * size..((region + 1) * size).min(self.edges.len())
    }

    fn settle_soon(&mut self) {
        if self.lasting == 0 {
            let faults = self.faults;
            self.after(Duration::from_secs(SETTLE_SECS), Event::Settled { faults });
        }
    }

    /// The process of an edge ends, whatever it had.
    fn crash(&mut self, edge: usize) -> Result<()> {
        self.edges[edge].down += 1;
        if self.edges[edge].down > 1 {
            return Ok(());
        }
        for (slot, life) in self.slots_at(edge) {
            self.session_gone(slot);
            let lost = Event::Lost { slot, life };
            if self.hears(self.agents[Self::agent_of(slot).0].group, edge) {
                self.within_ms(RESET_MS, lost);
            } else {
                let wait = SILENCE_MS.0 + self.random.below(SILENCE_MS.1);
                self.after(Duration::from_millis(wait), lost);
            }
        }
        if !self.from_control.is_cut(edge) {
            self.break_feed(edge);
        }
        self.forget(edge)
    }

    /// What a process knew goes with it.
    fn forget(&mut self, edge: usize) -> Result<()> {
        self.edges[edge].fed = None;
        self.edges[edge].peers = Arc::new(BTreeMap::new());
        self.views.forget(edge);
        if self.witnesses.contains_key(&edge) {
            let accounts = self.settings.agents.div_ceil(AGENTS_OF_ACCOUNT);
            self.witnesses.insert(edge, Witness::new(edge, accounts)?);
        }
        Ok(())
    }

    fn start(&mut self, edge: usize) {
        let per_sec = self.settings.handshakes_per_sec;
        let process = &mut self.edges[edge];
        process.down -= 1;
        if process.down == 0 {
            process.incarnation += 1;
            process.turns = Turns::new(per_sec);
            process.up_since = self.now;
            self.connect_soon(edge);
        }
    }

    /// Another process serves in place of one, and agents are asked to connect to it.
    fn upgrade(&mut self, edge: usize) -> Result<()> {
        if !self.is_up(edge) {
            return Ok(());
        }
        let pace = self.edges[edge].turns.interval();
        let mut told_after = Duration::ZERO;
        for (slot, life) in self.slots_at(edge) {
            self.session_gone(slot);
            told_after += pace;
            if self.hears(self.agents[Self::agent_of(slot).0].group, edge) {
                self.after(told_after, Event::Move { slot, life });
            } else {
                let wait = SILENCE_MS.0 + self.random.below(SILENCE_MS.1);
                self.after(Duration::from_millis(wait), Event::Lost { slot, life });
            }
        }
        self.edges[edge].capacity.restart();
        self.edges[edge].turns = Turns::new(self.settings.handshakes_per_sec);
        self.edges[edge].incarnation += 1;
        self.edges[edge].up_since = self.now;
        self.forget(edge)?;
        self.connect(edge);
        Ok(())
    }

    fn drain(&mut self, edge: usize) {
        self.edges[edge].drained = true;
        self.control.set_drained(edge, true);
        for (number, (slot, life)) in self.slots_at(edge).into_iter().enumerate() {
            let wait = PACE_MS * u64::try_from(number).unwrap_or(0);
            self.after(Duration::from_millis(wait), Event::Leave { slot, life });
        }
    }

    fn cut_agents(&mut self, group: usize, edge: usize) {
        if !self.from_agents.cut((group, edge), self.now) {
            return;
        }
        let since = self.now;
        for (slot, life) in self.slots_at(edge) {
            if self.agents[Self::agent_of(slot).0].group == group {
                let wait = SILENCE_MS.0 + self.random.below(SILENCE_MS.1);
                self.after(Duration::from_millis(wait), Event::Silent { slot, life, since });
            }
        }
    }
}
