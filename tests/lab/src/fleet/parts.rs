//! The fleet itself: where its parts run, how they are started, killed, cut off from each other and upgraded.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::load::Place;
use super::part::{AGENTS, CARRIERS, CONTROLS, Cut, EDGES, MEMBERS, Part};
use super::upstream;
use crate::api::{Api, list};
use crate::clock::Clock;
use crate::etcd::Etcd;
use crate::guide;
use crate::lab::{Lab, Programs};
use crate::machine::Machine;
use crate::mesh::Mesh;
use crate::process::Daemon;
use crate::remote_edge::{RemoteEdge, join_string_naming};
use crate::replica::Replica;
use crate::wait;

/// Public name of the endpoint for HTTP.
pub(super) const HOST: &str = "fleet.clinic-network.com";
/// What the agents serve.
const HTTP_INTERNAL: &str = "http://web.clinic1.internal";
const TCP_INTERNAL: &str = "tcp://echo.clinic1.internal:7";
/// Edges that agents connect to; the last one's visitors reach agents through the others.
const HOMES: usize = 2;
/// Names of those edges, where machines have names.
const HOME_NAMES: [&str; HOMES] = ["edge0.fleet.test", "edge1.fleet.test"];

/// The whole of it; gone when dropped.
pub(super) struct Fleet<'a> {
    agents: Vec<Option<Daemon>>,
    /// Clocks of agents that have one of their own.
    agent_clocks: Vec<Option<Clock>>,
    edges: Vec<RemoteEdge>,
    replica: Replica,
    lab: Lab,
    etcd: Etcd,
    mesh: Option<&'a Mesh>,
    dir: PathBuf,
    token: String,
    endpoints: String,
    port: u16,
}

/// A part's machine: this one, where there is no mesh.
fn machine(mesh: Option<&Mesh>, part: Part) -> Result<Machine> {
    let Some(mesh) = mesh else { return Ok(Machine::here(Ipv4Addr::LOCALHOST)) };
    mesh.machines().get(part.machine()).copied().context("the mesh has too few machines")
}

impl<'a> Fleet<'a> {
    /// Starts all of it; returns when each agent is at two edges.
    pub(super) fn start(dir: &Path, programs: &Programs, mesh: Option<&'a Mesh>) -> Result<Self> {
        let of = |part| machine(mesh, part);
        let members = (0..MEMBERS).map(|at| of(Part::Etcd(at))).collect::<Result<Vec<_>>>()?;
        let tls = mesh.map(|mesh| mesh.tls(dir)).transpose()?;
        let etcd = Etcd::on(&dir.join("etcd"), &members, tls, &[])?;
        let mut lab = Lab::open_with(&dir.join("lab"), programs.clone(), &etcd.store_flags())?;
        let control = of(Part::Control(0))?;
        lab.control_on(&control);
        let first = control.at(lab.ports().spare(0)).to_string();
        lab.control_args(["--edges", &first]);
        lab.start_control()?;
        let mut replica = Replica::new(&lab, &dir.join("replica"))?;
        let second = replica.serve_edges(&of(Part::Control(1))?).to_string();
        replica.start()?;
        let mut edges = Vec::new();
        for (at, octet) in (0..EDGES).zip(2_u8..) {
            let mut edge = RemoteEdge::new(programs, &dir.join(format!("edge{at}")))?;
            edge.on(&of(Part::Edge(at))?);
            if mesh.is_none() {
                edge.tcp_at(IpAddr::from(Ipv4Addr::new(127, 0, 0, octet)));
            }
            let mut controls = [first.as_str(), second.as_str()];
            controls.rotate_left(at % CONTROLS);
            let join = join_string_naming(&lab, &format!("edge{at}"), &controls)?;
            let joined = edge.join(&join)?;
            ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
            edge.start()?;
            edges.push(edge);
        }
        let (token, port) = control.enter(|| names(&lab.api()?))?;
        let site = mesh.map_or(Ipv4Addr::LOCALHOST.into(), |mesh| mesh.hub().address());
        let (web, echo) = (upstream::web()?.port(), upstream::echo()?.port());
        let endpoints = format!(
            "  - name: web\n    url: {HTTP_INTERNAL}\n    pooling_enabled: true\n    upstream:\n      url: http://{site}:{web}\n  \
             - name: echo\n    url: {TCP_INTERNAL}\n    pooling_enabled: true\n    upstream:\n      url: {site}:{echo}\n"
        );
        let (agents, dir) = ((0..AGENTS).map(|_| None).collect(), dir.to_owned());
        let agent_clocks = vec![None; AGENTS];
        let mut fleet =
            Self { agents, agent_clocks, edges, replica, lab, etcd, mesh, dir, token, endpoints, port };
        for at in 0..AGENTS {
            fleet.start_agent(at)?;
        }
        fleet.whole().with_context(|| fleet.logs())?;
        Ok(fleet)
    }

