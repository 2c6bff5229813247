//! Carries out a [`Plan`]: keeps one session with the edge alive over any number of connections, binds its endpoints and
//! hands proxied connections to whoever delivers them.
//!
//! One task owns the plan; `Session` is a handle that sends it commands. What happens is told to an observer as `Event`s.

mod connection;
mod delivery;
mod hello;
mod links;
mod purpose;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::EndpointUrl;
use ebbgate_wire::rpc::Bind;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::dial::{Dial, DialError, Dialled};
use crate::network::{Footing, Network};
use crate::plan::{Key, Plan, Refusal, RetryPolicy};
use crate::stream::Stream;
use crate::upstream::Upstream;
use delivery::{Route, Routes};

pub use hello::{bind_request, hello};

/// Commands waiting for the session's task.
const COMMANDS_MAX: usize = 64;
/// Connections a program has not accepted yet, per endpoint.
pub const BACKLOG_MAX: usize = 64;
/// Longest wait for the answer to Auth, in seconds.
pub const AUTH_SECS_MAX: u64 = 10;
/// Longest wait for the answer to Bind, in seconds. Without one nobody knows what the edge serves, so the connection is
/// given up and the next one takes the session over.
pub const BIND_SECS_MAX: u64 = 30;
/// Longest wait for the answer to Unbind, in seconds.
pub const UNBIND_SECS_MAX: u64 = 10;
/// Time that connections get to finish when the agent stops, in seconds.
pub const DRAIN_SECS_MAX: u64 = 3;

/// One connection from a visitor, as a program that embeds the agent gets it.
pub struct Accepted {
    /// The bytes; the visitor's from the first on.
    pub stream: Stream,
    /// The visitor's address, when the edge named one.
    pub client: Option<SocketAddr>,
}

/// Who takes an endpoint's connections.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// An upstream of the private network.
    Forward(Arc<Upstream>),
    /// The program itself, after what comes before its bytes; a full queue refuses the visitor.
    Accept(mpsc::Sender<Accepted>, Inbound),
}

/// What comes before the bytes that a program gets.
#[derive(Debug, Clone, Default)]
pub struct Inbound {
    /// The edge puts a PROXY header in front, which is taken off.
    pub proxy_header: bool,
    /// The visitor's TLS ends in the agent.
    pub termination: Option<crate::terminate::Terminator>,
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
}

/// Told of every event; must not block.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// Random numbers, for jitter.
pub type Random = Arc<dyn Fn() -> u32 + Send + Sync>;

/// What a session is made of.
pub struct Settings {
    /// How to reach the edge.
    pub dialer: Arc<dyn Dial>,
    /// Auth's contents; see [`hello`].
    pub hello: ebbgate_wire::rpc::AuthExtra,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// How late an answer may be.
    pub heartbeat_tolerance: Duration,
    /// Whether the edge may stop this agent.
    pub remote_management: bool,
    /// Random numbers, for jitter.
    pub random: Random,
    /// Who is told what happens.
    pub observer: Observer,
}

/// Jitter from the cryptographic provider's generator.
pub fn system_random() -> Random {
    let provider = crate::trust::provider();
    Arc::new(move || {
        let mut bytes = [0; 4];
        // Without randomness the longest wait is the safe one.
        match provider.secure_random.fill(&mut bytes) {
            Ok(()) => u32::from_ne_bytes(bytes),
            Err(_) => u32::MAX,
        }
    })
}

/// Why an endpoint did not come online.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The edge refused it.
    #[error("the edge refused the endpoint: {0}")]
    Refused(#[from] Refusal),
    /// The session was closed meanwhile.
    #[error("the session is closed")]
    Closed,
}

/// A handle to a running session. The session ends when it is closed or the last handle is dropped.
#[derive(Clone)]
pub struct Session {
    commands: mpsc::Sender<Command>,
}

enum Command {
    Add { name: String, bind: Box<Bind>, retry: RetryPolicy, delivery: Delivery, reply: Waiter },
    Remove { key: Key, reply: oneshot::Sender<()> },
    Close { reply: oneshot::Sender<()> },
}

type Waiter = oneshot::Sender<Result<(Key, EndpointUrl), Refusal>>;

impl Session {
    /// Starts a session; it dials at once and keeps trying until closed.
    pub fn start(settings: Settings) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        tokio::spawn(Actor::new(settings, inbox).run());
        Self { commands }
    }

    /// Serves one endpoint. Resolves when it is online, or refused under [`RetryPolicy::UntilRefused`]; under
    /// [`RetryPolicy::Forever`] it may take as long as the edge takes to change its mind.
    pub async fn add(
        &self,
        name: &str,
        bind: Bind,
        retry: RetryPolicy,
        delivery: Delivery,
    ) -> Result<(Key, EndpointUrl), BindError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Add { name: name.to_owned(), bind: Box::new(bind), retry, delivery, reply };
        self.commands.send(command).await.map_err(|_| BindError::Closed)?;
        answer.await.map_err(|_| BindError::Closed)?.map_err(BindError::Refused)
    }

    /// Stops serving an endpoint.
    pub async fn remove(&self, key: Key) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Remove { key, reply }).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Unbinds everything, gives open connections a moment, and hangs up in order.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ = answer.await;
        }
    }
}

