//! Two edges: visitors at one, agents at the other, and peers that are no edge of the installation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ebbgate_edge::agents::ENDPOINTS_MAX;
use ebbgate_edge::net::listen;
use ebbgate_edge::net::tls::PeerTls;
use ebbgate_edge::state::mailbox::Entrance;
use ebbgate_edge::tunnel::peer::{ALPN_PEER, PeerHeader};
use ebbgate_model::feed::{EdgeReach, FromEdge, PeerEdge, SessionReport, ToEdge};
use ebbgate_model::{EdgeId, Scheme, TunnelSessionId};
use ebbgate_tunnel::driver::{self, Stream};
use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{StreamKind, error_code};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::lab::{
    Agent, Authority, CLINIC_TOKEN, Lab, OTHER_TOKEN, Previous, SHARDS, TOKEN, account, credential_id,
    exchange, ksuid,
};

const TARGET: &str = "tcp://db.clinic1.internal:433";
/// Seconds a test waits for a state.
const WAIT_SECS_MAX: u64 = 30;

pub(crate) fn id(n: u8) -> EdgeId {
    EdgeId::new(ksuid(n))
}

pub(crate) fn proof(authority: &Authority, n: u8) -> PeerTls {
    let (certificate, key) = authority.edge(id(n));
    PeerTls::new(&certificate, &key, &authority.pem(), ALPN_PEER).unwrap()
}

pub(crate) fn peer(n: u8, at: Option<SocketAddr>) -> ToEdge {
    let peers = at.map(|at| at.to_string()).unwrap_or_default();
    ToEdge::Peer(PeerEdge {
        edge: id(n),
        reach: EdgeReach { peers, ..EdgeReach::default() },
        draining: false,
    })
}

/// Edge 1 has agents, edge 2 visitors; both know the other, as if control had told.
pub(crate) struct Two {
    pub(crate) fleet: Authority,
    pub(crate) agents: Lab,
    pub(crate) visitors: Lab,
    pub(crate) at: SocketAddr,
}

impl Two {
    pub(crate) fn start() -> Self {
        Self::with_raw(true, true)
    }

    /// Whether each has raw connections between edges.
    pub(crate) fn with_raw(at_agents: bool, at_visitors: bool) -> Self {
        let (fleet, agents, mut visitors) = (Authority::new("edges"), Lab::start(), Lab::start());
        for (lab, _) in [(&agents, at_agents), (&visitors, at_visitors)].iter().filter(|(_, on)| *on) {
            lab.edge.peers.allow_raw();
        }
        visitors.tcp_to(TARGET);
        visitors.edge.peers.prove_by(proof(&fleet, 2));
        visitors.agents.peers.begin(id(2));
        let mut two = Self { fleet, agents, visitors, at: ([127, 0, 0, 1], 0).into() };
        two.at = two.join(&two.agents, 1);
        two.tell(peer(1, Some(two.at)));
        two
    }

    /// Tells the visitors' edge.
    pub(crate) fn tell(&self, message: ToEdge) {
        self.visitors.agents.told_of_peer(message);
    }

    /// Another edge with agents, which knows that of the visitors; where it is reached.
    pub(crate) fn join(&self, lab: &Lab, n: u8) -> SocketAddr {
        lab.edge.peers.prove_by(proof(&self.fleet, n));
        let (at, listeners) = listen::bind("peers", "127.0.0.1:0".parse().unwrap(), SHARDS).unwrap();
        lab.edge.mailboxes.listen(&Entrance::Peers, listeners);
        lab.agents.peers.begin(id(n));
        lab.agents.told_of_peer(peer(2, None));
        at
    }

    /// The sessions of edge 1, as it reports them.
    pub(crate) fn sessions(&self) -> BTreeMap<TunnelSessionId, SessionReport> {
        sessions(&self.agents)
    }

    /// Tells the visitors' edge of the sessions of the first, and waits for a way there.
    pub(crate) async fn told(&self) {
        self.told_of(&self.agents, 1).await;
    }

