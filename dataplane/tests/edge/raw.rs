//! Raw links: the visitor's own TLS over connections that are not encrypted again, and everybody who would like to be on one.

use std::io;

use ebbgate_edge::state::metrics::CarrierLabel;
use ebbgate_model::TunnelSessionId;
use ebbgate_wire::link::raw::{
    AgentSide, CLAIM_LENGTH_BYTES, Claim, GREETING_BYTES, Greeting, MAGIC, NONCE_BYTES, OpeningKey,
    PROOF_BYTES, RawKey, claim_length,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, join};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::lab::{
    Agent, Authority, Lab, OTHER_TOKEN, Previous, SHARDS, TOKEN, account, exchange, exchange_tls, forward,
};

pub(crate) const DB: &str = "db.example.com";
pub(crate) const TARGET: &str = "tls://db.clinic1.internal";
const SOON_SECS: u64 = 20;

async fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < Duration::from_secs(SOON_SECS), "{what} never came");
        sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn carried(lab: &Lab, carrier: &'static str) -> u64 {
    lab.edge.metrics.streams.get_or_create(&CarrierLabel { carrier }).get()
}

pub(crate) async fn asking(lab: &Lab, token: &str) -> Agent {
    let agent = Agent::connect_for(lab, token, "localhost", &Previous::default(), &["link", "raw"]).await;
    agent.unwrap_or_else(|reply| panic!("{reply:?}"))
}

pub(crate) fn allow(lab: &mut Lab, allowed: bool) {
    lab.change(|p| {
        let own = p.credentials.values_mut().filter(|c| c.account == account(1));
        own.for_each(|credential| credential.passthrough_links = allowed);
    });
}

/// A lab whose account 1 lets TLS pass unencrypted to an agent that asked for it.
async fn start() -> (Lab, Agent) {
    let mut lab = Lab::start();
    allow(&mut lab, true);
    lab.cloud(1, "tls://db.example.com", json!({ "on_tcp_connect": [{ "actions": [forward(TARGET)] }] }));
    let agent = asking(&lab, TOKEN).await;
    agent.bind(TARGET).await;
    (lab, agent)
}

/// What an agent knows of its session.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) session: TunnelSessionId,
    pub(crate) key: RawKey,
}

pub(crate) fn known(agent: &Agent) -> Known {
    let extra = &agent.reply.extra;
    let key =
        extra.carriers.as_ref().and_then(|offer| offer.raw_key.as_ref()).expect("the account allows it");
    Known { session: extra.agent_session_id.parse().unwrap(), key: RawKey::from_secret(key).unwrap() }
}

/// A link of the agent's, proven.
pub(crate) struct Raw {
    socket: TcpStream,
    opening: OpeningKey,
}

async fn greet(lab: &Lab, known: &Known) -> (TcpStream, Greeting, [u8; NONCE_BYTES]) {
    let mut socket = TcpStream::connect(lab.connect).await.unwrap();
    let greeting = Greeting { session: known.session.ksuid(), nonce: [3; NONCE_BYTES] };
    socket.write_all(&greeting.encode()).await.unwrap();
    let mut nonce = [0; NONCE_BYTES];
    socket.read_exact(&mut nonce).await.unwrap();
    (socket, greeting, nonce)
}

async fn raw(lab: &Lab, known: &Known) -> Raw {
    let (mut socket, greeting, nonce) = greet(lab, known).await;
    let (proof, opening) = AgentSide::new(&known.key, &greeting, &nonce).prove();
    socket.write_all(&proof).await.unwrap();
    Raw { socket, opening }
}

/// One proven link on every shard.
pub(crate) async fn raws(lab: &Lab, known: &Known) -> Vec<Raw> {
    let before = lab.edge.metrics.links_idle.get();
    let mut raws = Vec::new();
    for _ in 0..SHARDS {
        raws.push(raw(lab, known).await);
    }
    let all = before + i64::try_from(SHARDS).unwrap();
    soon("a parked link", || lab.edge.metrics.links_idle.get() == all).await;
    raws
}

