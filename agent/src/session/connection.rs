//! One connection of a session, from Auth to its end: heartbeats both ways, binds, proxied streams, the edge's requests.

use std::pin::pin;
use std::time::Duration;

use ebbgate_model::TunnelSessionId;
use ebbgate_tunnel::driver::{self, Incoming};
use ebbgate_tunnel::heartbeat;
use ebbgate_wire::link::Version;
use ebbgate_wire::link::raw::RawKey;
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{
    AuthReply, BindReply, CarrierOffer, Edges, ProxyHeader, Secret, StopTunnel, StreamKind, error_code,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::actor::{Actor, Command, Flow};
use super::ask::{Answer, BIND_SECS_MAX, ask_auth, ask_bind, ask_unbind};
use super::delivery::{SessionEvent, StreamDispatcher};
use super::ended::Ended;
use super::event::Event;
use super::health::Telling;
use super::links::{self, Book, Kind};
use super::probing::{Probing, next_probe};
use super::purpose::{Purpose, read_purpose};
use crate::dial::{DialError, Dialled};
use crate::path::{Advice, PROBE_SECS, Path};
use crate::plan::{BindOutcome, Key, Refusal};
use crate::stream::{Proxied, Streams};

/// Longest wait for the answer to Auth, in seconds.
pub const AUTH_SECS_MAX: u64 = 10;
/// Time that connections get to finish when the agent stops, in seconds.
pub const DRAIN_SECS_MAX: u64 = 3;

/// Longest time from a proxied stream's start to the end of its header, in seconds.
pub(super) const HEADER_SECS_MAX: u64 = 10;
/// Connections that the edge keeps beside the one that serves; the next is given up.
const LEAVING_MAX: usize = 32;
/// Round trips waiting to be reported; more are left out.
const LATENCIES_MAX: usize = 4;

/// What runs beside the loop of one connection; all of it ends with it.
struct Tasks {
    session: driver::Session,
    driver: Driving,
    dispatcher: StreamDispatcher,
    events: mpsc::Receiver<SessionEvent>,
    binds: JoinSet<(Key, Answer)>,
    health: Telling,
    unbinds: JoinSet<()>,
    /// Streams that come beside the session, while there are any.
    beside: Option<Box<dyn Streams>>,
    /// Whether the path stalls, where QUIC could take over.
    probing: Option<Probing>,
    attaching: JoinSet<Result<Box<dyn Streams>, DialError>>,
    links: Option<Keeping>,
    raw_links: Option<Keeping>,
    heartbeat: JoinHandle<heartbeat::HeartbeatError>,
    latency: mpsc::Receiver<Duration>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// A task that keeps links, and their books; dropping it closes every idle link.
struct Keeping {
    book: Book,
    task: JoinHandle<()>,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task that moves the session's bytes; dropping it cuts the connection.
struct Driving(JoinHandle<Result<(), driver::DriverError>>);

impl Driving {
    /// Until everything that was said is on its way, and the session over.
    async fn ended(mut self) {
        // What the driver says of a session that we ended is of no use.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor {
    /// Serves one connection until it ends or the session is closed.
    pub(super) async fn connection(
        &mut self,
        dialled: Dialled,
    ) -> Result<Option<oneshot::Sender<()>>, Ended> {
        let Dialled { io, streams, .. } = dialled;
        let (session, mut incoming, driving) = driver::connect(io, Role::Client, Limits::AGENT);
        let driver = Driving(tokio::spawn(driving));
        let reply = match self.introduce(&session).await? {
            Ok(reply) => reply,
            Err(done) => return Ok(done),
        };
        self.plan.authenticated(self.now(), &reply).map_err(Ended::Refused)?;
        if let Err(error) = self.settings.dialer.let_in(&reply.extra) {
            session.goaway(Code::NONE, "the agent has a session at this edge");
            let _ = timeout(Duration::from_secs(driver::CLOSE_SECS_MAX), driver.ended()).await;
            return Err(Ended::Lost(error.to_string()));
        }
        let mut tasks = self.tasks(session, driver, streams);
        if let Some(offer) = &reply.extra.carriers {
            self.keep_links(&mut tasks, offer, &reply.extra.agent_session_id);
        }
        self.tell(Event::SessionOnline {
            target: self.settings.dialer.target(),
            region: reply.extra.region,
            account: reply.extra.account_name,
            banner: reply.extra.banner,
        });
        let ended = self.serve(&mut tasks, &mut incoming).await;
        if matches!(ended, Err(Ended::Moved)) {
            self.leave(tasks, incoming);
        }
        ended
    }

    /// Serves what comes over a connection beside the next one, for as long as the edge keeps it.
    fn leave(&mut self, mut tasks: Tasks, mut incoming: Incoming) {
        while self.leaving.try_join_next().is_some() {}
        if self.leaving.len() >= LEAVING_MAX {
            return;
        }
        // What the next connection serves may have other ids.
        drop(std::mem::take(&mut self.routes));
        // The edge gets no new links for this session, and no probes; links under way end with their visitors.
        (tasks.links, tasks.raw_links, tasks.probing) = (None, None, None);
        let stop_allowed = self.settings.remote_management;
        self.leaving.spawn(async move {
            loop {
                tokio::select! {
                    stream = incoming.accept() => match stream {
                        Some(stream) => open(&tasks, stream, stop_allowed),
                        None => return,
                    },
                    proxied = next_beside(&mut tasks.beside) => came_beside(&mut tasks, proxied),
                    // What the edge's process before says of endpoints is of its session alone.
                    Some(_) = tasks.events.recv() => {}
                    Some(_) = tasks.unbinds.join_next() => {}
                    _ = &mut tasks.heartbeat => return,
                }
            }
        });
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
        let (dispatcher, events) = StreamDispatcher::new(self.routes.clone(), self.settings.observer.clone());
        Tasks {
            session,
            driver,
            dispatcher,
            events,
            probing: None,
            attaching: JoinSet::new(),
            links: None,
            raw_links: None,
            binds: JoinSet::new(),
            health: Telling::new(self.settings.health.read()),
            unbinds: JoinSet::new(),
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
                self.routes.binding(key, &bind.id);
                tasks.binds.spawn(ask_bind(tasks.session.clone(), key, bind));
            }
            tasks.health.begin(&tasks.session, self.served());
            let due = self.plan.next_due().map(|due| self.start + due);
            let gone = self.footing.gone_at().map(|at| self.start + at);
            tokio::select! {
                command = self.inbox.recv() => {
                    if let Flow::Close(done) = self.online_command(command, tasks) {
                        self.close(tasks, incoming).await;
                        return Ok(done);
                    }
                }
                stream = incoming.accept() => match stream {
                    Some(stream) => open(tasks, stream, self.settings.remote_management),
                    None => return Err(Ended::Lost(end_of(&mut tasks.driver.0).await)),
                },
                Some(event) = tasks.events.recv() => self.heard(event)?,
                proxied = next_beside(&mut tasks.beside) => came_beside(tasks, proxied),
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
                () = tasks.health.changed() => {}
                Some(round_trip) = next_probe(&mut tasks.probing) => self.probed(tasks, round_trip),
                Some(Ok(attached)) = tasks.attaching.join_next() => self.attached(tasks, attached),
                Some(round_trip) = tasks.latency.recv() => self.tell(Event::Latency(round_trip)),
                lost = &mut tasks.heartbeat => {
                    let reason = lost.map_or_else(|error| error.to_string(), |error| error.to_string());
                    tasks.session.goaway(Code::PEER_EOF, "no heartbeat");
                    return Err(Ended::Lost(reason));
                }
                () = wait_until(due) => {}
                () = self.network.changed() => {
                    let owned = self.footing.local().is_none_or(|local| self.network.owns(local));
                    self.footing.changed_online(self.now(), owned);
                }
                () = wait_until(gone) => {
                    return Err(Ended::Lost("the address that the session came from is no longer this host's".into()));
                }
                Some(_) = tasks.unbinds.join_next() => {}
            }
        }
    }

    fn online_command(&mut self, command: Option<Command>, tasks: &mut Tasks) -> Flow {
        match command {
            Some(Command::Remove { key, reply }) => {
                self.slots.remove(&key);
                self.routes.withdraw(key);
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

    /// Starts to keep links, where the edge offers them.
    fn keep_links(&self, tasks: &mut Tasks, offer: &CarrierOffer, session_id: &str) {
        let keep = |kind: Kind| {
            let book = Book::new(&kind, offer.links_max);
            let (dialer, random) = (self.settings.dialer.clone(), self.settings.random.clone());
            let task = tokio::spawn(links::run(kind, book.clone(), dialer, tasks.dispatcher.clone(), random));
            Keeping { book, task }
        };
        if offer.quic && tasks.beside.is_none() {
            tasks.probing = Some(self.probe(&tasks.session, offer.ticket.clone()));
        }
        if offer.links_max == 0 {
            return;
        }
        let version = if offer.link_version >= 2 { Version::Two } else { Version::One };
        tasks.links = Some(keep(Kind::Link(offer.ticket.clone(), version)));
        // A key or an id that cannot be read means no raw links; the others carry everything.
        let raw_key = offer.raw_key.as_ref().and_then(|key| RawKey::from_secret(key).ok());
        let session = session_id.parse().ok().map(TunnelSessionId::ksuid);
        tasks.raw_links = raw_key.zip(session).map(|(key, session)| keep(Kind::Raw(session, key)));
    }

    /// Probes the path on a heartbeat stream of its own.
    fn probe(&self, session: &driver::Session, ticket: Secret) -> Probing {
        let (to_loop, round_trips) = mpsc::channel(LATENCIES_MAX);
        // An echo that never comes is the heartbeat's own matter.
        let tolerance = self.settings.heartbeat_interval + self.settings.heartbeat_tolerance;
        let opener = session.clone();
        let task = tokio::spawn(async move {
            if let Ok(stream) = opener.open(StreamKind::Heartbeat).await {
                let report = |round_trip| {
                    let _ = to_loop.try_send(round_trip);
                };
                let _ = heartbeat::run(stream, Duration::from_secs(PROBE_SECS), tolerance, report).await;
            }
        });
        Probing { path: Path::default(), ticket, start: Instant::now(), round_trips, task }
    }

    /// Does what the path advises: new streams go elsewhere, those under way stay where they are.
    fn probed(&self, tasks: &mut Tasks, round_trip: Duration) {
        let Some(probing) = &mut tasks.probing else { return };
        match probing.path.probed(probing.start.elapsed(), round_trip) {
            Advice::Stay => {}
            Advice::Attach => {
                let (dialer, ticket) = (self.settings.dialer.clone(), probing.ticket.clone());
                tasks.attaching.spawn(async move { dialer.attach(ticket).await });
            }
            Advice::Detach => {
                tasks.attaching.abort_all();
                if let Some(beside) = &mut tasks.beside {
                    beside.finish();
                }
                self.tell(Event::Carrier { way: "tcp", reason: "it no longer stalls".into() });
            }
        }
    }

    /// QUIC is there for new streams, or is not to be had.
    fn attached(&self, tasks: &mut Tasks, attached: Result<Box<dyn Streams>, DialError>) {
        match attached {
            Ok(streams) => {
                tasks.beside = Some(streams);
                self.tell(Event::Carrier { way: "quic", reason: "TCP stalls".into() });
            }
            Err(error) => {
                if let Some(probing) = &mut tasks.probing {
                    probing.path.left(probing.start.elapsed());
                }
                self.tell(Event::Carrier { way: "tcp", reason: error.to_string() });
            }
        }
    }

    fn heard(&mut self, event: SessionEvent) -> Result<(), Ended> {
        match event {
            SessionEvent::StopTunnel(notice) => self.stopped(&notice),
            SessionEvent::Stop => self.tell(Event::StopRequested),
            SessionEvent::Move => return Err(Ended::Moved),
            SessionEvent::Edges(Edges { connect_addresses, leave }) => {
                self.settings.dialer.told(&connect_addresses);
                if leave {
                    // The next session, at another edge, is another.
                    self.settings.dialer.leave();
                    self.plan.part();
                    return Err(Ended::Moved);
                }
            }
        }
        Ok(())
    }

    fn bound(&mut self, tasks: &mut Tasks, key: Key, reply: Result<BindReply, String>) {
        let random = (self.settings.random)();
        let outcome = self.plan.bound(key, reply, self.now(), random);
        let name =
            |actor: &Self| actor.slots.get(&key).map(|slot| slot.route.name.clone()).unwrap_or_default();
        match outcome {
            BindOutcome::Online(url) => {
                tasks.health.bound();
                if let (Some(slot), Some(id)) = (self.slots.get(&key), self.plan.bind_id(key)) {
                    self.routes.publish(id, key, &slot.route);
                }
                let waiter = self.slots.get_mut(&key).and_then(|slot| slot.waiter.take());
                if let Some(waiter) = waiter {
                    let _ = waiter.send(Ok(url.clone()));
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
        // After it was published: a stream that waited for the answer finds it.
        self.routes.answered(key);
    }

    /// The edge ended one endpoint; it wants no Unbind and the session stays.
    fn stopped(&mut self, notice: &StopTunnel) {
        let Some(key) = self.plan.find(&notice.id) else { return };
        self.plan.remove(key);
        self.routes.withdraw(key);
        if let Some(slot) = self.slots.remove(&key) {
            let code = error_code(&notice.error_code).map(ebbgate_model::ErrorCode::new);
            let refusal = Refusal { message: notice.message.clone(), code };
            self.tell(Event::EndpointStopped { name: slot.route.name.clone(), refusal });
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
        self.routes.forget_binding();
        for id in self.plan.served() {
            tasks.unbinds.spawn(ask_unbind(tasks.session.clone(), id));
        }
        let dispatcher = tasks.dispatcher.clone();
        loop {
            let mut quiet = pin!(dispatcher.quiet());
            tokio::select! {
                () = sleep_until(deadline) => break,
                // A stream that crossed our Unbind on the wire is still a visitor's.
                stream = incoming.accept() => match stream {
                    Some(stream) => open(tasks, stream, self.settings.remote_management),
                    None => return,
                },
                Some(event) = tasks.events.recv() => {
                    // The agent goes anyway.
                    let _ = self.heard(event);
                }
                proxied = next_beside(&mut tasks.beside) => came_beside(tasks, proxied),
                Some(_) = tasks.unbinds.join_next() => {}
                () = quiet.as_mut(), if tasks.unbinds.is_empty() && tasks.events.is_empty() => break,
            }
        }
        tasks.session.goaway(Code::NONE, "the agent stops");
        let _ = timeout(Duration::from_secs(driver::CLOSE_SECS_MAX), &mut tasks.driver.0).await;
    }
}

/// Reads a new stream's purpose beside the loop, so that a stalled one delays no other stream, and delivers it there.
fn open(tasks: &Tasks, stream: driver::Stream, stop_allowed: bool) {
    let dispatcher = tasks.dispatcher.clone();
    let links = tasks.links.as_ref().map(|keeping| keeping.book.clone());
    let raw_links = tasks.raw_links.as_ref().map(|keeping| keeping.book.clone());
    let under_way = dispatcher.begin();
    tokio::spawn(async move {
        let limit = Duration::from_secs(HEADER_SECS_MAX);
        match timeout(limit, read_purpose(stream, stop_allowed)).await {
            Ok(Some(Purpose::Proxied(proxied))) => {
                // It came this way because no link waited. HTTP comes this way anyway.
                let fitting = if proxied.header.passthrough_tls { raw_links.or(links) } else { links };
                if let Some(book) = fitting.filter(|_| !is_http(&proxied.header)) {
                    book.missed();
                }
                dispatcher.take(proxied).await;
            }
            Ok(Some(Purpose::Event(event))) => dispatcher.tell(event).await,
            Ok(None) | Err(_) => {}
        }
        drop(under_way);
    });
}

/// Whether a stream carries HTTP, for which the edge prefers the session's mux to links.
fn is_http(header: &ProxyHeader) -> bool {
    matches!(header.proto.as_str(), "http" | "https")
}

/// The next stream beside the session, or none when there will be no more; never, where there are none.
async fn next_beside(beside: &mut Option<Box<dyn Streams>>) -> Option<Proxied> {
    match beside {
        Some(streams) => streams.accept().await,
        None => std::future::pending().await,
    }
}

/// Delivers a stream that came beside the session, or books that this way has ended.
fn came_beside(tasks: &mut Tasks, proxied: Option<Proxied>) {
    if let Some(proxied) = proxied {
        tokio::spawn(tasks.dispatcher.clone().take(proxied));
        return;
    }
    tasks.beside = None;
    if let Some(probing) = &mut tasks.probing {
        probing.path.left(probing.start.elapsed());
    }
}

pub(super) async fn wait_until(due: Option<Instant>) {
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
