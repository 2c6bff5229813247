//! What of a session at an older process of this edge control is told, and what is superseded: endpoints that its agent serves at
//! this process too. Knows no other session.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use ebbgate_model::feed::SessionReport;
use ebbgate_model::{EndpointId, TunnelSessionId};
use tokio::sync::mpsc;

use super::super::line::Asked;
use super::super::session::report_text_bytes;
use crate::state::edge::Edge;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::pool::Pool;
use crate::state::report::Present;

/// A process of this edge that has handed over.
pub(super) struct Older {
    pub(super) asks: mpsc::Sender<Asked>,
}

/// What this edge tells control of a session at an older process.
#[derive(Default)]
pub(super) struct Shown {
    /// What is told. None: nothing is.
    told: Option<Arc<ToldOf>>,
    /// Whether its agent was told to connect here beside it.
    pub(super) moves: bool,
    /// Whether the older process knows that the agent serves everything here.
    has_moved: bool,
    superseded: BTreeSet<EndpointId>,
}

/// The session as control hears of it.
struct ToldOf(Mutex<SessionReport>);

impl Present for ToldOf {
    fn report(&self) -> SessionReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn text_bytes(&self) -> usize {
        report_text_bytes(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shown {
    pub(super) fn is_superseded(&self, endpoint: EndpointId) -> bool {
        self.superseded.contains(&endpoint)
    }

    pub(super) fn supersede(&mut self, endpoint: EndpointId) {
        self.superseded.insert(endpoint);
    }

    /// Control hears of it no more.
    pub(super) fn hide(&self, edge: &Edge, session: TunnelSessionId) {
        if self.told.is_some() {
            edge.reports.session_ended(session);
        }
    }

    /// Tells control what is not superseded: of an agent that is here anew, nothing is left at the end.
    pub(super) fn show(
        &mut self,
        edge: &Edge,
        session: TunnelSessionId,
        report: &SessionReport,
        older: &Older,
    ) {
        self.superseded.retain(|endpoint| report.endpoints.contains_key(endpoint));
        let mut left = report.clone();
        left.endpoints.retain(|endpoint, _| !self.superseded.contains(endpoint));
        let is_here = left.endpoints.is_empty() && (self.moves || !self.superseded.is_empty());
        if is_here {
            self.hide(edge, session);
            self.told = None;
            if self.moves && !self.superseded.is_empty() && !std::mem::replace(&mut self.has_moved, true) {
                // Without it the older process waits a little longer before it ends.
                let _ = older.asks.try_send(Asked::Moved { session });
            }
        } else if let Some(told) = &self.told {
            *told.0.lock().unwrap_or_else(PoisonError::into_inner) = left;
            edge.reports.session_changed(session);
        } else {
            let told = Arc::new(ToldOf(Mutex::new(left)));
            self.told = Some(Arc::clone(&told));
            edge.reports.session(session, told);
        }
    }
}

/// Whether an agent that is connected here serves the endpoint of an older process.
pub(super) fn is_at_home(edge: &Edge, endpoint: &Endpoint) -> bool {
    let members = edge.routes.beside(endpoint);
    members.iter().flat_map(Pool::members).any(|member| !member.is_elsewhere() && is_same(member, endpoint))
}

/// Whether both are the same endpoint of the same agent.
pub(super) fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    match (&one.kind, &other.kind) {
        (Kind::Agent(a), Kind::Agent(b)) => {
            a.identity == b.identity && one.url == other.url && one.account == other.account
        }
        _ => false,
    }
}