impl Raw {
    async fn sealed(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; CLAIM_LENGTH_BYTES];
        self.socket.read_exact(&mut length).await?;
        let mut sealed = vec![0; claim_length(length).unwrap()];
        self.socket.read_exact(&mut sealed).await?;
        Ok(sealed)
    }

    async fn claimed(mut self) -> io::Result<(Claim, TcpStream)> {
        let sealed = self.sealed().await?;
        Ok((self.opening.open(sealed).unwrap(), self.socket))
    }
}

/// The first link that is claimed.
pub(crate) async fn first(raws: Vec<Raw>) -> (Claim, TcpStream) {
    let (send, mut receive) = tokio::sync::mpsc::channel(SHARDS);
    for raw in raws {
        let send = send.clone();
        tokio::spawn(async move {
            if let Ok(claimed) = raw.claimed().await {
                let _ = send.send(claimed).await;
            }
        });
    }
    receive.recv().await.unwrap()
}

/// Serves the upstream of the first link that is claimed.
pub(crate) fn serve(site: &Authority, raws: Vec<Raw>) -> tokio::task::JoinHandle<(Claim, Vec<u8>)> {
    let acceptor = site.server(&[DB]);
    tokio::spawn(async move {
        let (claim, mut socket) = first(raws).await;
        socket.write_all(&[0]).await.unwrap();
        let (read, write) = socket.into_split();
        let first = io::Cursor::new(claim.first.clone());
        let tls = acceptor.accept(join(first.chain(read), write)).await.unwrap();
        let got = exchange_tls(tls, b"from the agent").await.unwrap();
        (claim, got)
    })
}

#[tokio::test]
async fn the_visitors_own_tls_passes_bare() {
    let (lab, agent) = start().await;
    let known = known(&agent);
    let site = Authority::new("site");
    let _agent = agent.echo(b"");
    let large = vec![7; 3 << 20];
    for n in 0..3 {
        let serving = serve(&site, raws(&lab, &known).await);
        let visitor = lab.visit_tls(DB, site.client(None, false)).await.unwrap();
        let from = visitor.get_ref().0.local_addr().unwrap().to_string();
        assert_eq!(exchange(visitor, &large).await.unwrap(), b"from the agent");
        let (claim, got) = serving.await.unwrap();
        assert!(got == large);
        assert_eq!((claim.header.client_addr, claim.header.passthrough_tls), (from, true));
        assert_eq!((carried(&lab, "raw"), carried(&lab, "mux"), carried(&lab, "link")), (n + 1, 0, 0));
        // A link is used once: what served a visitor is not parked again.
        soon("its end", || lab.edge.metrics.links.get() == lab.edge.metrics.links_idle.get()).await;
    }
}

#[tokio::test]
async fn what_ends_at_the_edge_or_began_as_postgres_is_encrypted() {
    let (mut lab, agent) = start().await;
    let known = known(&agent);
    let _agent = agent.echo(b"");
    let _raws = raws(&lab, &known).await;
    let mut postgres = TcpStream::connect(lab.tls).await.unwrap();
    postgres.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    assert_eq!(postgres.read_u8().await.unwrap(), b'S');
    let hello = async { crate::lab::handshake(postgres, DB, lab.authority.client(None, false)).await };
    let _ = timeout(Duration::from_secs(1), hello).await;
    assert!(carried(&lab, "mux") >= 1);
    let terminate = json!({ "type": "terminate-tls", "config": {} });
    lab.cloud(
        1,
        "tls://db.example.com",
        json!({ "on_tcp_connect": [{ "actions": [terminate, forward(TARGET)] }] }),
    );
    let visitor = lab.visit_tls(DB, lab.authority.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"x").await.unwrap(), b"x");
    assert_eq!(carried(&lab, "raw"), 0);
}

#[tokio::test]
async fn an_account_that_does_not_allow_it_has_none() {
    let mut lab = Lab::start();
    let agent = asking(&lab, TOKEN).await;
    assert_eq!(agent.reply.extra.carriers.as_ref().unwrap().raw_key, None);
    let session = agent.reply.extra.agent_session_id.parse().unwrap();
    refused(&lab, &Known { session, key: RawKey::new([0; 32]) }).await;
    // What was allowed and is no more: parked links go, new ones do not come.
    allow(&mut lab, true);
    let agent = asking(&lab, TOKEN).await;
    let known = known(&agent);
    let raws = raws(&lab, &known).await;
    allow(&mut lab, false);
    for mut raw in raws {
        assert!(timeout(Duration::from_secs(SOON_SECS), raw.sealed()).await.unwrap().is_err());
    }
    refused(&lab, &known).await;
    soon("their end", || lab.edge.metrics.links.get() == 0).await;
}