    /// The same of any edge.
    pub(crate) async fn told_of(&self, lab: &Lab, n: u8) {
        for (session, report) in sessions(lab) {
            self.tell(ToEdge::PeerSession { edge: id(n), session, report: Arc::new(report) });
        }
        until(|| self.visitors.edge.peers.ways()[&id(n)].session.carriers() == SHARDS).await;
    }

    pub(crate) async fn visit(&self, question: &[u8]) -> Vec<u8> {
        exchange(self.visitors.visit().await, question).await.unwrap_or_default()
    }
}

/// The sessions of an edge, as it reports them.
fn sessions(lab: &Lab) -> BTreeMap<TunnelSessionId, SessionReport> {
    let FromEdge::Sessions { sessions } = lab.edge.reports.snapshot() else { panic!("no sessions") };
    sessions
}

/// Waits for a state.
pub(crate) async fn until(is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(WAIT_SECS_MAX), waiting).await.expect("the state is reached");
}

#[tokio::test]
async fn a_visitor_reaches_an_agent_of_another_edge_until_it_is_withdrawn() {
    let two = Two::start();
    let agent = two.agents.agent(TOKEN).await;
    agent.bind(TARGET).await;
    two.told().await;
    let agent = agent.echo(b"hello ");
    let question = vec![7; 1 << 20];
    let answer = two.visit(&question).await;
    assert!(answer.starts_with(b"hello ") && answer[6..] == question, "{} bytes", answer.len());
    // Many at once, over all ways.
    let talks = (0..50_u8).map(|n| {
        let port = two.visitors.port;
        tokio::spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            exchange(stream, &vec![n; 70_000]).await.unwrap()
        })
    });
    for (n, talk) in talks.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = talk.await.unwrap();
        assert!(answer.len() == 70_006 && answer[6..].iter().all(|byte| usize::from(*byte) == n));
    }
    // The agent's end is a visitor's end at once; the stream's too.
    let mut open = two.visitors.visit().await;
    open.write_all(b"x").await.unwrap();
    let mut first = [0; 6];
    open.read_exact(&mut first).await.unwrap();
    agent.kill();
    let ended = timeout(Duration::from_secs(WAIT_SECS_MAX), open.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the visitor hears of it");
    assert_eq!(two.visitors.edge.metrics.peer_endpoints.get(), 1);
    two.tell(ToEdge::PeerGone { edge: id(1) });
    assert!(two.visitors.edge.peers.ways().is_empty());
    assert_eq!(two.visitors.edge.metrics.peer_endpoints.get(), 0);
    until(|| two.agents.edge.metrics.peer_connections_open.get() == 0).await;
    assert!(two.visit(b"x").await.is_empty());
}

