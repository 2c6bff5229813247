//! `EdgesDialer`: reaches an edge for one of the agent's sessions, and goes on to the next one where an edge fails. Links and
//! QUIC go to the edge that has the session.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

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
        let mut tried = 0;
        loop {
            let edge = self.edges.next(self.session).await;
            let choices = self.edges.choices(self.session);
            tried += 1;
            match self.reach_one(edge).await {
                Err(error) => {
                    self.edges.failed(self.session);
                    if tried >= choices {
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
