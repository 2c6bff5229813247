//! Several processes of one edge after hand-overs, each as an edge of its own here: visitors come to the newest, agents are still
//! connected to older ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ebbgate_edge::agents::{newer, older};
use ebbgate_edge::drain;
use ebbgate_edge::net::channel::Channel;
use ebbgate_edge::net::listen;
use ebbgate_edge::state::edge::Stage;
use ebbgate_edge::state::mailbox::Entrance;
use ebbgate_edge::state::older::{OlderProcess, Purpose};
use ebbgate_edge::state::ports::HandedPort;
use ebbgate_edge::state::report::EVENTS_MAX;
use ebbgate_model::TunnelSessionId;
use ebbgate_model::feed::{CommandOutcome, FromEdge, SessionCommand, SessionReport, ToEdge};
use ebbgate_wire::rpc::error_code;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Duration, sleep, timeout};

use crate::lab::{Agent, Authority, Lab, Previous, SHARDS, TOKEN, account, credential_id, exchange};
use crate::peers::{id, peer, proof};

const TARGET: &str = "tcp://db.clinic1.internal:433";
/// Served with a certificate of the agent's own.
const OWN: &str = "own.example.com";
/// The name of an agent's process, which serves at several edges or processes at once.
const PROCESS: &str = "agent1";
/// Seconds a test waits for a state.
const WAIT_SECS_MAX: u64 = 30;

/// Waits for a state.
async fn until(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(WAIT_SECS_MAX), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A process with the reserved port of the edge.
fn process() -> Lab {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    lab
}

/// What a process gives the one that takes over from it.
pub(crate) fn given(older: &Lab) -> Vec<Channel> {
    let (channel, own) = Channel::pair().unwrap();
    newer::serve(&older.agents, own).unwrap();
    let still_older = older.edge.older.copies().unwrap().into_iter().map(Channel::from_fd);
    [channel].into_iter().chain(still_older).collect()
}

/// A process that has taken over from another, as the edge's own code does it.
async fn successor(older: &Lab) -> Lab {
    let newer = process();
    older::meet(&newer.agents, given(older)).await;
    older.edge.enter(Stage::HandedOver);
    older.edge.older.leave();
    older.agents.leave();
    newer
}

/// The sessions that a process tells control of.
fn told(lab: &Lab) -> BTreeMap<TunnelSessionId, SessionReport> {
    let FromEdge::Sessions { sessions } = lab.edge.reports.snapshot() else { panic!("no sessions") };
    sessions
}

fn serves(lab: &Lab) -> bool {
    lab.edge.routes.internal(account(1), &TARGET.parse().unwrap()).is_some()
}

async fn word(stream: &mut TcpStream) {
    stream.write_all(b"word").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"word");
}

#[tokio::test]
async fn an_agent_stays_with_its_process_over_two_hand_overs_and_visitors_of_the_newest_reach_it() {
    let first = process();
    let agent = first.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let _agent = agent.echo(b"");
    let session = first.agents.sessions.all()[0].state.id;
    let mut stream = first.visit().await;
    word(&mut stream).await;
    let mut newest = None;
    for _ in 0..2 {
        let next = successor(newest.as_ref().unwrap_or(&first)).await;
        // From its first moment on, and told to control as it was.
        assert!(told(&next).contains_key(&session));
        let question = vec![7; 1 << 20];
        assert_eq!(exchange(next.visit().await, &question).await.unwrap(), question);
        word(&mut stream).await;
        newest = Some(next);
    }
    let newest = newest.unwrap();
    assert_eq!(first.agents.staying.count(), 1);
    // Its end is told.
    first.agents.staying.end();
    until("the session is withdrawn", || told(&newest).is_empty() && !serves(&newest)).await;
}

/// Has the agent serve a TLS endpoint with a certificate and key of its own.
async fn bind_own(agent: &Agent, site: &Authority) {
    let (cert, key) = site.leaf(&[OWN]);
    let opts = json!({ "TLSTermination": { "cert": STANDARD.encode(cert), "key": STANDARD.encode(key) } });
    let reply = agent.try_bind(&format!("tls://{OWN}"), opts, json!({})).await;
    assert_eq!(reply.error, "");
}

