//! The feed: Programs taken, refused and kept; reconnection; presence.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_edge::agents::peers::{Directory, GRACE_SECS};
use ebbgate_edge::feed::installer::Installer;
use ebbgate_edge::feed::{Feed, Staging};
use ebbgate_edge::state::saved::Saved;
use ebbgate_edge::xdp::{Settings, XdpHandle};
use ebbgate_model::feed::{EdgeReach, FEED_PATH, FEED_VERSION, FromEdge, PeerEdge, ToEdge};
use ebbgate_model::{
    AccountId, Action, Binding, CertificateId, CertificateSpec, Changes, CloudEndpointSpec, EdgeId,
    EndpointId, IpPolicyId, IpPolicySpec, ObjectKey, Program, Rule, TrafficPolicy,
};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

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

    /// The next message that is no beat, and does not tell of databases of addresses: that comes when it comes.
    async fn next(&mut self) -> FromEdge {
        loop {
            let message = self.from_edge.recv().await.expect("the edge closed the feed");
            if !matches!(message, FromEdge::Beat { .. } | FromEdge::AddressData { .. }) {
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
    let mut lab = Lab::kept_in(&dir.join("edge"));
    let feeds = listen(&dir.join("edge.sock"));
    let (_, none) = mpsc::channel(1);
    let program = lab.edge.tables.load().objects.program(lab.edge.generation());
    let feed = Feed {
        controls: vec![ebbgate_edge::feed::address::Control::Socket(dir.join("edge.sock"))],
        member: None,
        id: EdgeId::new(ksuid(1)),
        edge: lab.edge.clone(),
        agents: lab.agents.clone(),
        xdp: Arc::new(
            XdpHandle::start(Settings::default(), lab.edge.changes.clone(), lab.edge.blocklist.clone())
                .unwrap(),
        ),
        installer: lab.installer.clone(),
        staging: Staging::default(),
        events: std::mem::replace(&mut lab.events, none),
    };
    tokio::spawn(feed.run());
    (lab, feeds, program)
}

/// What an edge that starts now on the directory would serve.
fn kept(dir: &Path) -> Program {
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(dir.join("edge")).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    let (edge, _events) = Lab::another_edge();
    let agents = ebbgate_edge::agents::Agents::new(Arc::new(edge));
    let _installer = Installer::restore(agents.clone(), &Saved::open(&copy.path().join("edge")).unwrap());
    let tables = agents.edge().tables.load_full();
    tables.objects.program(tables.generation)
}

/// A message that makes of one Program another.
fn delta(nonce: u64, before: &Program, after: &Program) -> ToEdge {
    let (from, to, digest) = (before.generation, after.generation, after.digests().root());
    ToEdge::Delta { nonce, from, to, digest, changes: Box::new(before.diff(after)) }
}

async fn greeted(feeds: &mut mpsc::Receiver<Control>) -> (Control, u64) {
    let mut control = feeds.recv().await.unwrap();
    let FromEdge::Hello { generation, feed, .. } = control.next().await else { panic!("no hello") };
    assert_eq!(feed, FEED_VERSION);
    control.send(&ToEdge::Hello { feed, version: "0".into() }).await;
    assert!(matches!(control.next().await, FromEdge::Sessions { .. }), "all sessions after hello");
    (control, generation)
}

/// The next message says that a Program is in force, whole.
async fn applied(control: &mut Control, nonce: u64, program: &Program) {
    let expect = FromEdge::Applied {
        nonce,
        generation: program.generation,
        digest: program.digests().root(),
        refused: BTreeMap::new(),
    };
    assert_eq!(control.next().await, expect);
}

#[tokio::test]
async fn changes_are_applied_and_kept_and_an_object_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    let (mut control, generation) = greeted(&mut feeds).await;
    assert_eq!(generation, first.generation);
    let mut good = Program { generation: 10, ..first.clone() };
    good.settings.region = "here".into();
    control.send(&delta(1, &first, &good)).await;
    applied(&mut control, 1, &good).await;
    assert_eq!((kept(dir.path()), lab.edge.generation()), (good.clone(), 10));

    let mut bad = Program { generation: 11, ..good.clone() };
    let id = CertificateId::new(ksuid(9));
    bad.certificates.insert(id, CertificateSpec { chain_pem: "x".into(), key_pem: "y".into() });
    bad.settings.connect_certificate = Some(id);
    bad.settings.region = "elsewhere".into();
    control.send(&delta(2, &good, &bad)).await;
    let FromEdge::Applied { nonce: 2, generation: 11, digest, refused } = control.next().await else {
        panic!("not applied")
    };
    assert_eq!(digest, bad.digests().root(), "it holds what it was told");
    assert_eq!(
        refused.keys().cloned().collect::<Vec<_>>(),
        [ObjectKey::Settings, ObjectKey::Certificate(id)]
    );
    assert!(refused[&ObjectKey::Settings].contains(&id.to_string()), "{refused:?}");
    assert_eq!(lab.edge.tables.load().settings.region, "here", "the version before stays in use");
    assert_eq!(kept(dir.path()), bad);

    // Changes from a generation the edge does not have: it says anew what it has.
    control.send(&delta(3, &good, &first)).await;
    let (control, generation) = greeted(&mut feeds).await;
    assert_eq!(generation, 11);
    control.to_edge.send(Bytes::from_static(b"no message\n")).await.unwrap();
    let (control, _) = greeted(&mut feeds).await;
    control.send(&ToEdge::End { nonce: 9, generation: 12, digest: bad.digests().root() }).await;
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
    let mut program = Program { generation: 20, ..first.clone() };
    let mut endpoint = |n: u8, host: &str, actions| {
        let rule = Rule { name: None, expressions: Vec::new(), actions };
        let spec = CloudEndpointSpec {
            account: AccountId::new(ksuid(1)),
            url: format!("tls://{host}").parse().unwrap(),
            binding: Binding::Public,
            pooling_enabled: false,
            policy: Some(
                program.share(TrafficPolicy { on_tcp_connect: vec![rule], ..TrafficPolicy::default() }),
            ),
        };
        program.endpoints.insert(EndpointId::new(ksuid(n)), spec);
        EndpointId::new(ksuid(n))
    };
    let broken = endpoint(7, "broken.example.com", vec![action("restrict-ips", config)]);
    let whole = endpoint(8, "whole.example.com", vec![action("deny", serde_json::Value::Null)]);
    control.send(&delta(1, &first, &program)).await;
    let FromEdge::Applied { refused, digest, .. } = control.next().await else { panic!("not applied") };
    assert_eq!((refused.len(), digest), (1, program.digests().root()));
    assert!(refused[&ObjectKey::Endpoint(broken)].contains("broken.example.com"), "{refused:?}");
    let tables = lab.edge.tables.load_full();
    let engine = |id| tables.cloud.get(&id).unwrap().engine.is_some();
    assert!(!engine(broken) && engine(whole));
    let count = |n| format!("ebbgate_edge_program_objects_unserved {n}");
    assert!(lab.edge.metrics.text().contains(&count(1)), "{}", lab.edge.metrics.text());

    // The IP policy comes: what names it is served.
    let mut mended = Program { generation: 21, ..program.clone() };
    let rules = IpPolicySpec { account: AccountId::new(ksuid(1)), rules: Vec::new() };
    mended.ip_policies.insert(gone, rules);
    control.send(&delta(2, &program, &mended)).await;
    applied(&mut control, 2, &mended).await;
    assert!(lab.edge.tables.load().cloud.get(&broken).unwrap().engine.is_some());
    assert!(lab.edge.metrics.text().contains(&count(0)), "{}", lab.edge.metrics.text());
}

#[tokio::test]
async fn a_first_sync_comes_in_parts_and_is_in_force_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    let (mut control, _) = greeted(&mut feeds).await;
    let mut whole = Program { generation: 30, ..first.clone() };
    whole.credentials.clear();
    whole.settings.region = "new".into();
    control.send(&ToEdge::Begin { nonce: 5, buckets: None }).await;
    for key in Program::default().diff(&whole).puts() {
        let mut objects = Changes::default();
        objects.put(&key, &whole.object(&key).unwrap());
        control.send(&ToEdge::Part { nonce: 5, objects: Box::new(objects) }).await;
    }
    // An answer to something else shows that the parts have been read and are not in force.
    control.send(&ToEdge::Compare { nonce: 6, buckets: false }).await;
    let compared = FromEdge::Compared {
        nonce: 6,
        generation: first.generation,
        digest: first.digests().root(),
        buckets: Vec::new(),
    };
    assert_eq!(control.next().await, compared);
    assert_eq!(lab.edge.tables.load().settings.region, first.settings.region);
    control.send(&ToEdge::End { nonce: 5, generation: 30, digest: whole.digests().root() }).await;
    applied(&mut control, 5, &whole).await;
    assert_eq!(kept(dir.path()), whole, "what was not named is gone");
    let certificate = |tables: &ebbgate_edge::state::tables::Tables| {
        tables.certificates.find(&"x.example.com".parse().unwrap()).cloned().unwrap()
    };
    assert_eq!(certificate(&lab.edge.tables.load()).cert.len(), 1);
}

