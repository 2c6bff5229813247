//! Edges that different controls on one etcd feed.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::api::{Api, list, text};
use ebbgate_lab::etcd::Etcd;
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::{Lab, Programs, local};
use ebbgate_lab::machine::Machine;
use ebbgate_lab::process::Daemon;
use ebbgate_lab::remote_edge::{RemoteEdge, join_string_naming};
use ebbgate_lab::replica::Replica;
use ebbgate_lab::test_lab::programs;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::across::{id, only};
use crate::service;
use crate::visitor::Visitor;

/// Requests go on for so long after a control was killed: longer than the leases that it had.
const AFTER_SECS: u64 = 13;

/// Two controls on an etcd. Paris goes to the first one, Rome to the second.
pub(super) struct Controls {
    pub(super) paris: RemoteEdge,
    pub(super) rome: RemoteEdge,
    pub(super) second: Replica,
    pub(super) lab: Lab,
    first_at: String,
    second_at: String,
    _etcd: Etcd,
    _dir: TempDir,
    _turn: Turn,
}

impl Controls {
    pub(super) fn start() -> Result<Self> {
        let turn = Turn::shared();
        let dir = tempfile::Builder::new().prefix("ebb-").tempdir()?;
        let etcd = Etcd::start(&dir.path().join("etcd"), 1)?;
        let programs = Programs::in_dir(&programs());
        let mut lab = Lab::open_with(&dir.path().join("lab"), programs, &["--store", &etcd.url()])?;
        let first_at = local(lab.ports().spare(0)).to_string();
        lab.control_args(["--edges", &first_at]);
        lab.start_control()?;
        let mut second = Replica::new(&lab, &dir.path().join("second"))?;
        let second_at = second.serve_edges(&Machine::here(Ipv4Addr::LOCALHOST)).to_string();
        second.start()?;
        let edge = |name: &str, tcp: &str, controls: [&str; 2]| -> Result<RemoteEdge> {
            let mut edge = RemoteEdge::new(lab.programs(), &dir.path().join(name))?;
            edge.tcp_at(tcp.parse()?);
            let joined = edge.join(&join_string_naming(&lab, name, &controls)?)?;
            ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
            edge.start()?;
            Ok(edge)
        };
        let paris = edge("paris", "127.0.0.2", [&first_at, &second_at])?;
        let rome = edge("rome", "127.0.0.3", [&second_at, &first_at])?;
        let controls =
            Self { paris, rome, second, lab, first_at, second_at, _etcd: etcd, _dir: dir, _turn: turn };
        for dir in [controls.lab.dir(), controls.second.dir()] {
            soon("each control to know both edges", || {
                let all = controls.edges(dir)?;
                Ok((all.len() == 2 && all.iter().all(|edge| edge["connected"] == true)).then_some(()))
            })?;
        }
        Ok(controls)
    }

    /// What `edge list` shows, of the control with this directory.
    fn edges(&self, dir: &Path) -> Result<Vec<Value>> {
        let output =
            Command::new(self.lab.programs().control()).args(["edge", "list", "--dir"]).arg(dir).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed: Value = serde_json::from_slice(&output.stdout)?;
        Ok(listed["edges"].as_array().cloned().unwrap_or_default())
    }

    /// One edge of that list.
    pub(super) fn edge(&self, dir: &Path, name: &str) -> Result<Value> {
        let named = self.edges(dir)?.into_iter().find(|edge| edge["name"] == name);
        named.with_context(|| format!("no edge {name}"))
    }

    fn agent(&self, name: &str, token: &str, url: &str, at: &RemoteEdge) -> Result<Daemon> {
        let rest = service::http_echo("rest")?.port();
        let endpoints = format!("  - name: rest\n    url: {url}\n    upstream:\n      url: {rest}\n");
        self.lab.agent_at(name, token, &endpoints, &only(at))
    }
}

/// Waits until each of these lists the same sessions of agents, so many of them.
fn sessions(apis: &[&Api], wanted: usize) -> Result<Vec<String>> {
    soon("the sessions at each control", || {
        let of = |api: &&Api| -> Result<Vec<String>> {
            let all = list(api, "/tunnel_sessions", "tunnel_sessions")?;
            all.iter().map(|session| Ok(text(session, "id")?.to_owned())).collect()
        };
        let mut all = apis.iter().map(of).collect::<Result<Vec<_>>>()?;
        all.dedup();
        Ok((all.len() == 1 && all[0].len() == wanted).then(|| all.remove(0)))
    })
}

fn status(visitor: &Visitor) -> Option<u16> {
    visitor.get(API_HOST, "/", &[]).ok().map(|answer| answer.status)
}

