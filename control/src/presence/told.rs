//! What is told of sessions: that they began or ended, and that new work comes to an endpoint of theirs or no longer does.
//!
//! A change that finds no room is not told: edges do not wait for the receiver.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::feed::{HealthState, SessionReport};
use ebbgate_model::{EndpointId, TunnelSessionId};
use tokio::sync::mpsc;

/// A session that began, ended or has an endpoint that fares otherwise, as edges report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionChange {
    /// Identifier.
    pub id: TunnelSessionId,
    /// What its edge said last about it.
    pub report: Arc<SessionReport>,
    /// What changed.
    pub kind: SessionChangeKind,
}

/// What changed about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionChangeKind {
    /// It began.
    Began,
    /// It ended.
    Ended,
    /// New work comes to this endpoint of it now, or no longer does; or an operator drained it, or took that back.
    Health {
        /// Which.
        endpoint: EndpointId,
        /// What was known of it before.
        before: HealthState,
    },
}

pub(super) fn tell(
    told: Option<&mpsc::Sender<SessionChange>>,
    sessions: BTreeMap<TunnelSessionId, Arc<SessionReport>>,
    kind: SessionChangeKind,
) {
    let Some(told) = told else { return };
    for (id, report) in sessions {
        // The queue is full: agents do not wait for the receiver.
        if told.try_send(SessionChange { id, report, kind }).is_err() {
            tracing::warn!(%id, ?kind, "a session is not told in events: too many wait");
        }
    }
}

/// Tells each endpoint to which new work comes now and did not before, or the other way round, and what operators drain.
pub(super) fn tell_health(
    told: Option<&mpsc::Sender<SessionChange>>,
    id: TunnelSessionId,
    before: Option<&Arc<SessionReport>>,
    now: &Arc<SessionReport>,
) {
    let Some(before) = before else { return };
    for (endpoint, report) in &now.endpoints {
        let state = before.endpoints.get(endpoint).map_or(HealthState::Unknown, |report| report.health.state);
        if report.health.state.is_news_after(state) {
            let kind = SessionChangeKind::Health { endpoint: *endpoint, before: state };
            tell(told, [(id, now.clone())].into(), kind);
        }
    }
}
