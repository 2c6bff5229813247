//! What of a session at an older process of this edge control is told, and what is superseded: endpoints that its agent serves at
//! this process too. Knows no other session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ebbgate_model::feed::SessionReport;
use ebbgate_model::{EndpointId, TunnelSessionId};
use tokio::sync::mpsc;

use super::super::line::Asked;
use super::super::session::report_text_bytes;
use crate::state::edge::Edge;
use crate::state::endpoint::{Endpoint, Kind};
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
    /// As they were.
    superseded: BTreeMap<EndpointId, Arc<Endpoint>>,
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
        self.superseded.contains_key(&endpoint)
    }

    /// The endpoint that the agent serves here, in place of one that is superseded.
    pub(super) fn instead(&self, edge: &Edge, endpoint: EndpointId) -> Option<Arc<Endpoint>> {
        at_home(edge, self.superseded.get(&endpoint)?)
    }

    pub(super) fn supersede(&mut self, endpoint: Arc<Endpoint>) {
        self.superseded.insert(endpoint.id, endpoint);
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
        self.superseded.retain(|endpoint, _| report.endpoints.contains_key(endpoint));
        let mut left = report.clone();
        left.endpoints.retain(|endpoint, _| !self.superseded.contains_key(endpoint));
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

/// The endpoint of an agent that is connected here, if it is the same as one of an older process.
pub(super) fn at_home(edge: &Edge, endpoint: &Endpoint) -> Option<Arc<Endpoint>> {
    let pool = edge.routes.beside(endpoint)?;
    let mut members = pool.members().iter();
    members.find(|member| !member.is_elsewhere() && is_same(member, endpoint)).map(Arc::clone)
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
