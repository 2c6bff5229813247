//! One connection of a session, from Auth to its end: heartbeats both ways, binds, proxied streams, the edge's requests.

use std::pin::pin;
use std::time::Duration;

use ebbgate_wire::driver::{self, Incoming};
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{
    Auth, AuthReply, Bind, BindReply, Outcome, StopTunnel, StreamKind, Unbind, error_code,
};
use ebbgate_wire::{heartbeat, rpc_io};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::hello::{RESTART_REFUSED, STOP_REFUSED, UPDATE_REFUSED};
use super::{AUTH_SECS_MAX, Actor, BIND_SECS_MAX, Command, DRAIN_SECS_MAX, Event, Flow, UNBIND_SECS_MAX};
use crate::dial::Dialled;
use crate::plan::{BindOutcome, Key, Refusal};
use crate::stream::{Proxied, Stream, Streams};

/// Longest time from a proxied stream's start to the end of its header, in seconds.
pub(super) const HEADER_SECS_MAX: u64 = 10;
/// Visitors that may wait for the answer to a Bind; more are refused.
const EARLY_MAX: usize = 64;
/// Round trips waiting to be reported; more are left out.
const LATENCIES_MAX: usize = 4;

/// How a connection ended, other than by being closed.
pub(super) enum Ended {
    /// It broke, or never came about.
    Lost(String),
    /// The edge refused Auth.
    Refused(Refusal),
}

/// What a stream opened by the edge turned out to be.
enum Opened {
    Proxy(Proxied),
    StopTunnel(StopTunnel),
    Stop,
    /// Answered, or of no interest.
    Done,
}

