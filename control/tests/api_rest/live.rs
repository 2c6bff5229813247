//! What is online: agent endpoints and sessions as edges report them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use ebbgate_control::presence::Hold;
use ebbgate_model::feed::{
    AgentEndpointReport, CommandOutcome, CommandRefusals, Drain, DrainReport, DrainWanted, EnforcementReport,
    Enforcer, SessionCommand, SessionReport,
};
use ebbgate_model::{CredentialId, EdgeId, EndpointId, EndpointUrl, TunnelSessionId};
use http::Request;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::lab::{EPOCH, Lab, Tenant};
use ebbgate_control::presence::Command;

/// A session with one endpoint, at an edge that stays connected.
pub(crate) fn join(lab: &Lab, tenant: &Tenant, url: &str) -> (TunnelSessionId, EndpointId) {
    let (session, endpoint, hold, commands) = join_pooled(lab, tenant, url, false, "");
    std::mem::forget((hold, commands));
    (session, endpoint)
}

/// The same, its endpoint with a policy of the agent's.
pub(crate) fn join_with_policy(lab: &Lab, tenant: &Tenant, url: &str, policy: &str) {
    let (_, _, hold, commands) = join_pooled(lab, tenant, url, false, policy);
    std::mem::forget((hold, commands));
}

fn join_pooled(
    lab: &Lab,
    tenant: &Tenant,
    url: &str,
    pooling_enabled: bool,
    policy: &str,
) -> (TunnelSessionId, EndpointId, Hold, Receiver<Command>) {
    let url: EndpointUrl = url.parse().unwrap();
    let (session, endpoint) = (TunnelSessionId::new(lab.app.ksuid()), EndpointId::new(lab.app.ksuid()));
    let report = AgentEndpointReport {
        binding: url.implied_binding(),
        url,
        name: "rest-api".into(),
        description: "REST API".into(),
        metadata: "{}".into(),
        pooling_enabled,
        forwards_to: "http://localhost:8080".into(),
        upstream_protocol: "http1".into(),
        traffic_policy: policy.to_owned(),
        created_at: EPOCH,
        upstream_refused: false,
        drain: Some(Box::new(DrainReport::new("0f".repeat(16), Drain::default()))),
        health: ebbgate_model::feed::HealthReport::default(),
        elsewhere: None,
    };
    let report = SessionReport {
        account: tenant.account,
        credential: CredentialId::new(lab.app.ksuid()),
        agent_version: "3.20.0".into(),
        user_agent: "ebbgate/0.1.0".into(),
        os: "linux".into(),
        ip: "192.0.2.7".into(),
        metadata: String::new(),
        started_at: EPOCH,
        transport: String::new(),
        refusals: CommandRefusals::default(),
        endpoints: BTreeMap::from([(endpoint, report)]),
    };
    let (hold, commands) = lab.app.presence.join(EdgeId::new(lab.app.ksuid()), "0.1.0".into(), 0);
    hold.session(session, report);
    (session, endpoint, hold, commands)
}

