//! What the soak runs in: a lab, and for each way from visitor to service an agent that takes this way only.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use ebbgate_lab::api::{Api, text};
use ebbgate_lab::lab::{Lab, Programs, local};
use ebbgate_lab::process::Daemon;
use serde_json::json;

use super::engine::{Engine, Target};

/// TCP addresses of one way: short connections from agent to service need many pairs of addresses and ports.
const ADDRESSES: u8 = 3;
/// Name of the endpoint whose TLS nobody but its service ends.
const RAW_HOST: &str = "raw.soak.example";
/// What a TLS client for [`RAW_HOST`] says first: recorded from OpenSSL 3.0.
const RAW_HELLO: &[u8] = include_bytes!("client_hello.bin");

/// How bytes get from the edge to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Way {
    /// Streams of the agent's session.
    Mux,
    /// A TCP connection with TLS for each stream.
    Link,
    /// A TCP connection for each stream of TLS that the edge does not end.
    Raw,
    /// QUIC streams.
    Quic,
}

impl Way {
    /// As flags and reports name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mux => "mux",
            Self::Link => "link",
            Self::Raw => "raw",
            Self::Quic => "quic",
        }
    }

    /// The agent file's word for it.
    fn carrier(self) -> &'static str {
        if self == Self::Raw { "link" } else { self.name() }
    }

    /// Its part of the bytes: roughly by what a byte costs on it.
    pub(super) fn weight(self) -> u64 {
        match self {
            Self::Mux | Self::Quic => 1,
            Self::Link => 2,
            Self::Raw => 6,
        }
    }
}

/// Control, edge and agents that run.
pub(super) struct Field {
    lab: Lab,
    agents: Vec<(Way, Daemon)>,
    targets: Vec<(Way, Target)>,
}

impl Field {
    /// Starts everything, with state in `dir`. Agents may take a moment to come online.
    pub(super) fn start(dir: &Path, programs: &Path, ways: &[Way], engine: &mut Engine) -> Result<Self> {
        let mut lab = Lab::open(dir, Programs::in_dir(programs))?;
        lab.edge_args(["--connections-max", "100000"]);
        lab.start()?;
        let api = lab.passthrough_account("soak")?;
        let user = api.create("/bot_users", &json!({ "name": "soak" }))?;
        let credential = json!({ "description": "soak", "owner_id": text(&user, "id")? });
        let credential = api.create("/credentials", &credential)?;
        let authtoken = text(&credential, "token")?;
        let (mut agents, mut targets) = (Vec::new(), Vec::new());
        for (row, way) in (0..).zip(ways) {
            let (target, endpoints) = if *way == Way::Raw {
                raw_endpoint(&lab, &api, row, engine)?
            } else {
                tcp_endpoints(&api, row, engine)?
            };
            agents.push((*way, agent(&lab, *way, authtoken, &endpoints)?));
            targets.push((*way, target));
        }
        Ok(Self { lab, agents, targets })
    }

    /// Every way with where its visitors go.
    pub(super) fn targets(&self) -> &[(Way, Target)] {
        &self.targets
    }

    /// Edge and agents with their process ids.
    pub(super) fn processes(&mut self) -> Result<Vec<(String, u32)>> {
        let mut all = vec![("edge".to_owned(), self.lab.edge()?.pid())];
        all.extend(self.agents.iter().map(|(way, agent)| (format!("agent {}", way.name()), agent.pid())));
        Ok(all)
    }

    /// The edge's admin listener.
    pub(super) fn edge_admin(&self) -> SocketAddr {
        local(self.lab.ports().edge_admin())
    }

    /// Fails, with the end of its log, when a process has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.agents.iter_mut().try_for_each(|(_, agent)| agent.check_alive())?;
        self.lab.daemons().try_for_each(Daemon::check_alive)
    }

    /// Stops everything.
    pub(super) fn stop(mut self) -> Result<()> {
        for (_, agent) in &mut self.agents {
            agent.stop()?;
        }
        self.lab.stop_edge()?;
        self.lab.stop_control()?;
        Ok(())
    }
}

fn tcp_endpoints(api: &Api, row: u8, engine: &mut Engine) -> Result<(Target, String)> {
    let mut fronts = Vec::new();
    let mut endpoints = String::new();
    for n in 0..ADDRESSES {
        let reserved = api.create("/reserved_addrs", &json!({ "description": "soak", "region": "us" }))?;
        let addr = text(&reserved, "addr")?;
        let service = engine.serve(Ipv4Addr::new(127, 3, row, n + 1), b"")?;
        // Writing to a String cannot fail.
        let _ = writeln!(
            endpoints,
            "  - name: tcp{n}\n    url: tcp://{addr}\n    upstream:\n      url: tcp://{service}"
        );
        fronts.push(addr.parse().with_context(|| format!("the reserved address {addr}"))?);
    }
    Ok((Target { fronts, hello: b"" }, endpoints))
}

fn raw_endpoint(lab: &Lab, api: &Api, row: u8, engine: &mut Engine) -> Result<(Target, String)> {
    api.create("/reserved_domains", &json!({ "domain": RAW_HOST, "region": "us" }))?;
    let service = engine.serve(Ipv4Addr::new(127, 3, row, 1), RAW_HELLO)?;
    let endpoints =
        format!("  - name: raw\n    url: tls://{RAW_HOST}\n    upstream:\n      url: tcp://{service}\n");
    Ok((Target { fronts: vec![local(lab.ports().https())], hello: RAW_HELLO }, endpoints))
}

fn agent(lab: &Lab, way: Way, authtoken: &str, endpoints: &str) -> Result<Daemon> {
    let connect = local(lab.ports().connect()).to_string();
    lab.agent_carrying(&format!("agent-{}", way.name()), way.carrier(), authtoken, endpoints, &connect)
}
