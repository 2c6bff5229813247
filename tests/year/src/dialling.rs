//! Agents and their sessions: which edge is dialled, the turn there, being let in, and the end. Decisions are the agent's `Edges`,
//! `Round` and `Plan`, and the edge's `Turns`.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use anyhow::{Result, ensure};
use ebbgate::dial::DialError;
use ebbgate::edge_dialer::CONNECT_SECS_MAX;
use ebbgate::edges_dialer::Round;
use ebbgate::plan::BindOutcome;
use ebbgate_edge::agents::elsewhere::others;
use ebbgate_edge::net::handshakes::turns::Turn;
use ebbgate_model::feed::{ServedElsewhere, SessionReport};
use ebbgate_wire::rpc::{AuthReply, AuthReplyExtra, BindReply};

use crate::checks::BACK_SECS;
use crate::ids::{self, Life, Slot};
use crate::said::Said;
use crate::settings::{Broken, Settings};
use crate::world::{Event, State, World};

/// Milliseconds until an edge's machine says no.
const REFUSED_MS: u64 = 20;
/// Milliseconds of a handshake.
const HANDSHAKE_MS: u64 = 80;
/// Seconds after which a handshake that is cut off is given up.
const HANDSHAKE_SECS_MAX: u64 = 10;
/// One of so many goes wrong where a rule is broken.
const BROKEN_PART: u64 = 1_000;

impl World {
    /// A session begins a dial.
    pub(crate) fn dial(&mut self, slot: Slot) {
        let now = self.now;
        let session = self.session(slot);
        (session.round, session.began) = (Round::default(), now);
        self.try_next(slot);
        self.wake(slot);
    }

    /// The next edge of a dial.
    fn try_next(&mut self, slot: Slot) {
        let (number, index) = Self::agent_of(slot);
        let agent = &mut self.agents[number];
        let session = &mut agent.sessions[index];
        let Some(address) = agent.edges.next_now(index) else {
            session.state = State::Waiting;
            return;
        };
        session.round.begins(&agent.edges, index);
        session.attempt += 1;
        let (attempt, group, site) = (session.attempt, agent.group, agent.site);
        let edge = ids::edge_at(&address.host);
        session.state = State::Dialling(edge);
        let failed = |busy| Event::Failed { slot, attempt, busy };
        if !self.hears(group, edge) {
            return self.after(Duration::from_secs(CONNECT_SECS_MAX), failed(None));
        }
        if !self.is_up(edge) {
            return self.after(Duration::from_millis(REFUSED_MS), failed(None));
        }
        let incarnation = self.edges[edge].incarnation;
        let begins = Event::Begins { slot, attempt, edge, incarnation };
        let turn = match self.settings.broken {
            Some(Broken::Turns) => Turn::Now,
            _ => self.edges[edge].turns.ask(self.now, ids::source(site)),
        };
        match turn {
            Turn::Now => self.begin_handshake(slot, attempt, edge),
            Turn::At(at) => {
                self.report.waited += 1;
                self.after(at.saturating_sub(self.now), begins);
            }
            Turn::Refused(after) => {
                self.report.refused += 1;
                self.after(Duration::from_millis(REFUSED_MS), failed(Some(after)));
            }
        }
    }

    /// The turn of a handshake that waited.
    pub(crate) fn begins(&mut self, slot: Slot, attempt: u32, edge: usize, incarnation: u32) {
        let site = self.agents[Self::agent_of(slot).0].site;
        if self.edges[edge].incarnation == incarnation {
            self.edges[edge].turns.ended_waiting(ids::source(site));
            if self.is_up(edge) {
                return self.begin_handshake(slot, attempt, edge);
            }
        }
        self.after(Duration::ZERO, Event::Failed { slot, attempt, busy: None });
    }

    fn begin_handshake(&mut self, slot: Slot, attempt: u32, edge: usize) {
        let now = self.now;
        self.report.handshakes += 1;
        self.edges[edge].capacity.begins(now);
        let incarnation = self.edges[edge].incarnation;
        self.after(Duration::from_millis(HANDSHAKE_MS), Event::Done { slot, attempt, edge, incarnation });
    }

