//! Carries out a [`Plan`]: keeps one session with the edge alive over any number of connections, binds its endpoints and
//! hands proxied connections to their deliveries.
//!
//! One task owns the plan; `Session` is a handle that sends it commands. What happens is told to an observer as `Event`s.

mod actor;
mod ask;
mod connection;
mod delivery;
mod ended;
mod event;
mod health;
mod hello;
mod inbound;
mod links;
mod probing;
mod purpose;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ebbgate_model::EndpointUrl;
use ebbgate_wire::rpc::Bind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::dial::{DialError, Dialled};
use crate::network::Footing;
use crate::plan::{Key, Plan, Refusal, RetryPolicy};
use actor::{Actor, Command, Flow, Slot, Waiter};
use delivery::{Route, Routes};
use ended::Ended;

pub use ask::{BIND_SECS_MAX, UNBIND_SECS_MAX};
pub use connection::{AUTH_SECS_MAX, DRAIN_SECS_MAX};
pub use event::{Accepted, Delivery, Event, Observer};
pub use hello::{bind_request, hello};
pub use inbound::Inbound;
pub use settings::{Random, Settings, system_random};

/// Commands waiting for the session's task.
const COMMANDS_MAX: usize = 64;
/// Connections a program has not accepted yet, per endpoint.
pub const BACKLOG_MAX: usize = 64;

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

/// A handle to a running agent: a session with one edge, or with several that serve the same endpoints. It ends when it is
/// closed or the last handle is dropped.
#[derive(Clone)]
pub struct Session {
    /// Of each session, the first one before the others.
    commands: Arc<[mpsc::Sender<Command>]>,
    next_key: Arc<AtomicU64>,
}

impl Session {
    /// Starts a session; it dials at once and keeps trying until closed.
    pub fn start(settings: Settings) -> Self {
        Self::start_all([settings])
    }

    /// Starts sessions that serve the same endpoints at edges of their own. What the second and later ones go through is told
    /// as [`Event::Further`].
    pub fn start_all(settings: impl IntoIterator<Item = Settings>) -> Self {
        let mut process = None;
        let start = |(index, mut settings): (usize, Settings)| {
            let process = process.get_or_insert_with(|| process_name(&settings.random));
            settings.hello.process.clone_from(process);
            if index > 0 {
                let observer = settings.observer;
                settings.observer = Arc::new(move |event| observer(Event::Further(Box::new(event))));
            }
            let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
            tokio::spawn(Actor::new(settings, inbox).run());
            commands
        };
        let commands = settings.into_iter().enumerate().map(start).collect();
        Self { commands, next_key: Arc::new(AtomicU64::new(1)) }
    }

    /// Serves one endpoint. Resolves when it is online, or refused under [`RetryPolicy::UntilRefused`]; under
    /// [`RetryPolicy::Forever`] it may take as long as the edge takes to change its mind.
    ///
    /// With several edges: online means at one of them, refused by the first. A name that an edge is to choose is chosen by
    /// the first.
    pub async fn add(
        &self,
        name: &str,
        mut bind: Bind,
        retry: RetryPolicy,
        delivery: Delivery,
    ) -> Result<(Key, EndpointUrl), BindError> {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        bind.extra.number = key;
        let Some((first, others)) = self.commands.split_first() else { return Err(BindError::Closed) };
        let ask = async |session: &mpsc::Sender<Command>, bind: Bind, retry: RetryPolicy| {
            let (reply, answer) = oneshot::channel();
            let (name, delivery) = (name.to_owned(), delivery.clone());
            let command = Command::Add { key, name, bind: Box::new(bind), retry, delivery, reply };
            session.send(command).await.map(|()| answer).map_err(|_| BindError::Closed)
        };
        let edge_chooses = bind.opts.url().is_empty();
        let mut answer = ask(first, bind.clone(), retry).await?;
        let mut elsewhere = JoinSet::new();
        if !edge_chooses {
            for session in others {
                elsewhere.spawn(ask(session, bind.clone(), RetryPolicy::Forever).await?);
            }
        }
        let url = loop {
            tokio::select! {
                answered = &mut answer => break answered.map_err(|_| BindError::Closed)?,
                Some(answered) = elsewhere.join_next() => {
                    if let Ok(Ok(Ok(url))) = answered {
                        break Ok(url);
                    }
                }
            }
        };
        // Sessions that are not waited for any more go on by themselves.
        elsewhere.detach_all();
        match url {
            Ok(url) => {
                if edge_chooses {
                    bind.opts.set_url(url.to_string());
                    for session in others {
                        ask(session, bind.clone(), RetryPolicy::Forever).await?;
                    }
                }
                Ok((key, url))
            }
            Err(refusal) => {
                self.remove(key).await;
                Err(BindError::Refused(refusal))
            }
        }
    }

