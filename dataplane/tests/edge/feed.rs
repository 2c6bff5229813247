//! The feed: Programs taken, refused and kept; reconnection; presence.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_edge::feed::Feed;
use ebbgate_edge::state::saved::Saved;
use ebbgate_edge::xdp::{Settings, XdpHandle};
use ebbgate_model::feed::{FEED_PATH, FEED_VERSION, FromEdge, ToEdge};
use ebbgate_model::{
    AccountId, Action, Binding, CertificateId, CertificateSpec, Changes, CloudEndpointSpec, EdgeId,
    EndpointId, IpPolicyId, Program, Rule, TrafficPolicy,
};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::lab::{Lab, TOKEN, ksuid};

/// Control's end of one feed.
struct Control {
    to_edge: mpsc::Sender<Bytes>,
    from_edge: mpsc::Receiver<FromEdge>,
}

impl Control {
    async fn send(&self, message: &ToEdge) {
        let line = format!("{}\n", serde_json::to_string(message).unwrap());
        self.to_edge.send(line.into()).await.unwrap();
    }

    /// Greets as a control of a version of the feed does.
    async fn greet(&self, feed: u32) {
        self.send(&ToEdge::Hello { feed, version: "test".into() }).await;
    }

    /// Sends a whole Program.
    async fn send_whole(&self, nonce: u64, program: &Program) {
        self.send(&ToEdge::Begin { nonce, buckets: None }).await;
        let mut objects = Program::default().diff(program);
        // In two parts.
        let certificates = std::mem::take(&mut objects.certificates);
        self.send(&ToEdge::Part { nonce, objects: Box::new(objects) }).await;
        let objects = Changes { certificates, ..Changes::default() };
        self.send(&ToEdge::Part { nonce, objects: Box::new(objects) }).await;
        let (generation, digest) = (program.generation, program.digests().root());
        self.send(&ToEdge::End { nonce, generation, digest }).await;
    }

    /// Sends what changes.
    async fn send_delta(&self, nonce: u64, from: &Program, to: &Program) {
        let (digest, changes) = (to.digests().root(), Box::new(from.diff(to)));
        self.send(&ToEdge::Delta { nonce, from: from.generation, to: to.generation, digest, changes }).await;
    }

    /// The next message that is no beat.
    async fn next(&mut self) -> FromEdge {
        loop {
            let message = self.from_edge.recv().await.expect("the edge closed the feed");
            if message != FromEdge::Beat {
                return message;
            }
        }
    }
}

/// Accepts feeds on a socket.
fn listen(socket: &Path) -> mpsc::Receiver<Control> {
    let listener = UnixListener::bind(socket).unwrap();
    let (accepted, feeds) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let accepted = accepted.clone();
            let service = service_fn(move |request: http::Request<Incoming>| {
                let accepted = accepted.clone();
                async move {
                    assert_eq!(request.uri().path(), FEED_PATH);
                    let (to_edge, mut queue) = mpsc::channel::<Bytes>(8);
                    let (received, from_edge) = mpsc::channel(64);
                    tokio::spawn(read_lines(request.into_body(), received));
                    accepted.send(Control { to_edge, from_edge }).await.unwrap();
                    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| {
                        queue.poll_recv(cx).map(|line| Some(Ok::<_, Infallible>(Frame::data(line?))))
                    }));
                    Ok::<_, Infallible>(http::Response::new(body))
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    feeds
}

async fn read_lines(mut body: Incoming, received: mpsc::Sender<FromEdge>) {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend(frame.into_data().unwrap_or_default());
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            if received.send(serde_json::from_slice(&line).unwrap()).await.is_err() {
                return;
            }
        }
    }
}

