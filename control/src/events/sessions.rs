//! Sessions of agents as events: `agent_session_start.v0` and `agent_session_stop.v0`, and how their endpoints fare:
//! `endpoint_health_changed.v0`.

use ebbgate_model::feed::HealthState;
use ebbgate_model::{EndpointId, EventId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::envelope::Event;
use super::types::{HEALTH, SESSION_START, SESSION_STOP};
use crate::App;
use crate::api::timestamp;
use crate::clock::UnixSecs;
use crate::presence::{SessionChange, SessionChangeKind};

/// Sessions that wait to be told.
const WAITING_MAX: usize = 4_096;
/// Seconds by which the clocks of edges may be behind.
const SKEW_SECS: i64 = 60;

/// Tells sessions for ever. Those that were there before control started are no news when they are reported again.
pub(super) async fn run(app: App) {
    let (told, mut changes) = mpsc::channel(WAITING_MAX);
    let since = app.now() - SKEW_SECS;
    app.presence.tell(told);
    while let Some(change) = changes.recv().await {
        if change.kind != SessionChangeKind::Began || change.report.started_at >= since {
            let event = event(&app, &change);
            app.events.deliver(vec![event]).await;
        }
    }
}

fn event(app: &App, change: &SessionChange) -> Event {
    let now = app.now();
    let region = &app.installation.region;
    let (kind, object) = match change.kind {
        SessionChangeKind::Began => (SESSION_START, object(change, region, None)),
        SessionChangeKind::Ended => (SESSION_STOP, object(change, region, Some(now))),
        SessionChangeKind::Health { endpoint, before } => (HEALTH, health(change, endpoint, before)),
    };
    Event::new(EventId::new(app.ksuid()), kind, now, Some(change.report.account), &object)
}

fn health(change: &SessionChange, id: EndpointId, before: HealthState) -> Value {
    let endpoint = change.report.endpoints.get(&id);
    let health = endpoint.map(|endpoint| endpoint.health.clone()).unwrap_or_default();
    json!({
        "endpoint": {"id": id, "url": endpoint.map(|endpoint| &endpoint.url)},
        "session": {"id": change.id},
        "state": health.state.as_str(),
        "state_before": before.as_str(),
        "reason": health.reason,
        "check": health.check,
    })
}

fn object(change: &SessionChange, region: &str, stopped: Option<UnixSecs>) -> Value {
    let report = &change.report;
    json!({
        "session": {"id": change.id},
        "credential": {"id": report.credential},
        "agent_ip": report.ip,
        "ingress_server_ip": null,
        "ingress_hostname": null,
        "region": region,
        "user_agent": report.user_agent,
        "metadata": report.metadata,
        "os": report.os,
        "arch": null,
        "transport": report.transport,
        "started_at": timestamp(report.started_at),
        "expires_at": null,
        "stopped_at": stopped.map(timestamp),
        "error": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;
    use ebbgate_model::feed::{AgentEndpointReport, CommandRefusals, HealthReport, SessionReport};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn a_change_of_health_names_the_endpoint_and_why() {
        let ksuid = Ksuid::new(1_700_000_000, [1; 16]);
        let id = EndpointId::new(ksuid);
        let endpoint = AgentEndpointReport {
            url: "https://a.internal".parse().unwrap(),
            binding: ebbgate_model::Binding::Internal,
            name: String::new(),
            description: String::new(),
            metadata: String::new(),
            pooling_enabled: true,
            forwards_to: String::new(),
            upstream_protocol: "http1".into(),
            traffic_policy: String::new(),
            created_at: 0,
            upstream_refused: false,
            drain: None,
            elsewhere: None,
            health: HealthReport {
                state: HealthState::Unhealthy,
                since: 7,
                reason: "answered 503".into(),
                check: "http".into(),
            },
        };
        let report = SessionReport {
            account: ebbgate_model::AccountId::new(ksuid),
            credential: ebbgate_model::CredentialId::new(ksuid),
            agent_version: String::new(),
            user_agent: String::new(),
            os: String::new(),
            ip: String::new(),
            metadata: String::new(),
            started_at: 0,
            transport: String::new(),
            refusals: CommandRefusals::default(),
            endpoints: BTreeMap::from([(id, endpoint)]),
        };
        let kind = SessionChangeKind::Health { endpoint: id, before: HealthState::Healthy };
        let session = ebbgate_model::TunnelSessionId::new(ksuid);
        let change = SessionChange { id: session, report: Arc::new(report), kind };
        let told = health(&change, id, HealthState::Healthy);
        assert_eq!(
            told,
            json!({
                "endpoint": {"id": id, "url": "https://a.internal"},
                "session": {"id": session},
                "state": "unhealthy",
                "state_before": "healthy",
                "reason": "answered 503",
                "check": "http",
            })
        );
    }
}
