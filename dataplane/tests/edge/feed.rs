//! The feed: Programs taken, refused and kept; reconnection; presence.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_edge::feed::Feed;
use ebbgate_edge::state::saved::{Saved, Written};
use ebbgate_edge::xdp::{Settings, XdpHandle};
use ebbgate_model::feed::{FEED_PATH, FromEdge, ToEdge};
use ebbgate_model::{
    AccountId, Action, Binding, CertificateId, CertificateSpec, CloudEndpointSpec, EdgeId, EndpointId,
    IpPolicyId, Program, Rule, TrafficPolicy,
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
        socket: dir.join("edge.sock"),
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
    (control, generation)
}

/// The next message says that a generation is in force, and with which digest.
async fn applied(control: &mut Control, lab: &Lab, generation: u64) {
    let said = control.next().await;
    let digest = Written::new(&lab.edge.tables.load().program).digest();
    assert_eq!(said, FromEdge::Applied { generation, digest: Some(digest) });
}

#[tokio::test]
async fn programs_are_applied_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    let (mut control, generation) = greeted(&mut feeds).await;
    assert_eq!(generation, first.generation);
    let good = Program { generation: 10, ..first.clone() };
    control.send(&ToEdge::Program(Box::new(good.clone()))).await;
    applied(&mut control, &lab, 10).await;
    assert_eq!((on_disk(dir.path()), lab.edge.generation()), (good.clone(), 10));

    let mut bad = Program { generation: 11, ..good.clone() };
    let id = CertificateId::new(ksuid(9));
    bad.certificates.insert(id, CertificateSpec { chain_pem: "x".into(), key_pem: "y".into() });
    bad.settings.connect_certificate = Some(id);
    control.send(&ToEdge::Diff(Box::new(good.diff(&bad)))).await;
    let FromEdge::Refused { generation: 11, reason } = control.next().await else { panic!("not refused") };
    assert!(reason.contains(&id.to_string()), "{reason}");
    assert_eq!((on_disk(dir.path()).generation, lab.edge.generation()), (10, 10));

    let better = Program { generation: 12, ..good.clone() };
    control.send(&ToEdge::Diff(Box::new(good.diff(&better)))).await;
    applied(&mut control, &lab, 12).await;

    // A diff from a generation the edge does not have: it asks anew.
    control.send(&ToEdge::Diff(Box::new(bad.diff(&good)))).await;
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
    let endpoint = |host: &str, actions| CloudEndpointSpec {
        account: AccountId::new(ksuid(1)),
        url: format!("tls://{host}").parse().unwrap(),
        binding: Binding::Public,
        pooling_enabled: false,
        policy: Some(TrafficPolicy {
            on_tcp_connect: vec![Rule { name: None, expressions: Vec::new(), actions }],
            ..TrafficPolicy::default()
        }),
    };
    let deny = || action("close-connection", serde_json::Value::Null);
    let (broken, whole) = (EndpointId::new(ksuid(8)), EndpointId::new(ksuid(9)));
    let mut program = Program { generation: 20, ..first.clone() };
    let actions = vec![action("restrict-ips", config), deny()];
    program.endpoints.insert(broken, endpoint("broken.example.com", actions));
    program.endpoints.insert(whole, endpoint("whole.example.com", vec![deny()]));
    control.send(&ToEdge::Diff(Box::new(first.diff(&program)))).await;
    applied(&mut control, &lab, 20).await;
    let tables = lab.edge.tables.load_full();
    assert!(tables.cloud[&broken].engine.is_none() && tables.cloud[&whole].engine.is_some());
    assert!(tables.unserved.keys().any(|object| object.contains(&broken.to_string())));
    let count = |n| format!("ebbgate_edge_program_objects_unserved {n}");
    assert!(lab.edge.metrics.text().contains(&count(1)), "{}", lab.edge.metrics.text());

    let mut mended = Program { generation: 21, ..program.clone() };
    mended.endpoints.remove(&broken);
    control.send(&ToEdge::Diff(Box::new(program.diff(&mended)))).await;
    applied(&mut control, &lab, 21).await;
    assert!(lab.edge.metrics.text().contains(&count(0)), "{}", lab.edge.metrics.text());
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
