//! The library's surface: sessions, listeners and forwardings, each ending when dropped.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ebbgate_model::EndpointUrl;
use tokio::sync::{mpsc, oneshot};

use crate::config::{
    AgentConfig, CarrierChoice, Defect, EndpointConfig, EndpointDraft, PolicyText, Secret, parse_addresses,
};
use crate::dial::Dial;
use crate::edge_dialer::{DialerError, EdgeDialer};
use crate::plan::{Key, Refusal, RetryPolicy};
use crate::session::{
    self, Accepted, BACKLOG_MAX, BindError, Delivery, Event, Inbound, Observer, Settings, bind_request, hello,
};
use crate::trust::Trust;
use crate::upstream::{Upstream, UpstreamError};

/// Upstream of a listener's draft: never dialled, for the program takes the connections itself.
const NO_UPSTREAM: &str = "127.0.0.1:9";

/// Why a session or endpoint did not come about.
#[derive(Debug, thiserror::Error)]
pub enum SdkError {
    /// The edge's address is not `host:port`.
    #[error("{0}")]
    Address(String),
    /// There is no dialling with this configuration.
    #[error(transparent)]
    Dialer(#[from] DialerError),
    /// The edge was not reached at the first try.
    #[error("the edge was not reached: {0}")]
    Unreachable(String),
    /// The edge refused the authtoken.
    #[error("the edge refused the session: {0}")]
    Refused(Refusal),
    /// The endpoint is not one: everything wrong with it.
    #[error("{}", .0.iter().map(|d| format!("{}: {}", d.field, d.message)).collect::<Vec<_>>().join("; "))]
    Endpoint(Vec<Defect>),
    /// The upstream cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The edge refused the endpoint, or the session is closed.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Options of a session; see [`Session::builder`].
#[derive(Default)]
pub struct SessionBuilder {
    agent: AgentConfig,
    observer: Option<Observer>,
}

impl SessionBuilder {
    /// The credential's token; white space around it is removed.
    #[must_use]
    pub fn authtoken(mut self, token: impl Into<String>) -> Self {
        let token: String = token.into();
        self.agent.authtoken = Some(Secret::new(token.trim()));
        self
    }

    /// Authorities that may sign the edge's certificate; [`Trust::Installed`] unless set.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.agent.trust = trust;
        self
    }

    /// Text shown with the session in the API.
    #[must_use]
    pub fn metadata(mut self, text: impl Into<String>) -> Self {
        self.agent.metadata = text.into();
        self
    }

    /// How streams come from the edge; [`CarrierChoice::Auto`] unless set.
    #[must_use]
    pub fn carrier(mut self, carrier: CarrierChoice) -> Self {
        self.agent.carrier = carrier;
        self
    }

    /// Time between heartbeats and how late an answer may be; 10 s and 15 s unless set.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration, tolerance: Duration) -> Self {
        self.agent.heartbeat_interval = interval;
        self.agent.heartbeat_tolerance = tolerance;
        self
    }

    /// Called with everything that happens to the session; must not block.
    #[must_use]
    pub fn observer(mut self, observer: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Connects to `host[:port]` (4443 if left out). The first try decides; afterwards the session reconnects by itself.
    pub async fn connect(mut self, edge: &str) -> Result<Session, SdkError> {
        self.agent.connect = parse_addresses(edge).map_err(SdkError::Address)?;
        let dialer = Arc::new(EdgeDialer::new(&self.agent)?);
        self.connect_by(dialer).await
    }

    /// Connects by a dialler of the caller's.
    pub async fn connect_by(self, dialer: Arc<dyn Dial>) -> Result<Session, SdkError> {
        let (verdict, first) = oneshot::channel();
        let verdict = Mutex::new(Some(verdict));
        let observer = self.observer;
        let settings = Settings {
            dialer,
            hello: hello(&self.agent, "", false),
            heartbeat_interval: self.agent.heartbeat_interval,
            heartbeat_tolerance: self.agent.heartbeat_tolerance,
            remote_management: false,
            random: session::system_random(),
            observer: Arc::new(move |event| {
                let outcome = match &event {
                    Event::SessionOnline { .. } => Some(Ok(())),
                    Event::AuthRefused { refusal, .. } => Some(Err(SdkError::Refused(refusal.clone()))),
                    Event::SessionOffline { reason, .. } => Some(Err(SdkError::Unreachable(reason.clone()))),
                    _ => None,
                };
                if let Some(outcome) = outcome
                    && let Ok(mut verdict) = verdict.lock()
                    && let Some(verdict) = verdict.take()
                {
                    let _ = verdict.send(outcome);
                }
                if let Some(observer) = &observer {
                    observer(event);
                }
            }),
        };
        let inner = session::Session::start(settings);
        first.await.unwrap_or_else(|_| Err(SdkError::Unreachable("the session ended at once".into())))?;
        Ok(Session { inner })
    }
}

/// A session with an edge. Clones are handles to the same session, which ends with the last of them and of its
/// endpoints.
#[derive(Clone)]
pub struct Session {
    inner: session::Session,
}

impl Session {
    /// Begins to describe a session.
    pub fn builder() -> SessionBuilder {
        SessionBuilder::default()
    }

