//! Sessions against a simulated edge, first over memory with a paused clock, then over turmoil's network.

mod address;
mod edge;
mod links;
mod network;
mod sdk;
mod several;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{AuthExtra, Bind, Opts, Secret, StreamKind};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::dial::{Dial, DialError, Dialled, Dialling};
use crate::stream::Carrier;
use edge::Edge;

const A: &str = "https://a.internal";
const B: &str = "tls://b.internal";

/// Dials an edge in the same process, unless it is down.
struct MemoryDialer {
    edge: Edge,
    down: AtomicBool,
    dials: AtomicU32,
    connections: Mutex<JoinSet<()>>,
    link_dials: AtomicU32,
    links: Mutex<JoinSet<()>>,
}

impl MemoryDialer {
    fn new(edge: &Edge) -> Arc<Self> {
        Arc::new(Self {
            edge: edge.clone(),
            down: AtomicBool::new(false),
            dials: AtomicU32::new(0),
            connections: Mutex::default(),
            link_dials: AtomicU32::new(0),
            links: Mutex::default(),
        })
    }

    /// Cuts every connection as a killed edge would.
    fn cut(&self, stay_down: bool) {
        self.down.store(stay_down, Ordering::SeqCst);
        *self.connections.lock().unwrap() = JoinSet::new();
    }

    fn up(&self) {
        self.down.store(false, Ordering::SeqCst);
    }
}

impl Dial for MemoryDialer {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            self.dials.fetch_add(1, Ordering::SeqCst);
            if self.down.load(Ordering::SeqCst) {
                let source = io::ErrorKind::ConnectionRefused.into();
                return Err(DialError::Tcp { target: self.target(), source });
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let edge = self.edge.clone();
            self.connections.lock().unwrap().spawn(async move { edge.serve(theirs).await });
            Ok(Dialled::alone(ours))
        })
    }

    fn link(&self) -> Dialling<'_, Box<dyn Carrier>> {
        Box::pin(async {
            self.link_dials.fetch_add(1, Ordering::SeqCst);
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let edge = self.edge.clone();
            let serve = async move { edge.serve_link(Box::new(theirs)).await };
            self.links.lock().unwrap().spawn(serve);
            Ok(Box::new(ours) as Box<dyn Carrier>)
        })
    }

    fn target(&self) -> String {
        "memory".into()
    }
}

struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// The next event that `pick` wants; the others are passed over.
    async fn wait<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            let event = tokio::time::timeout(Duration::from_mins(10), self.0.recv()).await;
            let event = event.expect("an event within ten minutes").expect("a living session");
            if let Some(found) = pick(&event) {
                return found;
            }
        }
    }

    async fn session_online(&mut self) {
        self.wait(|event| matches!(event, Event::SessionOnline { .. }).then_some(())).await;
    }

    async fn endpoint_online(&mut self, wanted: &str) {
        self.wait(|event| {
            matches!(event, Event::EndpointOnline { name, .. } if name == wanted).then_some(())
        })
        .await;
    }
}

