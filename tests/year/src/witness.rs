//! `Witness`: an edge that knows the others by the edge's own code: its `Directory`, its Tables and its routes. Visitors
//! come to it. Only connections are the simulation's.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ebbgate_edge::agents::Agents;
use ebbgate_edge::feed::installer::Installer;
use ebbgate_edge::net::listen::ConnLimits;
use ebbgate_edge::state::edge::{Edge, Waits};
use ebbgate_edge::state::endpoint::Kind;
use ebbgate_edge::state::jwks::Fetcher;
use ebbgate_edge::state::pool::Ask;
use ebbgate_edge::state::ports::Ports;
use ebbgate_edge::tunnel::peer::Elsewhere;
use ebbgate_edge::tunnel::session::Carrier;
use ebbgate_model::feed::{FromEdge, ToEdge};
use ebbgate_model::{AccountId, Acl, CredentialSpec, EdgeId, EndpointUrl, Program, TokenHash};
use ebbgate_tunnel::driver::{self, SessionHandle};
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::ticket::TicketKey;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::ids;

/// See the module. Needs a runtime with a clock that stands still.
pub(crate) struct Witness {
    edge: Arc<Edge>,
    agents: Arc<Agents>,
    _events: mpsc::Receiver<FromEdge>,
    /// Ways to other edges, while they carry.
    carriers: BTreeMap<EdgeId, Carrier>,
    mux: SessionHandle,
    _far: DuplexStream,
}

impl Witness {
    /// An edge that knows these accounts, with one credential each.
    pub(crate) fn new(own: usize, accounts: usize) -> Result<Self> {
        let fetcher = Fetcher::new(None, false).context("the fetcher")?;
        let waits = Waits { relay_idle_secs: 60, half_closed_secs: 60 };
        let ports = Ports::new([127, 0, 0, 1].into(), 1);
        let (edge, events) =
            Edge::new(ConnLimits::new(1, 1), fetcher, TicketKey::new(&[7; 32]), waits, ports);
        let edge = Arc::new(edge);
        let agents = Agents::new(Arc::clone(&edge));
        let credential = |number: usize| {
            let spec = CredentialSpec {
                account: ids::account(number),
                account_name: String::new(),
                token: TokenHash([u8::try_from(number % 256).unwrap_or(0); 32]),
                acl: Acl::parse::<&str>(&[]).unwrap_or_default(),
                passthrough_links: false,
            };
            (ids::credential(number), spec)
        };
        let credentials = (0..accounts).map(credential).collect();
        let program = Program { generation: 1, credentials, ..Program::default() };
        Installer::new(Arc::clone(&agents)).put(&program);
        agents.peers.begin(ids::edge(own));
        let (near, far) = tokio::io::duplex(1);
        // Nobody drives it: a way is open as long as it is not given up.
        let (mux, _incoming, _driver) = driver::connect(near, Role::Client, Limits::AGENT);
        Ok(Self { edge, agents, _events: events, carriers: BTreeMap::new(), mux: mux.handle(), _far: far })
    }

    /// A feed begins.
    pub(crate) fn begin(&self, own: usize) {
        self.agents.peers.begin(ids::edge(own));
    }

    /// Control tells something.
    pub(crate) fn take(&self, message: ToEdge) {
        self.agents.peers.take(&self.edge, message);
    }

    /// Opens and closes ways: those to edges that are reached carry streams.
    pub(crate) fn keep_ways(&mut self, is_reached: impl Fn(usize) -> bool) {
        let ways = self.edge.peers.ways();
        self.carriers.retain(|edge, _| ways.contains_key(edge) && is_reached(ids::edge_number(*edge)));
        for (edge, way) in ways {
            if way.session.carriers() == 0 && is_reached(ids::edge_number(edge)) {
                self.carriers.insert(edge, way.session.carry(self.mux.clone()));
            }
        }
    }

    /// Endpoints of other edges' agents that are served here.
    pub(crate) fn endpoints(&self) -> usize {
        usize::try_from(self.edge.metrics.peer_endpoints.get()).unwrap_or(0)
    }

    /// The agents elsewhere to which a visitor of an account's service would be brought, one after the other until one `answers`.
    pub(crate) fn visit(
        &self,
        account: AccountId,
        url: &EndpointUrl,
        mut answers: impl FnMut(Elsewhere) -> bool,
    ) -> Result<bool> {
        let Some(pool) = self.edge.routes.internal(account, url) else { return Ok(false) };
        let mut tried = Vec::new();
        while let Some(member) = pool.pick(&tried, Ask::repeatable()) {
            tried.push(member.id);
            ensure!(member.account == account, "a visitor of {account} is brought to {}", member.account);
            let Kind::Agent(agent) = &member.kind else { continue };
            let elsewhere = agent.elsewhere.as_deref().context("an agent here")?;
            ensure!(elsewhere.account == account, "a visitor of {account} asks for {}", elsewhere.account);
            if answers(*elsewhere) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