/// An edge with a feed, and the Program it has.
fn start(dir: &Path) -> (Lab, mpsc::Receiver<Control>, Program) {
    let mut lab = Lab::start();
    let feeds = listen(&dir.join("edge.sock"));
    let (_, none) = mpsc::channel(1);
    let feed = Feed {
        sockets: vec![dir.join("edge.sock")],
        id: EdgeId::new(ksuid(1)),
        edge: lab.edge.clone(),
        agents: lab.agents.clone(),
        xdp: Arc::new(
            XdpHandle::start(Settings::default(), lab.edge.changes.clone(), lab.edge.blocklist.clone())
                .unwrap(),
        ),
        saved: Saved::open(&dir.join("edge")).unwrap(),
        events: std::mem::replace(&mut lab.events, none),
    };
    tokio::spawn(feed.run());
    let program = lab.edge.tables.load().program.clone();
    (lab, feeds, program)
}

fn on_disk(dir: &Path) -> Program {
    serde_json::from_slice(&std::fs::read(dir.join("edge/program.json")).unwrap()).unwrap()
}

async fn greeted(feeds: &mut mpsc::Receiver<Control>) -> (Control, u64) {
    let mut control = feeds.recv().await.unwrap();
    let FromEdge::Hello { generation, .. } = control.next().await else { panic!("no hello") };
    assert!(matches!(control.next().await, FromEdge::Sessions { .. }), "all sessions after hello");
    control.greet(FEED_VERSION).await;
    (control, generation)
}

/// The next message says that a generation is in force, and with which digest.
async fn applied(control: &mut Control, lab: &Lab, nonce: u64, generation: u64) {
    let said = control.next().await;
    let digest = lab.edge.tables.load().program.digests().root();
    assert_eq!(said, FromEdge::Applied { nonce, generation, digest, refused: BTreeMap::new() });
}

#[tokio::test]
async fn programs_are_applied_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    let (mut control, generation) = greeted(&mut feeds).await;
    assert_eq!(generation, first.generation);
    let good = Program { generation: 10, ..first.clone() };
    control.send_whole(1, &good).await;
    applied(&mut control, &lab, 1, 10).await;
    assert_eq!((on_disk(dir.path()), lab.edge.generation()), (good.clone(), 10));

    let mut bad = Program { generation: 11, ..good.clone() };
    let id = CertificateId::new(ksuid(9));
    bad.certificates.insert(id, CertificateSpec { chain_pem: "x".into(), key_pem: "y".into() });
    bad.settings.connect_certificate = Some(id);
    control.send_delta(2, &good, &bad).await;
    let FromEdge::Refused { nonce: 2, reason } = control.next().await else { panic!("not refused") };
    assert!(reason.contains(&id.to_string()), "{reason}");
    assert_eq!((on_disk(dir.path()).generation, lab.edge.generation()), (10, 10));

    let better = Program { generation: 12, ..good.clone() };
    control.send_delta(3, &good, &better).await;
    applied(&mut control, &lab, 3, 12).await;

    // A delta from a generation the edge does not have: it says anew what it has.
    control.send_delta(4, &bad, &good).await;
    let (control, generation) = greeted(&mut feeds).await;
    assert_eq!(generation, 12);
    control.to_edge.send(Bytes::from_static(b"no message\n")).await.unwrap();
    greeted(&mut feeds).await;
}

/// What one account has that cannot be served holds up nobody: its generation is taken, and the next ones.
#[tokio::test]
async fn an_endpoint_that_does_not_compile_is_offline_and_all_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    let (mut control, _) = greeted(&mut feeds).await;
    // An IP policy of this id was there when the endpoint was saved, and is gone.
    let gone = IpPolicyId::new(ksuid(9));
    let config = json!({"enforce": true, "ip_policies": [gone.to_string()]});
    let action = |kind: &str, config| Action { kind: kind.into(), config };
    let endpoint = |program: &mut Program, host: &str, actions| CloudEndpointSpec {
        account: AccountId::new(ksuid(1)),
        url: format!("tls://{host}").parse().unwrap(),
        binding: Binding::Public,
        pooling_enabled: false,
        policy: Some(program.share(TrafficPolicy {
            on_tcp_connect: vec![Rule { name: None, expressions: Vec::new(), actions }],
            ..TrafficPolicy::default()
        })),
    };
    let deny = || action("close-connection", serde_json::Value::Null);
    let (broken, whole) = (EndpointId::new(ksuid(8)), EndpointId::new(ksuid(9)));
    let mut program = Program { generation: 20, ..first.clone() };
    let actions = vec![action("restrict-ips", config), deny()];
    let spec = endpoint(&mut program, "broken.example.com", actions);
    program.endpoints.insert(broken, spec);
    let spec = endpoint(&mut program, "whole.example.com", vec![deny()]);
    program.endpoints.insert(whole, spec);
    control.send_delta(1, &first, &program).await;
    applied(&mut control, &lab, 1, 20).await;
    let tables = lab.edge.tables.load_full();
    assert!(tables.cloud[&broken].engine.is_none() && tables.cloud[&whole].engine.is_some());
    assert!(tables.unserved.keys().any(|object| object.contains(&broken.to_string())));
    let count = |n| format!("ebbgate_edge_program_objects_unserved {n}");
    assert!(lab.edge.metrics.text().contains(&count(1)), "{}", lab.edge.metrics.text());

    let mut mended = Program { generation: 21, ..program.clone() };
    mended.endpoints.remove(&broken);
    control.send_delta(2, &program, &mended).await;
    applied(&mut control, &lab, 2, 21).await;
    assert!(lab.edge.metrics.text().contains(&count(0)), "{}", lab.edge.metrics.text());
}

