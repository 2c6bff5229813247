//! `EdgesDialer`: reaches an edge for one of the agent's sessions, and goes on to the next one where an edge fails. Links and
//! QUIC go to the edge that has the session.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ebbgate_wire::rpc::{AuthReplyExtra, ConnectAddress as NamedEdge};
use tokio::net::TcpStream;

use crate::config::{AgentConfig, ConnectAddress, Secret};
use crate::dial::{Dial, DialError, Dialled, Dialling};
use crate::edge_dialer::{DialerError, EdgeDialer};
use crate::edges::{Edges, SameEdge};
use crate::network::{Network, Unwatched};
use crate::stream::{Carrier, Streams};

/// Makes the diallers of single edges.
pub trait Dialers: Send + Sync + 'static {
    /// The dialler of an edge; `reached`: the address at which its session was reached, where the name may have several.
    fn dialer(&self, edge: ConnectAddress, reached: Option<SocketAddr>) -> Result<Arc<dyn Dial>, DialError>;

    /// The network below, watched from now on.
    fn network(&self) -> Box<dyn Network> {
        Box::new(Unwatched)
    }
}

impl Dialers for EdgeDialer {
    fn dialer(&self, edge: ConnectAddress, reached: Option<SocketAddr>) -> Result<Arc<dyn Dial>, DialError> {
        let dialer = self.to(edge).map_err(|error| DialError::Edge(Box::new(error)))?;
        Ok(Arc::new(match reached {
            Some(reached) => dialer.at(reached),
            None => dialer,
        }))
    }

    fn network(&self) -> Box<dyn Network> {
        Dial::network(self)
    }
}

/// See the module.
pub struct EdgesDialer {
    session: usize,
    edges: Arc<Edges>,
    dialers: Arc<dyn Dialers>,
    /// Of the edge that has the session.
    current: Mutex<Option<Arc<dyn Dial>>>,
}

impl EdgesDialer {
    /// One for each session that the configuration asks for.
    pub fn all(agent: &AgentConfig) -> Result<Vec<Self>, DialerError> {
        let any = EdgeDialer::new(agent)?;
        for address in &agent.connect {
            any.to(address.clone())?;
        }
        let dialers: Arc<dyn Dialers> = Arc::new(any);
        Ok(Self::of(&dialers, agent.connect.clone(), agent.connect_edges))
    }

    /// The same with diallers of the caller's.
    pub fn of(dialers: &Arc<dyn Dialers>, configured: Vec<ConnectAddress>, sessions: usize) -> Vec<Self> {
        let edges = Arc::new(Edges::new(configured, sessions));
        let of = |session| {
            let (edges, dialers) = (Arc::clone(&edges), Arc::clone(dialers));
            Self { session, edges, dialers, current: Mutex::default() }
        };
        (0..sessions).map(of).collect()
    }

    async fn reach(&self) -> Result<Dialled, DialError> {
        let mut round = Round::default();
        loop {
            let edge = self.edges.next(self.session).await;
            round.begins(&self.edges, self.session);
            match self.reach_one(edge).await {
                Err(error) => {
                    if let Some(error) = round.failed(&self.edges, self.session, error) {
                        return Err(error);
                    }
                }
                dialled => return dialled,
            }
        }
    }

    async fn reach_one(&self, edge: ConnectAddress) -> Result<Dialled, DialError> {
        let dialled = self.dialers.dialer(edge.clone(), None)?.dial().await?;
        let dialer = self.dialers.dialer(edge, dialled.ends.map(|ends| ends.peer))?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(dialer);
        Ok(dialled)
    }

    fn current(&self) -> Result<Arc<dyn Dial>, DialError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        current.ok_or(DialError::Unsupported("connections before the first session"))
    }
}

/// The tries of one dial: edge after edge, each once.
#[derive(Debug, Default)]
pub struct Round {
    tried: usize,
    choices: usize,
    /// Of the edges that asked for a new try later, the one that asked for the soonest.
    busy: Option<(String, Duration)>,
}

impl Round {
    /// A session tries the edge that is its next one.
    pub fn begins(&mut self, edges: &Edges, session: usize) {
        self.tried += 1;
        self.choices = edges.choices(session);
    }

    /// The edge was not reached. None: another one is tried at once. Some: the dial failed for this reason.
    pub fn failed(&mut self, edges: &Edges, session: usize, error: DialError) -> Option<DialError> {
        edges.failed(session);
        if let DialError::Busy { target, retry_after } = &error
            && self.busy.as_ref().is_none_or(|(_, before)| retry_after < before)
        {
            self.busy = Some((target.clone(), *retry_after));
        }
        if self.tried < self.choices {
            return None;
        }
        let busy = self.busy.take();
        Some(busy.map_or(error, |(target, retry_after)| DialError::Busy { target, retry_after }))
    }
}

impl Dial for EdgesDialer {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(self.reach())
    }

    fn link(&self) -> Dialling<'_, Box<dyn Carrier>> {
        Box::pin(async { self.current()?.link().await })
    }

    fn raw(&self) -> Dialling<'_, TcpStream> {
        Box::pin(async { self.current()?.raw().await })
    }

    fn attach(&self, ticket: Secret) -> Dialling<'_, Box<dyn Streams>> {
        Box::pin(async { self.current()?.attach(ticket).await })
    }

    fn let_in(&self, reply: &AuthReplyExtra) -> Result<(), SameEdge> {
        self.edges.let_in(self.session, &reply.edge_id)?;
        if let Some(others) = &reply.connect_addresses {
            self.told(others);
        }
        Ok(())
    }

    fn told(&self, others: &[NamedEdge]) {
        self.edges.told(others.iter().map(|other| other.server_addr.as_str()));
    }

    fn leave(&self) {
        self.edges.leave(self.session);
        self.edges.failed(self.session);
    }

    fn lost(&self) {
        self.edges.failed(self.session);
    }

    fn network(&self) -> Box<dyn Network> {
        self.dialers.network()
    }

    fn target(&self) -> String {
        self.edges.place(self.session).map_or_else(|| self.edges.configured(), |place| place.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_fails_after_each_edge_with_the_soonest_time_that_one_asked_for() {
        let edges = Edges::new(crate::config::parse_addresses("a:1,b:1,c:1").unwrap(), 1);
        let mut round = Round::default();
        let mut fail = |error| {
            let edge = edges.next_now(0).unwrap().to_string();
            round.begins(&edges, 0);
            (edge, round.failed(&edges, 0, error))
        };
        let busy = |secs| {
            let (target, retry_after) = (String::new(), Duration::from_secs(secs));
            DialError::Busy { target, retry_after }
        };
        assert!(matches!(fail(busy(9)), (edge, None) if edge == "a:1"));
        assert!(matches!(fail(busy(2)), (edge, None) if edge == "b:1"));
        let (edge, error) = fail(DialError::Unsupported("anything"));
        assert_eq!(edge, "c:1");
        assert!(matches!(error, Some(DialError::Busy { retry_after, .. }) if retry_after.as_secs() == 2));
    }
}