/// Tries to park a link, and finds it closed.
async fn refused(lab: &Lab, known: &Known) {
    let mut raw = raw(lab, known).await;
    let end = timeout(Duration::from_secs(SOON_SECS), raw.socket.read_u8()).await;
    assert!(end.expect("the edge closes it").is_err());
}

async fn closes(socket: &mut TcpStream) -> bool {
    timeout(Duration::from_secs(SOON_SECS), socket.read_u8()).await.is_ok_and(|read| read.is_err())
}

#[tokio::test]
async fn who_does_not_hold_the_sessions_key_is_not_let_in() {
    let (mut lab, agent) = start().await;
    let good = known(&agent);
    lab.change(|p| p.credentials.values_mut().for_each(|c| c.passthrough_links = true));
    let other = asking(&lab, OTHER_TOKEN).await;
    let theirs = known(&other);
    // Another account's key for this session, this key for another's session, a session that is not.
    refused(&lab, &Known { session: good.session, key: theirs.key.clone() }).await;
    refused(&lab, &Known { session: theirs.session, key: good.key.clone() }).await;
    let nobody = TunnelSessionId::new(crate::lab::ksuid(9));
    refused(&lab, &Known { session: nobody, key: good.key.clone() }).await;
    // A proof that was good on another link, seen on the way.
    let (mut seen, greeting, nonce) = greet(&lab, &good).await;
    let (proof, _) = AgentSide::new(&good.key, &greeting, &nonce).prove();
    let (mut replay, ..) = greet(&lab, &good).await;
    replay.write_all(&proof).await.unwrap();
    assert!(closes(&mut replay).await);
    // Every altered byte of a proof; the good one still counts on its own link.
    for at in 0..PROOF_BYTES {
        let (mut socket, greeting, nonce) = greet(&lab, &good).await;
        let (mut altered, _) = AgentSide::new(&good.key, &greeting, &nonce).prove();
        altered[at] ^= 1;
        socket.write_all(&altered).await.unwrap();
        assert!(closes(&mut socket).await, "at {at}");
    }
    seen.write_all(&proof).await.unwrap();
    soon("the good link", || lab.edge.metrics.links_idle.get() == 1).await;
    assert_eq!(lab.edge.metrics.links.get(), 1);
}

#[tokio::test]
async fn greetings_that_are_none() {
    let (lab, agent) = start().await;
    let known = known(&agent);
    let greeting = Greeting { session: known.session.ksuid(), nonce: [3; NONCE_BYTES] }.encode();
    // More than a greeting before the edge's nonce: what follows could not know it.
    let mut hasty = TcpStream::connect(lab.connect).await.unwrap();
    hasty.write_all(&[&greeting[..], &[0; PROOF_BYTES]].concat()).await.unwrap();
    assert!(closes(&mut hasty).await);
    // Not a session's name.
    let mut unnamed = TcpStream::connect(lab.connect).await.unwrap();
    unnamed.write_all(&[&MAGIC[..], &[b'!'; GREETING_BYTES - MAGIC.len()]].concat()).await.unwrap();
    assert!(closes(&mut unnamed).await);
    // Almost the magic: what a TLS port says to that.
    let mut other = TcpStream::connect(lab.connect).await.unwrap();
    other.write_all(b"EBBRAW2\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(SOON_SECS), other.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty() || answer[0] == 21, "an alert or nothing: {answer:?}");
    // Nothing more: neither the greeting's rest nor the proof is waited for long.
    let mut slow = TcpStream::connect(lab.connect).await.unwrap();
    slow.write_all(&greeting[..20]).await.unwrap();
    let (mut silent, ..) = greet(&lab, &known).await;
    assert!(closes(&mut slow).await && closes(&mut silent).await);
    assert_eq!(lab.edge.metrics.links.get(), 0);
}

#[tokio::test]
async fn a_claim_opens_on_its_own_link_only_and_once() {
    let (lab, agent) = start().await;
    let known = known(&agent);
    let _agent = agent.echo(b"");
    let mut raws = raws(&lab, &known).await;
    let site = Authority::new("site");
    let config = site.client(None, false);
    let address = lab.tls;
    let visitor = tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let _ = crate::lab::handshake(stream, DB, config).await;
    });
    // Somebody on the way takes the claim of one link and gives it to another.
    let (mut one, mut two) = (raws.remove(0), raws.remove(0));
    let sealed = tokio::select! {
        sealed = one.sealed() => { std::mem::swap(&mut one, &mut two); sealed }
        sealed = two.sealed() => sealed,
    }
    .unwrap();
    assert!(one.opening.open(sealed.clone()).is_err(), "another link's claim opens");
    let mut altered = sealed.clone();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    // `open` takes the link's key with it, so nothing opens a second claim; see wire's `link::raw`.
    assert!(two.opening.open(altered).is_err());
    drop((one.socket, two.socket));
    visitor.abort();
}

