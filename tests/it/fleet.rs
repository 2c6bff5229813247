//! Edges of other machines: they join with a string, are fed over mutual TLS, and are removed.

pub(crate) mod across;
mod canaries;
mod controls;
mod three;

use std::process::Command;

use anyhow::{Result, ensure};
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::remote_edge::{RemoteEdge, join_string};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::Value;

use crate::service;
use crate::visitor::Visitor;

/// A control that serves edges of other machines, without one of its own.
pub(crate) fn lab() -> Result<TestLab> {
    let mut lab = TestLab::stopped()?;
    let at = local(lab.ports().spare(0)).to_string();
    lab.control_args(["--edges", &at]);
    lab.start_control()?;
    Ok(lab)
}

const PAGE: &str = include_str!("../../docs/fleet.md");

/// The page shows a command that begins so, and after it an answer with the fields of this one.
fn is_on_the_page(command: &str, answer: &Value) {
    is_on(PAGE, command, answer);
}

/// The same of any page.
pub(crate) fn is_on(page: &str, command: &str, answer: &Value) {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(command));
    let shown = lines.nth(1).unwrap_or_else(|| panic!("the page has no `{command}`"));
    let shown: Value = serde_json::from_str(shown).unwrap_or_else(|error| panic!("{command}: {error}"));
    let fields = |value: &Value| -> Vec<String> {
        value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    let sorted = |value: &Value| {
        let mut fields = fields(value);
        fields.sort();
        fields
    };
    assert_eq!(sorted(&shown), sorted(answer), "{command}");
    for list in ["edges", "peers", "rollouts"] {
        assert_eq!(sorted(&shown[list][0]), sorted(&answer[list][0]), "{command}");
    }
}

/// What `ebbgate-control edge ...` prints, as the page shows it.
fn control(lab: &TestLab, args: &[&str]) -> Result<Value> {
    let output =
        Command::new(lab.programs().control()).arg("edge").args(args).arg("--dir").arg(lab.dir()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = serde_json::from_slice(&output.stdout)?;
    is_on_the_page(&format!("ebbgate-control edge {} --dir", args[0]), &printed);
    Ok(printed)
}

/// The one edge that `edge list` shows.
fn listed(lab: &TestLab) -> Result<Value> {
    let listed = control(lab, &["list"])?;
    let edges = listed["edges"].as_array().cloned().unwrap_or_default();
    ensure!(edges.len() == 1, "{listed}");
    Ok(edges[0].clone())
}

#[test]
fn an_edge_of_another_machine_joins_serves_and_is_removed() -> Result<()> {
    let lab = lab()?;
    let join = join_string(&lab, "paris")?;
    let mut edge = RemoteEdge::new(lab.programs(), &lab.file("paris"))?;
    let joined = edge.join(&join)?;
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let joined: Value = serde_json::from_slice(&joined.stdout)?;
    is_on_the_page("ebbgate-edge join --dir", &joined);
    control(&lab, &["join"])?;
    assert_eq!(listed(&lab)?["connected"], false);

    // The string is spent, and the directory is an edge's.
    let other = RemoteEdge::new(lab.programs(), &lab.file("rome"))?;
    for (edge, said) in [(&other, "edge join"), (&edge, "already")] {
        let refused = edge.join(&join)?;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains(said), "{text}");
    }

    edge.start()?;
    let shown = listed(&lab)?;
    assert_eq!((&shown["id"], &shown["name"]), (&joined["edge"], &Value::from("paris")));
    assert_eq!(shown["connected"], true);
    assert!(shown["clock_ahead_secs"].as_i64().is_some_and(|secs| secs.abs() <= 30), "{shown}");

    let renewed = || Ok(edge.log()?.contains("certificate towards control renewed").then_some(()));
    soon("the edge to renew its certificate at its start", renewed)?;

    // Agents and visitors come to it as to any edge.
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let rest = service::http_echo("rest")?.port();
    let endpoints = format!("  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {rest}\n");
    let _agent = lab.agent_at("agent", &token, &endpoints, &edge.connect().to_string())?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?.at(edge.https());
    visitor.wait_https(API_HOST)?;
    assert_eq!(visitor.get(API_HOST, "/", &[])?.status, 200);

    // It comes back by itself, as the same edge, after its own end and after control's.
    edge.kill();
    soon("control to see that it is gone", || Ok((listed(&lab)?["connected"] == false).then_some(())))?;
    edge.start()?;
    assert_eq!(listed(&lab)?["id"], joined["edge"]);

    // Removed, it is told nothing more, and goes on with what it has.
    let id = joined["edge"].as_str().unwrap_or_default();
    assert_eq!(control(&lab, &["remove", id])?["removed"], true);
    soon("the edge to be refused", || {
        Ok(edge.log()?.contains("no edge of this installation").then_some(()))
    })?;
    guide::cloud(&api, "https://later.clinic-network.com", &guide::forward(REST_INTERNAL))?;
    let gone = control(&lab, &["remove", id]).unwrap_err().to_string();
    assert!(gone.contains("edge list"), "{gone}");
    assert_eq!(visitor.get("later.clinic-network.com", "/", &[]).map_or(404, |answer| answer.status), 404);
    Ok(())
}

