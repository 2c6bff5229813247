//! Drain of one member of a pool: what an operator said reaches the sessions of this edge that have the member, and those of
//! other edges that are served here.

use ebbgate_model::AccountId;
use ebbgate_model::feed::{CommandOutcome, DrainWanted, SessionReport, ToEdge};
use tokio::time::Instant;

use super::registry::Agents;
use super::session::AgentSession;
use crate::state::clock;

impl Agents {
    /// Keeps new work from an endpoint of a session here, or no longer; and from what else is the same member.
    pub(super) fn drain(&self, session: &AgentSession, wanted: DrainWanted) -> CommandOutcome {
        let account = session.account();
        let Some(member) = session.member(wanted.endpoint) else {
            return CommandOutcome::Failed { reason: "the agent serves it no more".into() };
        };
        self.edge().drains.say(account, &member, wanted.drain, clock::unix_ms());
        tracing::info!(session = %session.state.id, endpoint = %wanted.endpoint, drain = wanted.drain, "an operator drains an endpoint or takes that back");
        self.apply_drain(account, &member);
        CommandOutcome::Taken
    }

    /// Takes what control tells of another edge.
    pub fn told_of_peer(&self, message: ToEdge) {
        if let ToEdge::PeerSession { report, .. } = &message {
            self.hear_drains(report);
        }
        self.peers.take(self.edge(), message);
    }

    /// A session elsewhere is reported: operators' words in it that are news hold here too.
    pub(super) fn hear_drains(&self, report: &SessionReport) {
        for said in report.endpoints.values().filter_map(|endpoint| endpoint.drain.as_ref()) {
            if let Some(word) = said.word()
                && self.edge().drains.hear(report.account, &said.member, word)
            {
                self.apply_drain(report.account, &said.member);
            }
        }
    }

    fn apply_drain(&self, account: AccountId, member: &str) {
        let now = Instant::now();
        for session in self.sessions.of_account(account) {
            session.drained(self.edge(), member, now);
        }
        self.peers.drained(self.edge(), account, member);
    }
}