#[tokio::test]
async fn a_session_with_a_key_of_its_own_stays_and_no_other_edge_hears_of_the_key() {
    let first = process();
    let agent = first.agent(TOKEN).await;
    let site = Authority::new("site");
    bind_own(&agent, &site).await;
    let _agent = agent.echo(b"");
    let session = first.agents.sessions.all()[0].state.id;
    let mut newest = None;
    for _ in 0..2 {
        let next = successor(newest.as_ref().unwrap_or(&first)).await;
        let visitor = next.visit_tls(OWN, site.client(None, false)).await.unwrap();
        assert_eq!(exchange(visitor, b"x").await.unwrap(), b"x");
        // What control hears, and through it other edges, is what it heard before.
        let told = told(&next);
        let endpoint = told[&session].endpoints.values().next().unwrap();
        assert!(endpoint.elsewhere.is_none());
        let all = format!("{told:?}") + &serde_json::to_string(&told).unwrap();
        assert!(!all.contains("PRIVATE") && !all.contains("BEGIN"), "{all}");
        newest = Some(next);
    }
    // It stays until it is to stay no longer.
    let newest = newest.unwrap();
    assert_eq!((first.agents.staying.count(), told(&newest).len()), (1, 1));
    first.agents.staying.end();
    until("the session is withdrawn", || told(&newest).is_empty()).await;
    assert!(newest.visit_tls(OWN, site.client(None, false)).await.is_err());
}

#[tokio::test]
async fn a_session_that_stays_binds_with_a_key_of_its_own_where_the_process_that_serves_takes_keys() {
    let older = process();
    let agent = older.agent(TOKEN).await;
    let newer = successor(&older).await;
    let site = Authority::new("site");
    bind_own(&agent, &site).await;
    let _agent = agent.echo(b"");
    until("its endpoint is told", || told(&newer).values().any(|session| !session.endpoints.is_empty()))
        .await;
    let visitor = newer.visit_tls(OWN, site.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"x").await.unwrap(), b"x");
}

#[tokio::test]
async fn a_session_with_a_key_of_its_own_ends_where_the_process_that_serves_takes_no_keys() {
    let older = process();
    let agent = older.agent(TOKEN).await;
    bind_own(&agent, &Authority::new("site")).await;
    // A process of an older release says nothing first.
    let channel = given(&older).remove(0);
    let process = OlderProcess::new(channel);
    let line = process.connect(Purpose::Follow, &[]).unwrap();
    let mut line = UnixStream::from_std(line).unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(r#""type":"all""#) {
        let read = timeout(Duration::from_secs(WAIT_SECS_MAX), line.read_buf(&mut said));
        assert_ne!(read.await.expect("all sessions are named").unwrap(), 0);
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains(OWN) && !said.contains("PRIVATE"), "{said}");
    older.edge.enter(Stage::HandedOver);
    older.agents.leave();
    timeout(Duration::from_secs(WAIT_SECS_MAX), agent.ended()).await.expect("it is to connect anew");
    // It could have been reached all the time.
    process.connect(Purpose::Carry, &[]).unwrap();
}

#[tokio::test]
async fn a_process_without_visitors_does_not_end_before_the_sessions_that_stay() {
    for waits in [true, false] {
        let older = process();
        let agent = older.agent(TOKEN).await;
        agent.bind(TARGET).await;
        let newer = process();
        older::meet(&newer.agents, given(&older)).await;
        older.edge.enter(Stage::HandedOver);
        older.edge.older.leave();
        let wait = Duration::from_secs(if waits { 3_600 } else { 0 });
        let (edge, agents) = (Arc::clone(&older.edge), Arc::clone(&older.agents));
        let ending = tokio::spawn(async move { drain::hand_over(&edge, &agents, wait).await });
        if waits {
            until("the session stays", || {
                older.agents.staying.count() == 1 || older.edge.stage() > Stage::HandedOver
            })
            .await;
            let agent = agent.echo(b"");
            for _ in 0..3 {
                assert_eq!(exchange(newer.visit().await, b"x").await.unwrap(), b"x");
            }
            assert_eq!(older.edge.stage(), Stage::HandedOver);
            assert!(!ending.is_finished());
            agent.kill();
        } else {
            timeout(Duration::from_secs(WAIT_SECS_MAX), agent.ended()).await.expect("it had its time");
        }
        timeout(Duration::from_secs(WAIT_SECS_MAX), ending).await.expect("nothing is left").unwrap();
        assert_eq!(older.edge.stage(), Stage::Stopped);
    }
}

