//! Raw connections between two edges: they carry a visitor's own TLS without a second encryption, and refuse all other peers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ebbgate_edge::agents::older;
use ebbgate_edge::state::edge::Stage;
use ebbgate_edge::state::metrics::JoinedLabel;
use ebbgate_edge::tunnel::peer::{PeerHeader, RawOffer};
use ebbgate_model::feed::ToEdge;
use ebbgate_model::{Scheme, TunnelSessionId};
use ebbgate_tunnel::heartbeat;
use ebbgate_tunnel::rpc_io::{RpcIoError, call, read_request, write_object};
use ebbgate_tunnel::{driver, reset_code};
use ebbgate_wire::link::raw::between::{ANSWER_BYTES, Answering, Awaited, HolderSide, VisitorSide};
use ebbgate_wire::link::raw::{
    CLAIM_LENGTH_BYTES, Claim, GREETING_BYTES, Greeting, MAGIC, NONCE_BYTES, OpeningKey, PROOF_BYTES, RawKey,
    Sealing, claim_length,
};
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{Empty, StreamKind};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::lab::{Agent, Authority, Lab, SHARDS, TOKEN, account, exchange, exchange_tls, forward, ksuid};
use crate::peers::{Two, id, peer, proof, until, valve};
use crate::processes::{given, hand_over_peers};
use crate::raw::{DB, TARGET, allow, asking, carried, first, known, raws, serve};

/// Seconds a test waits for what is to come.
const SOON_SECS: u64 = 30;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(SOON_SECS), what).await.expect("in time")
}

/// Two edges, where account 1 lets TLS pass to an agent of the first from visitors of the second.
async fn start() -> (Two, Agent) {
    start_as(Two::start()).await
}

async fn start_as(mut two: Two) -> (Two, Agent) {
    allow(&mut two.agents, true);
    allow(&mut two.visitors, true);
    two.visitors.cloud(
        7,
        "tls://db.example.com",
        json!({ "on_tcp_connect": [{ "actions": [forward(TARGET)] }] }),
    );
    let agent = asking(&two.agents, TOKEN).await;
    agent.bind(TARGET).await;
    two.told().await;
    (two, agent)
}