/// An endpoint's side of things that the plan does not need to know.
struct Slot {
    route: Arc<Route>,
    waiter: Option<Waiter>,
}

/// The task that owns the plan.
struct Actor {
    settings: Settings,
    plan: Plan,
    slots: HashMap<Key, Slot>,
    routes: Routes,
    inbox: mpsc::Receiver<Command>,
    start: Instant,
    network: Box<dyn Network>,
    footing: Footing,
}

/// Why the task goes on or not.
enum Flow {
    Continue,
    /// Closed; the sender wants to know when it is done.
    Close(Option<oneshot::Sender<()>>),
}

impl Actor {
    fn new(settings: Settings, inbox: mpsc::Receiver<Command>) -> Self {
        let plan = Plan::new(settings.hello.clone());
        let network = settings.dialer.network();
        Self {
            settings,
            plan,
            slots: HashMap::new(),
            routes: Routes::default(),
            inbox,
            start: Instant::now(),
            network,
            footing: Footing::default(),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn tell(&self, event: Event) {
        (self.settings.observer)(event);
    }

    async fn run(mut self) {
        loop {
            let attempt = self.now();
            let ended = match self.dial().await {
                Ok(Ok(dialled)) => {
                    self.footing.online(dialled.ends);
                    self.connection(dialled).await
                }
                Ok(Err(error)) => Err(connection::Ended::Lost(error.to_string())),
                Err(done) => Ok(done),
            };
            let wait = match ended {
                Ok(done) => {
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                    return;
                }
                Err(ended) => self.offline(ended, attempt),
            };
            if let Flow::Close(done) = self.pause(wait).await {
                if let Some(done) = done {
                    let _ = done.send(());
                }
                return;
            }
        }
    }

    /// Books the end of a connection and says how long to wait.
    fn offline(&mut self, ended: connection::Ended, attempt: Duration) -> Duration {
        let was_online = self.plan.was_online();
        let (now, random) = (self.now(), (self.settings.random)());
        self.footing.offline(self.source());
        self.routes.clear();
        let (event, retry_in) = match ended {
            connection::Ended::Lost(reason) => {
                let retry_in = self.plan.lost(now, now.saturating_sub(attempt), random);
                (Event::SessionOffline { reason, retry_in }, retry_in)
            }
            connection::Ended::Refused(refusal) => {
                let retry_in = self.plan.refused(now, random);
                (Event::AuthRefused { refusal, was_online, retry_in }, retry_in)
            }
        };
        self.tell(event);
        retry_in
    }

    /// The address from which the edge would be reached now.
    fn source(&self) -> Option<std::net::IpAddr> {
        self.footing.peer().and_then(|peer| self.network.source(peer))
    }

    /// The network changed while nothing is connected: when to try, if that is earlier than planned.
    fn network_changed(&mut self) -> Option<Instant> {
        let source = self.source();
        let at = self.footing.changed_offline(self.now(), source)?;
        self.plan.moved();
        Some(self.start + at)
    }

    /// Dials while still taking commands; the outer error means closed. A change of network begins the dial anew, for the
    /// old one may wait on a way that is gone.
    async fn dial(&mut self) -> Result<Result<Dialled, DialError>, Option<oneshot::Sender<()>>> {
        let dialer = self.settings.dialer.clone();
        let mut dialling = dialer.dial();
        let mut again_at = None;
        loop {
            tokio::select! {
                outcome = &mut dialling => return Ok(outcome),
                command = self.inbox.recv() => {
                    if let Flow::Close(done) = self.offline_command(command) {
                        return Err(done);
                    }
                }
                () = self.network.changed() => again_at = self.network_changed().or(again_at),
                () = connection::wait_until(again_at) => {
                    again_at = None;
                    dialling = dialer.dial();
                }
            }
        }
    }

    /// Waits while still taking commands.
    async fn pause(&mut self, wait: Duration) -> Flow {
        let mut until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Flow::Continue,
                command = self.inbox.recv() => {
                    if let Flow::Close(done) = self.offline_command(command) {
                        return Flow::Close(done);
                    }
                }
                () = self.network.changed() => {
                    until = self.network_changed().map_or(until, |early| until.min(early));
                }
            }
        }
    }

    /// A command while nothing is connected: there is nobody to tell.
    fn offline_command(&mut self, command: Option<Command>) -> Flow {
        match command {
            None => Flow::Close(None),
            Some(Command::Close { reply }) => Flow::Close(Some(reply)),
            Some(Command::Add { name, bind, retry, delivery, reply }) => {
                self.add(name, *bind, retry, delivery, reply);
                Flow::Continue
            }
            Some(Command::Remove { key, reply }) => {
                self.plan.remove(key);
                self.slots.remove(&key);
                self.routes.withdraw(key);
                let _ = reply.send(());
                Flow::Continue
            }
        }
    }

    fn add(&mut self, name: String, bind: Bind, retry: RetryPolicy, delivery: Delivery, waiter: Waiter) {
        let key = self.plan.add(bind, retry, self.now());
        self.slots.insert(key, Slot { route: Arc::new(Route { name, delivery }), waiter: Some(waiter) });
    }
}

#[cfg(test)]
mod tests;