    /// A handshake is done, or the edge is gone or cut off by now.
    pub(crate) fn done(&mut self, slot: Slot, attempt: u32, edge: usize, incarnation: u32) -> Result<()> {
        let (number, index) = Self::agent_of(slot);
        let agent = &self.agents[number];
        ensure!(agent.sessions[index].attempt == attempt, "a session dials twice at once");
        let failed = Event::Failed { slot, attempt, busy: None };
        if !self.hears(agent.group, edge) {
            self.after(Duration::from_secs(HANDSHAKE_SECS_MAX), failed);
            return Ok(());
        }
        if !self.is_up(edge) || self.edges[edge].incarnation != incarnation {
            self.after(Duration::ZERO, failed);
            return Ok(());
        }
        self.let_in(slot, edge)
    }

    fn let_in(&mut self, slot: Slot, edge: usize) -> Result<()> {
        let (number, index) = Self::agent_of(slot);
        let (now, drawn) = (self.now, self.random.number());
        let connect_addresses = others(&self.edges[edge].peers, drawn);
        let agent = &mut self.agents[number];
        let session = &mut agent.sessions[index];
        session.life += 1;
        let life = session.life;
        let id = ids::session(slot, life);
        let reply = AuthReply {
            version: "3".into(),
            client_id: id.to_string(),
            extra: AuthReplyExtra { edge_id: ids::edge(edge).to_string(), ..AuthReplyExtra::default() },
            ..AuthReply::default()
        };
        session.plan.authenticated(now, &reply)?;
        agent.edges.let_in(index, &reply.extra.edge_id)?;
        agent.edges.told(connect_addresses.iter().map(|other| other.server_addr.as_str()));
        agent.told = connect_addresses
            .iter()
            .filter_map(|other| other.server_addr.split(':').next())
            .map(ids::edge_at)
            .collect();
        while let Some((key, bind)) = session.plan.next_bind(now) {
            let url = bind.opts.url().to_owned();
            let reply = BindReply { id: format!("b{key}"), url, ..BindReply::default() };
            let bound = session.plan.bound(key, Ok(reply), now, 0);
            ensure!(matches!(bound, BindOutcome::Online(_)), "a bind failed: {bound:?}");
        }
        session.state = State::Online;
        if let Some(away) = agent.away.take() {
            // At the beginning nobody is anywhere.
            self.report.away += u64::from(away > Duration::ZERO);
            self.report.away_max = self.report.away_max.max(now.saturating_sub(away));
        }
        self.end_session(slot);
        self.changed = now;
        self.views.set_truth(slot, edge, life);
        let report = self.session_report(slot, life, edge);
        self.control.session(edge, id, report);
        self.wake(slot);
        Ok(())
    }

    /// What an edge says of a session.
    pub(crate) fn session_report(&mut self, slot: Slot, life: Life, edge: usize) -> SessionReport {
        let (number, _) = Self::agent_of(slot);
        let agent = &self.agents[number];
        let mut owner = agent.account;
        if self.settings.broken == Some(Broken::Account) && self.random.below(BROKEN_PART) == 0 {
            owner = if owner == 0 { 1 } else { owner - 1 };
        }
        let seconds = i64::try_from(self.now.as_secs()).unwrap_or(0);
        let Said { session, endpoint } = &self.said;
        let mut endpoint = endpoint.clone();
        endpoint.url = ids::url(agent.service);
        let identity = format!("p{number}/1");
        endpoint.elsewhere = Some(Box::new(ServedElsewhere { identity, ..ServedElsewhere::default() }));
        SessionReport {
            account: ids::account(owner),
            credential: ids::credential(owner),
            started_at: 1_700_000_000 + seconds + self.edges[edge].clock_ahead_secs,
            endpoints: BTreeMap::from([(ids::endpoint(slot, life), endpoint)]),
            ..session.clone()
        }
    }

    /// The edge of a session has it no more, and says so.
    fn end_session(&mut self, slot: Slot) {
        let (edge, life) = self.views.truth(slot);
        if life > 0 {
            self.control.session_ended(edge, ids::session(slot, life));
            self.session_gone(slot);
        }
    }