/// A TLS hello that asks for the endpoint.
fn hello(config: &Arc<rustls::ClientConfig>) -> Vec<u8> {
    let mut client = ClientConnection::new(Arc::clone(config), ServerName::try_from(DB).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Opens a visitor's connection and sends a TLS hello. The test sends the rest, which no edge parses.
async fn visit(lab: &Lab) -> (TcpStream, usize) {
    let hello = hello(&lab.authority.client(None, false));
    let mut stream = TcpStream::connect(lab.tls).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    (stream, hello.len())
}

/// So many visitors in a row on raw connections that every shard of their edge has had some.
const IN_A_ROW: usize = 20;

/// Has visitors come until every shard of their edge has raw connections ready.
async fn wanted(two: &Two) {
    let visiting = async {
        let mut in_a_row = 0;
        while in_a_row < IN_A_ROW {
            let before = carried(&two.visitors, "raw");
            let (mut stream, _) = visit(&two.visitors).await;
            let _ = stream.read_u8().await;
            if carried(&two.visitors, "raw") > before {
                in_a_row += 1;
            } else {
                in_a_row = 0;
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    soon(visiting).await;
    let ready = || two.visitors.edge.metrics.peer_raw_idle.get();
    until(|| ready() > 0 && ready() == two.agents.edge.metrics.peer_raw_connections_open.get()).await;
}

fn joined(lab: &Lab, joined: &'static str) -> u64 {
    lab.edge.metrics.peer_raw_streams.get_or_create(&JoinedLabel { joined }).get()
}

fn unconfirmed(lab: &Lab) -> u64 {
    lab.edge.metrics.peer_raw_unconfirmed.get()
}

#[tokio::test]
async fn a_visitors_own_tls_crosses_two_edges_bare() {
    let (two, agent) = start().await;
    let known = known(&agent);
    let site = Authority::new("site");
    let _agent = agent.echo(b"");
    assert_eq!(two.visitors.edge.metrics.peer_raw_idle.get(), 0, "none before somebody wants one");
    wanted(&two).await;
    let large = vec![7; 3 << 20];
    let crossed = || carried(&two.visitors, "raw");
    let (crossed_before, copied) = (crossed(), joined(&two.agents, "copied"));
    for n in 1..=3 {
        let serving = serve(&site, raws(&two.agents, &known).await);
        let before = carried(&two.visitors, "mux");
        let visitor = two.visitors.visit_tls(DB, site.client(None, false)).await.unwrap();
        let from = visitor.get_ref().0.local_addr().unwrap().to_string();
        assert_eq!(exchange(visitor, &large).await.unwrap(), b"from the agent");
        let (claim, got) = serving.await.unwrap();
        assert!(got == large);
        assert_eq!((claim.header.client_addr, claim.header.passthrough_tls), (from, true));
        assert_eq!((crossed(), carried(&two.visitors, "mux")), (crossed_before + n, before));
        assert_eq!((joined(&two.agents, "spliced"), joined(&two.agents, "copied")), (n, copied));
    }
    assert_eq!(unconfirmed(&two.visitors), 0);
    // Each is used once, and replaced.
    until(|| two.agents.edge.peer_streams.used() == 0).await;
    wanted(&two).await;
}

#[tokio::test]
async fn each_direction_ends_alone_and_a_reset_is_no_end() {
    let (two, agent) = start().await;
    let known = known(&agent);
    let _agent = agent.echo(b"");
    wanted(&two).await;
    let open = async || {
        let links = raws(&two.agents, &known).await;
        let ((visitor, hello), (claim, mut agent)) =
            soon(async { tokio::join!(visit(&two.visitors), first(links)) }).await;
        assert_eq!(claim.first.len(), hello);
        agent.write_all(&[0]).await.unwrap();
        (visitor, agent)
    };
    let spliced = joined(&two.agents, "spliced");

    let (mut visitor, mut agent) = open().await;
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut said = Vec::new();
    soon(agent.read_to_end(&mut said)).await.unwrap();
    assert_eq!(said, b"question");
    agent.write_all(b"answer").await.unwrap();
    agent.shutdown().await.unwrap();
    let mut said = Vec::new();
    soon(visitor.read_to_end(&mut said)).await.unwrap();
    assert_eq!(said, b"answer");

    let (mut visitor, mut agent) = open().await;
    agent.write_all(b"greeting").await.unwrap();
    agent.shutdown().await.unwrap();
    let mut said = Vec::new();
    soon(visitor.read_to_end(&mut said)).await.unwrap();
    assert_eq!(said, b"greeting");
    visitor.write_all(b"still here").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut said = Vec::new();
    soon(agent.read_to_end(&mut said)).await.unwrap();
    assert_eq!(said, b"still here");

    let reset = |stream: &TcpStream| stream.set_zero_linger().unwrap();
    let (mut visitor, mut agent) = open().await;
    agent.write_all(b"half").await.unwrap();
    visitor.read_exact(&mut [0; 4]).await.unwrap();
    reset(&agent);
    drop(agent);
    let error = soon(visitor.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let (mut visitor, mut agent) = open().await;
    visitor.write_all(b"half").await.unwrap();
    agent.read_exact(&mut [0; 4]).await.unwrap();
    reset(&visitor);
    drop(visitor);
    let error = soon(agent.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(joined(&two.agents, "spliced"), spliced + 4);
    until(|| two.agents.edge.peer_streams.used() == 0).await;
}

#[tokio::test]
async fn what_has_no_raw_link_is_copied_and_a_refusal_is_told() {
    let (two, mut agent) = start().await;
    let site = Authority::new("site");
    let acceptor = site.server(&[DB]);
    let (send, mut served) = tokio::sync::mpsc::channel(1);
    let refuse = Arc::new(AtomicUsize::new(0));
    let refusing = Arc::clone(&refuse);
    tokio::spawn(async move {
        loop {
            let (header, mut stream) = agent.accept().await;
            let (acceptor, send) = (acceptor.clone(), send.clone());
            if refusing.load(Ordering::Relaxed) > 0 {
                stream.reset(Code::REFUSED);
                continue;
            }
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(stream).await else { return };
                if let Ok(said) = exchange_tls(tls, b"from the agent").await {
                    let _ = send.send((header, said)).await;
                }
            });
        }
    });
    wanted(&two).await;
    let question = vec![9; 1 << 20];
    let visitor = two.visitors.visit_tls(DB, site.client(None, false)).await.unwrap();
    assert_eq!(soon(exchange(visitor, &question)).await.unwrap(), b"from the agent");
    let (header, said) = served.recv().await.unwrap();
    assert!(header.passthrough_tls && said == question);
    assert!(carried(&two.visitors, "raw") >= 1 && joined(&two.agents, "copied") >= 1);
    assert_eq!((joined(&two.agents, "spliced"), unconfirmed(&two.visitors)), (0, 0));
    // The upstream is down: the visitor's edge hears that, and sets the endpoint aside.
    refuse.store(1, Ordering::Relaxed);
    let refused = two.visitors.visit_tls(DB, site.client(None, false)).await;
    assert!(refused.is_err());
    let pool = two.visitors.edge.routes.internal(account(1), &TARGET.parse().unwrap()).unwrap();
    let ebbgate_edge::state::endpoint::Kind::Agent(agent) = &pool.members()[0].kind else {
        panic!("no agent")
    };
    assert!(agent.health.is_aside() && agent.elsewhere.is_some());
    assert_eq!(unconfirmed(&two.visitors), 0);
}

#[tokio::test]
async fn an_account_that_does_not_allow_it_stays_on_the_mux() {
    let (mut two, agent) = start().await;
    allow(&mut two.visitors, false);
    let site = Authority::new("site");
    serve_tls(agent, &site);
    for _ in 0..4 {
        let visitor = two.visitors.visit_tls(DB, site.client(None, false)).await.unwrap();
        assert_eq!(soon(exchange(visitor, b"x")).await.unwrap(), b"x");
    }
    assert_eq!((carried(&two.visitors, "raw"), two.visitors.edge.metrics.peer_raw_idle.get()), (0, 0));
    // As soon as it is allowed.
    allow(&mut two.visitors, true);
    wanted(&two).await;
    allow(&mut two.visitors, false);
    let before = carried(&two.visitors, "raw");
    let visitor = two.visitors.visit_tls(DB, site.client(None, false)).await.unwrap();
    assert_eq!(soon(exchange(visitor, b"x")).await.unwrap(), b"x");
    assert_eq!(carried(&two.visitors, "raw"), before);
}

#[tokio::test]
async fn both_edges_have_to_be_told_to() {
    for (at_agents, at_visitors) in [(false, true), (true, false)] {
        let (two, agent) = start_as(Two::with_raw(at_agents, at_visitors)).await;
        let site = Authority::new("site");
        serve_tls(agent, &site);
        for _ in 0..IN_A_ROW {
            let visitor = two.visitors.visit_tls(DB, site.client(None, false)).await.unwrap();
            assert_eq!(soon(exchange(visitor, b"x")).await.unwrap(), b"x");
        }
        assert_eq!((carried(&two.visitors, "raw"), two.visitors.edge.metrics.peer_raw_idle.get()), (0, 0));
        if at_agents {
            continue;
        }
        let mux = connected(&two).await;
        let stream = mux.open(StreamKind::RawKey).await.unwrap();
        let refused = soon(call(stream, &Empty {})).await.unwrap_err();
        let RpcIoError::Io(refused) = refused else { panic!("{refused}") };
        assert_eq!(reset_code(&refused), Some(Code::REFUSED));
        let mut greeting = TcpStream::connect(two.at).await.unwrap();
        let nobody = Greeting { session: ksuid(99), nonce: [3; NONCE_BYTES] };
        greeting.write_all(&nobody.encode()).await.unwrap();
        closes(greeting).await;
    }
}

/// Has an agent end TLS and echo, on its session.
fn serve_tls(mut agent: Agent, site: &Authority) {
    let acceptor = site.server(&[DB]);
    tokio::spawn(async move {
        loop {
            let (_, stream) = agent.accept().await;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let (mut from, mut to) = tokio::io::split(tls);
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
                // A stream that is dropped before its transport's end is reset.
                let _ = from.unsplit(to).get_mut().0.read_to_end(&mut Vec::new()).await;
            });
        }
    });
}

#[tokio::test]
async fn a_stream_ends_with_the_edge_that_it_came_from() {
    let (two, agent) = start().await;
    let known = known(&agent);
    let _agent = agent.echo(b"");
    wanted(&two).await;
    let links = raws(&two.agents, &known).await;
    let ((mut visitor, _), (_, mut agent)) =
        soon(async { tokio::join!(visit(&two.visitors), first(links)) }).await;
    agent.write_all(&[0, 1]).await.unwrap();
    assert_eq!(soon(visitor.read_u8()).await.unwrap(), 1);
    two.agents.agents.peers.take(&two.agents.edge, ToEdge::PeerGone { edge: id(2) });
    let told = [soon(agent.read_u8()).await, soon(visitor.read_u8()).await];
    let told = told.map(|read| read.unwrap_err().kind());
    assert_eq!(told, [io::ErrorKind::ConnectionReset; 2], "the agent hears of it, and so does the visitor");
    until(|| two.agents.edge.metrics.peer_raw_connections_open.get() == 0).await;
    until(|| two.visitors.edge.metrics.peer_raw_idle.get() == 0).await;
    assert_eq!(two.agents.edge.peer_streams.used(), 0);
}

#[tokio::test]
async fn a_process_that_hands_over_keeps_what_it_carries_and_new_connections_go_to_the_one_that_serves() {
    let (two, agent) = start().await;
    let known = known(&agent);
    let _agent = agent.echo(b"");
    wanted(&two).await;
    let links = raws(&two.agents, &known).await;
    let ((mut visitor, _), (_, mut agent)) =
        soon(async { tokio::join!(visit(&two.visitors), first(links)) }).await;
    agent.write_all(&[0]).await.unwrap();
    let mut word = async || {
        visitor.write_all(b"word").await.unwrap();
        agent.read_exact(&mut [0; 4]).await.unwrap();
        agent.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        soon(visitor.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"back");
    };
    word().await;

    let older = &two.agents;
    let mut newer = Lab::start();
    newer.edge.peers.allow_raw();
    allow(&mut newer, true);
    newer.edge.peers.prove_by(proof(&two.fleet, 1));
    newer.agents.peers.begin(id(1));
    newer.agents.peers.take(&newer.edge, peer(2, None));
    older::meet(&newer.agents, given(older)).await;
    older.edge.gate.close().await;
    hand_over_peers(older, &newer);
    older.edge.enter(Stage::HandedOver);
    older.edge.older.leave();
    until(|| older.edge.peers.staying().get() == 0).await;
    until(|| older.edge.metrics.peer_raw_connections_open.get() == 1).await;
    word().await;
    // Visitors of now: their agent is at the older process still.
    let ready = || newer.edge.metrics.peer_raw_connections_open.get() >= i64::try_from(4 * SHARDS).unwrap();
    let visiting = async {
        while !ready() {
            drop(visit(&two.visitors).await);
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon(visiting).await;
    word().await;
    drop((visitor, agent));
    until(|| older.edge.metrics.peer_connections_open.get() == 0).await;
    until(|| older.edge.metrics.peer_raw_connections_open.get() == 0).await;
}

/// How an edge of a test answers on raw connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// It is of a release that knows no keys.
    Old,
    /// It closes at the claim.
    Closes,
    /// It answers with what is no answer of its own.
    Lies,
    /// It never answers.
    Mute,
}

/// An edge that echoes what comes over the mux, by this certificate. Gives how often a key was asked for.
fn holder(two: &Two, listener: TcpListener, kind: Holder) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let (acceptor, counted) = (TlsAcceptor::from(proof(&two.fleet, 1).server), Arc::clone(&asked));
    let offer = RawOffer { session: TunnelSessionId::new(ksuid(8)), key: RawKey::new([5; 32]).to_secret() };
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, offer, counted) = (acceptor.clone(), offer.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut first = [0];
                tcp.peek(&mut first).await?;
                if first == MAGIC[..1] {
                    return raw_at(tcp, &offer, kind).await;
                }
                let (_mux, mut incoming, driving) =
                    driver::connect(acceptor.accept(tcp).await?, Role::Server, Limits::AGENT);
                tokio::spawn(driving);
                while let Some(mut stream) = incoming.accept().await {
                    let (offer, counted) = (offer.clone(), Arc::clone(&counted));
                    tokio::spawn(async move {
                        match stream.kind().await.unwrap() {
                            StreamKind::Heartbeat => drop(heartbeat::echo(stream, || {}).await),
                            StreamKind::RawKey => {
                                counted.fetch_add(1, Ordering::Relaxed);
                                if kind == Holder::Old {
                                    return stream.reset(Code::REFUSED);
                                }
                                read_request(&mut stream, StreamKind::RawKey).await.unwrap();
                                write_object(&mut stream, &offer).await.unwrap();
                            }
                            StreamKind::Proxy => {
                                let mut length = [0; 4];
                                stream.read_exact(&mut length).await.unwrap();
                                let mut header = vec![0; PeerHeader::length(length).unwrap()];
                                stream.read_exact(&mut header).await.unwrap();
                                let (mut from, mut to) = tokio::io::split(stream);
                                let _ = tokio::io::copy(&mut from, &mut to).await;
                                let _ = to.shutdown().await;
                            }
                            other => panic!("{other}"),
                        }
                    });
                }
                Ok::<(), io::Error>(())
            });
        }
    });
    asked
}