#[tokio::test]
async fn a_stream_goes_on_when_another_process_takes_the_place_of_an_edge_until_the_edge_is_withdrawn() {
    let two = Two::start();
    let agent = two.agents.agent(TOKEN).await;
    agent.bind(TARGET).await;
    two.told().await;
    let _agent = agent.echo(b"hello ");
    let mut open = two.visitors.visit().await;
    let mut said = [0; 7];
    open.write_all(b"1").await.unwrap();
    open.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello 1");

    // At the visitors' edge the other one is another process, and the other way round.
    let replaced = |n, at: Option<SocketAddr>| {
        let peers = at.map(|at| at.to_string()).unwrap_or_default();
        let reach = EdgeReach { peers, agents: "elsewhere.example:443".into(), ..EdgeReach::default() };
        ToEdge::Peer(PeerEdge { edge: id(n), reach, draining: false })
    };
    let before = Arc::clone(&two.visitors.edge.peers.ways()[&id(1)]);
    two.tell(replaced(1, Some(two.at)));
    two.agents.agents.peers.take(&two.agents.edge, replaced(2, None));
    two.told().await;
    assert!(!before.session.is_alive(), "no visitor is sent over the way before");
    for word in 0..10_u8 {
        open.write_all(&[word]).await.unwrap();
        let mut back = [0];
        open.read_exact(&mut back).await.unwrap();
        assert_eq!(back, [word]);
    }
    assert_eq!(two.visit(b"2").await, b"hello 2");
    open.shutdown().await.unwrap();
    assert_eq!(open.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    // With its last stream the way before is given up; those of now stay.
    until(|| two.agents.edge.metrics.peer_connections_open.get() == i64::try_from(SHARDS).unwrap()).await;

    let mut open = two.visitors.visit().await;
    open.write_all(b"3").await.unwrap();
    open.read_exact(&mut said).await.unwrap();
    two.tell(replaced(1, None));
    two.tell(ToEdge::PeerGone { edge: id(1) });
    let ended = timeout(Duration::from_secs(WAIT_SECS_MAX), open.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "an edge that is withdrawn carries nothing");
}

#[tokio::test]
async fn members_here_come_first_and_what_fails_there_is_tried_here() {
    let two = Two::start();
    let (far, near) = (two.agents.agent(TOKEN).await, two.visitors.agent(TOKEN).await);
    far.bind(TARGET).await;
    near.bind(TARGET).await;
    two.told().await;
    let (far, near) = (far.echo(b"far"), near.echo(b"near"));
    for _ in 0..10 {
        assert_eq!(two.visit(b"").await, b"near");
    }
    near.kill();
    until(|| two.visitors.agents.sessions.all().is_empty()).await;
    for _ in 0..10 {
        assert_eq!(two.visit(b"").await, b"far");
    }
    // The other edge is gone from one moment to the next: what is here serves without it.
    let near = two.visitors.agent(TOKEN).await;
    near.bind(TARGET).await;
    let _near = near.echo(b"near");
    drop(two.agents);
    drop(far);
    assert_eq!(exchange(two.visitors.visit().await, b"").await.unwrap(), b"near");
}

/// A way through which nothing goes once it is closed, and of which neither end is told.
pub(crate) async fn valve(to: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<bool>) {
    let (closed, is_closed) = tokio::sync::watch::channel(false);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let mut is_closed = is_closed.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = (from, TcpStream::connect(to).await.unwrap());
                let closing = async { is_closed.wait_for(|closed| *closed).await.is_ok() };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut from, &mut to) => return,
                    _ = closing => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    (at, closed)
}

#[tokio::test]
async fn visitors_leave_an_edge_from_which_nothing_is_heard() {
    let two = Two::start();
    let (at, closed) = valve(two.at).await;
    two.tell(ToEdge::PeerGone { edge: id(1) });
    two.tell(peer(1, Some(at)));
    let one = two.agents.agent(TOKEN).await;
    one.bind(TARGET).await;
    two.told().await;
    let _one = one.echo(b"one");
    assert_eq!(two.visit(b"").await, b"one");

    let third = Lab::start();
    let at = two.join(&third, 3);
    let other = third.agent(TOKEN).await;
    other.bind(TARGET).await;
    two.tell(peer(3, Some(at)));
    two.told_of(&third, 3).await;
    let _other = other.echo(b"three");

    closed.send_replace(true);
    for _ in 0..6 {
        assert_eq!(two.visit(b"").await, b"three", "also the one who waited for the silent edge first");
    }
    assert!(two.visitors.edge.peers.ways()[&id(1)].session.is_silent());
}

#[tokio::test]
async fn an_upstream_that_is_refused_elsewhere_is_set_aside_here() {
    let two = Two::start();
    let agent = two.agents.agent(TOKEN).await;
    agent.bind(TARGET).await;
    two.told().await;
    let _agent = agent.refuse();
    assert!(two.visit(b"x").await.is_empty());
    let url = TARGET.parse().unwrap();
    let pool = two.visitors.edge.routes.internal(account(1), &url).unwrap();
    let ebbgate_edge::state::endpoint::Kind::Agent(agent) = &pool.members()[0].kind else {
        panic!("no agent")
    };
    assert!(agent.health.is_aside() && agent.elsewhere.is_some());
}

