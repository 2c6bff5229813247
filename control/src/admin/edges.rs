//! The operator's calls about edges: which there are, strings to join with, removing one.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use ebbgate_model::EdgeId;
use ebbgate_model::feed::EdgeReach;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Admin, AdminError};
use crate::api::timestamp;
use crate::fleet;
use crate::presence::{Head, LiveEdge};
use crate::record::fleet::FleetEdge;
use crate::record::rollout::RolloutState;

/// Routes below the admin port's root.
pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/edges", get(list))
        .route("/edges/joins", post(new_join))
        .route("/edges/{id}", delete(remove))
        .route("/edges/{id}/drain", post(drain))
        .route("/edges/{id}/canary", post(canary))
}

/// What is connected, with the generation in force there, and what has joined and is not.
async fn list(State(admin): State<Admin>) -> Result<Response, AdminError> {
    let planned = admin.app.planned.borrow().clone();
    let newest = planned.generation;
    let (mut of_canaries, mut of_others) = (0, 0);
    for rollout in planned.rollouts.values() {
        of_canaries += usize::from(rollout.staged.record.state == RolloutState::Returned);
        of_others += 1;
    }
    let held = |canary: bool| if canary { of_canaries } else { of_others };
    let mut joined: BTreeMap<EdgeId, FleetEdge> =
        fleet::edges(&admin.app).await?.into_iter().map(|edge| (edge.id, edge)).collect();
    let mut edges: Vec<Value> = Vec::new();
    for live in admin.app.presence.edges() {
        let joined = joined.remove(&live.id);
        let held = held(joined.as_ref().is_some_and(|edge| edge.canary));
        edges.push(shown(live.id, joined.as_ref(), Some(&live), held));
    }
    edges.extend(joined.values().map(|edge| shown(edge.id, Some(edge), None, 0)));
    Ok(Json(json!({ "generation": newest, "edges": edges })).into_response())
}

fn shown(id: EdgeId, joined: Option<&FleetEdge>, live: Option<&LiveEdge>, held: usize) -> Value {
    let refused = live.and_then(|edge| edge.refused.as_ref());
    let said =
        |text: fn(&EdgeReach) -> &String| live.map(|edge| text(&edge.reach)).filter(|text| !text.is_empty());
    json!({
        "id": id,
        "name": joined.map(|edge| &edge.name),
        "joined_at": joined.map(|edge| timestamp(edge.joined_at)),
        "connected": live.is_some_and(|edge| edge.connected),
        "control": live.and_then(|edge| edge.elsewhere.as_ref()).map(|head| control_of(head)),
        "version": live.map(|edge| &edge.version),
        "sessions": live.map_or(0, |edge| edge.sessions),
        "generation": live.map(|edge| edge.applied),
        "incarnation": said(|reach| &reach.incarnation),
        "peers_at": said(|reach| &reach.peers),
        "agents_at": said(|reach| &reach.agents),
        "canary": joined.is_some_and(|edge| edge.canary),
        "held": held,
        "draining": live.is_some_and(|edge| edge.draining),
        "clock_ahead_secs": live.and_then(|edge| edge.clock_ahead_secs),
        "enforcement": live.map(|edge| edge.enforcement),
        "refused": refused.map(|(generation, reason)| json!({ "generation": generation, "reason": reason })),
    })
}