/// The other end of a raw connection, up to its claim.
async fn raw_at(mut tcp: TcpStream, offer: &RawOffer, kind: Holder) -> io::Result<()> {
    let mut greeting = [0; GREETING_BYTES];
    tcp.read_exact(&mut greeting).await?;
    let (greeting, nonce) = (Greeting::decode(&greeting).unwrap(), [4; NONCE_BYTES]);
    tcp.write_all(&nonce).await?;
    let mut proof = [0; PROOF_BYTES];
    tcp.read_exact(&mut proof).await?;
    let key = RawKey::from_secret(&offer.key).unwrap();
    let (opening, _): (OpeningKey<PeerHeader>, Answering) =
        HolderSide::new(&key, &greeting, &nonce).check(proof).unwrap();
    let mut length = [0; CLAIM_LENGTH_BYTES];
    tcp.read_exact(&mut length).await?;
    let mut sealed = vec![0; claim_length(length).unwrap()];
    tcp.read_exact(&mut sealed).await?;
    assert!(opening.open(sealed).unwrap().header.passthrough);
    match kind {
        Holder::Lies => tcp.write_all(&[0; ANSWER_BYTES]).await?,
        Holder::Mute => drop(tcp.read_u8().await),
        Holder::Closes | Holder::Old => {}
    }
    Ok(())
}