    /// No edge has a session of this slot.
    pub(crate) fn session_gone(&mut self, slot: Slot) {
        self.views.set_truth(slot, 0, 0);
        self.changed = self.now;
        let (number, _) = Self::agent_of(slot);
        let first = number * Settings::SESSIONS;
        let has_any = (first..first + Settings::SESSIONS).any(|slot| self.views.truth(slot).1 > 0);
        let now = self.now;
        if !has_any && self.agents[number].away.is_none() {
            self.agents[number].away = Some(now);
            self.after(Duration::from_secs(BACK_SECS), Event::BackBy { agent: number, since: now });
        }
    }

    /// An edge was not reached.
    pub(crate) fn failed(&mut self, slot: Slot, attempt: u32, busy: Option<Duration>) {
        let (number, index) = Self::agent_of(slot);
        let (now, drawn) = (self.now, self.drawn());
        let agent = &mut self.agents[number];
        let session = &mut agent.sessions[index];
        if session.attempt != attempt {
            return;
        }
        let target = String::new();
        let error = match busy {
            Some(retry_after) => DialError::Busy { target, retry_after },
            None => DialError::Tcp { target, source: io::ErrorKind::TimedOut.into() },
        };
        let Some(error) = session.round.failed(&agent.edges, index, error) else {
            self.try_next(slot);
            return self.wake(slot);
        };
        agent.edges.failed(index);
        let wait = match error {
            DialError::Busy { retry_after, .. } => session.plan.asked_to_wait(now, retry_after, drawn),
            _ => session.plan.lost(now, now.saturating_sub(session.began), drawn),
        };
        self.pause(slot, wait);
    }

    fn pause(&mut self, slot: Slot, wait: Duration) {
        let wait = if self.settings.broken == Some(Broken::Backoff) { wait * 1_000 } else { wait };
        let session = self.session(slot);
        session.state = State::Paused;
        let attempt = session.attempt;
        self.after(wait, Event::Dial { slot, attempt });
        self.wake(slot);
    }

    /// An agent notices that its session is over.
    pub(crate) fn lost(&mut self, slot: Slot, life: Life) {
        let (number, index) = Self::agent_of(slot);
        let (now, drawn) = (self.now, self.drawn());
        let agent = &mut self.agents[number];
        let session = &mut agent.sessions[index];
        if session.state != State::Online || session.life != life {
            return;
        }
        agent.edges.failed(index);
        let wait = session.plan.lost(now, Duration::ZERO, drawn);
        self.pause(slot, wait);
    }

    /// Edge and agent notice that they do not hear each other.
    pub(crate) fn silent(&mut self, slot: Slot, life: Life, since: Duration) {
        let (edge, now_life) = self.views.truth(slot);
        let group = self.agents[Self::agent_of(slot).0].group;
        let cut = self.from_agents.of((group, edge));
        if now_life == life && cut.count > 0 && cut.since == since {
            self.end_session(slot);
            self.lost(slot, life);
        }
    }

    /// An agent goes to the process that took over, or where it likes better. Its session there is over already.
    pub(crate) fn move_on(&mut self, slot: Slot, life: Life) {
        let now = self.now;
        let session = self.session(slot);
        if session.state == State::Online && session.life == life {
            session.plan.left(now);
            self.dial(slot);
        }
    }

    /// An agent leaves a drained edge, which keeps the session until another edge lets the agent in.
    pub(crate) fn leave(&mut self, slot: Slot, life: Life) {
        let (edge, now_life) = self.views.truth(slot);
        let (number, index) = Self::agent_of(slot);
        if now_life != life || !self.edges[edge].drained || !self.hears(self.agents[number].group, edge) {
            return;
        }
        let (now, drawn) = (self.now, self.random.number());
        let connect_addresses = others(&self.edges[edge].peers, drawn);
        let agent = &mut self.agents[number];
        let session = &mut agent.sessions[index];
        if connect_addresses.is_empty() || session.state != State::Online {
            return;
        }
        agent.edges.told(connect_addresses.iter().map(|other| other.server_addr.as_str()));
        agent.edges.leave(index);
        agent.edges.failed(index);
        session.plan.part();
        session.plan.left(now);
        self.dial(slot);
    }

    /// Sessions of the same agent that had no edge may have one now.
    fn wake(&mut self, slot: Slot) {
        let (number, _) = Self::agent_of(slot);
        for index in 0..Settings::SESSIONS {
            if self.agents[number].sessions[index].state == State::Waiting {
                self.try_next(number * Settings::SESSIONS + index);
            }
        }
    }
}