/// What runs beside the loop of one connection; all of it ends with it.
struct Tasks {
    session: driver::Session,
    driver: Driving,
    openings: JoinSet<Opened>,
    binds: JoinSet<(Key, Answer)>,
    unbinds: JoinSet<()>,
    deliveries: JoinSet<()>,
    /// Visitors of what we may be bound to: the edge serves an endpoint before its answer is here.
    early: Vec<Proxied>,
    /// Streams that come beside the session, while there are any.
    beside: Option<Box<dyn Streams>>,
    heartbeat: JoinHandle<heartbeat::HeartbeatError>,
    latency: mpsc::Receiver<Duration>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// The task that moves the session's bytes; dropping it cuts the connection.
struct Driving(JoinHandle<Result<(), driver::DriverError>>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What came of asking for a bind.
enum Answer {
    Reply(Box<BindReply>),
    /// The stream failed: ask again.
    Failed(String),
    /// Nothing within [`BIND_SECS_MAX`].
    Silence,
}

impl Actor {
    /// Serves one connection until it ends or the session is closed.
    pub(super) async fn connection(
        &mut self,
        dialled: Dialled,
    ) -> Result<Option<oneshot::Sender<()>>, Ended> {
        let Dialled { io, streams } = dialled;
        let (session, mut incoming, driving) = driver::connect(io, Role::Client, Limits::AGENT);
        let driver = Driving(tokio::spawn(driving));
        let reply = match self.introduce(&session).await? {
            Ok(reply) => reply,
            Err(done) => return Ok(done),
        };
        self.plan.authenticated(self.now(), &reply).map_err(Ended::Refused)?;
        self.tell(Event::SessionOnline {
            target: self.settings.dialer.target(),
            region: reply.extra.region,
            account: reply.extra.account_name,
            banner: reply.extra.banner,
        });
        let mut tasks = self.tasks(session, driver, streams);
        self.serve(&mut tasks, &mut incoming).await
    }

    /// Waits for the answer to Auth while still taking commands; the inner error means closed.
    async fn introduce(
        &mut self,
        session: &driver::Session,
    ) -> Result<Result<AuthReply, Option<oneshot::Sender<()>>>, Ended> {
        let limit = Duration::from_secs(AUTH_SECS_MAX);
        let mut asking = pin!(timeout(limit, ask_auth(session, self.plan.auth())));
        loop {
            tokio::select! {
                answer = &mut asking => return match answer {
                    Ok(reply) => reply.map(Ok).map_err(Ended::Lost),
                    Err(_) => Err(Ended::Lost(format!("no answer to Auth within {AUTH_SECS_MAX} s"))),
                },
                command = self.inbox.recv() => {
                    if let Flow::Close(done) = self.offline_command(command) {
                        return Ok(Err(done));
                    }
                }
            }
        }
    }

    fn tasks(&self, session: driver::Session, driver: Driving, beside: Option<Box<dyn Streams>>) -> Tasks {
        let (to_loop, latency) = mpsc::channel(LATENCIES_MAX);
        let (interval, tolerance) = (self.settings.heartbeat_interval, self.settings.heartbeat_tolerance);
        let opener = session.clone();
        let heartbeat = tokio::spawn(async move {
            match opener.open(StreamKind::Heartbeat).await {
                Ok(stream) => {
                    let report = |round_trip| {
                        let _ = to_loop.try_send(round_trip);
                    };
                    heartbeat::run(stream, interval, tolerance, report).await
                }
                Err(error) => heartbeat::HeartbeatError::Io(std::io::Error::other(error)),
            }
        });
        Tasks {
            session,
            driver,
            openings: JoinSet::new(),
            binds: JoinSet::new(),
            unbinds: JoinSet::new(),
            deliveries: JoinSet::new(),
            early: Vec::new(),
            beside,
            heartbeat,
            latency,
        }
    }

    async fn serve(
        &mut self,
        tasks: &mut Tasks,
        incoming: &mut Incoming,
    ) -> Result<Option<oneshot::Sender<()>>, Ended> {
        loop {
            while let Some((key, bind)) = self.plan.next_bind(self.now()) {
                tasks.binds.spawn(ask_bind(tasks.session.clone(), key, bind));
            }
            let due = self.plan.next_due().map(|due| self.start + due);
            tokio::select! {
                command = self.inbox.recv() => {
                    if let Flow::Close(done) = self.online_command(command, tasks) {
                        self.close(tasks, incoming).await;
                        return Ok(done);
                    }
                }
                stream = incoming.accept() => match stream {
                    Some(stream) => self.open(tasks, stream),
                    None => return Err(Ended::Lost(end_of(&mut tasks.driver.0).await)),
                },
                Some(opened) = tasks.openings.join_next() => self.opened(tasks, opened.unwrap_or(Opened::Done)),
                proxied = next_beside(&mut tasks.beside) => self.opened(tasks, Opened::Proxy(proxied)),
                Some(bound) = tasks.binds.join_next() => {
                    match bound {
                        Ok((key, Answer::Reply(reply))) => self.bound(tasks, key, Ok(*reply)),
                        Ok((key, Answer::Failed(reason))) => self.bound(tasks, key, Err(reason)),
                        Ok((_, Answer::Silence)) => {
                            return Err(Ended::Lost(format!("no answer to Bind within {BIND_SECS_MAX} s")));
                        }
                        Err(_) => {}
                    }
                }
                Some(round_trip) = tasks.latency.recv() => self.tell(Event::Latency(round_trip)),
                lost = &mut tasks.heartbeat => {
                    let reason = lost.map_or_else(|error| error.to_string(), |error| error.to_string());
                    tasks.session.goaway(Code::PEER_EOF, "no heartbeat");
                    return Err(Ended::Lost(reason));
                }
                () = wait_until(due) => {}
                Some(_) = tasks.deliveries.join_next() => {}
                Some(_) = tasks.unbinds.join_next() => {}
            }
        }
    }

    fn online_command(&mut self, command: Option<Command>, tasks: &mut Tasks) -> Flow {
        match command {
            Some(Command::Remove { key, reply }) => {
                self.slots.remove(&key);
                let unbind = self.plan.remove(key).map(|id| ask_unbind(tasks.session.clone(), id));
                tasks.unbinds.spawn(async move {
                    if let Some(unbind) = unbind {
                        unbind.await;
                    }
                    let _ = reply.send(());
                });
                Flow::Continue
            }
            other => self.offline_command(other),
        }
    }

    /// Reads a new stream's purpose beside the loop, so that a stalled one holds up nobody.
    fn open(&self, tasks: &mut Tasks, stream: driver::Stream) {
        let stop_allowed = self.settings.remote_management;
        tasks.openings.spawn(async move {
            let limit = Duration::from_secs(HEADER_SECS_MAX);
            timeout(limit, read_purpose(stream, stop_allowed)).await.unwrap_or(Opened::Done)
        });
    }

    fn opened(&mut self, tasks: &mut Tasks, opened: Opened) {
        match opened {
            Opened::Proxy(proxied)
                if self.plan.may_become(&proxied.header.id) && tasks.early.len() < EARLY_MAX =>
            {
                tasks.early.push(proxied);
            }
            Opened::Proxy(Proxied { header, stream }) => {
                if let Some(delivery) = self.deliver(&header.id, &header.client_addr, stream) {
                    tasks.deliveries.spawn(async move { drop(delivery.await) });
                }
            }
            Opened::StopTunnel(notice) => self.stopped(&notice),
            Opened::Stop => self.tell(Event::StopRequested),
            Opened::Done => {}
        }
    }

    fn bound(&mut self, tasks: &mut Tasks, key: Key, reply: Result<BindReply, String>) {
        let random = (self.settings.random)();
        let outcome = self.plan.bound(key, reply, self.now(), random);
        let name = |actor: &Self| actor.slots.get(&key).map(|slot| slot.name.clone()).unwrap_or_default();
        match outcome {
            BindOutcome::Online(url) => {
                let waiter = self.slots.get_mut(&key).and_then(|slot| slot.waiter.take());
                if let Some(waiter) = waiter {
                    let _ = waiter.send(Ok((key, url.clone())));
                }
                self.tell(Event::EndpointOnline { name: name(self), url });
            }
            BindOutcome::Retry(refusal, wait) => {
                self.tell(Event::EndpointRefused { name: name(self), refusal, retry_in: Some(wait) });
            }
            BindOutcome::Dropped(refusal) => {
                self.tell(Event::EndpointRefused {
                    name: name(self),
                    refusal: refusal.clone(),
                    retry_in: None,
                });
                if let Some(waiter) = self.slots.remove(&key).and_then(|slot| slot.waiter) {
                    let _ = waiter.send(Err(refusal));
                }
            }
            BindOutcome::Unwanted(id) => {
                tasks.unbinds.spawn(ask_unbind(tasks.session.clone(), id));
            }
        }
        for proxied in std::mem::take(&mut tasks.early) {
            self.opened(tasks, Opened::Proxy(proxied));
        }
    }

    /// The edge ended one endpoint; it wants no Unbind and the session stays.
    fn stopped(&mut self, notice: &StopTunnel) {
        let Some(key) = self.plan.find(&notice.id) else { return };
        self.plan.remove(key);
        if let Some(slot) = self.slots.remove(&key) {
            let code = error_code(&notice.error_code).map(ebbgate_model::ErrorCode::new);
            let refusal = Refusal { message: notice.message.clone(), code };
            self.tell(Event::EndpointStopped { name: slot.name, refusal });
        }
    }

    /// No new connections, a moment for the open ones, then the last frame.
    async fn close(&mut self, tasks: &mut Tasks, incoming: &mut Incoming) {
        let deadline = Instant::now() + Duration::from_secs(DRAIN_SECS_MAX);
        if let Some(beside) = &mut tasks.beside {
            beside.finish();
        }
        // Answers to Bind are not waited for any more.
        self.plan.forget_binding();
        for proxied in std::mem::take(&mut tasks.early) {
            self.opened(tasks, Opened::Proxy(proxied));
        }
        for id in self.plan.served() {
            tasks.unbinds.spawn(ask_unbind(tasks.session.clone(), id));
        }
        while !(tasks.unbinds.is_empty() && tasks.deliveries.is_empty() && tasks.openings.is_empty()) {
            tokio::select! {
                () = sleep_until(deadline) => break,
                // A stream that crossed our Unbind on the wire is still a visitor's.
                stream = incoming.accept() => match stream {
                    Some(stream) => self.open(tasks, stream),
                    None => return,
                },
                Some(opened) = tasks.openings.join_next() => self.opened(tasks, opened.unwrap_or(Opened::Done)),
                proxied = next_beside(&mut tasks.beside) => self.opened(tasks, Opened::Proxy(proxied)),
                Some(_) = tasks.unbinds.join_next() => {}
                Some(_) = tasks.deliveries.join_next() => {}
            }
        }
        tasks.session.goaway(Code::NONE, "the agent stops");
        let _ = timeout(Duration::from_secs(driver::CLOSE_SECS_MAX), &mut tasks.driver.0).await;
    }
}

/// The next stream beside the session; never, once there are no more.
async fn next_beside(beside: &mut Option<Box<dyn Streams>>) -> Proxied {
    if let Some(streams) = beside
        && let Some(proxied) = streams.accept().await
    {
        return proxied;
    }
    *beside = None;
    std::future::pending().await
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The driver's own words for the end of its session.
async fn end_of(driver: &mut JoinHandle<Result<(), driver::DriverError>>) -> String {
    match timeout(Duration::from_secs(driver::CLOSE_SECS_MAX), driver).await {
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(Ok(()))) | Err(_) => "the edge closed the session".to_owned(),
    }
}

async fn ask_auth(session: &driver::Session, auth: Auth) -> Result<AuthReply, String> {
    let stream = session.open(StreamKind::Auth).await.map_err(|error| error.to_string())?;
    let reply = rpc_io::call(stream, &auth).await.map_err(|error| error.to_string())?;
    AuthReply::decode(reply).map_err(|error| error.to_string())
}

async fn ask_bind(session: driver::Session, key: Key, bind: Bind) -> (Key, Answer) {
    let asking = async {
        let stream = session.open(StreamKind::Bind).await.map_err(|error| error.to_string())?;
        let reply = rpc_io::call(stream, &bind).await.map_err(|error| error.to_string())?;
        BindReply::decode(reply).map_err(|error| error.to_string())
    };
    let answer = match timeout(Duration::from_secs(BIND_SECS_MAX), asking).await {
        Ok(Ok(reply)) => Answer::Reply(Box::new(reply)),
        Ok(Err(reason)) => Answer::Failed(reason),
        Err(_) => Answer::Silence,
    };
    (key, answer)
}

async fn ask_unbind(session: driver::Session, id: String) {
    let asking = async {
        if let Ok(stream) = session.open(StreamKind::Unbind).await {
            // Whatever the answer, we no longer serve it.
            let _ = rpc_io::call(stream, &Unbind { id }).await;
        }
    };
    let _ = timeout(Duration::from_secs(UNBIND_SECS_MAX), asking).await;
}

/// Reads what a stream is for and answers what needs no state. Streams that make no sense are dropped, which resets them.
async fn read_purpose(mut stream: driver::Stream, stop_allowed: bool) -> Opened {
    let Ok(kind) = stream.kind().await else { return Opened::Done };
    match kind {
        StreamKind::Proxy => match rpc_io::read_proxy_header(&mut stream).await {
            Ok(header) => Opened::Proxy(Proxied { header, stream: Stream::Mux(stream) }),
            Err(_) => Opened::Done,
        },
        StreamKind::StopTunnel => match rpc_io::read_object(&mut stream).await.map(StopTunnel::decode) {
            Ok(Ok(notice)) => {
                stream.linger();
                Opened::StopTunnel(notice)
            }
            _ => Opened::Done,
        },
        StreamKind::Stop if stop_allowed => match rpc_io::read_object(&mut stream).await {
            Ok(_) => {
                let _ = rpc_io::write_object(&mut stream, &Outcome::default()).await;
                Opened::Stop
            }
            Err(_) => Opened::Done,
        },
        StreamKind::Stop => refuse(stream, STOP_REFUSED).await,
        StreamKind::Restart => refuse(stream, RESTART_REFUSED).await,
        StreamKind::Update => refuse(stream, UPDATE_REFUSED).await,
        StreamKind::Heartbeat => {
            // Echoing has no end but the stream's.
            tokio::spawn(heartbeat::echo(stream, || {}));
            Opened::Done
        }
        _ => Opened::Done,
    }
}

async fn refuse(mut stream: driver::Stream, reason: &str) -> Opened {
    if rpc_io::read_object(&mut stream).await.is_ok() {
        let _ = rpc_io::write_object(&mut stream, &Outcome { error: reason.into() }).await;
    }
    Opened::Done
}