#[tokio::test]
async fn a_url_of_another_process_is_taken_and_that_of_the_same_is_not() {
    let two = Two::start();
    let there = two.agents.agent(TOKEN).await;
    let alone = json!({ "PoolingEnabled": false });
    assert_eq!(there.try_bind(TARGET, json!({}), alone.clone()).await.error, "");
    two.told().await;
    let other = two.visitors.agent(TOKEN).await;
    let refused = other.try_bind(TARGET, json!({}), alone.clone()).await.error;
    assert_eq!(error_code(&refused), Some(334), "{refused}");
    // Its cookie proves nothing at an edge that did not seal it; the same credential does, and another does not.
    let unproven = Previous { client_id: there.reply.client_id.clone(), ..Previous::default() };
    let other = Agent::connect(&two.visitors, CLINIC_TOKEN, "localhost", &unproven).await;
    let other = other.unwrap_or_else(|reply| panic!("{reply:?}"));
    let refused = other.try_bind(TARGET, json!({}), alone.clone()).await.error;
    assert_eq!(error_code(&refused), Some(334), "{refused}");
    let same = Agent::connect(&two.visitors, TOKEN, "localhost", &unproven).await;
    let same = same.unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(same.try_bind(TARGET, json!({}), alone).await.error, "");
}

#[tokio::test]
async fn an_agent_that_binds_under_ever_new_names_elsewhere_is_known_by_the_latest() {
    let two = Two::start();
    let agent = two.agents.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let (session, first) = two.sessions().into_iter().next().unwrap();
    let knows = |n: usize| two.visitors.agents.peers.knows(credential_id(TOKEN), &format!("p{n}"));
    let bound_as = |n: usize| {
        let mut report = first.clone();
        for endpoint in report.endpoints.values_mut() {
            endpoint.elsewhere.as_mut().unwrap().identity = format!("p{n}/1");
        }
        two.tell(ToEdge::PeerSession { edge: id(1), session, report: Arc::new(report) });
    };
    bound_as(0);
    bound_as(1);
    assert!(knows(0) && knows(1) && !knows(2), "it may come back under either");
    for n in 2..=ENDPOINTS_MAX {
        bound_as(n);
    }
    assert!(knows(ENDPOINTS_MAX) && !knows(0) && !knows(ENDPOINTS_MAX - 1), "as many are not kept");
    two.tell(ToEdge::PeerSessionEnded { edge: id(1), session });
    assert!(!knows(ENDPOINTS_MAX));
}

#[tokio::test]
async fn what_another_edge_offers_is_judged_as_its_agents_would_be() {
    let mut two = Two::start();
    let agent = two.agents.agent(TOKEN).await;
    agent.bind(TARGET).await;
    agent.bind("https://own.example.com").await;
    let honest = two.sessions().into_iter().next().unwrap();
    let offer = |two: &Two, change: &dyn Fn(&mut SessionReport)| {
        two.tell(ToEdge::PeerSessionEnded { edge: id(1), session: honest.0 });
        let mut report = honest.1.clone();
        change(&mut report);
        two.tell(ToEdge::PeerSession { edge: id(1), session: honest.0, report: Arc::new(report) });
        let host = "own.example.com".parse().unwrap();
        two.visitors.edge.routes.public(Scheme::Https, &host, 443).is_some()
    };
    assert!(offer(&two, &|_| ()));
    // Another account's reservation, a credential of another account, none at all, a policy that cannot be enforced.
    let other = |report: &mut SessionReport| {
        (report.account, report.credential) = (account(2), credential_id(OTHER_TOKEN));
    };
    assert!(!offer(&two, &other));
    assert!(!offer(&two, &|report| report.account = account(2)));
    assert!(!offer(&two, &|report| report.credential = ebbgate_model::CredentialId::new(ksuid(99))));
    let broken = |report: &mut SessionReport| {
        report.endpoints.values_mut().for_each(|endpoint| endpoint.traffic_policy = "{ what".into());
    };
    assert!(!offer(&two, &broken));
    assert!(!offer(&two, &|report| report.endpoints.values_mut().for_each(|e| e.elsewhere = None)));
    // A revocation is heeded here, whatever the other edge goes on saying.
    assert!(offer(&two, &|_| ()));
    two.visitors.change(|program| drop(program.credentials.remove(&credential_id(TOKEN))));
    assert!(two.visitors.edge.routes.internal(account(1), &TARGET.parse().unwrap()).is_none());
}