    /// Stops serving an endpoint.
    pub async fn remove(&self, key: Key) {
        self.tell_all(|reply| Command::Remove { key, reply }).await;
    }

    /// Unbinds everything, gives open connections a moment, and hangs up in order.
    pub async fn close(&self) {
        self.tell_all(|reply| Command::Close { reply }).await;
    }

    /// Gives every session a command, then waits for all of them.
    async fn tell_all(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        let mut answers = Vec::new();
        for session in self.commands.iter() {
            let (reply, answer) = oneshot::channel();
            if session.send(command(reply)).await.is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // An error means that the session is over, which is all that was wanted.
            let _ = answer.await;
        }
    }
}

/// A name for this process, which no other has.
fn process_name(random: &Random) -> String {
    let parts: Vec<String> = (0..4).map(|_| format!("{:08x}", random())).collect();
    parts.concat()
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
            leaving: JoinSet::new(),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Key, bind id and name of each endpoint that is served.
    fn served(&self) -> impl Iterator<Item = (Key, &str, &str)> {
        self.slots
            .iter()
            .filter_map(|(key, slot)| Some((*key, self.plan.bind_id(*key)?, slot.route.name.as_str())))
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
                Ok(Err(error)) => Err(error.into()),
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
    fn offline(&mut self, ended: Ended, attempt: Duration) -> Duration {
        let was_online = self.plan.was_online();
        let (now, random) = (self.now(), (self.settings.random)());
        self.footing.offline(self.source());
        if !matches!(ended, Ended::Moved) {
            self.routes.clear();
            self.settings.dialer.lost();
        }
        let (event, retry_in) = match ended {
            // Nothing is lost: the connection before still carries what it carries.
            Ended::Moved => {
                self.plan.left(now);
                return Duration::ZERO;
            }
            Ended::Lost(reason) => {
                let retry_in = self.plan.lost(now, now.saturating_sub(attempt), random);
                (Event::SessionOffline { reason, retry_in }, retry_in)
            }
            Ended::Busy { reason, retry_after } => {
                let retry_in = self.plan.asked_to_wait(now, retry_after, random);
                (Event::SessionOffline { reason, retry_in }, retry_in)
            }
            Ended::Refused(refusal) => {
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

    /// A command while nothing is connected: no edge has to be told.
    fn offline_command(&mut self, command: Option<Command>) -> Flow {
        match command {
            None => Flow::Close(None),
            Some(Command::Close { reply }) => Flow::Close(Some(reply)),
            Some(Command::Add { key, name, bind, retry, delivery, reply }) => {
                self.add(key, name, *bind, retry, delivery, reply);
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

    fn add(
        &mut self,
        key: Key,
        name: String,
        bind: Bind,
        retry: RetryPolicy,
        delivery: Delivery,
        waiter: Waiter,
    ) {
        self.plan.add(key, bind, retry, self.now());
        self.slots.insert(key, Slot { route: Arc::new(Route { name, delivery }), waiter: Some(waiter) });
    }
}

#[cfg(test)]
mod tests;
