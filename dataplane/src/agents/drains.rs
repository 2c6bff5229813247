//! Drain of one member of a pool: what an operator said reaches the sessions of this edge that have the member, and those of
//! other edges that are served here.

use ebbgate_model::AccountId;
use ebbgate_model::feed::{CommandOutcome, DrainWanted, ToEdge};
use tokio::time::Instant;

use super::registry::Agents;
use super::session::AgentSession;
use crate::state::clock;

impl Agents {
    /// Keeps new work from an endpoint of a session here, or no longer; and from what else is the same member.
    pub(super) fn drain(&self, session: &AgentSession, wanted: DrainWanted) -> CommandOutcome {
        let account = session.account();
        let Some((member, known)) = session.member(wanted.endpoint) else {
            return CommandOutcome::Failed { reason: "the agent serves it no more".into() };
        };
        // The new word overrides the one that the endpoint has, even if that made room for others here.
        self.edge().drains.hear(account, &member, known);
        self.edge().drains.say(account, &member, wanted.drain, clock::unix_ms());
        tracing::info!(session = %session.state.id, endpoint = %wanted.endpoint, drain = wanted.drain, "an operator drains an endpoint or takes that back");
        self.apply_drain(account, &member);
        CommandOutcome::Taken
    }

    /// Takes what control tells of another edge.
    pub fn told_of_peer(&self, message: ToEdge) {
        let account = match &message {
            ToEdge::PeerSession { report, .. } => Some(report.account),
            _ => None,
        };
        let news = self.peers.take(self.edge(), message);
        if let Some(account) = account {
            self.heard_drains(account, &news);
        }
    }

    /// There are operators' words on these members from elsewhere: they hold here too.
    pub(super) fn heard_drains(&self, account: AccountId, news: &[String]) {
        for member in news {
            self.apply_drain(account, member);
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