#[tokio::test]
async fn sessions_end_when_no_process_is_left_that_could_bring_them_visitors() {
    let older = process();
    let agent = older.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let newer = successor(&older).await;
    let third = successor(&newer).await;
    assert!(serves(&third));
    drop(newer);
    assert_eq!(older.agents.staying.count(), 1, "the third process still reaches it");
    drop(third);
    timeout(Duration::from_secs(WAIT_SECS_MAX), agent.ended()).await.expect("it is to connect anew");
}

#[tokio::test]
async fn a_hand_over_that_comes_to_nothing_changes_nothing() {
    let older = process();
    let agent = older.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let _agent = agent.echo(b"");
    // The process that was to take over ends before it is met, and after.
    drop(given(&older));
    let newer = process();
    older::meet(&newer.agents, given(&older)).await;
    assert!(serves(&newer));
    drop(newer);
    assert_eq!(exchange(older.visit().await, b"x").await.unwrap(), b"x");
    assert_eq!(older.agents.sessions.all().len(), 1);
    // The next one has it all the same.
    let newer = successor(&older).await;
    assert_eq!(exchange(newer.visit().await, b"x").await.unwrap(), b"x");
    assert_eq!(older.agents.staying.count(), 1);
}

#[tokio::test]
async fn a_message_that_an_older_process_cannot_read_ends_nothing_that_stays() {
    let (older, newer) = (process(), process());
    let agent = older.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let _agent = agent.echo(b"");
    let channels = given(&older);
    let wait = Duration::from_secs(WAIT_SECS_MAX);
    channels[0].send(&17, &[], wait).unwrap();
    let (_, other) = std::os::unix::net::UnixStream::pair().unwrap();
    channels[0].send(&"dance", &[other.as_fd()], wait).unwrap();
    older::meet(&newer.agents, channels).await;
    older.edge.enter(Stage::HandedOver);
    older.edge.older.leave();
    older.agents.leave();
    assert_eq!(exchange(newer.visit().await, b"x").await.unwrap(), b"x");
    assert_eq!(older.agents.staying.count(), 1);
}

#[tokio::test]
async fn a_process_that_ends_or_hangs_holds_up_nobody() {
    let newer = process();
    let (gone, hangs) = (Channel::pair().unwrap().0, Channel::pair().unwrap());
    older::meet(&newer.agents, vec![gone, hangs.0]).await;
    assert!(told(&newer).is_empty());
    drop(hangs.1);
    until("both are forgotten", || newer.edge.older.copies().unwrap().is_empty()).await;
    // One that ends takes its sessions with it.
    let older = process();
    let agent = older.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let newer = successor(&older).await;
    assert!(serves(&newer));
    drop(older);
    until("its sessions are withdrawn", || told(&newer).is_empty() && !serves(&newer)).await;
}

#[tokio::test]
async fn a_revocation_ends_a_session_at_an_older_process() {
    let mut older = process();
    let agent = older.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let mut newer = successor(&older).await;
    assert!(serves(&newer));
    // Whichever hears of it first.
    newer.change(|program| drop(program.credentials.remove(&credential_id(TOKEN))));
    assert!(!serves(&newer));
    older.change(|program| drop(program.credentials.remove(&credential_id(TOKEN))));
    timeout(Duration::from_secs(WAIT_SECS_MAX), agent.ended()).await.expect("it is ended");
    until("control hears of it", || told(&newer).is_empty()).await;
}

#[tokio::test]
async fn an_agent_that_connects_anew_has_its_place_and_another_has_not() {
    let older = process();
    let before = older.agent(TOKEN).await;
    let alone = json!({ "PoolingEnabled": false });
    let bound = before.try_bind(TARGET, json!({}), alone.clone()).await;
    assert_eq!(bound.error, "");
    let newer = successor(&older).await;
    let other = newer.agent(TOKEN).await;
    let refused = other.try_bind(TARGET, json!({}), alone.clone()).await.error;
    assert_eq!(error_code(&refused), Some(334), "{refused}");
    let same = Agent::connect(&newer, TOKEN, "localhost", &before.previous()).await;
    let same = same.unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(same.reply.client_id, before.reply.client_id);
    assert_eq!(same.try_bind(TARGET, json!({}), alone).await.error, "");
    timeout(Duration::from_secs(WAIT_SECS_MAX), before.ended()).await.expect("its session before is ended");
    until("one session of it is left", || older.agents.sessions.all().is_empty() && told(&newer).len() == 2)
        .await;
    let _same = same.echo(b"same");
    assert_eq!(exchange(newer.visit().await, b"").await.unwrap(), b"same");
}

