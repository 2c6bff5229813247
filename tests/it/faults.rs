//! Faults that the whole chain must survive, on every carrier: readers that never read, resets in every state, shortages,
//! bad networks. What one crate can show alone is tested there.

mod abuse;
mod datagrams;
mod fairness;
mod members;
mod network;
mod path;
mod pipes;
mod proxies;
mod readers;
mod resets;
mod returning;
mod shortage;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::text;
use ebbgate_lab::census::Held;
use ebbgate_lab::guide::{self, OPERATIONS_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::process::Daemon;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::json;
use socket2::SockRef;

use crate::service;
use crate::visitor::Visitor;

/// What carries streams, as the edge's metrics name it.
const CARRIERS: [&str; 4] = ["mux", "link", "quic", "raw"];
/// Name of the endpoint whose TLS nobody but its service ends: what raw links carry.
const RAW_HOST: &str = "raw.faults.example";
/// The first byte of a connection that wants its bytes back; services of these tests give other bytes other meanings.
const ECHO: u8 = b'e';

/// An edge and an agent with one TCP service behind them.
struct Chain {
    agent: Daemon,
    lab: TestLab,
    visitor: Visitor,
    addr: SocketAddr,
    /// What a visitor says before anything else: a TLS client's hello where raw links are meant.
    hello: Vec<u8>,
    /// Whose streams the edge's metrics must count.
    carrier: String,
}

/// How an agent gets to its edge.
#[derive(Clone, Copy)]
struct Way<'a> {
    /// What its streams must come by: one of [`CARRIERS`].
    carrier: &'a str,
    /// The agent file's word for it.
    choice: &'a str,
    /// Where it dials.
    connect: SocketAddr,
    /// Further lines of the `agent:` section, each indented by two and after a line break.
    more: &'a str,
}

impl<'a> Way<'a> {
    /// By one of [`CARRIERS`], and no other that streams could come by as well as by it.
    fn by(carrier: &'a str, connect: SocketAddr) -> Self {
        // Raw links are links of an account that may have them.
        Self { carrier, choice: if carrier == "raw" { "link" } else { carrier }, connect, more: "" }
    }
}

