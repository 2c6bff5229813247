//! Our chain through two edges: a visitor at one, the agent at the other. Beside the same chain through one edge, it
//! shows what the way between edges costs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::lab::{Lab, Programs, local};
use ebbgate_lab::process::Daemon;
use ebbgate_lab::remote_edge::{RemoteEdge, join_string};

use super::gate::{self, Carrier};
use super::https;
use super::load::Table;
use super::rig::{HOST, Rig};
use super::route::Front;

/// Addresses at which the two edges have reserved TCP ports.
const HOLDER_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ENTRY_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// How streams get from the second edge to the agent.
pub(super) const CARRIERS: [Carrier; 3] = [Carrier::Mux, Carrier::Link, Carrier::Raw];

/// The chain's name in the tables.
pub(super) fn name(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Mux => "ebbgate mux across",
        Carrier::Link => "ebbgate link across",
        Carrier::Quic => "ebbgate quic across",
        Carrier::Raw => "ebbgate raw across",
    }
}

/// A running control, two edges that joined it, and an agent at one of them.
pub(super) struct Across {
    carrier: Carrier,
    lab: Lab,
    holder: RemoteEdge,
    entry: RemoteEdge,
    agent: Daemon,
}

impl Across {
    /// Starts all four and adds their routes.
    pub(super) fn start(rig: &mut Rig, programs: &Path, carrier: Carrier, tables: &[Table]) -> Result<Self> {
        let dir = rig.dir().join(format!("lab-across-{carrier:?}").to_lowercase());
        let mut lab = Lab::open(&dir, Programs::in_dir(programs))?;
        let edges_at = local(lab.ports().spare(0)).to_string();
        lab.control_args(["--edges", &edges_at]);
        lab.start_control()?;
        let is_raw = carrier == Carrier::Raw;
        let holder = joined(&lab, "holder", HOLDER_IP, rig.threads, is_raw)?;
        let entry = joined(&lab, "entry", ENTRY_IP, rig.threads, is_raw)?;
        let account = gate::account(&gate::api(&lab, carrier)?)?;
        let endpoints = gate::endpoints(&account.addr, rig.sink);
        let connect = format!("{}\n  connect_edges: 1", holder.connect());
        let agent = lab.agent_carrying("agent", carrier.key(), &account.token, &endpoints, &connect)?;
        let addr: SocketAddr =
            account.addr.parse().with_context(|| format!("the reserved address {}", account.addr))?;
        let across = Self { carrier, lab, holder, entry, agent };
        across.routes(rig, SocketAddr::new(IpAddr::V4(ENTRY_IP), addr.port()), tables)?;
        Ok(across)
    }

    fn routes(&self, rig: &mut Rig, tcp: SocketAddr, tables: &[Table]) -> Result<()> {
        let parts =
            [("entry edge", self.entry.pid()?), ("edge", self.holder.pid()?), ("agent", self.agent.pid())];
        let name = name(self.carrier);
        let between = if self.carrier == Carrier::Raw { "plain TCP" } else { "mutual TLS 1.3" };
        let note = format!(
            "a visitor at one edge, an agent at another, {between} between the edges; to the agent {}",
            self.carrier.note()
        );
        if tables.contains(&Table::Tunnel) {
            let front = gate::tunnel_front(self.carrier, tcp, self.entry.https())?;
            rig.route(Table::Tunnel, name, front, &parts, &note);
        }
        if tables.contains(&Table::Https) && self.carrier.takes_https() {
            let (addr, ca) = (self.entry.https(), self.lab.ingress_ca());
            let front = Front::Https(https::Front { addr, host: HOST.to_owned(), ca });
            rig.route(Table::Https, name, front, &parts, &note);
        }
        Ok(())
    }

    /// What carried streams, by the counts of both edges.
    pub(super) fn carried(&self) -> Result<Vec<String>> {
        let name = name(self.carrier);
        let at = |edge: &RemoteEdge, which: &str| gate::carried(&format!("{name}, {which}"), edge.admin());
        Ok(vec![at(&self.entry, "entry edge")?, at(&self.holder, "edge of the agent")?])
    }

    /// Fails, with the end of its log, when one of the four has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.agent.check_alive()?;
        self.holder.check_alive()?;
        self.entry.check_alive()?;
        self.lab.daemons().try_for_each(Daemon::check_alive)
    }

    /// Stops all four.
    pub(super) fn stop(mut self) -> Result<()> {
        self.agent.stop()?;
        self.entry.stop()?;
        self.holder.stop()?;
        self.lab.stop_control()?;
        Ok(())
    }
}

fn joined(lab: &Lab, name: &str, tcp: Ipv4Addr, threads: usize, is_raw: bool) -> Result<RemoteEdge> {
    let mut edge = RemoteEdge::new(lab.programs(), &lab.dir().join(name))?;
    edge.tcp_at(tcp.into());
    edge.args(["--shards".to_owned(), threads.to_string()]);
    if is_raw {
        edge.args(["--peers-raw".to_owned()]);
    }
    let joined = edge.join(&join_string(lab, name)?)?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    edge.start()?;
    Ok(edge)
}