fn settings(dialer: Arc<dyn Dial>) -> (Settings, Events) {
    let (to_test, events) = mpsc::unbounded_channel();
    let seed = AtomicU32::new(1);
    let settings = Settings {
        dialer,
        hello: AuthExtra { authtoken: Secret::new("token"), ..AuthExtra::default() },
        heartbeat_interval: Duration::from_secs(10),
        heartbeat_tolerance: Duration::from_secs(15),
        remote_management: true,
        random: Arc::new(move || {
            let next = |seed: u32| Some(seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
            seed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default()
        }),
        observer: Arc::new(move |event| drop(to_test.send(event))),
    };
    (settings, Events(events))
}

fn start(dialer: Arc<dyn Dial>) -> (Session, Events) {
    let (settings, events) = settings(dialer);
    (Session::start(settings), events)
}

fn bind(url: &str) -> Bind {
    let proto = url.split("://").next().filter(|scheme| !scheme.is_empty()).unwrap_or("https");
    Bind { proto: proto.into(), opts: Opts(json!({"URL": url})), ..Bind::default() }
}

/// Adds an endpoint that keeps trying and whose connections the test accepts itself.
fn serve(session: &Session, name: &str, url: &str) -> mpsc::Receiver<Accepted> {
    let (queue, accepted) = mpsc::channel(BACKLOG_MAX);
    let (session, name, bind) = (session.clone(), name.to_owned(), bind(url));
    tokio::spawn(async move {
        let _ =
            session.add(&name, bind, RetryPolicy::Forever, Delivery::Accept(queue, Inbound::default())).await;
    });
    accepted
}

#[tokio::test(start_paused = true)]
async fn a_visitor_reaches_the_program_and_gets_an_answer() {
    let edge = Edge::default();
    let (session, mut events) = start(MemoryDialer::new(&edge));
    let mut accepted = serve(&session, "a", A);
    events.endpoint_online("a").await;
    let mut visitor = edge.visit(A).await;
    let mut connection = accepted.recv().await.unwrap();
    assert_eq!(connection.client, Some("203.0.113.7:4711".parse().unwrap()));
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut text = String::new();
    connection.stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    connection.stream.write_all(b"answer").await.unwrap();
    connection.stream.shutdown().await.unwrap();
    text.clear();
    visitor.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    let auth = edge.book().auths[0].clone();
    assert_eq!(auth.extra.authtoken.expose(), "token");
    assert_eq!(auth.versions, ["3", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_edge_has_everything_back_within_three_seconds() {
    let edge = Edge::default();
    let dialer = MemoryDialer::new(&edge);
    let (session, mut events) = start(dialer.clone());
    let _a = serve(&session, "a", A);
    let _random = serve(&session, "random", "");
    events.endpoint_online("a").await;
    let before = loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let served = edge.book().served.clone();
        if served.len() == 2 {
            break served;
        }
    };
    tokio::time::sleep(Duration::from_mins(5)).await;
    dialer.cut(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(edge.book().served.is_empty());
    let back = Instant::now();
    dialer.up();
    while edge.book().served.len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(back.elapsed() < Duration::from_secs(2), "down for one, back within three");
    }
    assert_eq!(edge.book().served, before, "same names, same ids");
    let book = edge.book();
    let (first, last) = (&book.auths[0], book.auths.last().unwrap());
    assert_eq!(first.client_id, "");
    assert_eq!(last.extra.cookie.expose(), format!("cookie of {}", last.client_id));
    for bind in &book.binds[2..] {
        assert_eq!(bind.extra.token.expose(), format!("token of {}", bind.id));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_edge_is_noticed_by_its_missing_heartbeat() {
    let edge = Edge::default();
    edge.book().mute = true;
    let dialer = MemoryDialer::new(&edge);
    let (_session, mut events) = start(dialer.clone());
    let begin = Instant::now();
    let reason = events
        .wait(|event| match event {
            Event::SessionOffline { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("heartbeat"), "{reason}");
    assert!(begin.elapsed() <= Duration::from_secs(16), "{:?}", begin.elapsed());
    edge.book().mute = false;
    events.session_online().await;
    events.wait(|event| matches!(event, Event::Latency(_)).then_some(())).await;
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(dialer.dials.load(Ordering::SeqCst), 2, "an answered heartbeat keeps the session");
}

#[tokio::test(start_paused = true)]
async fn the_edges_own_heartbeats_are_answered() {
    let edge = Edge::default();
    let (_session, mut events) = start(MemoryDialer::new(&edge));
    events.session_online().await;
    let mut stream = edge.open(StreamKind::Heartbeat).await;
    for nonce in [7_u32, 8, u32::MAX] {
        stream.write_u32(nonce).await.unwrap();
        assert_eq!(stream.read_u32().await.unwrap(), nonce);
    }
}

#[tokio::test(start_paused = true)]
async fn one_refused_rebind_takes_no_other_endpoint_down() {
    let edge = Edge::default();
    let dialer = MemoryDialer::new(&edge);
    let (session, mut events) = start(dialer.clone());
    let _a = serve(&session, "a", A);
    events.endpoint_online("a").await;
    let mut b = serve(&session, "b", B);
    events.endpoint_online("b").await;
    edge.book().refuse_bind.insert(A.into(), [334, 334, 334].into());
    dialer.cut(false);
    events.endpoint_online("b").await;
    let _visitor = edge.visit(B).await;
    b.recv().await.expect("b serves while a is refused");
    events.endpoint_online("a").await;
    assert_eq!(dialer.dials.load(Ordering::SeqCst), 2, "no further reconnect was needed");
}

#[tokio::test(start_paused = true)]
async fn a_bind_that_is_never_answered_gives_the_connection_up() {
    let edge = Edge::default();
    edge.book().silent_binds = 1;
    let dialer = MemoryDialer::new(&edge);
    let (session, mut events) = start(dialer.clone());
    let begin = Instant::now();
    let _a = serve(&session, "a", A);
    events.endpoint_online("a").await;
    assert!(begin.elapsed() <= Duration::from_secs(BIND_SECS_MAX + 1));
    assert_eq!(dialer.dials.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn refused_auth_is_told_and_tried_again() {
    let edge = Edge::default();
    edge.book().refuse_auth = [107, 107].into();
    let (_session, mut events) = start(MemoryDialer::new(&edge));
    for _ in 0..2 {
        let refused = events.wait(|event| match event {
            Event::AuthRefused { refusal, was_online, .. } => {
                Some((refusal.code.map(ebbgate_model::ErrorCode::number), *was_online))
            }
            _ => None,
        });
        assert_eq!(refused.await, (Some(107), false));
    }
    events.session_online().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_hears_its_refusal_and_may_try_another_name() {
    let edge = Edge::default();
    edge.book().refuse_bind.insert(A.into(), [316].into());
    let (session, _events) = start(MemoryDialer::new(&edge));
    let (queue, _accepted) = mpsc::channel(1);
    let refused = session
        .add("a", bind(A), RetryPolicy::UntilRefused, Delivery::Accept(queue.clone(), Inbound::default()))
        .await;
    assert!(matches!(refused, Err(BindError::Refused(r)) if r.is_permanent()));
    let (key, url) = session
        .add("b", bind(B), RetryPolicy::UntilRefused, Delivery::Accept(queue, Inbound::default()))
        .await
        .unwrap();
    assert_eq!(url.to_string(), B);
    session.remove(key).await;
    assert_eq!(edge.book().unbinds.len(), 1);
    assert!(edge.book().served.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_the_edge_stopped_stays_stopped() {
    let edge = Edge::default();
    let dialer = MemoryDialer::new(&edge);
    let (session, mut events) = start(dialer.clone());
    let mut a = serve(&session, "a", A);
    events.endpoint_online("a").await;
    let _b = serve(&session, "b", B);
    events.endpoint_online("b").await;
    let id = edge.book().served[A].clone();
    edge.stop_tunnel(&id).await;
    let code = events.wait(|event| match event {
        Event::EndpointStopped { name, refusal } if name == "a" => {
            Some(refusal.code.map(ebbgate_model::ErrorCode::number))
        }
        _ => None,
    });
    assert_eq!(code.await, Some(300));
    assert!(a.recv().await.is_none(), "its queue is closed");
    dialer.cut(false);
    events.endpoint_online("b").await;
    assert_eq!(edge.book().served.keys().collect::<Vec<_>>(), [B]);
}

#[tokio::test(start_paused = true)]
async fn remote_management_is_honoured_or_refused() {
    let edge = Edge::default();
    let (_session, mut events) = start(MemoryDialer::new(&edge));
    events.session_online().await;
    assert!(edge.ask(StreamKind::Restart).await.contains("service manager"));
    assert!(edge.ask(StreamKind::Update).await.contains("packages"));
    assert_eq!(edge.ask(StreamKind::Stop).await, "");
    events.wait(|event| matches!(event, Event::StopRequested).then_some(())).await;

    let edge = Edge::default();
    let (mut settings, mut events) = settings(MemoryDialer::new(&edge));
    settings.remote_management = false;
    let _session = Session::start(settings);
    events.session_online().await;
    assert!(edge.ask(StreamKind::Stop).await.contains("turned off"));
}

#[tokio::test(start_paused = true)]
async fn closing_unbinds_everything_and_ends_in_order() {
    let edge = Edge::default();
    let dialer = MemoryDialer::new(&edge);
    let (session, mut events) = start(dialer.clone());
    let _a = serve(&session, "a", A);
    events.endpoint_online("a").await;
    session.close().await;
    assert_eq!(edge.book().unbinds.len(), 1);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(dialer.dials.load(Ordering::SeqCst), 1, "a closed session never dials again");
    let (queue, _accepted) = mpsc::channel(1);
    let late =
        session.add("b", bind(B), RetryPolicy::Forever, Delivery::Accept(queue, Inbound::default())).await;
    assert!(matches!(late, Err(BindError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_handles_ends() {
    let edge = Edge::default();
    let dialer = MemoryDialer::new(&edge);
    let (session, mut events) = start(dialer.clone());
    events.session_online().await;
    drop(session);
    while dialer.connections.lock().unwrap().try_join_next().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn senseless_streams_cost_only_themselves() {
    let edge = Edge::default();
    let (session, mut events) = start(MemoryDialer::new(&edge));
    let mut accepted = serve(&session, "a", A);
    events.endpoint_online("a").await;
    let mut unknown = edge.open(StreamKind::Unknown(99)).await;
    assert!(unknown.read_u8().await.is_err());
    let mut stray = edge.visit_bind("never bound").await;
    assert_eq!(reset_code(&stray.read_u8().await.unwrap_err()), Some(Code::REFUSED));
    let mut malformed = edge.open(StreamKind::Proxy).await;
    malformed.write_all(&[0xff; 64]).await.unwrap();
    assert!(malformed.read_u8().await.is_err());
    // Announces a header and never sends it.
    let mut stalled = edge.open(StreamKind::Proxy).await;
    stalled.write_all(&100_i64.to_le_bytes()).await.unwrap();
    let begin = Instant::now();
    assert!(stalled.read_u8().await.is_err());
    assert!(begin.elapsed() <= Duration::from_secs(connection::HEADER_SECS_MAX));
    let mut reply = edge.open(StreamKind::StopTunnel).await;
    reply.write_all(b"[1]").await.unwrap();
    let _visitor = edge.visit(A).await;
    accepted.recv().await.expect("the session lives on");
}

#[tokio::test(start_paused = true)]
async fn visitors_before_the_answer_to_a_bind_wait_for_it() {
    const DELAY_MS: u64 = 500;
    let edge = Edge::default();
    edge.book().bind_delay_ms = DELAY_MS;
    let (session, mut events) = start(MemoryDialer::new(&edge));
    let mut accepted = serve(&session, "a", A);
    while !edge.book().served.contains_key(A) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut early = edge.visit(A).await;
    early.write_all(b"question").await.unwrap();
    let mut stray = edge.visit_bind("never bound").await;
    events.endpoint_online("a").await;
    let mut question = [0; 8];
    accepted.recv().await.unwrap().stream.read_exact(&mut question).await.unwrap();
    assert_eq!(&question, b"question");
    assert_eq!(reset_code(&stray.read_u8().await.unwrap_err()), Some(Code::REFUSED));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_does_not_accept_refuses_visitors_beyond_its_backlog() {
    let edge = Edge::default();
    let (session, mut events) = start(MemoryDialer::new(&edge));
    let _accepted = serve(&session, "a", A);
    events.endpoint_online("a").await;
    let mut waiting = Vec::new();
    for _ in 0..BACKLOG_MAX {
        waiting.push(edge.visit(A).await);
    }
    let mut refused = edge.visit(A).await;
    assert_eq!(reset_code(&refused.read_u8().await.unwrap_err()), Some(Code::REFUSED));
    events.wait(|event| matches!(event, Event::DeliveryFailed { .. }).then_some(())).await;
}
