//! What must always be so. An error of these ends the run.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use ebbgate::edge_dialer::CONNECT_SECS_MAX;

use crate::ids;
use crate::settings::Settings;
use crate::witness::Witness;
use crate::world::{AGENTS_OF_ACCOUNT, Event, SERVICES, World};

/// An agent that can reach an edge has a session within so many seconds, and [`CONNECT_SECS_MAX`] more for each edge that it
/// knows and that is silent or was away meanwhile.
pub const BACK_SECS: u64 = 30;
/// All edges know the same so many seconds after the last session began or ended and the last fault was over.
pub const PRESENCE_SECS: u64 = 60;
/// Seconds after the last fault at which sessions may still move: silence, being back at the slowest edge of all, presence.
pub(crate) const SETTLE_SECS: u64 = 90;
/// Seconds after the last fault at which no session may move any more.
const SETTLE_SECS_MAX: u64 = 600;
/// Visitors at a time, at each witness.
const VISITORS: usize = 10;
/// Seconds between visits.
pub(crate) const VISIT_SECS: u64 = 900;

impl World {
    /// No edge began more handshakes within a second than it states.
    pub(crate) fn check_capacity(&mut self, edge: usize) -> Result<()> {
        let (most, stated) = (self.edges[edge].capacity.most, self.settings.handshakes_per_sec);
        self.report.most_in_a_second = self.report.most_in_a_second.max(most);
        ensure!(
            most <= usize::try_from(stated)?,
            "edge {edge} began {most} handshakes within a second, and states {stated}"
        );
        Ok(())
    }

    /// An agent is back, or no edge was there for it.
    pub(crate) fn back_by(&mut self, agent: usize, since: Duration) -> Result<()> {
        let found = &self.agents[agent];
        if found.away != Some(since) {
            return Ok(());
        }
        let known: BTreeSet<usize> = found.configured.iter().chain(&found.told).copied().collect();
        let reached_since = |edge: usize| {
            let cut = self.from_agents.of((found.group, edge));
            (self.is_up(edge) && cut.count == 0).then(|| cut.healed.max(self.edges[edge].up_since))
        };
        let silent = known.iter().filter(|edge| reached_since(**edge).is_none_or(|at| at > since)).count();
        let limit = Duration::from_secs(BACK_SECS + CONNECT_SECS_MAX * u64::try_from(silent)?);
        let reached = known.iter().filter_map(|edge| Some((reached_since(*edge)?.max(since), *edge))).min();
        if let Some((at, edge)) = reached {
            ensure!(
                self.now < at + limit,
                "agent {agent} has no edge for {:.1} s; it knows edge {edge}, which it reaches for {:.1} s; {:?}",
                self.now.saturating_sub(since).as_secs_f64(),
                self.now.saturating_sub(at).as_secs_f64(),
                found.sessions.iter().map(|session| session.state).collect::<Vec<_>>()
            );
            let wait = (at + limit).saturating_sub(self.now);
            self.after(wait, Event::BackBy { agent, since });
        } else {
            self.after(Duration::from_secs(BACK_SECS), Event::BackBy { agent, since });
        }
        Ok(())
    }

    /// Visitors come to each witness, and none gets to another account.
    pub(crate) fn visit(&mut self) -> Result<()> {
        for witness in self.witnesses.keys().copied().collect::<Vec<_>>() {
            if self.is_up(witness) {
                self.keep_ways(witness);
                for _ in 0..VISITORS {
                    let account = self.below(self.settings.agents.div_ceil(AGENTS_OF_ACCOUNT));
                    let service = self.below(SERVICES);
                    self.visit_one(witness, account, service)?;
                }
            }
        }
        Ok(())
    }

    fn keep_ways(&mut self, witness: usize) {
        let Self { witnesses, edges, from_edges, .. } = self;
        if let Some(at) = witnesses.get_mut(&witness) {
            at.keep_ways(|edge| {
                edges[edge].down == 0 && !from_edges.is_cut((edge.min(witness), edge.max(witness)))
            });
        }
    }

