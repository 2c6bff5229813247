//! Pools of two agents, one of which cannot serve: its upstream is down, or it hangs. The other does the work.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::guide::{self, API_HOST};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Signal};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use ebbgate_lab::web::{self, Reply};
use serde_json::json;

use crate::service;
use crate::visitor::Visitor;

const HTTP_URL: &str = "https://service.clinic1.internal";
const TCP_URL: &str = "tcp://service.clinic1.internal:7000";
/// Requests and connections of one kind, one after the other.
const ROUNDS: usize = 40;

/// Longer than a sign of life is proof that an agent lives, in milliseconds.
const STALE_MS: u64 = 300;

/// Bodies of requests, in the order they came.
type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;

/// A lab with a public name and a public address, both of which lead to pools of agents.
struct Pools {
    lab: TestLab,
    visitor: Visitor,
    tcp: SocketAddr,
    token: String,
}

impl Pools {
    fn start() -> Result<Self> {
        let lab = TestLab::running()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(HTTP_URL))?;
        let addr = guide::address(&api)?;
        guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(TCP_URL))?;
        let tcp = local(guide::port_of(&addr)?);
        let visitor = Visitor::of(&lab)?;
        Ok(Self { lab, visitor, tcp, token })
    }

    /// A member of both pools.
    fn member(&self, name: &str, carrier: &str, http: u16, tcp: u16) -> Result<Daemon> {
        let endpoints = format!(
            "  - name: service\n    url: {HTTP_URL}\n    pooling_enabled: true\n    upstream:\n      url: {http}\n  \
             - name: raw\n    url: {TCP_URL}\n    pooling_enabled: true\n    upstream:\n      url: {tcp}\n"
        );
        let connect = format!("{}\n  carrier: {carrier}", local(self.lab.ports().connect()));
        self.lab.agent_at(name, &self.token, &endpoints, &connect)
    }

    /// A member whose HTTP service notes the bodies it got.
    fn noting(&self, name: &str, carrier: &str, bodies: &Bodies) -> Result<Daemon> {
        let (noted, service) = (Arc::clone(bodies), name.to_owned());
        let http = web::spawn(move |request| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(request.body.clone());
            Reply::json(200, &json!({ "service": service }))
        })?;
        self.member(name, carrier, http.port(), service::tcp_echo()?.port())
    }

    /// Waits until so many members are online and the way through them works.
    fn wait_online(&self, members: usize) -> Result<()> {
        self.lab.wait_online(&[HTTP_URL, TCP_URL], members)?;
        soon("the first answer", || Ok(self.post(b"first").ok().map(drop)))?;
        soon("the first echo", || Ok(self.echo(b"first").ok()))
    }

    /// A POST that must be answered. Gives the name of the service that did.
    fn post(&self, body: &[u8]) -> Result<String> {
        self.ask("POST", body)
    }

    fn ask(&self, method: &str, body: &[u8]) -> Result<String> {
        let answer = self.visitor.request(method, API_HOST, "/", &[], body)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let value: serde_json::Value = serde_json::from_slice(&answer.body)?;
        Ok(value["service"].as_str().context("no service")?.to_owned())
    }

    /// A connection that must be served.
    fn echo(&self, word: &[u8]) -> Result<()> {
        let mut stream = self.visitor.tcp(self.tcp)?;
        stream.write_all(word)?;
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back)?;
        ensure!(back == word, "other bytes came back");
        Ok(())
    }

    /// One of the edge's metrics.
    fn metric(&self, name: &str) -> Result<u64> {
        let admin = local(self.lab.ports().edge_admin());
        let page =
            http::request(http::connect(admin)?, "GET", &admin.to_string(), "/metrics", &[], b"")?.text();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }
}

/// A port on which nobody listens yet.
fn closed_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn echo_at(port: u16) -> Result<()> {
    let listener = TcpListener::bind(local(port))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || super::echo_back(stream));
        }
    });
    Ok(())
}