#[tokio::test]
async fn agent_endpoints_are_listed_among_cloud_endpoints_and_not_writable() {
    let lab = Lab::new().await;
    let older = lab.make("/endpoints", json!({"url": "https://a.internal"})).await.id();
    let (session, agent, _hold, _commands) =
        join_pooled(&lab, &lab.one, "https://rest-api.clinic1.internal", false, "");
    let newer = lab.make("/endpoints", json!({"url": "https://b.internal"})).await.id();
    let list = lab.get("/endpoints").await.expect(200);
    let ids: Vec<_> =
        list.body["endpoints"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [newer.as_str(), agent.to_string().as_str(), older.as_str()]);
    let first = lab.get("/endpoints?limit=1").await;
    let next = first.body["next_page_uri"]
        .as_str()
        .unwrap()
        .strip_prefix("http://127.0.0.1:4480")
        .unwrap()
        .to_owned();
    let second = lab.get(&next).await;
    assert_eq!(second.body["endpoints"][0]["id"], agent.to_string());
    assert!(second.body["next_page_uri"].is_string());

    let one = format!("/endpoints/{agent}");
    let shown = lab.get(&one).await.expect(200);
    assert_eq!(shown.text("type"), "agent");
    assert_eq!(shown.body["tunnel_session"]["id"], session.to_string());
    assert_eq!(shown.body["tunnel"]["id"], format!("tn_{}", agent.ksuid()));
    assert_eq!(shown.text("upstream_url"), "http://localhost:8080");
    assert_eq!(second.body["endpoints"][0], shown.body);
    assert_eq!(lab.patch(&one, json!({"description": "x"})).await.expect(400).code(), 248);
    assert_eq!(lab.delete(&one).await.expect(400).code(), 248);
    let tunnel = lab.get(&format!("/tunnels/tn_{}", agent.ksuid())).await.expect(200);
    assert_eq!(tunnel.body["endpoint"]["id"], agent.to_string());
    assert_eq!(lab.get("/tunnels").await.body["tunnels"], json!([tunnel.body]));
    let by_url = lab.get("/endpoints?url=https://rest-api.clinic1.internal:443").await;
    assert_eq!(by_url.body["endpoints"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn live_endpoints_conflict_pool_and_are_near_misses() {
    let lab = Lab::new().await;
    let url = "https://rest-api.clinic1.internal";
    let (.., lone, _a) = join_pooled(&lab, &lab.one, url, false, "");
    assert_eq!(lab.post("/endpoints", json!({"url": url})).await.expect(400).code(), 18017);
    let pooled = json!({"url": url, "pooling_enabled": true});
    assert_eq!(lab.post("/endpoints", pooled.clone()).await.expect(400).code(), 18016);
    lab.call(&lab.two, "POST", "/endpoints", Some(json!({"url": url}))).await.expect(201);
    lone.replace_sessions(BTreeMap::new());
    let (.., _pooled, _b) = join_pooled(&lab, &lab.one, url, true, "");
    lab.make("/endpoints", pooled).await;
    assert_eq!(lab.post("/endpoints", json!({"url": url})).await.expect(400).code(), 18017);

    lab.reserve_domain().await;
    let forward = json!({"type": "forward-internal", "config": {"url": "https://restapi.clinic1.internal"}});
    let policy = json!({"on_http_request": [{"actions": [forward]}]}).to_string();
    let body = json!({"url": "https://api.clinic.example.com", "traffic_policy": policy});
    assert!(
        lab.make("/endpoints", body.clone()).await.warnings()[0].contains(&format!("did you mean {url}?"))
    );
}

#[tokio::test]
async fn a_near_miss_stays_with_its_endpoint_and_goes_when_the_right_agent_comes() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    let policy = json!({"on_http_request": [{"actions": [
        {"type": "forward-internal", "config": {"url": "https://rest-api.clinic1.internal:8443"}},
    ]}]});
    let body = json!({"url": "https://api.clinic.example.com", "traffic_policy": policy.to_string()});
    let made = lab.make("/endpoints", body).await;
    assert_eq!(made.warnings(), Vec::<String>::new(), "its agent may come later");
    let one = format!("/endpoints/{}", made.id());
    let warnings = async || lab.get(&one).await.expect(200).body["warnings"].clone();
    assert_eq!(warnings().await, json!([]));
    let near = "https://rest-api.clinic1.internal";
    let (.., hold, _a) = join_pooled(&lab, &lab.one, near, false, "");
    let told = warnings().await;
    assert!(told[0].as_str().unwrap().ends_with(&format!("did you mean {near}?")), "{told}");
    assert_eq!(
        lab.get("/endpoints?url=https://api.clinic.example.com").await.body["endpoints"][0]["warnings"],
        told
    );
    let described = lab.patch(&one, json!({"description": "x"})).await.expect(200);
    assert_eq!(described.body["warnings"], told, "every answer says so");
    let (.., right, _b) = join_pooled(&lab, &lab.one, "https://rest-api.clinic1.internal:8443", false, "");
    assert_eq!(warnings().await, json!([]), "the target is served");
    drop(right);
    hold.replace_sessions(BTreeMap::new());
}

#[tokio::test]
async fn what_is_doubtful_about_a_policys_text_stays_with_the_endpoint() {
    let lab = Lab::new().await;
    let made = lab.make("/endpoints", json!({"url": "https://a.internal"})).await;
    assert_eq!(made.warnings().len(), 1, "it has no policy");
    let shown = lab.get(&format!("/endpoints/{}", made.id())).await.expect(200);
    assert_eq!(shown.body["warnings"], json!(made.warnings()));
    let restrict = json!({"on_http_request": [{"actions": [{"type": "deny"}]}]});
    let change = json!({"traffic_policy": restrict.to_string()});
    let changed = lab.patch(&format!("/endpoints/{}", made.id()), change).await.expect(200);
    assert_eq!(changed.body["warnings"], json!([]));
}

#[tokio::test]
async fn an_endpoint_tells_how_its_allowlist_is_enforced() {
    let lab = Lab::new().await;
    let made = lab.make("/endpoints", json!({"url": "https://a.internal"})).await;
    assert_eq!(made.body["enforcement"], Value::Null);
    let report = EnforcementReport {
        by: Enforcer::Xdp,
        reason: String::new(),
        interfaces: [("eth0".to_owned(), "native".to_owned())].into(),
        passed: 7,
        dropped: [("unlisted".to_owned(), 3)].into(),
    };
    let reports: BTreeMap<EndpointId, _> = [(made.id().parse().unwrap(), report)].into();
    let (one, _commands) = lab.app.presence.join(EdgeId::new(lab.app.ksuid()), "0.1.0".into(), 0);
    let (two, _commands) = lab.app.presence.join(EdgeId::new(lab.app.ksuid()), "0.1.0".into(), 0);
    one.replace_enforcement(reports.clone());
    two.replace_enforcement(reports);
    let shown = lab.get(&format!("/endpoints/{}", made.id())).await.expect(200);
    let expect = json!({
        "restrict_ips": "xdp", "reason": "", "interfaces": [{"name": "eth0", "mode": "native"}],
        "passed_packets": 14, "dropped_packets": {"unlisted": 6},
    });
    assert_eq!(shown.body["enforcement"], expect);
    let filter = "/endpoints?filter=obj.enforcement.restrict_ips%20==%20'xdp'";
    assert_eq!(lab.get(filter).await.expect(200).body["endpoints"], json!([shown.body]));
}

#[tokio::test]
async fn a_request_that_the_agent_refuses_is_answered_with_its_reason_and_never_204() {
    let lab = Lab::new().await;
    let (session, _, hold, commands) = join_pooled(&lab, &lab.one, "https://a.internal", false, "");
    let taken = answering(commands, |_| CommandOutcome::Taken);
    let mut report = lab.app.presence.session(lab.one.account, session).unwrap().report.as_ref().clone();
    let post = async |action: &str| {
        lab.call(&lab.one, "POST", &format!("/tunnel_sessions/{session}/{action}"), None).await
    };
    for (action, code) in [("restart", 804), ("stop", 805), ("update", 806)] {
        let why = format!("no {action} here");
        report.refusals = CommandRefusals::default();
        match action {
            "restart" => report.refusals.restart = Some(why.clone()),
            "stop" => report.refusals.stop = Some(why.clone()),
            _ => report.refusals.update = Some(why.clone()),
        }
        hold.session(session, report.clone());
        for other in ["restart", "stop", "update"] {
            let answer = post(other).await;
            if other == action {
                assert_eq!(answer.expect(400).code(), code);
            } else {
                answer.expect(204);
                assert_eq!(taken.lock().unwrap().drain(..).count(), 1);
            }
        }
        let answer = post(action).await;
        assert!(answer.body.to_string().contains(&why), "{}", answer.body);
        assert!(taken.lock().unwrap().is_empty(), "the edge is not asked for what the agent refuses");
    }
}

/// An edge with agents that say this of every command; what was asked, in order.
fn answering(
    mut commands: Receiver<Command>,
    outcome: impl Fn(&SessionCommand) -> CommandOutcome + Send + 'static,
) -> Arc<Mutex<Vec<SessionCommand>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some(Command { command, answer, .. }) = commands.recv().await {
            let outcome = outcome(&command);
            seen.lock().unwrap().push(command);
            let _ = answer.send(outcome);
        }
    });
    asked
}

