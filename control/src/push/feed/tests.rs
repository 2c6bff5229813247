//! Feeds against an edge in memory, with virtual time; one against a real socket.

use std::convert::Infallible;

use super::*;
use ebbgate_model::feed::{
    Drain, DrainReport, DrainWanted, EdgeReach, EnforcementReport, Enforcer, HealthState, SessionCommand,
    SessionReport,
};
use ebbgate_model::{AccountId, CredentialId, EndpointId, Ksuid, Object, Settings, TunnelSessionId};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::task::JoinHandle;

fn ksuid(n: u8) -> Ksuid {
    Ksuid::new(1_700_000_000, [n; 16])
}

fn edge_id(n: u8) -> EdgeId {
    EdgeId::new(ksuid(n))
}

fn settings(generation: u64) -> Object {
    Object::Settings(Arc::new(Settings { region: format!("g{generation}"), ..Settings::default() }))
}

/// Control's side: the plans, and what it knows of edges.
struct Control {
    published: Arc<Published>,
    publish: watch::Sender<Planned>,
    presence: Presence,
    feeds: Arc<Feeds>,
}

impl Control {
    fn new() -> Self {
        let (publish, planned) = watch::channel(Planned::default());
        let presence = Presence::default();
        let published = Arc::<Published>::default();
        let feeds = Arc::new(Feeds::new(published.clone(), planned, presence.clone(), Arc::default()));
        Self { published, publish, presence, feeds }
    }

    /// Publishes a generation that is another than the one before.
    fn plan(&self, generation: u64) {
        let mut state = self.published.0.try_write().expect("feeds hold it only while they gather");
        state.live.set(&ObjectKey::Settings, Some(settings(generation)));
        if state.generation == 0 {
            let live = std::mem::take(&mut state.live);
            state.replace(live, generation);
        } else {
            state.publish(generation);
        }
        drop(state);
        self.publish.send_replace(Planned { generation: Some(generation), ..Planned::default() });
    }

    /// Digest of what is published.
    fn digest(&self) -> ProgramDigest {
        self.published.0.try_read().expect("nobody writes").live.digest()
    }