impl Chain {
    /// A chain to a service that echoes when the first byte is [`ECHO`], and otherwise does what `act` does with it.
    fn start(
        carrier: &str,
        act: impl Fn(u8, TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let lab = TestLab::running()?;
        let connect = local(lab.ports().connect());
        Self::with_lab(lab, carrier, connect, act)
    }

    /// The same in a lab that runs, with an agent that dials `connect`.
    fn with_lab(
        lab: TestLab,
        carrier: &str,
        connect: SocketAddr,
        act: impl Fn(u8, TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let chain = Self::unready(lab, Way::by(carrier, connect), act)?;
        chain.wait_carried()?;
        Ok(chain)
    }

    /// The same without a wait for the agent.
    fn unready(
        lab: TestLab,
        way: Way<'_>,
        act: impl Fn(u8, TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let is_raw = way.carrier == "raw";
        let service = service::tcp(move |mut stream| {
            if is_raw {
                skip_record(&mut stream)?;
            }
            let mut first = [0];
            stream.read_exact(&mut first)?;
            if first == [ECHO] { echo_back(stream) } else { act(first[0], stream) }
        })?;
        let visitor = Visitor::of(&lab)?;
        let (front, hello) = if is_raw { passthrough(&lab, &visitor)? } else { operations(&lab)? };
        let Front { addr, token, url } = front;
        let endpoints =
            format!("  - name: service\n    url: {url}\n    upstream:\n      url: tcp://{service}\n");
        let words = format!("{}{}", way.choice, way.more);
        let agent = lab.agent_carrying("agent", &words, &token, &endpoints, &way.connect.to_string())?;
        Ok(Self { agent, lab, visitor, addr, hello, carrier: way.carrier.to_owned() })
    }

    /// Waits until a visitor is served by the carrier that is meant.
    fn wait_carried(&self) -> Result<()> {
        let what = format!("{} to carry bytes", self.carrier);
        soon(&what, || Ok((self.echo(b"first").is_ok() && self.carried()?.0 > 0).then_some(())))
            .inspect_err(|_| self.lab.show_logs())
    }

    /// Streams so far by the carrier that is meant, and by any.
    fn carried(&self) -> Result<(u64, u64)> {
        let streams = self.streams()?;
        Ok((streams.get(&self.carrier).copied().unwrap_or(0), streams.values().sum()))
    }

    /// Streams so far, by what carries them.
    fn streams(&self) -> Result<BTreeMap<String, u64>> {
        const COUNT: &str = "ebbgate_edge_agent_streams_total{carrier=\"";
        let page = self.metrics()?;
        let counts = page.lines().filter_map(|line| line.strip_prefix(COUNT)?.split_once("\"} "));
        counts.map(|(carrier, count)| Ok((carrier.to_owned(), count.trim().parse()?))).collect()
    }

    /// The edge's metrics page.
    fn metrics(&self) -> Result<String> {
        let admin = local(self.lab.ports().edge_admin());
        Ok(http::request(http::connect(admin)?, "GET", &admin.to_string(), "/metrics", &[], b"")?.text())
    }

    /// A visitor who came by the carrier that is meant. Where none was ready he came another way, is not counted and is
    /// told to `other`; the agent then keeps more ready.
    fn visit_carried(&self, act: u8, mut other: impl FnMut(TcpStream) -> Result<()>) -> Result<TcpStream> {
        soon(&format!("a visitor by {}", self.carrier), || {
            let before = self.carried()?;
            let stream = self.visit(act)?;
            let now =
                soon(
                    "his stream to be counted",
                    || Ok(Some(self.carried()?).filter(|now| now.1 > before.1)),
                )?;
            if now.0 > before.0 {
                return Ok(Some(stream));
            }
            other(stream)?;
            Ok(None)
        })
    }

    /// A visitor whose connection the service does `act` with.
    fn visit(&self, act: u8) -> Result<TcpStream> {
        let mut stream = self.visitor.tcp(self.addr)?;
        stream.write_all(&[self.hello.as_slice(), &[act]].concat())?;
        Ok(stream)
    }

    /// A connection of its own that sends a word and gets it back, with both ends in order.
    fn echo(&self, word: &[u8]) -> Result<()> {
        let mut stream = self.visit(ECHO)?;
        stream.write_all(word)?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        ensure!(back == word, "{} bytes came back, {} were sent", back.len(), word.len());
        Ok(())
    }

    /// What the edge and the agent hold.
    fn held(&mut self) -> Result<[Held; 2]> {
        Ok([Held::by(self.lab.edge()?.pid())?, Held::by(self.agent.pid())?])
    }

    /// Waits until neither holds more descriptors than before, but for so many.
    fn wait_given_back(&mut self, before: [Held; 2], more: u64) -> Result<()> {
        let mut last = before;
        soon("descriptors to be given back", || {
            last = self.held()?;
            let back = |(now, before): (&Held, &Held)| now.descriptors <= before.descriptors + more;
            Ok(last.iter().zip(&before).all(back).then_some(()))
        })
        .with_context(|| format!("edge and agent held {before:?}, now {last:?}"))
    }

    /// Fails when either has ended.
    fn check_alive(&mut self) -> Result<()> {
        self.agent.check_alive()?;
        self.lab.edge()?.check_alive()
    }
}

/// Where visitors go, and what an agent behind it needs.
struct Front {
    addr: SocketAddr,
    token: String,
    url: String,
}

/// A public TCP address that is forwarded to an agent; visitors say nothing first.
fn operations(lab: &TestLab) -> Result<(Front, Vec<u8>)> {
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let reserved = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{reserved}"), &guide::forward(OPERATIONS_INTERNAL))?;
    let addr = local(guide::port_of(&reserved)?);
    Ok((Front { addr, token, url: OPERATIONS_INTERNAL.to_owned() }, Vec::new()))
}

/// A TLS name that nobody ends on the way, of an account that may have raw links; and a hello for it.
fn passthrough(lab: &TestLab, visitor: &Visitor) -> Result<(Front, Vec<u8>)> {
    let api = lab.passthrough_account("faults")?;
    let user = api.create("/bot_users", &json!({ "name": "faults" }))?;
    let credential = json!({ "description": "faults", "owner_id": text(&user, "id")? });
    let token = text(&api.create("/credentials", &credential)?, "token")?.to_owned();
    api.create("/reserved_domains", &json!({ "domain": RAW_HOST, "region": "us" }))?;
    let front = Front { addr: local(lab.ports().https()), token, url: format!("tls://{RAW_HOST}") };
    Ok((front, visitor.hello(RAW_HOST)?))
}

/// Lets a process open no descriptor from this number on.
fn limit(pid: u32, descriptors: u64) -> Result<()> {
    let set = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={descriptors}:")])
        .status();
    ensure!(set.context("run prlimit, of util-linux")?.success(), "prlimit failed");
    Ok(())
}

/// Reads over a TLS record: its type, its version, its length and so many bytes.
fn skip_record(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    stream.read_exact(&mut vec![0; length])
}

/// A byte there and back on a connection that stays.
fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"p")?;
    let mut back = [0];
    stream.read_exact(&mut back)?;
    ensure!(&back == b"p", "another byte came back");
    Ok(())
}

/// Ends a connection by a reset.
fn abort(stream: TcpStream) -> std::io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

fn echo_back(mut stream: TcpStream) -> std::io::Result<()> {
    let mut to = stream.try_clone()?;
    std::io::copy(&mut stream, &mut to)?;
    to.shutdown(Shutdown::Write)
}
