//! What happens in a session, and where an endpoint's connections are delivered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::EndpointUrl;
use tokio::sync::mpsc;

use super::inbound::Inbound;
use crate::plan::Refusal;
use crate::stream::Stream;
use crate::upstream::Upstream;

/// One connection from a visitor, as a program that embeds the agent gets it.
pub struct Accepted {
    /// The bytes; the visitor's from the first on.
    pub stream: Stream,
    /// The visitor's address, when the edge named one.
    pub client: Option<SocketAddr>,
}

/// Where an endpoint's connections are delivered.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// An upstream of the private network.
    Forward(Arc<Upstream>),
    /// The program itself, after what comes before its bytes; a full queue refuses the visitor.
    Accept(mpsc::Sender<Accepted>, Inbound),
}

/// Something worth telling.
#[derive(Debug, Clone)]
pub enum Event {
    /// The edge knows us.
    SessionOnline {
        /// The edge.
        target: String,
        /// Its region.
        region: String,
        /// The account's name.
        account: String,
        /// Text the edge wants shown.
        banner: String,
    },
    /// The edge does not want us.
    AuthRefused {
        /// Why.
        refusal: Refusal,
        /// Whether this session was ever let in.
        was_online: bool,
        /// Time until the next try.
        retry_in: Duration,
    },
    /// No session for now.
    SessionOffline {
        /// Why.
        reason: String,
        /// Time until the next try.
        retry_in: Duration,
    },
    /// Round trip of a heartbeat.
    Latency(Duration),
    /// New streams come another way from now on; those under way stay where they are.
    Carrier {
        /// The way: `quic` or `tcp`.
        way: &'static str,
        /// Why.
        reason: String,
    },
    /// An endpoint is served.
    EndpointOnline {
        /// Its name.
        name: String,
        /// Its URL.
        url: EndpointUrl,
    },
    /// An endpoint is not served.
    EndpointRefused {
        /// Its name.
        name: String,
        /// Why.
        refusal: Refusal,
        /// Time until the next try; none: not tried again.
        retry_in: Option<Duration>,
    },
    /// The edge ended an endpoint.
    EndpointStopped {
        /// Its name.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// A connection was not delivered, or its upstream broke off.
    DeliveryFailed {
        /// The endpoint's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A visitor broke off, as visitors do.
    VisitorGone {
        /// The endpoint's name.
        name: String,
        /// How.
        reason: String,
    },
    /// The edge asks this agent to stop.
    StopRequested,
    /// The same of a session at a further edge.
    Further(Box<Event>),
}

/// Told of every event; must not block.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;
