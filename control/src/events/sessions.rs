//! Sessions of agents as events: `agent_session_start.v0` and `agent_session_stop.v0`.

use ebbgate_model::EventId;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::envelope::Event;
use super::types::{SESSION_START, SESSION_STOP};
use crate::App;
use crate::api::timestamp;
use crate::clock::UnixSecs;
use crate::presence::SessionChange;

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
        if !change.began || change.report.started_at >= since {
            let event = event(&app, &change);
            app.events.deliver(vec![event]).await;
        }
    }
}

fn event(app: &App, change: &SessionChange) -> Event {
    let now = app.now();
    let kind = if change.began { SESSION_START } else { SESSION_STOP };
    let object = object(change, &app.installation.region, now);
    Event::new(EventId::new(app.ksuid()), kind, now, Some(change.report.account), &object)
}

fn object(change: &SessionChange, region: &str, now: UnixSecs) -> Value {
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
        "stopped_at": (!change.began).then(|| timestamp(now)),
        "error": null,
    })
}