/// What comes of one stream to an edge with this certificate: the bytes that came back, or the code of its reset.
async fn ask(at: SocketAddr, proof: &PeerTls, header: &PeerHeader) -> Option<Result<Vec<u8>, Code>> {
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("edge.test").unwrap();
    let tls = TlsConnector::from(Arc::clone(&proof.client)).connect(name, tcp).await.ok()?;
    let (session, _incoming, driving) = driver::connect(tls, Role::Client, Limits::AGENT);
    tokio::spawn(driving);
    let mut stream: Stream = session.open(StreamKind::Proxy).await.ok()?;
    let _ = stream.write_all(&header.encode()).await;
    let _ = stream.write_all(b"word").await;
    let mut back = [0; 4];
    match timeout(Duration::from_secs(WAIT_SECS_MAX), stream.read_exact(&mut back)).await.expect("in time") {
        Ok(_) => Some(Ok(back.to_vec())),
        // A connection that ended has no code.
        Err(error) => reset_code(&error).map(Err),
    }
}

#[tokio::test]
async fn only_an_edge_that_control_names_is_served_and_only_after_one_hop() {
    let two = Two::start();
    let agent = two.agents.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let (session, report) = two.sessions().into_iter().next().unwrap();
    let endpoint = *report.endpoints.keys().next().unwrap();
    let _agent = agent.echo(b"");
    let header = PeerHeader {
        account: account(1),
        session,
        endpoint,
        client: "192.0.2.7:5".parse().unwrap(),
        server: "192.0.2.1:433".parse().unwrap(),
        proto: Scheme::Tcp,
        passthrough: false,
        hops: 1,
    };
    let known = proof(&two.fleet, 2);
    assert_eq!(ask(two.at, &known, &header).await, Some(Ok(b"word".to_vec())));
    let refused = async |header: &PeerHeader| ask(two.at, &known, header).await;
    assert_eq!(
        refused(&PeerHeader { hops: 2, ..header.clone() }).await,
        Some(Err(Code::CANCELLED)),
        "a loop"
    );
    assert_eq!(
        refused(&PeerHeader { account: account(2), ..header.clone() }).await,
        Some(Err(Code::REFUSED))
    );
    let nobody = TunnelSessionId::new(ksuid(99));
    assert_eq!(refused(&PeerHeader { session: nobody, ..header.clone() }).await, Some(Err(Code::REFUSED)));

    // A stranger of the same authority, the edge itself, one of another authority, and a visitor without a certificate.
    let foreign = Authority::new("edges");
    for other in [proof(&two.fleet, 9), proof(&two.fleet, 1), proof(&foreign, 2)] {
        assert_eq!(ask(two.at, &other, &header).await, None);
    }
    let mut nothing = known.clone();
    nothing.client = two.fleet.client(None, false);
    assert_eq!(ask(two.at, &nothing, &header).await, None);
    // One that is removed has nothing any more.
    two.agents.agents.peers.take(&two.agents.edge, ToEdge::PeerGone { edge: id(2) });
    assert_eq!(ask(two.at, &known, &header).await, None);
}

#[tokio::test]
async fn an_edge_with_the_certificate_of_another_is_given_no_visitor() {
    let two = Two::start();
    let agent = two.agents.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let (session, report) = two.sessions().into_iter().next().unwrap();
    // Control names edge 5 where edge 1 answers.
    two.tell(ToEdge::PeerGone { edge: id(1) });
    two.tell(peer(5, Some(two.at)));
    two.tell(ToEdge::PeerSession { edge: id(5), session, report: Arc::new(report) });
    let listener = ebbgate_edge::state::metrics::ListenerLabel { listener: "peers" };
    until(|| two.agents.edge.metrics.connections.get_or_create(&listener).get() >= 4).await;
    let way = Arc::clone(&two.visitors.edge.peers.ways()[&id(5)]);
    assert_eq!(way.session.carriers(), 0);
    assert!(two.visit(b"x").await.is_empty());
}