/// Where edges reach the control that feeds an edge, or its name.
fn control_of(head: &Head) -> &String {
    head.control_at.as_ref().unwrap_or(&head.control)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewJoin {
    name: String,
}

/// A token for one edge. It is shown once.
async fn new_join(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let NewJoin { name } = serde_json::from_slice(&body)?;
    let control = admin.app.settings.edges_at.clone().ok_or(AdminError::NoEdgeListener)?;
    let (token, expires_at) = fleet::new_join(&admin.app, &name).await?;
    let made = json!({ "token": token.expose(), "control": control, "expires_at": timestamp(expires_at) });
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    drain: bool,
}

/// Takes an edge out of service, or puts it into service again.
async fn drain(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let Drain { drain } = serde_json::from_slice(&body)?;
    let edge = id.parse().map_err(|_| AdminError::NoEdge(id))?;
    let edge = fleet::drain(&admin.app, edge, drain).await?;
    Ok(Json(json!({ "id": edge.id, "name": edge.name, "draining": edge.drained })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Canary {
    canary: bool,
}

/// Gives an edge changes before others, or with them again.
async fn canary(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let Canary { canary } = serde_json::from_slice(&body)?;
    let edge = id.parse().map_err(|_| AdminError::NoEdge(id))?;
    let edge = fleet::set_canary(&admin.app, edge, canary).await?;
    Ok(Json(json!({ "id": edge.id, "name": edge.name, "canary": edge.canary })).into_response())
}

async fn remove(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let edge = id.parse().map_err(|_| AdminError::NoEdge(id))?;
    let removed = fleet::remove(&admin.app, edge).await?;
    admin.app.presence.remove(edge);
    Ok(Json(json!({ "id": removed.id, "name": removed.name, "removed": true })).into_response())
}

#[cfg(test)]
mod tests {
    use ebbgate_model::EndpointId;
    use ebbgate_model::feed::{EnforcementReport, Enforcer};

    use super::super::testing::{call, text};
    use super::*;
    use crate::app::Settings;
    use crate::app::testing::Lab;

    #[tokio::test]
    async fn an_operator_makes_strings_and_removes_edges() {
        let lab = Lab::new().await;
        let (status, refused) = call(&lab, "POST", "/edges/joins", "operator", r#"{"name":"x"}"#).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(text(&refused, "error").contains("--edges"), "{refused}");

        let settings = Settings {
            strict: false,
            api_base: "http://control.test".into(),
            api_base_given: false,
            edges_at: Some("control.test:4484".into()),
        };
        let lab = Lab::with(settings).await;
        let (status, _) = call(&lab, "POST", "/edges/joins", "stranger", r#"{"name":"x"}"#).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, made) = call(&lab, "POST", "/edges/joins", "operator", r#"{"name":"paris"}"#).await;
        assert_eq!((status, text(&made, "control")), (StatusCode::CREATED, "control.test:4484"));

        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let csr = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, csr.der());
        let asked = ebbgate_model::feed::JoinRequest { token: text(&made, "token").to_owned(), csr };
        let edge = fleet::join(&lab.app, "", &asked).await.unwrap().edge;
        let (hold, _commands) = lab.app.presence.join(EdgeId::new(lab.app.ksuid()), "1".into(), 3);
        hold.clock_ahead(-86_400);
        let (peers, agents) = ("own.test:4485".to_owned(), String::new());
        hold.set_reach(EdgeReach { incarnation: "first".into(), peers, agents });
        hold.drains();
        let report = |by| {
            let (reason, interfaces, dropped) = (String::new(), BTreeMap::new(), BTreeMap::new());
            EnforcementReport { by, reason, interfaces, passed: 0, dropped }
        };
        let endpoint = || EndpointId::new(lab.app.ksuid());
        let reports = [Enforcer::Xdp, Enforcer::Userspace, Enforcer::Xdp].map(|by| (endpoint(), report(by)));
        hold.replace_enforcement(reports.into());

        let (_, listed) = call(&lab, "GET", "/edges", "", "").await;
        let edges = listed["edges"].as_array().unwrap();
        let of = |name: &Value| edges.iter().find(|edge| &edge["name"] == name).unwrap();
        let (own, paris) = (of(&Value::Null), of(&json!("paris")));
        assert_eq!((&own["connected"], &own["clock_ahead_secs"]), (&json!(true), &json!(-86_400)));
        assert_eq!(own["enforcement"], json!({ "xdp": 2, "userspace": 1 }));
        let reach = (&own["incarnation"], &own["peers_at"], &own["agents_at"], &own["draining"]);
        assert_eq!(reach, (&json!("first"), &json!("own.test:4485"), &Value::Null, &json!(true)));
        assert_eq!((&paris["id"], &paris["connected"]), (&json!(edge), &json!(false)));
        assert_eq!(paris["enforcement"], Value::Null, "nothing is known of it");
        let (_paris, _commands) = lab.app.presence.join(edge, "1".into(), 3);

        let path = format!("/edges/{edge}/canary");
        for (token, at, body, expect) in [
            ("stranger", path.as_str(), r#"{"canary":true}"#, StatusCode::UNAUTHORIZED),
            ("operator", "/edges/nobody/canary", r#"{"canary":true}"#, StatusCode::NOT_FOUND),
            ("operator", &path, r#"{"canary":"x"}"#, StatusCode::BAD_REQUEST),
            ("operator", &path, r#"{"canary":true}"#, StatusCode::OK),
        ] {
            let (status, answer) = call(&lab, "POST", at, token, body).await;
            assert_eq!(status, expect, "{answer}");
        }
        assert_eq!(lab.app.presence.canaries(), [edge]);
        let (_, listed) = call(&lab, "GET", "/edges", "", "").await;
        let edges = listed["edges"].as_array().unwrap();
        assert!(edges.iter().any(|shown| shown["id"] == json!(edge) && shown["canary"] == true));
        let (status, _) = call(&lab, "POST", &path, "operator", r#"{"canary":false}"#).await;
        assert_eq!((status, lab.app.presence.canaries()), (StatusCode::OK, vec![]));

        let path = format!("/edges/{edge}");
        let (status, _) = call(&lab, "DELETE", &path, "stranger", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, _) = call(&lab, "DELETE", &path, "operator", "").await;
        assert_eq!(status, StatusCode::OK);
        let live = lab.app.presence.edges();
        assert!(live.iter().all(|live| live.id != edge), "it is withdrawn at once");
        for gone in [path.as_str(), "/edges/nobody"] {
            let (status, refused) = call(&lab, "DELETE", gone, "operator", "").await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{refused}");
        }
    }
}
