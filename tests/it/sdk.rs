//! The unmodified agent SDKs of other houses (tests/conformance) do the guide's walk against our edge.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::guide::{
    self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, PATIENTS_INTERNAL, REST_INTERNAL,
};
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::program::{skip, tools};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};

use crate::service;
use crate::visitor::Visitor;

/// Which SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Rust,
    Python,
    Node,
}

fn conformance() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

/// Program, first arguments and working directory of a family's agent; an error says what is missing.
pub(crate) fn program(family: Family) -> Result<(PathBuf, Vec<PathBuf>)> {
    let tools = || tools().context("no target/tools: run `cargo xtask test` once");
    let found = |path: PathBuf| {
        ensure!(path.exists(), "{} is missing: `cargo xtask test` installs it", path.display());
        Ok(path)
    };
    match family {
        Family::Python => {
            Ok((found(tools()?.join("py-sdk/bin/python"))?, vec![conformance().join("sdk/agent.py")]))
        }
        Family::Node => {
            found(tools()?.join("node/node_modules/@ngrok/ngrok"))?;
            Ok(("node".into(), vec![conformance().join("sdk/agent.mjs")]))
        }
        Family::Rust => {
            let target = tools()?.join("sdk-rust");
            let mut build = Command::new("cargo");
            build.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target);
            build.current_dir(conformance().join("sdk/rust"));
            ebbgate_lab::program::run_visibly(&mut build).context("the SDK's crate does not build here")?;
            Ok((found(target.join("debug/sdk-agent"))?, Vec::new()))
        }
    }
}

/// Starts a family's agent with the guide's three endpoints.
pub(crate) fn agent(lab: &TestLab, family: Family, token: &str, http: u16, tcp: u16) -> Result<Daemon> {
    let (program, first) = program(family)?;
    let host = |url: &str| url.split_once("://").map(|(_, host)| host.to_owned()).unwrap_or_default();
    let want = json!({
        "server": local(lab.ports().connect()).to_string(),
        "ca": lab.connect_ca(),
        "authtoken": token,
        "http": http,
        "tcp": tcp,
        "https_host": host(REST_INTERNAL),
        "tls_host": host(PATIENTS_INTERNAL),
        "tcp_addr": host(OPERATIONS_INTERNAL),
        "foreign": "rest-api.clinic2.internal",
    });
    let spec = Spec::new(&format!("{family:?}"), program).args(first).arg(want.to_string());
    let spec =
        if family == Family::Node { spec.current_dir(tools().context("tools")?.join("node")) } else { spec };
    spec.start(&lab.log_dir())
}

/// The line of JSON that an agent prints when it has bound everything.
pub(crate) fn line(agent: &mut Daemon) -> Result<Value> {
    soon("the SDK's line", || {
        agent.check_alive()?;
        let log = agent.log()?;
        Ok(log.lines().find(|line| line.starts_with('{')).and_then(|line| serde_json::from_str(line).ok()))
    })
}

/// A lab with the guide's cloud endpoints; returns the TCP address too.
pub(crate) fn clinic() -> Result<(TestLab, String, u16)> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    guide::cloud(&api, &format!("tls://{PATIENTS_HOST}"), &guide::patients_policy())?;
    let addr = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::operations_policy(&["127.0.0.1"]))?;
    Ok((lab, token, guide::port_of(&addr)?))
}

fn answered(visitor: &Visitor) -> Option<()> {
    visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200).map(drop)
}

/// The whole walk with one family.
fn walk(family: Family) -> Result<()> {
    if let Err(reason) = program(family) {
        skip(&format!("{family:?} SDK"), &format!("{reason:#}"));
        return Ok(());
    }
    let (lab, token, tcp_port) = clinic()?;
    let http = service::http_echo("rest")?.port();
    let mut sdk = agent(&lab, family, &token, http, service::tcp_count_after_end()?.port())?;
    let line = line(&mut sdk)?;
    let refused = line["refused"].as_str().unwrap_or_default();
    assert!(refused.contains("316"), "a foreign name is refused with its code: {line}");
    assert_eq!(line["urls"], json!([REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL]));
    lab.wait_online(&[REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL], 1)?;

    let visitor = Visitor::of(&lab)?;
    soon("an answer through the SDK", || Ok(answered(&visitor)))?;
    let body = "tide ".repeat(200_000);
    let answer = visitor.request("POST", API_HOST, "/up", &[], body.as_bytes())?;
    let value: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!(value["body"].as_str().map(str::len), Some(body.len()), "{}", answer.status);

    let mut tls = visitor.tls(PATIENTS_HOST)?;
    tls.write_all(&vec![1; 1 << 20])?;
    tls.conn.send_close_notify();
    tls.flush()?;
    let mut said = String::new();
    tls.read_to_string(&mut said)?;
    assert_eq!(said, format!("{} bytes", 1 << 20), "half-close through TLS");
    let mut tcp = visitor.tcp(local(tcp_port))?;
    tcp.write_all(&vec![1; 1 << 20])?;
    tcp.shutdown(Shutdown::Write)?;
    said.clear();
    tcp.read_to_string(&mut said)?;
    assert_eq!(said, format!("{} bytes", 1 << 20), "half-close through TCP");
    sdk.check_alive()
}

#[test]
fn rust_sdk_walks_the_guide() -> Result<()> {
    walk(Family::Rust)
}

#[test]
fn python_sdk_walks_the_guide() -> Result<()> {
    walk(Family::Python)
}

#[test]
fn node_sdk_walks_the_guide() -> Result<()> {
    walk(Family::Node)
}

mod alone {
    //! Asserts a time: runs with nothing beside it.

    use super::*;

    /// Within this time after an edge's restart agents of every family are bound again.
    const BACK_SECS_MAX: u64 = 3;

    fn back_after_restart(family: Family) -> Result<()> {
        let _turn = Turn::alone();
        if let Err(reason) = program(family) {
            skip(&format!("{family:?} SDK after an edge's restart"), &format!("{reason:#}"));
            return Ok(());
        }
        let (mut lab, token, _) = clinic()?;
        let http = service::http_echo("rest")?.port();
        let mut sdk = agent(&lab, family, &token, http, http)?;
        line(&mut sdk)?;
        let visitor = Visitor::of(&lab)?;
        soon("an answer through the SDK", || Ok(answered(&visitor)))?;
        let start = Instant::now();
        assert!(lab.stop_edge()?, "the edge had to be killed");
        lab.start_edge()?;
        soon("an answer after the restart", || Ok(answered(&visitor)))?;
        let took = start.elapsed();
        assert!(took < Duration::from_secs(BACK_SECS_MAX), "{family:?} is back after {took:?}");
        lab.wait_online(&[REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL], 1)
    }

    #[test]
    fn rust_sdk_is_back_soon_after_the_edge() -> Result<()> {
        back_after_restart(Family::Rust)
    }

    #[test]
    fn python_sdk_is_back_soon_after_the_edge() -> Result<()> {
        back_after_restart(Family::Python)
    }

    #[test]
    fn node_sdk_is_back_soon_after_the_edge() -> Result<()> {
        back_after_restart(Family::Node)
    }
}