#[tokio::test]
async fn a_command_reaches_an_agent_at_an_older_process_and_its_answer_is_told() {
    let older = process();
    let _agent = older.agent(TOKEN).await;
    let session = older.agents.sessions.all()[0].state.id;
    let mut newer = successor(&older).await;
    until("the session is told", || told(&newer).contains_key(&session)).await;
    // This agent said nothing of what it takes, so that it is not asked at all.
    newer.agents.command(session, SessionCommand::Stop, 7);
    let answer = async {
        for _ in 0..EVENTS_MAX {
            if let Some(FromEdge::CommandAnswer { number, outcome }) = newer.events.recv().await {
                return (number, outcome);
            }
        }
        panic!("no answer");
    };
    let (number, outcome) = timeout(Duration::from_secs(WAIT_SECS_MAX), answer).await.expect("an answer");
    let refused =
        matches!(&outcome, CommandOutcome::Failed { reason } if reason.contains("too old to be asked"));
    assert!(number == 7 && refused, "{outcome:?}");
}

/// Gives a process the sockets of a TCP port that another has.
fn hand_over_port(older: &Lab, newer: &Lab, port: u16) {
    for listened in older.edge.mailboxes.listening.all().unwrap() {
        if matches!(listened.entrance, Entrance::Tcp { port: of, .. } if of == port) {
            newer.edge.ports().take_over([(port, HandedPort { sockets: listened.sockets, lock: None })]);
        }
    }
}

#[tokio::test]
async fn a_lent_port_is_the_agents_again_at_the_process_that_takes_over() {
    // An agent that serves at both processes at once, and one that connects anew in place of its session.
    for name in [PROCESS, ""] {
        let (mut older, mut newer) = (process(), process());
        // Ports that no other test takes.
        older.change(|program| program.settings.random_tcp_ports = Some(32_000..=32_700));
        let as_before = Previous { process: name.into(), ..Previous::default() };
        let before = Agent::connect(&older, TOKEN, "localhost", &as_before).await;
        let before = before.unwrap_or_else(|reply| panic!("{reply:?}"));
        let lent = before.try_bind("tcp://", json!({}), json!({ "Number": 1 })).await;
        assert_eq!(lent.error, "");
        let port: u16 = lent.url.rsplit(':').next().unwrap().parse().unwrap();
        let previous = Previous { process: name.into(), ..before.previous() };
        let before = before.echo(b"before");
        let visit = async || exchange(TcpStream::connect(("127.0.0.1", port)).await?, b"").await;
        assert_eq!(visit().await.unwrap(), b"before");

        newer.change(|program| program.settings.random_tcp_ports = Some(port..=port));
        older.edge.gate.close().await;
        hand_over_port(&older, &newer, port);
        older::meet(&newer.agents, given(&older)).await;
        older.edge.enter(Stage::HandedOver);
        older.edge.older.leave();
        assert_eq!(visit().await.unwrap(), b"before");

        let same = Agent::connect(&newer, TOKEN, "localhost", &previous).await;
        let same = same.unwrap_or_else(|reply| panic!("{reply:?}"));
        let token = json!({ "Number": 1, "Token": lent.extra.token });
        let again = same.try_bind(&lent.url, json!({}), token).await;
        assert_eq!((again.error.as_str(), again.url.as_str()), ("", lent.url.as_str()));
        let same = same.echo(b"after");
        if name.is_empty() {
            until("its session before has ended", || told(&newer).len() == 1).await;
        }
        let reached = async { while visit().await.unwrap_or_default() != b"after" {} };
        timeout(Duration::from_secs(WAIT_SECS_MAX), reached).await.expect("visitors reach it here");
        // Nothing of the older process takes the port away, and it is lent no longer than the endpoint lives.
        let credential = credential_id(TOKEN);
        let known = if name.is_empty() { previous.client_id } else { format!("{credential}/{name}") };
        before.kill();
        until("its session before has ended", || older.agents.sessions.all().is_empty()).await;
        drop(older);
        until("its session before is forgotten", || !newer.agents.peers.knows(credential, &known)).await;
        assert_eq!(visit().await.unwrap(), b"after");
        same.kill();
        until("the port is given back", || newer.edge.ports().open().all(|(open, _)| open != port)).await;
    }
}