#[test]
fn one_of_two_upstreams_dead_costs_no_request_with_a_body_and_no_connection() -> Result<()> {
    let pools = Pools::start()?;
    let closed = closed_port()?;
    let _good =
        pools.member("good", "mux", service::http_echo("good")?.port(), service::tcp_echo()?.port())?;
    let _down = pools.member("down", "mux", closed, closed)?;
    pools.wait_online(2)?;
    for round in 0..ROUNDS {
        let body = vec![b'x'; if round % 2 == 0 { 2 } else { 60 << 10 }];
        let by = pools.post(&body).with_context(|| format!("POST {round}"))?;
        ensure!(by == "good", "{by}");
        pools.echo(&body).with_context(|| format!("connection {round}"))?;
    }
    soon("both endpoints of the dead member to be set aside", || {
        Ok((pools.metric("ebbgate_edge_agent_endpoints_set_aside")? == 2).then_some(()))
    })?;
    soon("the API to tell which upstream is down", || {
        let told = pools.lab.listed(TCP_URL)?;
        Ok((told.iter().filter(|endpoint| endpoint["upstream_refused"] == json!(true)).count() == 1)
            .then_some(()))
    })?;
    echo_at(closed)?;
    soon("the member to be tried and taken back", || {
        pools.echo(b"again")?;
        Ok((pools.metric("ebbgate_edge_agent_endpoints_set_aside")? == 1).then_some(()))
    })
}

/// Two members; one, which comes by `carrier`, is stopped and continued.
fn hang(carrier: &str) -> Result<()> {
    let pools = Pools::start()?;
    let bodies = Bodies::default();
    let _good = pools.noting("good", "mux", &bodies)?;
    let hung = pools.noting("hung", carrier, &bodies)?;
    pools.wait_online(2)?;
    let both = || {
        soon("both members to serve", || Ok((pools.ask("GET", b"")? == "hung").then_some(())))?;
        soon("nobody to be silent", || {
            Ok((pools.metric("ebbgate_edge_agent_sessions_silent")? == 0).then_some(()))
        })
    };
    both()?;
    hung.signal(Signal::STOP);
    // From then on nothing that was heard before is proof: what cannot be taken back asks first.
    thread::sleep(Duration::from_millis(STALE_MS));
    for round in 0..ROUNDS {
        let by = pools.post(format!("first {round}").as_bytes()).with_context(|| format!("POST {round}"))?;
        ensure!(by == "good", "{by}");
        pools.echo(b"word").with_context(|| format!("connection {round}"))?;
    }
    ensure!(
        pools.metric("ebbgate_edge_agent_sessions_silent")? == 1,
        "the hung agent is not known as silent"
    );
    hung.signal(Signal::CONT);
    both()?;
    hung.signal(Signal::STOP);
    // Nobody asked: requests that may be repeated leave as soon as the silence is known.
    soon("the silence to be known", || {
        pools.ask("GET", b"").context("a GET while one member hangs")?;
        Ok((pools.metric("ebbgate_edge_agent_sessions_silent")? == 1).then_some(()))
    })?;
    for round in 0..ROUNDS {
        pools
            .post(format!("second {round}").as_bytes())
            .with_context(|| format!("POST {round}, silence known"))?;
        pools.echo(b"word").with_context(|| format!("connection {round}, silence known"))?;
    }
    hung.signal(Signal::CONT);
    both()?;
    let mut posts: Vec<_> = bodies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    posts.retain(|body| !body.is_empty() && body != b"first");
    posts.sort();
    let count = posts.len();
    posts.dedup();
    ensure!(posts.len() == count, "a request was delivered twice");
    ensure!(count == 2 * ROUNDS, "{count} of {} requests were delivered", 2 * ROUNDS);
    Ok(())
}

#[test]
fn an_agent_that_hangs_gets_no_new_work_by_mux() -> Result<()> {
    hang("mux")
}

#[test]
fn an_agent_that_hangs_gets_no_new_work_by_link() -> Result<()> {
    hang("link")
}

#[test]
fn an_agent_that_hangs_gets_no_new_work_by_quic() -> Result<()> {
    hang("quic")
}