#[tokio::test]
async fn an_agent_that_fails_at_a_request_is_answered_with_its_words_and_never_204() {
    let lab = Lab::new().await;
    let (session, _, hold, commands) = join_pooled(&lab, &lab.one, "https://a.internal", false, "");
    let _asked = answering(commands, |command| match command {
        SessionCommand::Stop => CommandOutcome::Unanswered,
        _ => CommandOutcome::Failed { reason: "no handler is set".into() },
    });
    let post = async |action: &str| {
        lab.call(&lab.one, "POST", &format!("/tunnel_sessions/{session}/{action}"), None).await
    };
    for (action, status, code) in [("restart", 502, 808), ("update", 502, 809), ("stop", 503, 810)] {
        let answer = post(action).await.expect(status);
        assert_eq!(answer.code(), code, "{action}");
        assert!(status == 503 || answer.text("msg").contains("no handler is set"), "{:#}", answer.body);
    }
    drop(hold);
}

#[tokio::test]
async fn sessions_take_commands_while_they_are_online() {
    let lab = Lab::new().await;
    let (session, _, hold, commands) = join_pooled(&lab, &lab.one, "https://a.internal", false, "");
    let asked = answering(commands, |_| CommandOutcome::Taken);
    let one = format!("/tunnel_sessions/{session}");
    let shown = lab.get(&one).await.expect(200);
    let mut keys: Vec<_> = shown.body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expect = [
        "agent_version",
        "credential",
        "id",
        "ip",
        "metadata",
        "os",
        "region",
        "started_at",
        "transport",
        "uri",
    ];
    assert_eq!(keys, expect);
    assert_eq!(lab.get("/tunnel_sessions").await.body["tunnel_sessions"], json!([shown.body]));
    let post = async |action: &str, body: Option<Value>| {
        lab.call(&lab.one, "POST", &format!("{one}/{action}"), body).await
    };
    post("stop", None).await.expect(204);
    post("stop", Some(json!({}))).await.expect(204);
    post("restart", Some(json!({}))).await.expect(204);
    post("update", Some(json!({"version": "3.21.0"}))).await.expect(204);
    let update = SessionCommand::Update { version: "3.21.0".into() };
    let node = Request::builder()
        .method("POST")
        .uri(format!("{one}/stop"))
        .header("authorization", format!("Bearer {}", lab.one.key))
        .header("content-type", "application/json")
        .header("user-agent", "ngrok-api-typescript/0.10.0/v20")
        .body(Body::from(session.to_string()))
        .unwrap();
    assert_eq!(
        lab.send(node).await.expect(200).body,
        json!({}),
        "the Node client sends a bare id and reads JSON"
    );
    let stop = SessionCommand::Stop;
    let expect = vec![stop.clone(), stop.clone(), SessionCommand::Restart, update, stop];
    assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), expect);
    assert_eq!(post("stop", Some(json!({"now": true}))).await.expect(400).code(), 214);
    post("update", None).await.expect(204);
    post("restart", Some(json!({"id": session.to_string()}))).await.expect(204);
    assert_eq!(post("update", Some(json!({"versoin": "x"}))).await.expect(400).code(), 214);
    drop(hold);
    assert_eq!(post("stop", None).await.expect(503).code(), 810);
    lab.get("/tunnel_sessions/ts_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8").await.expect(404);
    lab.get("/tunnel_sessions/ep_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8").await.expect(400);
}