#[tokio::test]
async fn buckets_that_differ_are_mended_and_nothing_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    let (mut control, _) = greeted(&mut feeds).await;
    let mut right = Program { generation: 40, ..first.clone() };
    let gone = *right.credentials.first_key_value().unwrap().0;
    right.credentials.remove(&gone);
    let added = IpPolicyId::new(ksuid(3));
    right.ip_policies.insert(added, IpPolicySpec { account: AccountId::new(ksuid(1)), rules: Vec::new() });
    control.send(&ToEdge::Compare { nonce: 1, buckets: true }).await;
    let FromEdge::Compared { buckets, .. } = control.next().await else { panic!("nothing compared") };
    let differing: BTreeSet<u16> = right.digests().differing(&buckets).into_iter().collect();
    assert!(differing.len() <= 2, "{differing:?}");
    let mut objects = Changes::default();
    for key in Program::default().diff(&right).puts() {
        if differing.contains(&u16::try_from(key.bucket()).unwrap()) {
            objects.put(&key, &right.object(&key).unwrap());
        }
    }
    control.send(&ToEdge::Begin { nonce: 2, buckets: Some(differing) }).await;
    control.send(&ToEdge::Part { nonce: 2, objects: Box::new(objects) }).await;
    control.send(&ToEdge::End { nonce: 2, generation: 40, digest: right.digests().root() }).await;
    applied(&mut control, 2, &right).await;
    assert_eq!(lab.edge.tables.load().objects.program(40), right);
    assert_eq!(kept(dir.path()), right);
}