#[test]
fn what_cannot_join_is_told_why() -> Result<()> {
    let lab = lab()?;
    let edge = RemoteEdge::new(lab.programs(), &lab.file("paris"))?;
    let said = |join: &str| -> Result<String> {
        let refused = edge.join(join)?;
        ensure!(!refused.status.success(), "it joined with {join}");
        Ok(String::from_utf8_lossy(&refused.stderr).into_owned())
    };
    let join = join_string(&lab, "")?;
    assert!(said("ebbgate1:x")?.contains("edge join"));
    assert!(said(&join[..join.len() - 9])?.contains("copy it again"));
    // Another control's: its authority did not sign what is shown here.
    let foreign = self::lab()?;
    let theirs = join_string(&foreign, "")?;
    let (ours, their) = (address(&join), address(&theirs));
    assert!(said(&theirs.replace(their, ours))?.contains("invalid peer certificate"));
    // Nobody listens.
    let nowhere = format!("127.0.0.1:{}", lab.ports().spare(1));
    assert!(said(&join.replace(ours, &nowhere))?.contains("cannot reach control"));
    assert!(edge.join(&join)?.status.success(), "none of this spent the string");
    Ok(())
}

/// `host:port` of a join string.
fn address(join: &str) -> &str {
    let rest = join.trim_start_matches("ebbgate-edge1:");
    rest.rsplitn(3, ':').nth(2).unwrap_or_default()
}

#[test]
fn an_agent_is_at_two_edges_and_the_end_of_one_costs_no_visitor_of_the_other() -> Result<()> {
    let lab = lab()?;
    let (mut paris, rome) =
        (across::edge(&lab, "paris", "127.0.0.2")?, across::edge(&lab, "rome", "127.0.0.3")?);
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let rest = service::http_echo("rest")?.port();
    let endpoints = format!("  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {rest}\n");
    // The agent knows one edge; that one names the other.
    let agent = lab.agent_at("agent", &token, &endpoints, &paris.connect().to_string())?;
    let sessions = |wanted: usize| {
        soon("the agent's sessions", || {
            let (_, listed) = api.call("GET", "/tunnel_sessions", None)?;
            let count = listed["tunnel_sessions"].as_array().map_or(0, Vec::len);
            Ok((count == wanted).then_some(()))
        })
    };
    sessions(2)?;
    let (at_paris, at_rome) = (Visitor::of(&lab)?.at(paris.https()), Visitor::of(&lab)?.at(rome.https()));
    at_paris.wait_https(API_HOST)?;
    at_rome.wait_https(API_HOST)?;
    assert!(agent.log()?.contains("further=true"), "{}", agent.log()?);

    paris.kill();
    for request in 0..50 {
        assert_eq!(
            at_rome.get(API_HOST, "/", &[])?.status,
            200,
            "request {request} after the end of an edge"
        );
    }
    paris.start()?;
    sessions(2)?;
    at_paris.wait_https(API_HOST)?;
    // One endpoint, at two edges: the agent is asked to leave neither.
    assert_eq!(at_rome.get(API_HOST, "/", &[])?.status, 200);
    Ok(())
}

#[test]
fn a_drained_edge_loses_its_agents_to_others_and_no_visitor() -> Result<()> {
    let lab = lab()?;
    let edges = [("paris", "127.0.0.2"), ("rome", "127.0.0.3"), ("oslo", "127.0.0.4")];
    let edges: Vec<_> =
        edges.iter().map(|(name, tcp)| across::edge(&lab, name, tcp)).collect::<Result<_>>()?;
    let paris = &edges[0];
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let rest = service::http_echo("rest")?.port();
    let endpoints = format!("  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {rest}\n");
    let _agent = lab.agent_at("agent", &token, &endpoints, &paris.connect().to_string())?;
    let listed = || -> Result<Vec<Value>> {
        Ok(control(&lab, &["list"])?["edges"].as_array().cloned().unwrap_or_default())
    };
    let others = || -> Result<u64> {
        let others = listed()?.into_iter().filter(|edge| edge["name"] != "paris");
        Ok(others.filter_map(|edge| edge["sessions"].as_u64()).sum())
    };
    soon("the agent to be at a second edge", || Ok((others()? == 1).then_some(())))?;
    let visitor = Visitor::of(&lab)?.at(paris.https());
    visitor.wait_https(API_HOST)?;

    let id = across::id(paris)?;
    let ready = || http::request(http::connect(paris.admin())?, "GET", "localhost", "/readyz", &[], b"");
    assert_eq!(ready()?.status, 200);
    assert_eq!(control(&lab, &["drain", &id])?["draining"], true);
    soon("the edge to be out of service", || Ok((ready()?.status == 503).then_some(())))?;
    soon("the agent to be at two others", || Ok((others()? == 2).then_some(())))?;
    assert!(listed()?.iter().any(|edge| edge["name"] == "paris" && edge["draining"] == true));
    for _ in 0..20 {
        assert_eq!(visitor.get(API_HOST, "/", &[])?.status, 200, "a visitor of the drained edge");
    }

    assert_eq!(control(&lab, &["drain", "--undo", &id])?["draining"], false);
    soon("the edge to be in service", || Ok((ready()?.status == 200).then_some(())))?;
    let unknown = control(&lab, &["drain", "edge_36TlEGmTh1BfYHkqLx6ZbnpZqVd"]).unwrap_err().to_string();
    assert!(unknown.contains("no edge of this installation"), "{unknown}");
    Ok(())
}