#[tokio::test]
async fn no_visitor_is_lost_with_a_raw_connection() {
    for kind in [Holder::Old, Holder::Closes, Holder::Lies, Holder::Mute] {
        let (two, _agent) = start().await;
        let (session, report) = two.sessions().into_iter().next().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let asked = holder(&two, listener, kind);
        two.tell(ToEdge::PeerGone { edge: id(1) });
        two.tell(peer(1, Some(at)));
        two.tell(ToEdge::PeerSession { edge: id(1), session, report: Arc::new(report) });
        until(|| two.visitors.edge.peers.ways()[&id(1)].session.carriers() == SHARDS).await;
        let served = async || {
            let (mut visitor, hello) = visit(&two.visitors).await;
            let mut back = vec![0; hello];
            soon(visitor.read_exact(&mut back)).await.unwrap();
            visitor.write_all(b"word").await.unwrap();
            visitor.shutdown().await.unwrap();
            let mut word = Vec::new();
            soon(visitor.read_to_end(&mut word)).await.unwrap();
            assert_eq!(word, b"word");
        };
        let visiting = async {
            loop {
                served().await;
                let is_enough = match kind {
                    Holder::Old => asked.load(Ordering::Relaxed) == SHARDS,
                    _ => unconfirmed(&two.visitors) > 0,
                };
                if is_enough {
                    return;
                }
            }
        };
        soon(visiting).await;
        served().await;
        assert_eq!(carried(&two.visitors, "raw"), 0);
    }
}