/// Gives a process the listener for edges that another has.
pub(crate) fn hand_over_peers(older: &Lab, newer: &Lab) {
    for listened in older.edge.mailboxes.listening.all().unwrap() {
        if listened.entrance == Entrance::Peers {
            let (_, listeners) = listen::adopt("peers", &listened.sockets, None, SHARDS).unwrap();
            newer.edge.mailboxes.listen(&Entrance::Peers, listeners);
        }
    }
}

#[tokio::test]
async fn visitors_of_another_edge_keep_their_streams_and_reach_what_stays_through_the_process_that_serves() {
    let (fleet, other) = (Authority::new("edges"), process());
    let joined = |lab: &Lab, own: u8, to: u8, at: Option<SocketAddr>| {
        lab.edge.peers.prove_by(proof(&fleet, own));
        lab.agents.peers.begin(id(own));
        lab.agents.peers.take(&lab.edge, peer(to, at));
    };
    let older = process();
    let (at, listeners) = listen::bind("peers", "127.0.0.1:0".parse().unwrap(), SHARDS).unwrap();
    older.edge.mailboxes.listen(&Entrance::Peers, listeners);
    joined(&older, 1, 2, None);
    joined(&other, 2, 1, Some(at));
    let as_before = Previous { process: PROCESS.into(), ..Previous::default() };
    let agent = Agent::connect(&older, TOKEN, "localhost", &as_before).await;
    let agent = agent.unwrap_or_else(|reply| panic!("{reply:?}"));
    let numbered = json!({ "PoolingEnabled": true, "Number": 1 });
    assert_eq!(agent.try_bind(TARGET, json!({}), numbered.clone()).await.error, "");
    let before = agent.previous();
    let _agent = agent.echo(b"");
    let tell = || {
        for (session, report) in told(&older) {
            let report = Arc::new(report);
            other.agents.peers.take(&other.edge, ToEdge::PeerSession { edge: id(1), session, report });
        }
    };
    tell();
    let ways = || other.edge.peers.ways()[&id(1)].session.carriers();
    until("the ways are open", || ways() == SHARDS).await;
    let mut stream = other.visit().await;
    word(&mut stream).await;

    let newer = process();
    joined(&newer, 1, 2, None);
    older::meet(&newer.agents, given(&older)).await;
    older.edge.gate.close().await;
    hand_over_peers(&older, &newer);
    older.edge.enter(Stage::HandedOver);
    older.edge.older.leave();
    let moved = || older.edge.peers.staying().get() == 0;
    until("the other edge has connected to the process that serves", || moved() && ways() == SHARDS).await;
    assert_eq!(newer.edge.metrics.peer_connections_open.get(), i64::try_from(SHARDS).unwrap());
    older.agents.leave();
    word(&mut stream).await;
    let question = vec![7; 1 << 20];
    assert_eq!(exchange(other.visit().await, &question).await.unwrap(), question);
    word(&mut stream).await;
    // The edge is reached otherwise from now on: the other one forgets how it was, and the stream goes on.
    let ToEdge::Peer(mut otherwise) = peer(1, Some(at)) else { panic!("no peer") };
    otherwise.reach.agents = "elsewhere.example:443".into();
    other.agents.peers.take(&other.edge, ToEdge::Peer(otherwise));
    tell();
    until("the ways are open", || ways() == SHARDS).await;
    for _ in 0..10 {
        word(&mut stream).await;
    }
    // Without streams the older process is left.
    drop(stream);
    until("its connections end", || older.edge.metrics.peer_connections_open.get() == 0).await;
    assert_eq!(exchange(other.visit().await, b"x").await.unwrap(), b"x");
    // The agent serves at the process that serves too, and the other edge has not heard of it.
    let anew = Previous { process: PROCESS.into(), ..before };
    let anew = Agent::connect(&newer, TOKEN, "localhost", &anew).await;
    let anew = anew.unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(anew.try_bind(TARGET, json!({}), numbered).await.error, "");
    let anew = anew.echo(b"anew");
    assert_eq!(exchange(other.visit().await, b"").await.unwrap(), b"anew");
    anew.kill();
    until("it serves there no more", || !serves(&newer)).await;
    assert_ne!(exchange(other.visit().await, b"x").await.unwrap_or_default(), b"x");
}
