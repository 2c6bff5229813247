//! Sessions of this edge's older processes in the directory: among the routes as those of other edges are, and told to control as
//! this edge's own.
//!
//! An agent of which another session serves the same here is served by that one: what it has at the older process is superseded,
//! for good, endpoint by endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::feed::{EdgeReach, PeerEdge, SessionReport};
use ebbgate_model::{CredentialId, EdgeId, EndpointId, TunnelSessionId};
use tokio::sync::mpsc;

use super::super::super::line::Asked;
use super::super::super::own_tls::OwnTls;
use super::super::shown::{Older, is_same};
use super::{Directory, Served, Table, process_of, withdraw};
use crate::state::edge::Edge;
use crate::state::endpoint::Endpoint;
use crate::state::older::OlderProcess;
use crate::state::peers::{PeerWay, Place};

impl Directory {
    /// An older process of this edge tells of its sessions from now on; `asks` go there.
    pub(in crate::agents) fn older_began(
        &self,
        edge: &Edge,
        id: EdgeId,
        process: &Arc<OlderProcess>,
        asks: mpsc::Sender<Asked>,
    ) {
        let mut table = self.table();
        table.gone(edge, id);
        let about = PeerEdge { edge: id, reach: EdgeReach::default(), draining: true };
        table.insert(about, Place::Older(Arc::clone(process)), Some(Older { asks }));
    }

    /// An older process tells of its sessions no more.
    pub(in crate::agents) fn older_ended(&self, edge: &Edge, id: EdgeId) {
        self.table().gone(edge, id);
    }

    /// A session of an older process began or changed. Gives the members on which it has an operator's word that is news.
    pub(in crate::agents) fn older_session(
        &self,
        edge: &Edge,
        at: (EdgeId, TunnelSessionId),
        report: &Arc<SessionReport>,
        own_tls: BTreeMap<EndpointId, OwnTls>,
        moves: bool,
    ) -> Vec<String> {
        let mut table = self.table();
        let news = table.session(edge, at, report, own_tls);
        table.show(edge, at, Some(moves));
        news
    }

    /// A session of an older process ended.
    pub(in crate::agents) fn older_session_ended(&self, edge: &Edge, at: (EdgeId, TunnelSessionId)) {
        self.table().ended(edge, at);
    }

    /// The way to an older process, if it has sessions.
    pub(in crate::agents) fn way_in_use(&self, id: EdgeId) -> Option<Arc<PeerWay>> {
        let table = self.table();
        table.peers.get(&id).filter(|peer| peer.has_ways).map(|peer| Arc::clone(&peer.way))
    }

    /// An endpoint of a session at an older process. One that is superseded is the agent's here: other edges may not know yet.
    pub(in crate::agents) fn older_endpoint(
        &self,
        edge: &Edge,
        session: TunnelSessionId,
        endpoint: EndpointId,
    ) -> Option<Arc<Endpoint>> {
        let table = self.table();
        let mut older = table.peers.values().filter(|peer| peer.older.is_some());
        let session = older.find_map(|peer| peer.sessions.get(&session))?;
        let served = session.served.get(&endpoint).map(|served| Arc::clone(&served.endpoint));
        served.or_else(|| session.shown.instead(edge, endpoint))
    }

    /// Asks the older process that has a session. False: none has it, or the process does not read.
    pub(in crate::agents) fn ask_older(&self, session: TunnelSessionId, asked: Asked) -> bool {
        let table = self.table();
        let mut has = table.peers.values().filter(|peer| peer.sessions.contains_key(&session));
        let older = has.find_map(|peer| peer.older.as_ref());
        older.is_some_and(|older| older.asks.try_send(asked).is_ok())
    }

    /// An agent serves an endpoint here: what it has of it at older processes is superseded.
    pub(in crate::agents) fn is_home(&self, edge: &Edge, own: &Endpoint) {
        let mut table = self.table();
        let Some(process) = process_of(own) else { return };
        let known = table.by_process.get(&process).cloned().unwrap_or_default();
        for at in known {
            let peer = table.peers.get_mut(&at.0).filter(|peer| peer.older.is_some());
            let Some(session) = peer.and_then(|peer| peer.sessions.get_mut(&at.1)) else { continue };
            let same: Vec<EndpointId> = session
                .served
                .iter()
                .filter(|(_, served)| is_same(&served.endpoint, own))
                .map(|(id, _)| *id)
                .collect();
            for id in &same {
                if let Some(served) = session.served.remove(id) {
                    withdraw(edge, &served);
                    session.shown.supersede(served.endpoint);
                }
            }
            if !same.is_empty() {
                table.show(edge, at, None);
            }
        }
    }

    /// Takes a lent port that is open here for an endpoint of the same agent's process at an older process: the agent has it
    /// here from now on. None: there is no such port.
    pub(in crate::agents) fn take_lent(&self, own: &Endpoint) -> Option<u16> {
        self.table().find_before(own, |served| served.lent_port.take())
    }

    /// Gives a port back to the endpoint that it was taken from. False: that is served no more.
    pub(in crate::agents) fn return_lent(&self, own: &Endpoint, port: u16) -> bool {
        let give = |served: &mut Served| served.lent_port.is_none().then(|| served.lent_port = Some(port));
        self.table().find_before(own, give).is_some()
    }

    /// A client has connected here that may still have sessions at older processes: those end there, unless their agents keep
    /// several.
    pub(in crate::agents) fn came_back(&self, credential: CredentialId, client_id: &str) {
        let table = self.table();
        for at in table.by_process.get(client_id).into_iter().flatten() {
            let Some(peer) = table.peers.get(&at.0) else { continue };
            let session = peer.sessions.get(&at.1).filter(|session| session.report.credential == credential);
            if let (Some(older), Some(_)) = (&peer.older, session) {
                // Without it the older process finds out by its heartbeat.
                let _ = older.asks.try_send(Asked::CameBack { session: at.1 });
            }
        }
    }
}

impl Table {
    /// The first answer for what the process of an agent serves at older processes at the URL of its own endpoint.
    fn find_before<T>(
        &mut self,
        own: &Endpoint,
        mut find: impl FnMut(&mut Served) -> Option<T>,
    ) -> Option<T> {
        let process = process_of(own)?;
        for (edge, session) in self.by_process.get(&process)? {
            let peer = self.peers.get_mut(edge).filter(|peer| peer.older.is_some());
            let Some(session) = peer.and_then(|peer| peer.sessions.get_mut(session)) else { continue };
            let is_before = |endpoint: &Endpoint| {
                let has_place = endpoint.url == own.url && endpoint.account == own.account;
                has_place && process_of(endpoint).as_ref() == Some(&process)
            };
            let mut before = session.served.values_mut().filter(|served| is_before(&served.endpoint));
            if let Some(found) = before.find_map(&mut find) {
                return Some(found);
            }
        }
        None
    }

    fn show(&mut self, edge: &Edge, at: (EdgeId, TunnelSessionId), moves: Option<bool>) {
        let Some(peer) = self.peers.get_mut(&at.0) else { return };
        let (Some(older), Some(session)) = (&peer.older, peer.sessions.get_mut(&at.1)) else { return };
        session.shown.moves = moves.unwrap_or(session.shown.moves);
        session.shown.show(edge, at.1, &session.report, older);
    }
}