    /// Starts an agent that goes to two edges, one of them first.
    fn start_agent(&mut self, at: usize) -> Result<()> {
        let homes: Vec<_> = self.edges.iter().take(HOMES).map(RemoteEdge::connect).collect();
        let here = machine(self.mesh, Part::Agent(at))?;
        let named = HOME_NAMES.into_iter().zip(&homes);
        let mut connect: Vec<String> = if self.mesh.is_some() {
            here.knows(&self.dir, &named.clone().map(|(name, home)| (name, home.ip())).collect::<Vec<_>>())?;
            named.map(|(name, home)| format!("{name}:{}", home.port())).collect()
        } else {
            homes.iter().map(ToString::to_string).collect()
        };
        connect.rotate_left(at % HOMES);
        let carrier = CARRIERS.get(at).context("a carrier")?;
        // The section before the endpoints goes on where the address ends.
        let (name, connect) = (format!("agent{at}"), format!("{}\n  carrier: {carrier}", connect.join(",")));
        let spec = self.lab.agent_spec(&name, &self.token, &self.endpoints, &connect)?;
        let clock = self.agent_clocks.get(at).and_then(Option::as_ref).map(Clock::env);
        let started = spec.envs(clock.unwrap_or_default()).on(&here).start(&self.lab.log_dir())?;
        *self.agents.get_mut(at).context("an agent")? = Some(started);
        Ok(())
    }

