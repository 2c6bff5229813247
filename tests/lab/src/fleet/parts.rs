//! The fleet itself: where its parts run, how they are started, killed, cut off from each other and upgraded.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;

use super::load::Place;
use super::upstream;
use crate::api::{Api, list};
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
/// Edges.
pub(super) const EDGES: usize = 3;
/// Members of the etcd.
pub(super) const MEMBERS: usize = 3;
/// Controls.
pub(super) const CONTROLS: usize = 2;
/// Agents, each with both endpoints.
pub(super) const AGENTS: usize = 2;
/// Machines that a fleet needs besides the hub.
pub const MACHINES: usize = MEMBERS + CONTROLS + EDGES + AGENTS;
/// Edges that agents connect to; the last one's visitors reach agents through the others.
const HOMES: usize = 2;
/// Names of those edges, where machines have names.
const HOME_NAMES: [&str; HOMES] = ["edge0.fleet.test", "edge1.fleet.test"];

/// A part of the fleet, by its place among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// An edge.
    Edge(usize),
    /// A control.
    Control(usize),
    /// A member of the etcd.
    Etcd(usize),
    /// An agent.
    Agent(usize),
}

impl Part {
    /// Those that are killed: each once.
    pub fn all() -> Vec<Self> {
        let edges = (0..EDGES).map(Self::Edge);
        let controls = (0..CONTROLS).map(Self::Control);
        edges.chain(controls).chain((0..MEMBERS).map(Self::Etcd)).chain([Self::Agent(0)]).collect()
    }

    /// Pairs that are cut off from each other. Edge 2 has no agent, until agents lose the others.
    pub fn pairs() -> Vec<(Self, Self)> {
        vec![
            (Self::Edge(0), Self::Edge(2)),
            (Self::Control(0), Self::Edge(0)),
            (Self::Control(0), Self::Edge(2)),
            (Self::Control(0), Self::Agent(0)),
            (Self::Edge(0), Self::Agent(0)),
            (Self::Edge(2), Self::Agent(0)),
        ]
    }

    /// As people call it.
    pub fn name(self) -> String {
        match self {
            Self::Edge(at) => format!("edge {at}"),
            Self::Control(at) => format!("control {at}"),
            Self::Etcd(at) => format!("etcd {at}"),
            Self::Agent(at) => format!("agent {at}"),
        }
    }

    /// Its machine's place in a mesh.
    fn machine(self) -> usize {
        match self {
            Self::Etcd(at) => at,
            Self::Control(at) => MEMBERS + at,
            Self::Edge(at) => MEMBERS + CONTROLS + at,
            Self::Agent(at) => MEMBERS + CONTROLS + EDGES + at,
        }
    }
}

/// The whole of it; gone when dropped.
pub(super) struct Fleet<'a> {
    agents: Vec<Option<Daemon>>,
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
        lab.control_args(["--edges".into(), control.at(lab.ports().spare(0)).to_string()]);
        lab.start_control()?;
        let mut replica = Replica::new(&lab, &dir.join("replica"))?;
        let second = replica.serve_edges(&of(Part::Control(1))?);
        replica.start()?;
        let mut edges = Vec::new();
        for (at, octet) in (0..EDGES).zip(2_u8..) {
            let mut edge = RemoteEdge::new(programs, &dir.join(format!("edge{at}")))?;
            edge.on(&of(Part::Edge(at))?);
            if mesh.is_none() {
                edge.tcp_at(IpAddr::from(Ipv4Addr::new(127, 0, 0, octet)));
            }
            let join = join_string_naming(&lab, &format!("edge{at}"), &[&second.to_string()])?;
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
        let mut fleet = Self { agents, edges, replica, lab, etcd, mesh, dir, token, endpoints, port };
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
        let (name, connect) = (format!("agent{at}"), connect.join(","));
        let started = self.lab.agent_on(&here, &name, &self.token, &self.endpoints, &connect)?;
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

    /// Drops what two parts send each other, until [`Self::heal`].
    pub(super) fn cut(&self, one: Part, other: Part) -> Result<()> {
        let mesh = self.mesh.context("this machine cannot be cut off from itself")?;
        mesh.cut(&machine(Some(mesh), one)?, &machine(Some(mesh), other)?)
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
