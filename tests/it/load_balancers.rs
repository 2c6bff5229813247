//! A real load balancer before the edge: HAProxy sends PROXY headers of both versions, as docs/load-balancers.md says.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::api::list;
use ebbgate_lab::guide::{self, API_HOST, OPERATIONS_INTERNAL, REST_INTERNAL};
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::program;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use ebbgate_lab::web::{self, Reply};
use serde_json::json;

use crate::service;
use crate::visitor::Visitor;

/// The page; its configuration and its commands are executed here.
const PAGE: &str = include_str!("../../docs/load-balancers.md");
/// Where the balancer's connections to the edge come from.
const BALANCER: &str = "127.0.0.9";
/// A visitor whom the TCP address lets in.
const ALLOWED: &str = "127.0.0.77";
const HOST: &str = "whoami.clinic-network.com";

/// The balancer's listeners.
struct Fronts {
    https: SocketAddr,
    agents: SocketAddr,
    database: SocketAddr,
}

/// Starts HAProxy with the page's configuration, where ports and addresses are this lab's.
fn haproxy(lab: &TestLab, database: u16) -> Result<(Daemon, Fronts)> {
    let ports = lab.ports();
    let fronts = Fronts {
        https: local(ports.spare(0)),
        agents: local(ports.spare(1)),
        database: local(ports.spare(2)),
    };
    let config = PAGE.split_once("```haproxy.cfg\n").and_then(|(_, rest)| rest.split_once("```"));
    let mut config = config.context("the page has a configuration")?.0.to_owned();
    for (port, front, edge) in [
        (":443", fronts.https, ports.https()),
        (":4443", fronts.agents, ports.connect()),
        (":20017", fronts.database, database),
    ] {
        let bind = format!("bind {port}\n");
        let server = format!("10.0.0.2{port} ");
        ensure!(config.contains(&bind) && config.contains(&server), "{port} is on the page");
        config = config.replace(&bind, &format!("bind {front}\n"));
        config = config.replace(&server, &format!("127.0.0.1:{edge} source {BALANCER} "));
    }
    let file = lab.write("haproxy.cfg", &config)?;
    let mut daemon = Spec::new("haproxy", "haproxy").args(["-db", "-f"]).arg(file).start(&lab.log_dir())?;
    soon("the balancer", || {
        daemon.check_alive()?;
        Ok(TcpStream::connect(fronts.database).ok().map(drop))
    })?;
    Ok((daemon, fronts))
}

#[test]
fn visitors_and_agents_keep_their_addresses_behind_haproxy() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    for listener in ["http", "https", "connect", "tcp"] {
        lab.edge_args(["--proxy-protocol-from".to_owned(), format!("{listener}={BALANCER}")]);
    }
    lab.start()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let whoami = json!({ "type": "custom-response",
        "config": { "status_code": 200, "body": "${conn.client_ip}\n" } });
    guide::cloud(&api, &format!("https://{HOST}"), &json!({ "on_http_request": [{ "actions": [whoami] }] }))?;
    let address = guide::address(&api)?;
    let database = guide::operations_policy(&[ALLOWED]);
    guide::cloud(&api, &format!("tcp://{address}"), &database)?;
    let port = guide::port_of(&address)?;
    let (_balancer, fronts) = haproxy(&lab, port)?;
    let rest = web::spawn(|request| Reply {
        status: 200,
        content_type: "text/plain",
        body: request.header("x-forwarded-for").unwrap_or("none").into(),
    })?;
    let echo = service::tcp_echo()?.port();
    let endpoints = guide::endpoints(rest.port(), echo, echo);
    let _agent = lab.agent_at("agent", &token, &endpoints, &fronts.agents.to_string())?;
    lab.wait_online(&[REST_INTERNAL, OPERATIONS_INTERNAL], 1)?;
    // The agent's session says where the agent is, and not where the balancer is.
    let sessions = list(&api, "/tunnel_sessions", "tunnel_sessions")?;
    ensure!(sessions.iter().all(|session| session["ip"] == "127.0.0.1"), "{sessions:?}");
    ensure!(!sessions.is_empty(), "an agent has a session");

    // Version 2, for HTTP: the page's command, and what an upstream hears.
    let visitor = Visitor::of(&lab)?.at(fronts.https).from(ALLOWED)?;
    visitor.wait_https(HOST)?;
    follow(&lab, fronts.https)?;
    let heard = soon("the REST service", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200))
    })?;
    assert_eq!(String::from_utf8(heard.body)?, ALLOWED);

    // Version 1, for a TCP address with an allowlist.
    let talk = |from: &str| -> Result<Vec<u8>> {
        let mut stream = visitor.from(from)?.tcp(fronts.database)?;
        let mut answer = Vec::new();
        // A refused visitor's connection may be reset at any moment.
        let _ = stream.write_all(b"hello").and_then(|()| stream.shutdown(Shutdown::Write));
        let _ = stream.read_to_end(&mut answer);
        Ok(answer)
    };
    soon("the database", || Ok((talk(ALLOWED)? == b"hello").then_some(())))?;
    assert_eq!(talk("127.0.0.78")?, b"", "the address of the visitor is judged");

    // Without the balancer: served as itself over HTTPS, where a header is refused, and not at all on TCP.
    let direct = Visitor::of(&lab)?;
    assert_eq!(String::from_utf8(direct.get(HOST, "/", &[])?.body)?, "127.0.0.1\n");
    let header = format!("PROXY TCP4 {ALLOWED} 127.0.0.1 5 443\r\n");
    for (to, from) in [(lab.ports().https(), "127.0.0.1"), (lab.ports().http(), "127.0.0.1"), (port, ALLOWED)]
    {
        let mut stream = direct.from(from)?.tcp(local(to))?;
        let _ = stream.write_all(header.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer)?;
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{to}: {answer}");
    }
    let metrics = metrics(&lab)?;
    for (line, least) in [
        ("ebbgate_edge_proxy_protocol_headers_total ", 4),
        ("ebbgate_edge_proxy_protocol_refused_total{reason=\"stranger\"} ", 2),
    ] {
        let value = metrics.lines().find_map(|found| found.strip_prefix(line)).context("the metric")?;
        ensure!(value.parse::<u64>()? >= least, "{line}{value}");
    }
    ensure!(
        !metrics.contains("reason=\"missing\"") && !metrics.contains("reason=\"malformed\""),
        "{metrics}"
    );
    Ok(())
}

/// Runs the commands of the page from the visitor's address, and compares what they print.
fn follow(lab: &TestLab, https: SocketAddr) -> Result<()> {
    let console = PAGE.split_once("```console\n").and_then(|(_, rest)| rest.split_once("```"));
    let mut ran = 0;
    for command in console.context("the page has commands")?.0.split("$ curl ").skip(1) {
        let (line, printed) = command.split_once('\n').context("a command prints something")?;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--interface", ALLOWED]);
        curl.arg("--cacert").arg(lab.ingress_ca());
        curl.args(["--connect-to", &format!("{HOST}:443:{https}")]).args(line.split_whitespace());
        let got = program::run(&mut curl)?;
        ensure!(got.ok && got.text == printed.replace("198.51.100.7", ALLOWED), "{line}: {}", got.text);
        ran += 1;
    }
    ensure!(ran > 0, "no command was run");
    Ok(())
}

fn metrics(lab: &TestLab) -> Result<String> {
    let url = format!("http://{}/metrics", local(lab.ports().edge_admin()));
    let ran = program::run(Command::new("curl").args(["--silent", "--fail", "--max-time", "30", &url]))?;
    ensure!(ran.ok, "{url}: {}", ran.text);
    Ok(ran.text)
}