/// Only what differs is sent again, and the rest stays.
#[tokio::test]
async fn buckets_that_differ_are_mended() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    let (mut control, _) = greeted(&mut feeds).await;
    let mut wanted = Program { generation: 30, ..first.clone() };
    wanted.credentials.clear();
    control.send(&ToEdge::Compare { nonce: 1, buckets: true }).await;
    let FromEdge::Compared { nonce: 1, digest, buckets, .. } = control.next().await else {
        panic!("no digests")
    };
    assert_eq!(digest, first.digests().root());
    let differing: BTreeSet<u16> = wanted.digests().differing(&buckets).into_iter().collect();
    assert!(!differing.is_empty() && differing.len() <= first.credentials.len());
    let mut objects = Changes::default();
    for key in Program::default().diff(&wanted).puts() {
        if differing.contains(&u16::try_from(key.bucket()).unwrap()) {
            objects.put(&key, &wanted.object(&key).unwrap());
        }
    }
    control.send(&ToEdge::Begin { nonce: 2, buckets: Some(differing) }).await;
    control.send(&ToEdge::Part { nonce: 2, objects: Box::new(objects) }).await;
    control.send(&ToEdge::End { nonce: 2, generation: 30, digest: wanted.digests().root() }).await;
    applied(&mut control, &lab, 2, 30).await;
    assert_eq!(lab.edge.tables.load().program, wanted);
}

#[tokio::test]
async fn a_control_of_another_version_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    for feed in [None, Some(FEED_VERSION + 1)] {
        let mut control = feeds.recv().await.unwrap();
        assert!(matches!(control.next().await, FromEdge::Hello { feed: FEED_VERSION, .. }));
        if let Some(feed) = feed {
            control.greet(feed).await;
        }
        control.send_whole(1, &Program { generation: 40, ..Program::default() }).await;
        while control.from_edge.recv().await.is_some() {}
        assert_eq!(lab.edge.generation(), first.generation);
    }
}

#[tokio::test]
async fn sessions_are_reported_as_they_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, _) = start(dir.path());
    let (mut control, _) = greeted(&mut feeds).await;
    let agent = lab.agent(TOKEN).await;
    agent.bind("tcp://db.clinic1.internal:433").await;
    let id = loop {
        let FromEdge::Session { session, report } = control.next().await else { panic!("no session") };
        if let Some(endpoint) = report.endpoints.values().next() {
            assert_eq!(endpoint.url.to_string(), "tcp://db.clinic1.internal:433");
            break session;
        }
    };
    // A feed that breaks loses nothing: the next one begins with everybody.
    drop(control);
    let mut control = feeds.recv().await.unwrap();
    assert!(matches!(control.next().await, FromEdge::Hello { .. }));
    let FromEdge::Sessions { sessions } = control.next().await else { panic!("no sessions") };
    assert!(sessions.contains_key(&id));
    agent.echo(b"").kill();
    assert_eq!(control.next().await, FromEdge::SessionEnded { session: id });
}