    /// Waits until each agent is at two edges.
    pub(super) fn whole(&self) -> Result<()> {
        let apis = [(Part::Control(0), self.lab.api()?), (Part::Control(1), self.replica.api())];
        wait::soon("every agent at two edges", || {
            // Each control lists all sessions.
            for (part, api) in &apis {
                if machine(self.mesh, *part)?.enter(|| sessions(api))? < 2 * AGENTS {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Where visitors come in at each edge.
    pub(super) fn places(&self) -> Vec<Place> {
        self.edges.iter().map(|edge| Place { http: edge.http(), tcp: edge.tcp(self.port) }).collect()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Edge(at) => self.edge(at)?.kill(),
            Part::Control(0) => self.lab.kill_control(),
            Part::Control(_) => self.replica.kill(),
            Part::Etcd(at) => self.etcd.kill(at),
            Part::Agent(at) => *self.agents.get_mut(at).context("an agent")? = None,
        }
        Ok(())
    }

    /// Starts it again; returns when it is ready.
    pub(super) fn restart(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Edge(at) => self.edge(at)?.start(),
            Part::Control(0) => self.lab.start_control(),
            Part::Control(_) => self.replica.start(),
            Part::Etcd(at) => {
                self.etcd.restart(at)?;
                self.etcd.wait_ready()
            }
            Part::Agent(at) => self.start_agent(at),
        }
    }

    /// Drops what the two sides send each other, until [`Self::heal`].
    pub(super) fn cut(&self, cut: &Cut) -> Result<()> {
        let mesh = self.mesh.context("this machine cannot be cut off from itself")?;
        for one in &cut.one {
            for other in &cut.other {
                mesh.cut(&machine(Some(mesh), *one)?, &machine(Some(mesh), *other)?)?;
            }
        }
        Ok(())
    }

    /// Gives a part a clock of its own, from its next start on.
    pub(super) fn give_clock(&mut self, part: Part, clock: &Clock) -> Result<()> {
        match part {
            Part::Edge(at) => self.edge(at)?.env(clock.env()),
            Part::Control(0) => self.lab.control_env(clock.env()),
            Part::Agent(at) => *self.agent_clocks.get_mut(at).context("an agent")? = Some(clock.clone()),
            Part::Control(_) | Part::Etcd(_) => bail!("{} has the clock of this machine", part.name()),
        }
        Ok(())
    }

    /// What a part said since its start.
    pub(super) fn said(&mut self, part: Part) -> Result<String> {
        match part {
            Part::Edge(at) => self.edge(at)?.log(),
            Part::Control(0) => self.lab.control()?.log(),
            Part::Agent(at) => self.agents.get(at).and_then(Option::as_ref).context("an agent")?.log(),
            Part::Control(_) | Part::Etcd(_) => bail!("nobody reads what {} says", part.name()),
        }
    }

    /// What the second control lists of edges, in their order.
    pub(super) fn listed(&self) -> Result<Vec<Value>> {
        let mut list = machine(self.mesh, Part::Control(1))?.command(self.programs().control());
        let listed = list.args(["edge", "list", "--dir"]).arg(self.replica.dir()).output()?;
        ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed: Value = serde_json::from_slice(&listed.stdout)?;
        let mut edges = listed.get("edges").and_then(Value::as_array).context("edges")?.clone();
        edges.sort_by_key(|edge| edge.get("name").and_then(Value::as_str).map(str::to_owned));
        Ok(edges)
    }

    /// Lets everything through again.
    pub(super) fn heal(&self) -> Result<()> {
        self.mesh.map_or(Ok(()), Mesh::heal)
    }

    /// An edge.
    pub(super) fn edge(&mut self, at: usize) -> Result<&mut RemoteEdge> {
        self.edges.get_mut(at).context("an edge")
    }

    /// Where a run puts its own files.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the programs are.
    pub(super) fn programs(&self) -> &Programs {
        self.lab.programs()
    }

    /// How often agents said that a session ended.
    pub(super) fn ended_sessions(&self) -> Result<usize> {
        let logs = self.agents.iter().flatten().map(Daemon::log);
        logs.map(|log| Ok(log?.matches("session offline").count())).sum()
    }

    /// The ends of all logs, for an error.
    pub(super) fn logs(&self) -> String {
        let dirs = self.edges.iter().map(|edge| edge.dir().join("log")).chain([self.lab.log_dir()]);
        let files = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let ends = files.map(|file| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n");
            format!("---- {}\n{end}\n", file.path().display())
        });
        ends.collect()
    }
}

/// Lines of each log in an error.
const LOG_LINES: usize = 30;

/// Makes the public names; gives an authtoken and the port of the TCP address.
fn names(api: &Api) -> Result<(String, u16)> {
    let (_, token) = guide::authtoken(api, 1)?;
    for name in HOME_NAMES {
        api.create("/agent_ingresses", &json!({ "domain": name }))?;
    }
    guide::domain(api)?;
    guide::cloud(api, &format!("http://{HOST}"), &guide::forward(HTTP_INTERNAL))?;
    let address = guide::address(api)?;
    guide::cloud(api, &format!("tcp://{address}"), &guide::forward(TCP_INTERNAL))?;
    Ok((token, guide::port_of(&address)?))
}

fn sessions(api: &Api) -> Result<usize> {
    Ok(list(api, "/tunnel_sessions", "tunnel_sessions")?.len())
}