#[tokio::test]
async fn control_of_another_release_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, first) = start(dir.path());
    for message in [ToEdge::Hello { feed: FEED_VERSION + 1, version: "9".into() }, ToEdge::Beat] {
        let mut control = feeds.recv().await.unwrap();
        assert!(matches!(control.next().await, FromEdge::Hello { .. }));
        control.send(&message).await;
        while control.from_edge.recv().await.is_some() {}
    }
    assert_eq!(lab.edge.generation(), first.generation);
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
    control.send(&ToEdge::Hello { feed: FEED_VERSION, version: "0".into() }).await;
    let FromEdge::Sessions { sessions } = control.next().await else { panic!("no sessions") };
    assert!(sessions.contains_key(&id));
    agent.echo(b"").kill();
    assert_eq!(control.next().await, FromEdge::SessionEnded { session: id });
}

fn peer(n: u8) -> PeerEdge {
    let reach = EdgeReach { peers: format!("edge{n}.test:4485"), ..EdgeReach::default() };
    PeerEdge { edge: EdgeId::new(ksuid(n)), reach, draining: false }
}

#[tokio::test]
async fn other_edges_are_known_as_control_tells_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, mut feeds, _) = start(dir.path());
    let (control, _) = greeted(&mut feeds).await;
    let mut changes = lab.edge.peers.changes();
    // 1 is this edge itself.
    for told in [ToEdge::Peer(peer(1)), ToEdge::Peer(peer(2)), ToEdge::Peer(peer(3)), ToEdge::PeersTold] {
        control.send(&told).await;
    }
    changes.wait_for(|list| list.len() == 2).await.unwrap();
    control.send(&ToEdge::PeerGone { edge: EdgeId::new(ksuid(3)) }).await;
    changes.wait_for(|list| list.len() == 1).await.unwrap();
    assert_eq!(lab.edge.peers.list().values().next(), Some(&peer(2)));
    drop(control);
    let _ = greeted(&mut feeds).await;
    assert_eq!(lab.edge.peers.list().len(), 1, "without control it goes on with what it knows");
}

#[tokio::test(start_paused = true)]
async fn what_a_feed_does_not_name_is_withdrawn_after_a_grace_and_by_no_earlier_feed() {
    let (edge, _events) = Lab::another_edge();
    let edge = Arc::new(edge);
    let directory = Arc::<Directory>::default();
    let take = |message| directory.take(&edge, message);
    let known = || edge.peers.list().keys().copied().collect::<Vec<_>>();
    let ids = |of: &[u8]| of.iter().map(|n| EdgeId::new(ksuid(*n))).collect::<Vec<_>>();
    let own = EdgeId::new(ksuid(1));
    directory.begin(own);
    take(ToEdge::Peer(peer(2)));
    take(ToEdge::PeersTold);
    // A control that was just started does not know everybody yet.
    directory.begin(own);
    take(ToEdge::PeersTold);
    take(ToEdge::Peer(peer(3)));
    sleep(Duration::from_secs(GRACE_SECS - 1)).await;
    assert_eq!(known(), ids(&[2, 3]));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(known(), ids(&[3]), "one that nobody names any more is withdrawn");
    take(ToEdge::PeersTold);
    directory.begin(own);
    sleep(Duration::from_secs(GRACE_SECS + 1)).await;
    assert_eq!(known(), ids(&[3]), "a feed that is over withdraws nothing");
}