#[tokio::test]
async fn a_way_from_which_nothing_is_heard_gives_no_raw_connection() {
    let (two, agent) = start().await;
    let (at, closed) = valve(two.at).await;
    two.tell(ToEdge::PeerGone { edge: id(1) });
    two.tell(peer(1, Some(at)));
    two.told().await;
    let site = Authority::new("site");
    serve_tls(agent, &site);
    wanted(&two).await;
    let mut third = Lab::start();
    third.edge.peers.allow_raw();
    allow(&mut third, true);
    let at = two.join(&third, 3);
    let other = third.agent(TOKEN).await;
    other.bind(TARGET).await;
    serve_tls(other, &site);
    two.tell(peer(3, Some(at)));
    two.told_of(&third, 3).await;

    let streams = || joined(&two.agents, "spliced") + joined(&two.agents, "copied");
    let before = streams();
    closed.send_replace(true);
    let visits = async || {
        for _ in 0..6 {
            let visitor = soon(two.visitors.visit_tls(DB, site.client(None, false))).await.unwrap();
            assert_eq!(soon(exchange(visitor, b"x")).await.unwrap(), b"x");
        }
    };
    visits().await;
    assert!(two.visitors.edge.peers.ways()[&id(1)].session.is_silent());
    // Nobody claims one there any more; a visitor of the third edge is confirmed.
    let lost = unconfirmed(&two.visitors);
    visits().await;
    assert_eq!((unconfirmed(&two.visitors), streams()), (lost, before));
}

