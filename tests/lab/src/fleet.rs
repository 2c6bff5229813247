//! `fleet`: three edges, two controls and an etcd of three members on this machine, under load, while each of them is killed in
//! turn. Counts what visitors see of it.

mod load;
mod tally;
mod upstream;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;

use crate::api::{Api, list};
use crate::etcd::Etcd;
use crate::guide;
use crate::lab::{Lab, Programs, local};
use crate::process::Daemon;
use crate::remote_edge::{RemoteEdge, join_string_naming};
use crate::replica::Replica;
use crate::wait;
use load::{Load, Place};

pub use load::Visitors;
pub use tally::Seen;

/// Edges.
const EDGES: usize = 3;
/// Members of the etcd.
const MEMBERS: usize = 3;
/// Seconds of load before a kill.
const QUIET_SECS: u64 = 2;
/// Seconds until what was killed is started again.
const AWAY_SECS: u64 = 6;
/// Seconds of load after that.
const BACK_SECS: u64 = 6;
/// Seconds after which an edge that is gone is no other edge's trouble any more.
const LATER_SECS: u64 = 2;
/// Public name of the endpoint for HTTP.
const HOST: &str = "fleet.clinic-network.com";
/// What the agents serve.
const HTTP_INTERNAL: &str = "http://web.clinic1.internal";
const TCP_INTERNAL: &str = "tcp://echo.clinic1.internal:7";
/// Agents, each with both endpoints.
const AGENTS: usize = 2;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Victim {
    /// An edge, by its place.
    Edge(usize),
    /// A control.
    Control(usize),
    /// A member of the etcd.
    Etcd(usize),
    /// An agent.
    Agent(usize),
}

impl Victim {
    /// Each once.
    pub fn all() -> Vec<Self> {
        let edges = (0..EDGES).map(Self::Edge);
        let controls = (0..2).map(Self::Control);
        edges.chain(controls).chain((0..MEMBERS).map(Self::Etcd)).chain([Self::Agent(0)]).collect()
    }

    fn name(self) -> String {
        match self {
            Self::Edge(at) => format!("edge {at}"),
            Self::Control(at) => format!("control {at}"),
            Self::Etcd(at) => format!("etcd {at}"),
            Self::Agent(at) => format!("agent {at}"),
        }
    }
}

/// One kill and what visitors saw of it.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// What was killed.
    pub victim: String,
    /// At the edge that was killed; nothing for other kills.
    pub own: Seen,
    /// At the other edges.
    pub others: Seen,
    /// The same from the second second after the kill on.
    pub others_later: Seen,
    /// Milliseconds from the restart until it is ready.
    pub ready_ms: u128,
}

/// The whole of it; gone when dropped.
struct Fleet {
    agents: Vec<Option<Daemon>>,
    edges: Vec<RemoteEdge>,
    replica: Replica,
    lab: Lab,
    etcd: Etcd,
    token: String,
    endpoints: String,
    port: u16,
}

impl Fleet {
    fn start(dir: &Path, programs: &Programs, web: u16, echo: u16) -> Result<Self> {
        let etcd = Etcd::start(&dir.join("etcd"), MEMBERS)?;
        let url = etcd.url();
        let mut lab = Lab::open_with(&dir.join("lab"), programs.clone(), &["--store", &url])?;
        let first = local(lab.ports().spare(0)).to_string();
        lab.control_args(["--edges", &first]);
        lab.start_control()?;
        let mut replica = Replica::new(&lab, &dir.join("replica"))?;
        let second = replica.serve_edges();
        replica.start()?;
        let mut edges = Vec::new();
        for (at, octet) in (0..EDGES).zip(2_u8..) {
            let mut edge = RemoteEdge::new(programs, &dir.join(format!("edge{at}")))?;
            edge.tcp_at(IpAddr::from(Ipv4Addr::new(127, 0, 0, octet)));
            let join = join_string_naming(&lab, &format!("edge{at}"), &[&second.to_string()])?;
            let joined = edge.join(&join)?;
            ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
            edge.start()?;
            edges.push(edge);
        }
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        guide::cloud(&api, &format!("http://{HOST}"), &guide::forward(HTTP_INTERNAL))?;
        let address = guide::address(&api)?;
        guide::cloud(&api, &format!("tcp://{address}"), &guide::forward(TCP_INTERNAL))?;
        let port = guide::port_of(&address)?;
        let endpoints = format!(
            "  - name: web\n    url: {HTTP_INTERNAL}\n    pooling_enabled: true\n    upstream:\n      url: {web}\n  - name: echo\n    \
             url: {TCP_INTERNAL}\n    pooling_enabled: true\n    upstream:\n      url: {echo}\n"
        );
        let agents = (0..AGENTS).map(|_| None).collect();
        let mut fleet = Self { agents, edges, replica, lab, etcd, token, endpoints, port };
        for at in 0..AGENTS {
            fleet.start_agent(at)?;
        }
        // Each control lists the sessions of edges that are connected to it.
        let apis = [fleet.lab.api()?, fleet.replica.api()];
        wait::soon("every agent at two edges", || {
            let sessions = apis.iter().map(sessions).sum::<Result<usize>>()?;
            Ok((sessions >= 2 * AGENTS).then_some(()))
        })?;
        Ok(fleet)
    }