    fn visit_one(&mut self, witness: usize, account: usize, service: usize) -> Result<bool> {
        let Some(at) = self.witnesses.get(&witness) else { return Ok(false) };
        let mut reached = None;
        let served = at.visit(ids::account(account), &ids::url(service), |elsewhere| {
            let edge = ids::edge_number(elsewhere.edge);
            let (slot, life) = ids::session_numbers(elsewhere.session);
            let is_there = self.views.truth(slot) == (edge, life)
                && !self.from_edges.is_cut((edge.min(witness), edge.max(witness)));
            reached = reached.or(is_there.then_some(slot));
            is_there
        })?;
        self.report.visits += 1;
        self.report.served += u64::from(served);
        if let Some(slot) = reached {
            let agent = &self.agents[Self::agent_of(slot).0];
            ensure!(
                (agent.account, agent.service) == (account, service),
                "a visitor of account {account}, service {service}, reached account {}, service {}",
                agent.account,
                agent.service
            );
        }
        Ok(served)
    }

    /// Nothing failed for a while: every edge is connected and knows what is so, and every agent has its sessions.
    pub(crate) fn settled(&mut self, faults: u64) -> Result<()> {
        if faults != self.faults || self.lasting > 0 {
            return Ok(());
        }
        let due = self.changed + Duration::from_secs(PRESENCE_SECS);
        if due > self.now {
            let wait = due.saturating_sub(self.now);
            ensure!(wait <= Duration::from_secs(SETTLE_SECS_MAX), "sessions never settle");
            self.after(wait, Event::Settled { faults });
            return Ok(());
        }
        for edge in 0..self.edges.len() {
            ensure!(self.control.is_connected(edge), "edge {edge} is not connected to control");
            let wrong = self.views.wrong(edge);
            ensure!(wrong == 0, "edge {edge} knows {wrong} sessions otherwise than they are");
        }
        for agent in 0..self.agents.len() {
            let first = agent * Settings::SESSIONS;
            let online =
                (first..first + Settings::SESSIONS).filter(|slot| self.views.truth(*slot).1 > 0).count();
            ensure!(online > 0, "agent {agent} has no session though nothing is broken");
        }
        let mut at_edge = vec![0; self.edges.len()];
        (0..self.settings.slots())
            .map(|slot| self.views.truth(slot))
            .filter(|(_, life)| *life > 0)
            .for_each(|(edge, _)| at_edge[edge] += 1);
        let all: usize = at_edge.iter().sum();
        for edge in self.witnesses.keys().copied().collect::<Vec<_>>() {
            let served = self.witnesses.get(&edge).map_or(0, Witness::endpoints);
            let elsewhere = all - at_edge[edge];
            ensure!(
                served == elsewhere,
                "edge {edge} serves {served} endpoints of other edges, of {elsewhere}"
            );
            self.keep_ways(edge);
            for _ in 0..VISITORS {
                let account = self.below(self.settings.agents.div_ceil(AGENTS_OF_ACCOUNT));
                let service = self.below(SERVICES);
                let served = self.visit_one(edge, account, service)?;
                ensure!(
                    served || !self.has_elsewhere(edge, account, service),
                    "edge {edge} serves no visitor of account {account}, service {service}"
                );
            }
        }
        self.report.settled += 1;
        Ok(())
    }

    /// Whether an agent of a service is at another edge.
    fn has_elsewhere(&self, edge: usize, account: usize, service: usize) -> bool {
        let agents = self.agents.iter().enumerate().skip(account * AGENTS_OF_ACCOUNT).take(AGENTS_OF_ACCOUNT);
        let of_service = agents.filter(|(_, agent)| agent.service == service);
        of_service.flat_map(|(number, _)| number * Settings::SESSIONS..(number + 1) * Settings::SESSIONS).any(
            |slot| {
                let (at, life) = self.views.truth(slot);
                life > 0 && at != edge
            },
        )
    }
}