#[test]
fn edges_of_two_controls_know_each_other_and_the_end_of_a_control_costs_no_visitor() -> Result<()> {
    let mut fleet = Controls::start()?;
    let (first, second) = (fleet.lab.api()?, fleet.second.api());
    let (_, token) = guide::authtoken(&first, 1)?;
    guide::domain(&first)?;
    guide::cloud(&second, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let mut agent = fleet.agent("agent", &token, REST_INTERNAL, &fleet.paris)?;
    let session = sessions(&[&first, &second], 1)?.remove(0);
    for api in [&first, &second] {
        soon("its endpoint at each control", || {
            let endpoints = list(api, "/endpoints", "endpoints")?;
            Ok(endpoints.iter().any(|endpoint| endpoint["url"] == REST_INTERNAL).then_some(()))
        })?;
    }
    let visitor = Visitor::of(&fleet.lab)?.at(fleet.rome.https());
    soon("a visitor at rome to reach the agent at paris", || {
        Ok((status(&visitor) == Some(200)).then_some(()))
    })?;
    let (paris, rome) = (fleet.edge(fleet.second.dir(), "paris")?, fleet.edge(fleet.second.dir(), "rome")?);
    assert_eq!((&paris["control"], &rome["control"]), (&json!(fleet.first_at), &Value::Null));
    assert_eq!((&paris["id"], &paris["sessions"]), (&json!(id(&fleet.paris)?), &json!(1)), "{paris}");
    assert_eq!(fleet.edge(fleet.lab.dir(), "rome")?["control"], json!(fleet.second_at));

    let metrics =
        http::request(http::connect(fleet.second.admin())?, "GET", "localhost", "/metrics", &[], b"")?.text();
    assert!(metrics.contains("\nebbgate_control_edges_elsewhere 1\n"), "{metrics}");
    for name in ["presence_writes_total", "presence_failures_total", "presence_seen_seconds"] {
        let name = format!("ebbgate_control_{name}");
        assert!(
            metrics.contains(&format!("\n{name} ")) && super::PAGE.contains(&name),
            "{name} in {metrics}"
        );
    }

    // The URL is taken at both edges.
    let other = fleet.agent("other", &token, REST_INTERNAL, &fleet.rome)?;
    soon("the other agent to be refused", || {
        Ok(fleet.rome.log()?.contains("is already online on this URL").then_some(()))
    })?;
    drop(other);
    sessions(&[&first, &second], 1)?;

    // The control of paris is killed: paris goes to the other one, with everything it has.
    fleet.lab.kill_control();
    let end = Instant::now() + Duration::from_secs(AFTER_SECS);
    let mut requests = 0;
    while Instant::now() < end {
        requests += 1;
        assert_eq!(status(&visitor), Some(200), "request {requests}");
        assert_eq!(sessions(&[&second], 1)?[0], session, "request {requests}");
    }
    soon("paris to be at the other control", || {
        let paris = fleet.edge(fleet.second.dir(), "paris")?;
        Ok((paris["connected"] == true && paris["control"].is_null()).then_some(()))
    })?;

    // The first one is back, and knows paris by the other. A command reaches the agent from there.
    fleet.lab.start_control()?;
    let first = fleet.lab.api()?;
    assert_eq!(sessions(&[&first, &second], 1)?[0], session);
    assert_eq!(fleet.edge(fleet.lab.dir(), "paris")?["control"], json!(fleet.second_at));
    let (status, answer) =
        first.call("POST", &format!("/tunnel_sessions/{session}/stop"), Some(&json!({})))?;
    assert_eq!(status, 204, "{answer}");
    soon("the agent to end", || agent.exited())?;
    sessions(&[&first, &second], 0)?;
    Ok(())
}

#[test]
fn what_an_edge_had_that_died_with_its_control_ends_at_the_others_and_a_revocation_reaches_all() -> Result<()>
{
    let mut fleet = Controls::start()?;
    let (first, second) = (fleet.lab.api()?, fleet.second.api());
    let (_, token) = guide::authtoken(&first, 1)?;
    let (revoked, other_token) = guide::authtoken(&first, 2)?;
    guide::domain(&first)?;
    guide::cloud(&first, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let _agent = fleet.agent("agent", &token, REST_INTERNAL, &fleet.paris)?;
    let _other = fleet.agent("other", &other_token, "https://rest.clinic2.internal", &fleet.paris)?;
    sessions(&[&first, &second], 2)?;
    // Revoked at the control that does not feed the agent's edge.
    let (status_of, answer) = second.call("DELETE", &format!("/credentials/{revoked}"), None)?;
    assert_eq!(status_of, 204, "{answer}");
    sessions(&[&first, &second], 1)?;

    let visitor = Visitor::of(&fleet.lab)?.at(fleet.rome.https());
    soon("a visitor at rome to reach the agent at paris", || {
        Ok((status(&visitor) == Some(200)).then_some(()))
    })?;
    fleet.paris.kill();
    fleet.lab.kill_control();
    sessions(&[&second], 0)?;
    let paris = fleet.edge(fleet.second.dir(), "paris")?;
    assert_eq!((&paris["connected"], &paris["sessions"]), (&json!(false), &json!(0)), "{paris}");
    assert!(status(&visitor).is_some_and(|status| status != 200));
    Ok(())
}