    fn connect(&self) -> Edge {
        let (to_control, lines) = mpsc::channel::<Bytes>(16);
        let frames = stream::unfold(lines, |mut lines| async {
            let line = lines.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(line)), lines))
        });
        let (out, from_control) = mpsc::channel(1);
        let feeds = self.feeds.clone();
        let ended =
            tokio::spawn(async move { feeds.serve(None, StreamBody::new(Box::pin(frames)), out).await });
        Edge { to_control, from_control, ended }
    }

    /// Connects and says hello.
    async fn join(&self, edge: EdgeId, generation: u64) -> Edge {
        self.join_with(edge, generation, None).await
    }

    async fn join_with(&self, edge: EdgeId, generation: u64, digest: Option<ProgramDigest>) -> Edge {
        let connected = self.connect();
        connected
            .say(&FromEdge::Hello {
                edge,
                feed: FEED_VERSION,
                version: "test".into(),
                generation,
                digest,
                unix_secs: 0,
                core_rule_set: false,
                handed_over: false,
                reach: EdgeReach::default(),
            })
            .await;
        connected
    }

    /// Waits until the registry shows what is expected.
    async fn shows(&self, is: impl Fn(&Presence) -> bool) {
        while !is(&self.presence) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What an edge was sent and must answer for.
struct Received {
    nonce: u64,
    from: Option<u64>,
    to: u64,
    digest: ProgramDigest,
}

/// An edge's side of a feed.
struct Edge {
    to_control: mpsc::Sender<Bytes>,
    from_control: mpsc::Receiver<Bytes>,
    ended: JoinHandle<Result<(), FeedError>>,
}

impl Edge {
    async fn say(&self, message: &FromEdge) {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        self.to_control.send(line.into()).await.unwrap();
    }

    /// The next message that is no beat.
    async fn hear(&mut self) -> ToEdge {
        loop {
            let line = self.from_control.recv().await.expect("the feed is open");
            match serde_json::from_slice(&line).unwrap() {
                ToEdge::Beat
                | ToEdge::Hello { feed: FEED_VERSION, .. }
                | ToEdge::Peer(_)
                | ToEdge::PeersTold
                | ToEdge::PeerSession { .. } => {}
                message => return message,
            }
        }
    }

    /// What it is told next of a session at another edge.
    async fn hear_of_session(&mut self) -> ToEdge {
        loop {
            let line = self.from_control.recv().await.expect("the feed is open");
            if let told @ ToEdge::PeerSession { .. } = serde_json::from_slice(&line).unwrap() {
                return told;
            }
        }
    }

    /// The next Program or changes, to their end: where they start (None: everything), and where they lead.
    async fn receive(&mut self) -> Received {
        loop {
            match self.hear().await {
                ToEdge::End { nonce, generation, digest } => {
                    return Received { nonce, from: None, to: generation, digest };
                }
                ToEdge::Delta { nonce, from, to, digest, .. } => {
                    return Received { nonce, from: Some(from), to, digest };
                }
                ToEdge::Begin { buckets: None, .. } | ToEdge::Part { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Says that what came is in force.
    async fn applied(&self, received: &Received) {
        let Received { nonce, to: generation, digest, .. } = *received;
        self.say(&FromEdge::Applied { nonce, generation, digest, refused: BTreeMap::new() }).await;
    }

    /// Takes what comes, and says that it is in force.
    async fn take(&mut self) -> (Option<u64>, u64) {
        let received = self.receive().await;
        self.applied(&received).await;
        (received.from, received.to)
    }

    /// Says for ever that it is there.
    fn beat(&self) {
        let to_control = self.to_control.clone();
        tokio::spawn(async move {
            while to_control.send("{\"type\":\"beat\"}\n".into()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(BEAT_SECS)).await;
            }
        });
    }

    /// Keeps the feed alive until control ends it.
    async fn end(mut self) -> FeedError {
        while self.from_control.recv().await.is_some() {}
        self.ended.await.unwrap().unwrap_err()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_edge_gets_everything_and_then_only_changes() {
    let control = Control::new();
    let mut edge = control.join(edge_id(1), 0).await;
    control.plan(5);
    assert_eq!(edge.take().await, (None, 5));
    control.shows(|presence| presence.live_generation() == Some(5)).await;
    control.plan(6);
    assert_eq!(edge.take().await, (Some(5), 6));
    control.shows(|presence| presence.live_generation() == Some(6)).await;
}

#[tokio::test(start_paused = true)]
async fn an_edge_of_another_release_is_told_so_and_gets_nothing() {
    let control = Control::new();
    control.plan(5);
    let mut edge = control.connect();
    let hello = r#"{"type":"hello","edge":"EDGE","version":"0.1.0","generation":0}"#;
    let line = format!("{}\n", hello.replace("EDGE", &edge_id(1).to_string()));
    edge.to_control.send(line.into()).await.unwrap();
    let line = edge.from_control.recv().await.unwrap();
    assert!(matches!(serde_json::from_slice(&line).unwrap(), ToEdge::Hello { feed: FEED_VERSION, .. }));
    let error = edge.end().await.to_string();
    assert!(error.contains("0.1.0") && error.contains("same release"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_comes_back_gets_what_it_missed() {
    let control = Control::new();
    control.plan(5);
    let mut edge = control.join(edge_id(1), 0).await;
    edge.take().await;
    control.shows(|presence| presence.live_generation() == Some(5)).await;
    drop(edge);
    control.shows(|presence| presence.live_generation().is_none()).await;
    let digest = control.digest();
    control.plan(7);
    let mut edge = control.join_with(edge_id(1), 5, Some(digest)).await;
    assert_eq!(edge.take().await, (Some(5), 7));
    // A number without what it stands for proves nothing to us.
    let mut stranger = control.join(edge_id(2), 5).await;
    assert_eq!(stranger.take().await, (None, 7));
}

#[tokio::test(start_paused = true)]
async fn a_slow_edge_gets_the_newest_plan_and_no_queue() {
    let control = Control::new();
    control.plan(1);
    let mut edge = control.join(edge_id(1), 0).await;
    let first = edge.receive().await;
    for generation in 2..100 {
        control.plan(generation);
        tokio::task::yield_now().await;
    }
    edge.applied(&first).await;
    assert_eq!(edge.take().await, (Some(1), 99));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_shown_until_a_later_generation_is_in_force() {
    let control = Control::new();
    control.plan(1);
    let mut edge = control.join(edge_id(1), 0).await;
    let first = edge.receive().await;
    edge.say(&FromEdge::Refused { nonce: first.nonce, reason: "port 20000 is taken".into() }).await;
    let refused = |presence: &Presence| presence.edges().first().and_then(|edge| edge.refused.clone());
    control.shows(|presence| refused(presence) == Some((1, "port 20000 is taken".into()))).await;
    edge.applied(&Received { nonce: 77, ..first }).await;
    control.plan(2);
    assert_eq!(edge.take().await, (None, 2));
    control.shows(|presence| refused(presence).is_none() && presence.live_generation() == Some(2)).await;
}

/// The generation is in force; one object of it is not, and is named.
#[tokio::test(start_paused = true)]
async fn an_object_that_an_edge_refuses_is_shown_by_name() {
    let control = Control::new();
    control.plan(1);
    let mut edge = control.join(edge_id(1), 0).await;
    let Received { nonce, to: generation, digest, .. } = edge.receive().await;
    let key = ObjectKey::Endpoint(EndpointId::new(ksuid(3)));
    let refused = BTreeMap::from([(key.clone(), "no such action".into())]);
    edge.say(&FromEdge::Applied { nonce, generation, digest, refused }).await;
    let shown = |presence: &Presence| presence.edges().first().and_then(|edge| edge.refused.clone());
    let told = |text: &str| text.contains(&key.to_string()) && text.contains("no such action");
    control.shows(|presence| shown(presence).is_some_and(|(at, text)| at == 1 && told(&text))).await;
    assert_eq!(control.presence.live_generation(), Some(1));
    control.plan(2);
    edge.take().await;
    control.shows(|presence| shown(presence).is_none()).await;
}

fn report(account: u8) -> SessionReport {
    SessionReport {
        account: AccountId::new(ksuid(account)),
        credential: CredentialId::new(ksuid(9)),
        agent_version: "1".into(),
        user_agent: String::new(),
        os: "linux".into(),
        ip: "192.0.2.1".into(),
        metadata: String::new(),
        started_at: 0,
        transport: String::new(),
        refusals: ebbgate_model::feed::CommandRefusals::default(),
        endpoints: BTreeMap::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn commands_reach_the_edge_of_their_session_and_nobody_elses() {
    let control = Control::new();
    let (mut one, mut two) = (control.join(edge_id(1), 0).await, control.join(edge_id(2), 0).await);
    let (first, second) = (TunnelSessionId::new(ksuid(1)), TunnelSessionId::new(ksuid(2)));
    one.say(&FromEdge::Sessions { sessions: [(first, report(1))].into() }).await;
    two.say(&FromEdge::Session { session: second, report: Box::new(report(2)) }).await;
    let count = |presence: &Presence| presence.edges().iter().map(|edge| edge.sessions).sum::<usize>();
    control.shows(|presence| count(presence) == 2).await;
    let account = |n| AccountId::new(ksuid(n));
    let stop = |n, session| control.presence.command(account(n), session, SessionCommand::Stop);
    let answers = (stop(1, first).unwrap(), stop(2, second).unwrap());
    let strange = stop(2, first).map(drop);
    assert_eq!(strange, Err(crate::presence::CommandError::Offline), "another account's session");
    for (edge, session) in [(&mut one, first), (&mut two, second)] {
        assert_eq!(edge.hear().await, ToEdge::Session { session, command: SessionCommand::Stop, number: 1 });
    }
    let failed = CommandOutcome::Failed { reason: "no".into() };
    two.say(&FromEdge::CommandAnswer { number: 9, outcome: CommandOutcome::Taken }).await;
    two.say(&FromEdge::CommandAnswer { number: 1, outcome: failed.clone() }).await;
    one.say(&FromEdge::CommandAnswer { number: 1, outcome: CommandOutcome::Taken }).await;
    assert_eq!((answers.0.await.unwrap(), answers.1.await.unwrap()), (CommandOutcome::Taken, failed));
    let endpoint = EndpointId::new(ksuid(1));
    let enforcement = EnforcementReport {
        by: Enforcer::Userspace,
        reason: "no privilege".into(),
        interfaces: BTreeMap::new(),
        passed: 0,
        dropped: BTreeMap::new(),
    };
    one.say(&FromEdge::Enforcement { endpoints: [(endpoint, enforcement.clone())].into() }).await;
    control.shows(|presence| presence.enforcement(endpoint) == [enforcement.clone()]).await;
    one.say(&FromEdge::SessionEnded { session: first }).await;
    control.shows(|presence| presence.sessions(account(1)).is_empty()).await;
    assert_eq!(control.presence.sessions(account(2)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_reaches_the_edge_of_the_member_and_what_that_says_of_it_the_other() {
    let control = Control::new();
    let (mut one, mut two) = (control.join(edge_id(1), 0).await, control.join(edge_id(2), 0).await);
    let (session, endpoint) = (TunnelSessionId::new(ksuid(1)), EndpointId::new(ksuid(2)));
    let with = |drained: bool| {
        let mut report = crate::presence::tests::report(1, 2);
        for endpoint in report.endpoints.values_mut() {
            let word = Drain::default().then(drained, 7_000);
            endpoint.drain = Some(Box::new(DrainReport::new("member".into(), word)));
            endpoint.health.state = if drained { HealthState::Drained } else { HealthState::Unhealthy };
        }
        Box::new(report)
    };
    let account = with(false).account;
    one.say(&FromEdge::Session { session, report: with(false) }).await;
    let told = |report: Box<SessionReport>| ToEdge::PeerSession {
        edge: edge_id(1),
        session,
        report: Arc::from(report),
    };
    assert_eq!(two.hear_of_session().await, told(with(false)), "that checks fail is told");
    let wanted = SessionCommand::Drain(DrainWanted { endpoint, drain: true });
    let answer = control.presence.command(account, session, wanted.clone()).unwrap();
    assert_eq!(one.hear().await, ToEdge::Session { session, command: wanted, number: 1 });
    one.say(&FromEdge::CommandAnswer { number: 1, outcome: CommandOutcome::Taken }).await;
    assert_eq!(answer.await, Ok(CommandOutcome::Taken));
    one.say(&FromEdge::Session { session, report: with(true) }).await;
    assert_eq!(two.hear_of_session().await, told(with(true)));
    let state = |presence: &Presence| presence.endpoints(account)[0].report.health.state;
    assert_eq!(state(&control.presence), HealthState::Drained);
}

#[tokio::test(start_paused = true)]
async fn silent_mute_and_stalled_edges_are_let_go() {
    let control = Control::new();
    // Neither greets.
    assert!(matches!(control.connect().end().await, FeedError::Hello));
    // Greets with garbage.
    let garbage = control.connect();
    garbage.to_control.send("garbage\n".into()).await.unwrap();
    assert!(matches!(garbage.end().await, FeedError::Hello));
    // Says nothing after its greeting.
    assert!(matches!(control.join(edge_id(1), 0).await.end().await, FeedError::Silent));
    // Beats, but never answers for its Program.
    control.plan(1);
    let mute = control.join(edge_id(2), 0).await;
    mute.beat();
    assert!(matches!(mute.end().await, FeedError::NoAnswer));
    // Beats, but reads nothing: one line is taken for it, the next waits.
    let unplanned = Control::new();
    let stalled = unplanned.join(edge_id(3), 0).await;
    stalled.beat();
    assert!(matches!(stalled.ended.await.unwrap(), Err(FeedError::Stalled)));
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_does_not_read_is_still_heard() {
    let control = Control::new();
    control.plan(1);
    let edge = control.join(edge_id(1), 0).await;
    tokio::time::sleep(Duration::from_secs(2 * BEAT_SECS)).await;
    let session = TunnelSessionId::new(ksuid(1));
    edge.say(&FromEdge::Session { session, report: Box::new(report(1)) }).await;
    control.shows(|presence| presence.edges().first().is_some_and(|edge| edge.sessions == 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_connection_of_an_edge_takes_over() {
    let control = Control::new();
    let old = control.join(edge_id(1), 0).await;
    control.shows(|presence| presence.edges().len() == 1).await;
    let new = control.join(edge_id(1), 0).await;
    assert!(matches!(old.end().await, FeedError::Replaced));
    let session = TunnelSessionId::new(ksuid(1));
    new.say(&FromEdge::Session { session, report: Box::new(report(1)) }).await;
    control.shows(|presence| presence.edges().first().is_some_and(|edge| edge.sessions == 1)).await;
}

#[tokio::test]
async fn over_a_real_socket() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let control = Control::new();
    control.plan(3);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.sock");
    drop(crate::push::bind_socket(&path).unwrap());
    let listener = crate::push::bind_socket(&path).expect("a socket that a killed process left is replaced");
    let serving = tokio::spawn(crate::push::serve_unix(listener, control.feeds.clone()));

    let io = TokioIo::new(tokio::net::UnixStream::connect(&path).await.unwrap());
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let (to_control, lines) = mpsc::channel::<Bytes>(16);
    let frames = stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), lines))
    });
    let request = http::Request::post(format!("http://control{}", ebbgate_model::feed::FEED_PATH));
    let body = BodyExt::boxed(StreamBody::new(Box::pin(frames)));
    let response = send.send_request(request.body(body).unwrap()).await.unwrap();
    let hello = FromEdge::Hello {
        edge: edge_id(1),
        feed: FEED_VERSION,
        version: "test".into(),
        generation: 0,
        digest: None,
        unix_secs: 0,
        core_rule_set: true,
        handed_over: false,
        reach: EdgeReach::default(),
    };
    let line = format!("{}\n", serde_json::to_string(&hello).unwrap());
    // Cut in two: lines do not keep to frames.
    let (front, back) = line.split_at(7);
    to_control.send(front.to_owned().into()).await.unwrap();
    to_control.send(back.to_owned().into()).await.unwrap();
    let mut body = response.into_body();
    let mut lines = Lines::default();
    loop {
        match lines.message::<ToEdge>().unwrap() {
            Some(ToEdge::End { generation, .. }) => break assert_eq!(generation, 3),
            Some(_) => {}
            None => lines.push(body.frame().await.unwrap().unwrap().data_ref().unwrap()).unwrap(),
        }
    }
    serving.abort();
}

/// An address that the edges of a ring do not have yet.
fn waiting_address() -> (ObjectKey, Object) {
    let spec = ebbgate_model::AddressSpec {
        account: AccountId::new(ksuid(1)),
        host: "tcp.example.com".parse().unwrap(),
        port: 7,
    };
    (ObjectKey::Address(ebbgate_model::AddressId::new(ksuid(2))), Object::Address(Arc::new(spec)))
}

#[tokio::test(start_paused = true)]
async fn canary_edges_get_what_others_do_not_and_a_flag_is_followed_at_once() {
    let control = Control::new();
    let (canary, other) = (edge_id(1), edge_id(2));
    control.presence.set_canary(canary, true);
    control.plan(5);
    let (mut one, mut two) = (control.join(canary, 0).await, control.join(other, 0).await);
    one.beat();
    two.beat();
    one.take().await;
    two.take().await;
    let (key, object) = waiting_address();
    let publish = |generation, overlay: crate::plan::overlay::Overlay| {
        let mut state = control.published.0.try_write().expect("feeds hold it only while they gather");
        state.live.set(&key, Some(object.clone()));
        state.stage(crate::plan::overlay::Overlay::new(), overlay);
        state.publish(generation);
        drop(state);
        control.publish.send_replace(Planned { generation: Some(generation), ..Planned::default() });
    };
    publish(6, [(key.clone(), None)].into());
    let delta = async |edge: &mut Edge| {
        let ToEdge::Delta { nonce, to, digest, changes, .. } = edge.hear().await else { panic!("a delta") };
        edge.applied(&Received { nonce, from: None, to, digest }).await;
        (to, changes.addresses.put.len())
    };
    assert_eq!(delta(&mut one).await, (6, 1));
    assert_eq!(delta(&mut two).await, (6, 0), "it follows the generation, without the object");
    control.shows(|presence| presence.live_generation() == Some(6)).await;

    // Made a canary, it holds something else than it should: what differs is asked for.
    control.presence.set_canary(other, true);
    let ToEdge::Compare { buckets: true, .. } = two.hear().await else { panic!("a comparison") };
    publish(7, crate::plan::overlay::Overlay::new());
    let (to, _) = delta(&mut one).await;
    assert_eq!(to, 7);
}