/// A connection of edge 2 to the first edge.
async fn connected(two: &Two) -> driver::Session {
    let tcp = TcpStream::connect(two.at).await.unwrap();
    let name = ServerName::try_from("edge.test").unwrap();
    let tls = TlsConnector::from(proof(&two.fleet, 2).client).connect(name, tcp).await.unwrap();
    let (session, _incoming, driving) = driver::connect(tls, Role::Client, Limits::AGENT);
    tokio::spawn(driving);
    session
}

/// Such a connection, and the key it was given.
async fn offered(two: &Two) -> (driver::Session, RawOffer) {
    let session = connected(two).await;
    let stream = session.open(StreamKind::RawKey).await.unwrap();
    let offer = serde_json::from_value(soon(call(stream, &Empty {})).await.unwrap()).unwrap();
    (session, offer)
}

/// A raw connection that has greeted.
async fn greet(at: SocketAddr, session: TunnelSessionId) -> (TcpStream, Greeting, [u8; NONCE_BYTES]) {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let greeting = Greeting { session: session.ksuid(), nonce: [3; NONCE_BYTES] };
    socket.write_all(&greeting.encode()).await.unwrap();
    let mut nonce = [0; NONCE_BYTES];
    soon(socket.read_exact(&mut nonce)).await.unwrap();
    (socket, greeting, nonce)
}

async fn proven(at: SocketAddr, offer: &RawOffer) -> (TcpStream, Sealing<PeerHeader>, Awaited) {
    let (mut socket, greeting, nonce) = greet(at, offer.session).await;
    let key = RawKey::from_secret(&offer.key).unwrap();
    let (proof, sealing, awaited) = VisitorSide::new(&key, &greeting, &nonce).prove();
    socket.write_all(&proof).await.unwrap();
    (socket, sealing, awaited)
}

async fn closes(mut socket: TcpStream) {
    assert!(soon(socket.read_u8()).await.is_err());
}

#[tokio::test]
async fn who_was_given_no_key_gets_nothing() {
    let (two, agent) = start().await;
    let agents = known(&agent);
    let (mux, offer) = offered(&two).await;
    let (_other, foreign) = offered(&two).await;
    assert_ne!((&offer.key, offer.session), (&foreign.key, foreign.session));
    let forged = |session, key: &RawOffer| RawOffer { session, key: key.key.clone() };
    // Another connection's key, a connection that is none, an agent's session with its own key.
    for bad in [forged(offer.session, &foreign), forged(TunnelSessionId::new(ksuid(99)), &offer)] {
        closes(proven(two.at, &bad).await.0).await;
    }
    let of_agent = RawOffer { session: agents.session, key: agents.key.to_secret() };
    closes(proven(two.at, &of_agent).await.0).await;
    // A proof that was good on another connection, and one that was altered.
    let key = RawKey::from_secret(&offer.key).unwrap();
    let prove = |greeting: &Greeting, nonce: &[u8; NONCE_BYTES]| {
        VisitorSide::new(&key, greeting, nonce).prove::<PeerHeader>().0
    };
    let (seen, greeting, nonce) = greet(two.at, offer.session).await;
    let replayed = prove(&greeting, &nonce);
    let (mut replay, ..) = greet(two.at, offer.session).await;
    replay.write_all(&replayed).await.unwrap();
    closes(replay).await;
    let (mut altered, greeting, nonce) = greet(two.at, offer.session).await;
    let mut proof = prove(&greeting, &nonce);
    proof[3] ^= 1;
    altered.write_all(&proof).await.unwrap();
    closes(altered).await;
    // More than a greeting at once, none that is one, and too little of one for too long.
    let whole = Greeting { session: offer.session.ksuid(), nonce: [3; NONCE_BYTES] }.encode();
    let mut hasty = TcpStream::connect(two.at).await.unwrap();
    hasty.write_all(&[&whole[..], &[0; PROOF_BYTES]].concat()).await.unwrap();
    closes(hasty).await;
    let mut unnamed = TcpStream::connect(two.at).await.unwrap();
    unnamed.write_all(&[&MAGIC[..], &[b'!'; GREETING_BYTES - MAGIC.len()]].concat()).await.unwrap();
    closes(unnamed).await;
    let mut slow = TcpStream::connect(two.at).await.unwrap();
    slow.write_all(&whole[..20]).await.unwrap();
    closes(slow).await;
    closes(seen).await;
    let metrics = &two.agents.edge.metrics;
    until(|| metrics.peer_raw_refused.get() == 9).await;
    assert_eq!(metrics.peer_raw_connections_open.get(), 0);
    // An edge with the key is let in, until the connection that it was given over ends.
    let (mut good, ..) = proven(two.at, &offer).await;
    until(|| metrics.peer_raw_connections_open.get() == 1).await;
    drop(mux);
    assert!(soon(good.read_u8()).await.is_err());
    until(|| metrics.peer_raw_connections_open.get() == 0).await;
    closes(proven(two.at, &offer).await.0).await;
}