#[tokio::test]
async fn an_endpoint_shows_its_health() {
    use ebbgate_model::feed::{HealthReport, HealthState};
    let lab = Lab::new().await;
    let (session, agent, hold, _commands) =
        join_pooled(&lab, &lab.one, "https://rest-api.clinic1.internal", true, "");
    let path = format!("/endpoints/{agent}");
    let seen = lab.get(&path).await.body;
    let since = seen["created_at"].clone();
    assert_eq!(seen["health"], json!({"state": "unknown", "since": since, "reason": "", "check": ""}));
    let mut report = lab.app.presence.session(lab.one.account, session).unwrap().report.as_ref().clone();
    for endpoint in report.endpoints.values_mut() {
        endpoint.health = HealthReport {
            state: HealthState::Unhealthy,
            since: EPOCH + 60,
            reason: "answered 503".into(),
            check: "http".into(),
        };
    }
    hold.session(session, report);
    let health = lab.get(&path).await.body["health"].clone();
    assert_eq!((&health["state"], &health["check"]), (&json!("unhealthy"), &json!("http")));
    assert_eq!(health["reason"], "answered 503");
    assert_ne!(health["since"], since);
    let cloud = lab.make("/endpoints", json!({"url": "https://a.internal"})).await;
    assert_eq!(cloud.body["health"], Value::Null);
}

