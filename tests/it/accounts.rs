//! What the operator does to accounts while everything runs, with the real programs.

use anyhow::{Result, ensure};
use ebbgate_lab::api::list;
use ebbgate_lab::api::text;
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::json;

use crate::service;
use crate::visitor::Visitor;

#[test]
fn a_suspended_account_stops_and_a_deleted_one_leaves_its_names_free() -> Result<()> {
    let lab = TestLab::running()?;
    let echo = service::http_echo("rest")?.port();
    let (account, api) = lab.account("clinics")?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let _agent = lab.agent("agent", &token, &guide::endpoints(echo, echo, echo))?;
    let visitor = Visitor::of(&lab)?;
    let status = || -> Result<Option<u16>> { Ok(visitor.get(API_HOST, "/", &[]).ok().map(|a| a.status)) };
    soon("the account to serve", || Ok((status()? == Some(200)).then_some(())))
        .inspect_err(|_| lab.show_logs())?;
    let shown = lab.control_command(&["account", "show", &account])?;
    ensure!(shown["sessions_online"] == 1, "{shown}");

    lab.control_command(&["account", "suspend", &account])?;
    ensure!(api.call("GET", "/endpoints", None)?.0 == 403, "its API keys are refused");
    soon("its agent to be sent away", || {
        Ok((lab.control_command(&["account", "show", &account])?["sessions_online"] == 0).then_some(()))
    })?;
    soon("its endpoint to stop", || Ok((status()? != Some(200)).then_some(())))?;
    let others = lab.api()?;
    ensure!(others.call("GET", "/endpoints", None)?.0 == 200, "nobody else is touched");

    lab.control_command(&["account", "resume", &account])?;
    soon("the account to serve again", || Ok((status()? == Some(200)).then_some(())))
        .inspect_err(|_| lab.show_logs())?;

    let refused =
        others.call("POST", "/reserved_domains", Some(&json!({ "domain": "*.clinic-network.com" })))?;
    ensure!(refused.0 == 409, "{refused:?}");
    ensure!(lab.control_command(&["account", "delete", &account]).is_err(), "it is active");
    lab.control_command(&["account", "suspend", &account])?;
    lab.control_command(&["account", "delete", &account])?;
    ensure!(api.call("GET", "/endpoints", None)?.0 == 401);
    guide::domain(&others)?;
    let listed = lab.control_command(&["account", "list"])?;
    ensure!(!listed.to_string().contains(&account), "{listed}");
    Ok(())
}

#[test]
fn an_agent_that_takes_no_restart_is_never_answered_204() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let echo = service::tcp_echo()?.port();
    let mut agent = lab.agent("agent", &token, &guide::endpoints(echo, echo, echo))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let sessions = list(&api, "/tunnel_sessions", "tunnel_sessions")?;
    let session = text(&sessions[0], "id")?;
    for (action, code) in [("restart", "ERR_NGROK_804"), ("update", "ERR_NGROK_806")] {
        let (status, answer) =
            api.call("POST", &format!("/tunnel_sessions/{session}/{action}"), Some(&json!({})))?;
        ensure!(status == 400 && answer["error_code"] == code, "{action}: {status} {answer}");
    }
    let (status, answer) = api.call("POST", &format!("/tunnel_sessions/{session}/stop"), Some(&json!({})))?;
    ensure!(status == 204, "stop: {status} {answer}");
    soon("the agent to end", || agent.exited())?;
    Ok(())
}