    fn start_agent(&mut self, at: usize) -> Result<()> {
        let home = self.edges.get(at % EDGES).context("an edge")?.connect().to_string();
        let started = self.lab.agent_at(&format!("agent{at}"), &self.token, &self.endpoints, &home)?;
        *self.agents.get_mut(at).context("an agent")? = Some(started);
        Ok(())
    }

    /// Where visitors come in at each edge.
    fn places(&self) -> Vec<Place> {
        let place = |(edge, octet): (&RemoteEdge, u8)| Place {
            http: edge.http(),
            tcp: (Ipv4Addr::new(127, 0, 0, octet), self.port).into(),
        };
        self.edges.iter().zip(2_u8..).map(place).collect()
    }

    fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Edge(at) => self.edges.get_mut(at).context("an edge")?.kill(),
            Victim::Control(0) => self.lab.kill_control(),
            Victim::Control(_) => self.replica.kill(),
            Victim::Etcd(at) => self.etcd.kill(at),
            Victim::Agent(at) => *self.agents.get_mut(at).context("an agent")? = None,
        }
        Ok(())
    }

    /// Starts it again; returns when it is ready.
    fn restart(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Edge(at) => self.edges.get_mut(at).context("an edge")?.start(),
            Victim::Control(0) => self.lab.start_control(),
            Victim::Control(_) => self.replica.start(),
            Victim::Etcd(at) => {
                self.etcd.restart(at)?;
                self.etcd.wait_ready()
            }
            Victim::Agent(at) => self.start_agent(at),
        }
    }
}

fn sessions(api: &Api) -> Result<usize> {
    Ok(list(api, "/tunnel_sessions", "tunnel_sessions")?.len())
}

/// Kills one after the other; calls `done` with each kill.
pub fn run(
    dir: &Path,
    programs: &Programs,
    visitors: Visitors,
    victims: &[Victim],
    mut done: impl FnMut(&Kill) -> Result<()>,
) -> Result<()> {
    let (web, echo) = (upstream::web()?, upstream::echo()?);
    let mut fleet = Fleet::start(dir, programs, web.port(), echo.port())?;
    let load = Load::start(&fleet.places(), HOST, visitors)?;
    for victim in victims {
        load.settled()?;
        std::thread::sleep(Duration::from_secs(QUIET_SECS));
        load.reset();
        let killed = Instant::now();
        fleet.kill(*victim)?;
        std::thread::sleep(Duration::from_secs(AWAY_SECS));
        let started = Instant::now();
        fleet.restart(*victim)?;
        let ready_ms = started.elapsed().as_millis();
        std::thread::sleep(Duration::from_secs(BACK_SECS));
        let is_own = |edge: usize| *victim == Victim::Edge(edge);
        let later = killed + Duration::from_secs(LATER_SECS);
        done(&Kill {
            victim: victim.name(),
            own: load.seen(is_own, killed),
            others: load.seen(|edge| !is_own(edge), killed),
            others_later: load.seen(|edge| !is_own(edge), later),
            ready_ms,
        })?;
    }
    load.settled()?;
    load.stop();
    Ok(())
}

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// How often each is killed
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// The folder with control, edge and agent
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
}

/// Runs it in a temporary directory and prints a line of JSON for each kill.
pub fn run_verb(args: &Args) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("ebb-fleet-").tempdir()?;
    let victims: Vec<Victim> = (0..args.rounds).flat_map(|_| Victim::all()).collect();
    run(dir.path(), &Programs::in_dir(&args.programs), Visitors::MANY, &victims, |kill| {
        println!("{}", json!(kill));
        Ok(())
    })
}