    /// Serves `url` from this program. `https://`, `tls://` and the like without a host ask for any public name.
    pub async fn listen(&self, url: &str) -> Result<Listener, SdkError> {
        self.listen_with(EndpointDraft { url: url.into(), ..EndpointDraft::default() }).await
    }

    /// Serves an endpoint described in full; its upstream's address is not used. The program gets the visitor's own bytes:
    /// a PROXY header that the draft asks for is taken off, and TLS that ends in the agent has ended.
    pub async fn listen_with(&self, draft: EndpointDraft) -> Result<Listener, SdkError> {
        let endpoint = check(EndpointDraft { upstream_url: NO_UPSTREAM.into(), ..draft })?;
        let (queue, accepted) = mpsc::channel(BACKLOG_MAX);
        let inbound = Inbound {
            proxy_header: endpoint.upstream.proxy_protocol.is_some(),
            termination: endpoint.termination.clone(),
        };
        let delivery = Delivery::Accept(queue, inbound);
        let mut bind = bind_request(&endpoint);
        bind.forwards_to = "app".into();
        bind.extra.shows_client = true;
        let (key, url) = self.inner.add(&endpoint.name, bind, RetryPolicy::UntilRefused, delivery).await?;
        Ok(Listener { accepted, served: Served { session: self.inner.clone(), key, url } })
    }

    /// Forwards `url` to `upstream`: a port, `host:port` or `https://host:port`.
    pub async fn forward(&self, url: &str, upstream: &str) -> Result<Forwarding, SdkError> {
        let draft =
            EndpointDraft { url: url.into(), upstream_url: upstream.into(), ..EndpointDraft::default() };
        self.forward_with(draft).await
    }

    /// Forwards an endpoint described in full.
    pub async fn forward_with(&self, draft: EndpointDraft) -> Result<Forwarding, SdkError> {
        let endpoint = check(draft)?;
        let upstream = Arc::new(Upstream::new(&endpoint)?);
        let bind = bind_request(&endpoint);
        let delivery = Delivery::Forward(upstream);
        let (key, url) = self.inner.add(&endpoint.name, bind, RetryPolicy::UntilRefused, delivery).await?;
        Ok(Forwarding { served: Served { session: self.inner.clone(), key, url } })
    }

    /// Ends the session in order: endpoints first, open connections get a moment.
    pub async fn close(self) {
        self.inner.close().await;
    }
}

fn check(draft: EndpointDraft) -> Result<EndpointConfig, SdkError> {
    draft.check().map(|(endpoint, _)| endpoint).map_err(SdkError::Endpoint)
}

impl PolicyText {
    /// A policy written in the program.
    pub fn inline(text: impl Into<String>) -> Self {
        Self { text: text.into(), file: None }
    }
}

/// An endpoint of this program's; dropping it takes the endpoint offline.
struct Served {
    session: session::Session,
    key: Key,
    url: EndpointUrl,
}

impl Drop for Served {
    fn drop(&mut self) {
        let (session, key) = (self.session.clone(), self.key);
        // Without a runtime the session is over anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { session.remove(key).await });
        }
    }
}

/// Connections to an endpoint, for the program to take. Dropping it takes the endpoint offline.
pub struct Listener {
    accepted: mpsc::Receiver<Accepted>,
    served: Served,
}

impl Listener {
    /// The next connection; none when the session is closed or the edge stopped the endpoint. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }

    /// Where the endpoint is served.
    pub fn url(&self) -> &EndpointUrl {
        &self.served.url
    }
}

/// An endpoint whose connections go to an upstream. Dropping it takes the endpoint offline.
pub struct Forwarding {
    served: Served,
}

impl Forwarding {
    /// Where the endpoint is served.
    pub fn url(&self) -> &EndpointUrl {
        &self.served.url
    }
}