#[tokio::test]
async fn a_claim_is_judged_as_a_stream_of_the_mux_is() {
    let (two, agent) = start().await;
    let (session, report) = two.sessions().into_iter().next().unwrap();
    let endpoint = *report.endpoints.keys().next().unwrap();
    let _agent = agent.echo(b"from the agent");
    let header = PeerHeader {
        account: account(1),
        session,
        endpoint,
        client: "192.0.2.7:5".parse().unwrap(),
        server: "192.0.2.1:443".parse().unwrap(),
        proto: Scheme::Tls,
        passthrough: true,
        hops: 1,
    };
    let (_mux, offer) = offered(&two).await;
    let claimed = async |header: &PeerHeader| {
        let (mut socket, sealing, awaited) = proven(two.at, &offer).await;
        let claim = Claim { header: header.clone(), first: b"hello".as_slice().into() };
        socket.write_all(&sealing.seal(&claim).unwrap()).await.unwrap();
        let mut answer = [0; ANSWER_BYTES];
        soon(socket.read_exact(&mut answer)).await.unwrap();
        (socket, awaited.open(answer).unwrap())
    };
    let (mut socket, answer) = claimed(&header).await;
    assert_eq!(answer, Ok(()));
    let mut said = [0; 19];
    soon(socket.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"from the agenthello");
    for (bad, code) in [
        (PeerHeader { hops: 2, ..header.clone() }, Code::CANCELLED),
        (PeerHeader { account: account(2), ..header.clone() }, Code::REFUSED),
        (PeerHeader { proto: Scheme::Https, ..header.clone() }, Code::REFUSED),
        (PeerHeader { session: TunnelSessionId::new(ksuid(99)), ..header.clone() }, Code::REFUSED),
    ] {
        let (socket, answer) = claimed(&bad).await;
        assert_eq!(answer, Err(code), "{bad:?}");
        closes(socket).await;
    }
    // An altered claim, and half a one.
    let refused = two.agents.edge.metrics.peer_raw_refused.get();
    let sealed = |sealing: Sealing<PeerHeader>| {
        sealing.seal(&Claim { header: header.clone(), first: b"hello".as_slice().into() }).unwrap()
    };
    let (mut altered, sealing, _) = proven(two.at, &offer).await;
    let mut bytes = sealed(sealing);
    bytes[9] ^= 1;
    altered.write_all(&bytes).await.unwrap();
    closes(altered).await;
    let (mut half, sealing, _) = proven(two.at, &offer).await;
    half.write_all(&sealed(sealing)[..40]).await.unwrap();
    closes(half).await;
    assert_eq!(two.agents.edge.metrics.peer_raw_refused.get(), refused + 2);
    drop(socket);
    until(|| two.agents.edge.peer_streams.used() == 0).await;
}