#[tokio::test]
async fn a_member_of_a_pool_is_drained_by_its_edge() {
    let lab = Lab::new().await;
    let (_, endpoint, hold, commands) = join_pooled(&lab, &lab.one, "https://a.internal", true, "");
    let asked = answering(commands, |_| CommandOutcome::Taken);
    let post = async |verb: &str, body: Option<Value>| {
        lab.call(&lab.one, "POST", &format!("/endpoints/{endpoint}/{verb}"), body).await
    };
    post("drain", None).await.expect(204);
    post("drain", Some(json!({}))).await.expect(204);
    post("undrain", Some(json!({"id": endpoint.to_string()}))).await.expect(204);
    let wanted = |drain| SessionCommand::Drain(DrainWanted { endpoint, drain });
    let expect = vec![wanted(true), wanted(true), wanted(false)];
    assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), expect);
    assert_eq!(post("drain", Some(json!({"drain": false}))).await.expect(400).code(), 214);
    assert_eq!(post("drain?force=1", None).await.expect(400).code(), 231);
    assert!(asked.lock().unwrap().is_empty(), "the edge is asked for nothing that is refused");
    drop(hold);
    let cut_off = post("drain", None).await.expect(503);
    assert_eq!(cut_off.code(), 810);
    assert!(cut_off.text("msg").contains("cannot be reached now"), "{}", cut_off.body);
}

#[tokio::test]
async fn what_cannot_be_drained_says_why() {
    let lab = Lab::new().await;
    let (session, endpoint, hold, commands) = join_pooled(&lab, &lab.one, "https://a.internal", true, "");
    let outcome = Arc::new(Mutex::new(CommandOutcome::Taken));
    let says = Arc::clone(&outcome);
    let asked = answering(commands, move |_| says.lock().unwrap().clone());
    let post = async |tenant: &Tenant, id: &str, verb: &str| {
        lab.call(tenant, "POST", &format!("/endpoints/{id}/{verb}"), None).await
    };
    let cloud = lab.make("/endpoints", json!({"url": "https://cloud.internal"})).await.id();
    let gone = EndpointId::new(lab.app.ksuid()).to_string();
    for verb in ["drain", "undrain"] {
        let refused = post(&lab.one, &cloud, verb).await.expect(400);
        assert_eq!(refused.code(), 248);
        assert!(refused.text("msg").contains("is a cloud endpoint"), "{}", refused.body);
        let missing = post(&lab.one, &gone, verb).await.expect(404);
        assert!(missing.text("msg").contains("is not online"), "{}", missing.body);
        post(&lab.two, &endpoint.to_string(), verb).await.expect(404);
        post(&lab.two, &cloud, verb).await.expect(404);
        post(&lab.one, &session.to_string(), verb).await.expect(400);
        post(&lab.one, "x", verb).await.expect(400);
    }
    assert!(asked.lock().unwrap().is_empty(), "no edge is asked");

    let endpoint = endpoint.to_string();
    *outcome.lock().unwrap() = CommandOutcome::Failed { reason: "the agent serves it no more".into() };
    post(&lab.one, &endpoint, "drain").await.expect(404);
    *outcome.lock().unwrap() = CommandOutcome::Unanswered;
    assert_eq!(post(&lab.one, &endpoint, "drain").await.expect(503).code(), 810);

    // An edge of a release that cannot.
    asked.lock().unwrap().clear();
    let mut report = lab.app.presence.session(lab.one.account, session).unwrap().report.as_ref().clone();
    report.endpoints.values_mut().for_each(|endpoint| endpoint.drain = None);
    hold.session(session, report);
    let refused = post(&lab.one, &endpoint, "drain").await.expect(400);
    assert_eq!(refused.code(), 18021);
    assert!(refused.text("msg").contains("older release"), "{}", refused.body);
    assert!(asked.lock().unwrap().is_empty());
}