#[tokio::test]
async fn an_agent_that_does_not_serve_says_so_and_others_are_tried() {
    let (lab, agent) = start().await;
    let known = known(&agent);
    let site = Authority::new("site");
    // Refused: the upstream is down. Lost: the link ends at its claim. Either way the visitor is served elsewhere.
    for status in [Some(5), None] {
        let raws = raws(&lab, &known).await;
        for raw in raws {
            tokio::spawn(async move {
                let (_, mut socket) = raw.claimed().await?;
                if let Some(status) = status {
                    socket.write_all(&[status]).await?;
                }
                Ok::<(), io::Error>(())
            });
        }
        let other = lab.agent(TOKEN).await;
        other.bind(TARGET).await;
        let acceptor = site.server(&[DB]);
        let mut members = vec![other];
        let mut other = members.remove(0);
        let serving = tokio::spawn(async move {
            let (_, stream) = other.accept().await;
            exchange_tls(acceptor.accept(stream).await.unwrap(), b"from another").await
        });
        // The pool takes turns: visit until the other one had its visitor.
        let mut answered = false;
        for _ in 0..8 {
            let visit = async {
                let visitor = lab.visit_tls(DB, site.client(None, false)).await?;
                exchange(visitor, b"x").await
            };
            let answer = timeout(Duration::from_secs(2), visit).await;
            answered |= matches!(answer, Ok(Ok(answer)) if answer == b"from another");
            if answered {
                break;
            }
        }
        assert!(answered, "{status:?}");
        serving.await.unwrap().unwrap();
    }
    // An answer of no meaning ends the visitor, who is told by an abort.
    let raws = raws(&lab, &known).await;
    let refusing = tokio::spawn(async move {
        let (_, mut socket) = first(raws).await;
        socket.write_all(&[200]).await.unwrap();
        socket
    });
    let ended = async {
        loop {
            let visit = timeout(Duration::from_secs(2), lab.visit_tls(DB, site.client(None, false))).await;
            assert!(!matches!(visit, Ok(Ok(_))));
            if refusing.is_finished() {
                break;
            }
        }
    };
    timeout(Duration::from_secs(SOON_SECS), ended).await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_session_is_the_end_of_its_raw_streams() {
    let (lab, agent) = start().await;
    let known = known(&agent);
    let site = Authority::new("site");
    let links = raws(&lab, &known).await;
    let acceptor = site.server(&[DB]);
    let upstream = tokio::spawn(async move {
        let (claim, mut socket) = first(links).await;
        socket.write_all(&[0]).await.unwrap();
        let (read, write) = socket.into_split();
        let mut tls = acceptor.accept(join(io::Cursor::new(claim.first).chain(read), write)).await.unwrap();
        tls.write_all(b"x").await.unwrap();
        tls.read_u8().await
    });
    let mut visitor = lab.visit_tls(DB, site.client(None, false)).await.unwrap();
    visitor.read_exact(&mut [0]).await.unwrap();
    agent.echo(b"").kill();
    assert!(timeout(Duration::from_secs(SOON_SECS), visitor.read_u8()).await.unwrap().is_err());
    assert!(timeout(Duration::from_secs(SOON_SECS), upstream).await.unwrap().unwrap().is_err());
    soon("their end", || lab.edge.metrics.links.get() == 0).await;
}
