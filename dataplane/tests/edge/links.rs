//! Links: visitors over connections that agents keep ready, and agents that are none.

use std::sync::Arc;

use ebbgate_edge::agents::LINKS_PER_SESSION_MAX;
use ebbgate_edge::state::metrics::CarrierLabel;
use ebbgate_tunnel::link::{HelloError, LinkStream, Waiting, say_hello};
use ebbgate_wire::link::{ALPN_LINK, DELIVERED, Frame, Version};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{ProxyHeader, Secret};
use ebbgate_wire::ticket::{LinkTicket, TicketKey};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::lab::{
    Agent, Lab, OTHER_TOKEN, Previous, SHARDS, TOKEN, credential_id, exchange, forward, handshake,
};

const TARGET: &str = "tcp://db.clinic1.internal:433";
/// Seconds until what must come has come.
const SOON_SECS: u64 = 20;

type Io = TlsStream<TcpStream>;

pub(crate) async fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < Duration::from_secs(SOON_SECS), "{what} never came");
        sleep(Duration::from_millis(2)).await;
    }
}

fn carried(lab: &Lab, carrier: &'static str) -> u64 {
    lab.edge.metrics.streams.get_or_create(&CarrierLabel { carrier }).get()
}

/// A lab whose reserved port leads to an agent that asked for links.
async fn start(token: &str) -> (Lab, Agent) {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let agent = linking(&lab, token).await;
    agent.bind(TARGET).await;
    (lab, agent)
}

async fn linking(lab: &Lab, token: &str) -> Agent {
    let agent = Agent::connect_for(lab, token, "localhost", &Previous::default(), &["link"]).await;
    agent.unwrap_or_else(|reply| panic!("{reply:?}"))
}

fn ticket(agent: &Agent) -> Secret {
    let offer = agent.reply.extra.carriers.clone().expect("carriers were asked for");
    assert_eq!((offer.links_max, offer.link_version, offer.raw_key), (LINKS_PER_SESSION_MAX, 2, None));
    offer.ticket
}

async fn dial(lab: &Lab) -> Io {
    let mut config = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    let stream = TcpStream::connect(lab.connect).await.unwrap();
    let io = handshake(stream, "localhost", Arc::new(config)).await.unwrap();
    let (_, tls) = io.get_ref();
    assert_eq!(tls.alpn_protocol(), Some(ALPN_LINK));
    let suite = tls.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    io
}

async fn link(lab: &Lab, ticket: &Secret) -> Result<Waiting<Io>, HelloError> {
    let mut io = dial(lab).await;
    say_hello(&mut io, ticket, Version::Two).await?;
    Ok(Waiting::new(io, Version::Two))
}

/// So many links, all parked.
async fn links(lab: &Lab, agent: &Agent, n: usize) -> Vec<Waiting<Io>> {
    let before = lab.edge.metrics.links_idle.get();
    let mut links = Vec::new();
    for _ in 0..n {
        links.push(link(lab, &ticket(agent)).await.unwrap());
    }
    parked(lab, before + i64::try_from(n).unwrap()).await;
    links
}

async fn parked(lab: &Lab, n: i64) {
    soon("a parked link", || lab.edge.metrics.links_idle.get() == n).await;
}

/// Visits until the visitor came to the one link there is: the kernel chooses the shard, the link waits on one of them.
/// What the session carries meanwhile is refused.
async fn visit_link(
    lab: &Lab,
    mut agent: Agent,
    link: Waiting<Io>,
) -> (TcpStream, ProxyHeader, LinkStream<Io>) {
    tokio::spawn(async move {
        loop {
            let (_, mut stream) = agent.accept().await;
            stream.reset(Code::CANCELLED);
        }
    });
    let claimed = tokio::spawn(link.accept());
    loop {
        let before = carried(lab, "mux");
        let visitor = lab.visit().await;
        soon("a stream", || claimed.is_finished() || carried(lab, "mux") > before).await;
        if claimed.is_finished() {
            let (header, stream) = claimed.await.unwrap().unwrap();
            return (visitor, header, stream);
        }
    }
}

/// Echoes one visitor after another on a link, for ever.
fn echo(mut link: Waiting<Io>) {
    tokio::spawn(async move {
        loop {
            let (_, stream) = link.accept().await?;
            let (mut from, mut to) = tokio::io::split(stream);
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await?;
            let idle = from.unsplit(to).into_idle().expect("both ends were seen");
            link = Waiting::freed(idle, Version::Two).await?;
        }
        #[expect(unreachable_code, reason = "names the error")]
        Ok::<(), std::io::Error>(())
    });
}

#[tokio::test]
async fn visitors_go_over_links_one_after_another() {
    let (lab, agent) = start(TOKEN).await;
    let both = i64::try_from(SHARDS).unwrap();
    links(&lab, &agent, SHARDS).await.into_iter().for_each(echo);
    let question = vec![7; 300_000];
    for n in 0..24 {
        assert_eq!(exchange(lab.visit().await, &question).await.unwrap(), question);
        // The link is back before the next visitor comes, and no other was opened.
        parked(&lab, both).await;
        assert_eq!((carried(&lab, "link"), carried(&lab, "mux")), (n + 1, 0));
    }
    assert_eq!(lab.edge.metrics.links.get(), both);
}

#[tokio::test]
async fn more_visitors_than_links_go_over_the_session() {
    let (lab, agent) = start(TOKEN).await;
    links(&lab, &agent, SHARDS).await.into_iter().for_each(echo);
    let _agent = agent.echo(b"");
    let mut visitors = Vec::new();
    for _ in 0..12 {
        let mut visitor = lab.visit().await;
        visitor.write_all(b"x").await.unwrap();
        visitor.read_exact(&mut [0]).await.unwrap();
        visitors.push(visitor);
    }
    assert_eq!(carried(&lab, "link") + carried(&lab, "mux"), 12);
    assert!(carried(&lab, "mux") >= 10, "there are two links");
    for visitor in visitors {
        assert_eq!(exchange(visitor, b"bye").await.unwrap(), b"bye");
    }
}

#[tokio::test]
async fn the_header_comes_first_and_the_agent_may_speak_before_the_visitor() {
    let (lab, agent) = start(TOKEN).await;
    let link = links(&lab, &agent, 1).await.pop().unwrap();
    let (mut visitor, header, mut stream) = visit_link(&lab, agent, link).await;
    assert_eq!(header.client_addr, visitor.local_addr().unwrap().to_string());
    assert_eq!((header.proto.as_str(), header.passthrough_tls), ("tcp", false));
    stream.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    visitor.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready");
    // Half-close one way, then the other.
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut question = String::new();
    stream.read_to_string(&mut question).await.unwrap();
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await.unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    let _link = Waiting::freed(stream.into_idle().unwrap(), Version::Two).await.unwrap();
    parked(&lab, 1).await;
}

#[tokio::test]
async fn requests_take_the_mux_from_every_shard_and_leave_links_alone() {
    let mut lab = Lab::start();
    let target = "https://rest.clinic1.internal";
    lab.cloud(1, "https://api.example.com", json!({ "on_http_request": [{ "actions": [forward(target)] }] }));
    let mut agent = linking(&lab, TOKEN).await;
    agent.bind(target).await;
    let _waiting = links(&lab, &agent, SHARDS).await;
    let all = i64::try_from(SHARDS).unwrap();
    parked(&lab, all).await;
    tokio::spawn(async move {
        loop {
            let (_, mut stream) = agent.accept().await;
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                }
            });
        }
    });
    // The kernel spreads connections over the shards.
    for _ in 0..8 * SHARDS {
        let mut visitor = lab.visit_tls("api.example.com", lab.authority.client(None, false)).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n\r\n";
        visitor.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = visitor.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    }
    assert_eq!((carried(&lab, "link"), lab.edge.metrics.links_idle.get()), (0, all));
    assert!(carried(&lab, "mux") > 0);
}

#[tokio::test]
async fn only_a_living_sessions_ticket_lets_a_link_in() {
    let (lab, agent) = start(TOKEN).await;
    let good = ticket(&agent);
    let sealed = |session_id: &str, expires_unix_s: i64, key: u8| {
        LinkTicket { session_id: session_id.into(), expires_unix_s }.seal(&TicketKey::new(&[key; 32]))
    };
    let id = agent.reply.extra.agent_session_id.clone();
    let late = 4_000_000_000;
    link(&lab, &sealed(&id, late, 7)).await.map(drop).unwrap();
    let altered = Secret::new(good.expose().replace(|c: char| c.is_ascii_digit(), "x"));
    let cookie = agent.reply.extra.cookie.clone();
    let cases = [
        ("another key's", sealed(&id, late, 8)),
        ("expired", sealed(&id, 1_700_000_000, 7)),
        ("of no session", sealed("ts_2Ubbgates0000000000000000000", late, 7)),
        ("of nonsense", sealed("nonsense", late, 7)),
        ("altered", altered),
        ("a cookie", cookie),
        ("garbage", Secret::new("x")),
    ];
    for (what, ticket) in cases {
        let refused = link(&lab, &ticket).await.map(drop).unwrap_err();
        assert!(matches!(refused, HelloError::Refused(Code::REFUSED)), "{what}: {refused}");
    }
    // The account's own ingress takes no links of others.
    let mut config = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    let stream = TcpStream::connect(lab.connect).await.unwrap();
    let mut io = handshake(stream, "connect.clinic2.example", Arc::new(config)).await.unwrap();
    assert!(say_hello(&mut io, &good, Version::Two).await.is_err());
    // A session's end voids its ticket.
    agent.echo(b"").kill();
    soon("the session's end", || lab.edge.metrics.sessions.get() == 0).await;
    assert!(link(&lab, &good).await.is_err());
    assert_eq!(lab.edge.metrics.links_refused.get(), 9);
}

#[tokio::test]
async fn sessions_that_did_not_ask_are_offered_nothing() {
    let lab = Lab::start();
    assert_eq!(lab.agent(TOKEN).await.reply.extra.carriers, None);
    assert!(linking(&lab, OTHER_TOKEN).await.reply.extra.carriers.is_some());
}

#[tokio::test]
async fn a_hello_that_does_not_come_or_is_none_ends_the_connection() {
    let (lab, _agent) = start(TOKEN).await;
    let mut slow = dial(&lab).await;
    slow.write_all(&[0, 100, b'x']).await.unwrap();
    slow.flush().await.unwrap();
    for hello in [&[0, 0][..], &[0xff, 0xff], &[0, 2, 0xff, 0xfe]] {
        let mut io = dial(&lab).await;
        io.write_all(hello).await.unwrap();
        io.flush().await.unwrap();
        assert!(!matches!(timeout(Duration::from_secs(SOON_SECS), io.read_u8()).await, Ok(Ok(_)) | Err(_)));
    }
    let ended = timeout(Duration::from_secs(SOON_SECS), slow.read_u8()).await;
    assert!(ended.expect("nobody waits for ever").is_err());
    soon("their end", || lab.edge.metrics.agent_connections_open.get() == 1).await;
}

#[tokio::test]
async fn a_session_has_so_many_links_and_no_more() {
    let (lab, agent) = start(TOKEN).await;
    let ticket = ticket(&agent);
    let _agent = agent.echo(b"");
    let mut kept = Vec::new();
    for _ in 0..LINKS_PER_SESSION_MAX {
        kept.push(link(&lab, &ticket).await.unwrap());
    }
    assert!(matches!(link(&lab, &ticket).await.map(drop), Err(HelloError::Refused(_))));
    // Others have theirs, and room comes back when one goes.
    let other = linking(&lab, OTHER_TOKEN).await;
    drop(link(&lab, &self::ticket(&other)).await.unwrap());
    kept.pop();
    let max = i64::from(LINKS_PER_SESSION_MAX);
    soon("room", || lab.edge.metrics.links.get() < max).await;
    link(&lab, &ticket).await.unwrap();
}

#[tokio::test]
async fn a_link_that_ended_while_parked_costs_its_visitor_nothing() {
    let (lab, agent) = start(TOKEN).await;
    drop(links(&lab, &agent, 2 * SHARDS).await);
    let _agent = agent.echo(b"");
    for _ in 0..8 {
        assert_eq!(exchange(lab.visit().await, b"x").await.unwrap(), b"x");
    }
    assert_eq!(carried(&lab, "mux"), 8);
    parked(&lab, 0).await;
    soon("their end", || lab.edge.metrics.links.get() == 0).await;
}

/// The plaintext of a link, frame by frame.
async fn speak(lab: &Lab, ticket: &Secret) -> Io {
    let mut io = dial(lab).await;
    say_hello(&mut io, ticket, Version::Two).await.unwrap();
    io
}

#[tokio::test]
async fn a_link_that_speaks_unasked_is_closed() {
    let (lab, agent) = start(TOKEN).await;
    let words = [&[0, 0, 0, 1, 7][..], &[1, 0, 0, 0], &[2, 0, 0, 6], &[3, 0, 0, 2, b'{', b'}'], &[9]];
    let mut ios = Vec::new();
    for _ in words {
        ios.push(speak(&lab, &ticket(&agent)).await);
    }
    parked(&lab, 5).await;
    for (io, words) in ios.iter_mut().zip(words) {
        io.write_all(words).await.unwrap();
        io.flush().await.unwrap();
    }
    for (io, words) in ios.iter_mut().zip(words) {
        let ended = timeout(Duration::from_secs(SOON_SECS), io.read_u8()).await;
        assert!(ended.expect("the edge closes it").is_err(), "{words:?}");
    }
    parked(&lab, 0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_the_rules_ends_the_visitor_and_the_link() {
    let cases: [(&str, &[u8]); 6] = [
        ("garbage", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("an oversized frame", &[0, 0x7f, 0xff, 0xff, 1, 2, 3]),
        ("an empty frame", &[0, 0, 0, 0]),
        ("a claim", &[3, 0, 0, 2, b'{', b'}']),
        ("data after the end", &[1, 0, 0, 0, 0, 0, 0, 1, 7]),
        ("half a frame", &[0, 0, 0, 9, 1]),
    ];
    let (lab, agent) = start(TOKEN).await;
    let ticket = ticket(&agent);
    let mut session = agent;
    tokio::spawn(async move {
        loop {
            let (_, mut stream) = session.accept().await;
            stream.reset(Code::CANCELLED);
        }
    });
    for (what, words) in cases {
        let mut ios = Vec::new();
        for _ in 0..SHARDS {
            ios.push(speak(&lab, &ticket).await);
        }
        parked(&lab, i64::try_from(SHARDS).unwrap()).await;
        let mut visitor = lab.visit().await;
        for mut io in ios {
            let words = words.to_vec();
            tokio::spawn(async move {
                // The claim, whatever it says, is taken and answered with these.
                let _ = io.read_u8().await?;
                io.write_all(&[&Frame::Taken.encode()[..], &words].concat()).await?;
                io.shutdown().await
            });
        }
        visitor.write_all(b"question").await.unwrap();
        let mut got = Vec::new();
        let end = timeout(Duration::from_secs(SOON_SECS), visitor.read_to_end(&mut got)).await;
        let end = end.unwrap_or_else(|_| panic!("{what}: the visitor waits for ever"));
        assert!(end.is_err() || what.starts_with("data after"), "{what}: looks like a whole answer");
        assert!(got.len() <= 1, "{what}: {got:?}");
        drop(visitor);
        // Neither link is used again, the one that was not claimed because it ended.
        soon("the links' end", || lab.edge.metrics.links.get() <= 1).await;
        // The other one waits for a claim; visitors come until it had one.
        while lab.edge.metrics.links.get() > 0 {
            let mut visitor = lab.visit().await;
            let _ = visitor.write_all(b"x").await;
            let _ = timeout(Duration::from_secs(SOON_SECS), visitor.read_to_end(&mut Vec::new())).await;
        }
    }
}

#[tokio::test]
async fn a_reset_reaches_the_visitor_and_a_visitors_reset_the_agent() {
    let (lab, agent) = start(TOKEN).await;
    let mut links = links(&lab, &agent, 1).await;
    let (mut visitor, _, mut stream) = visit_link(&lab, agent, links.pop().unwrap()).await;
    stream.write_all(b"half").await.unwrap();
    visitor.read_exact(&mut [0; 4]).await.unwrap();
    stream.reset(Code::RESET);
    let error = visitor.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let (lab, agent) = start(TOKEN).await;
    let link = self::links(&lab, &agent, 1).await.pop().unwrap();
    let (visitor, _, mut stream) = visit_link(&lab, agent, link).await;
    socket2::SockRef::from(&visitor).set_linger(Some(Duration::ZERO)).unwrap();
    drop(visitor);
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(ebbgate_tunnel::reset_code(&error), Some(Code::CANCELLED), "{error}");
    soon("the link's end", || lab.edge.metrics.links.get() == 0).await;
}

#[tokio::test]
async fn a_refused_visitor_goes_to_another_member() {
    let (lab, one) = start(TOKEN).await;
    let two = lab.agent(TOKEN).await;
    two.bind(TARGET).await;
    for link in links(&lab, &one, 16).await {
        tokio::spawn(async move {
            if let Ok((_, mut stream)) = link.accept().await {
                stream.reset(Code::REFUSED);
            }
        });
    }
    let _one = one.refuse();
    let _two = two.echo(b"");
    for _ in 0..12 {
        assert_eq!(exchange(lab.visit().await, b"question").await.unwrap(), b"question");
    }
    assert!(carried(&lab, "link") >= 1);
}

#[tokio::test]
async fn a_link_that_dies_at_its_claim_costs_no_new_connection() {
    let (lab, agent) = start(TOKEN).await;
    for link in links(&lab, &agent, 16).await {
        tokio::spawn(async move { drop(link.accept().await) });
    }
    let other = lab.agent(TOKEN).await;
    other.bind(TARGET).await;
    let _agents = (agent.echo(b""), other.echo(b""));
    let mut answered = 0;
    for _ in 0..8 {
        // A stream that is dropped is cancelled, which is an answer of its own; the edge goes on.
        answered += usize::from(exchange(lab.visit().await, b"x").await.is_ok_and(|a| a == b"x"));
    }
    assert!(answered >= 4, "{answered}");
}

#[tokio::test]
async fn a_reader_that_never_reads_holds_its_writer_back() {
    const BYTES_MAX: usize = 64 << 20;
    let (lab, agent) = start(TOKEN).await;
    let link = links(&lab, &agent, 1).await.pop().unwrap();
    let (mut visitor, _, _stream) = visit_link(&lab, agent, link).await;
    let piece = vec![0; 1 << 20];
    let mut taken = 0;
    // Two seconds without a byte taken: what is in between is full.
    while let Ok(written) = timeout(Duration::from_secs(2), visitor.write(&piece)).await {
        taken += written.unwrap();
        assert!(taken < BYTES_MAX, "{taken} bytes that nobody reads");
    }
}

#[tokio::test]
async fn links_end_with_their_session_also_those_in_use() {
    let (mut lab, agent) = start(TOKEN).await;
    let (first, ticket) = (links(&lab, &agent, 1).await.pop().unwrap(), ticket(&agent));
    let (mut visitor, _, mut stream) = visit_link(&lab, agent, first).await;
    let idle = link(&lab, &ticket).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    visitor.read_exact(&mut [0]).await.unwrap();
    lab.change(|p| drop(p.credentials.remove(&credential_id(TOKEN))));
    let ended = timeout(Duration::from_secs(SOON_SECS), visitor.read_u8()).await;
    assert!(ended.expect("a revoked agent serves nobody").is_err());
    assert!(timeout(Duration::from_secs(SOON_SECS), stream.read_u8()).await.unwrap().is_err());
    assert!(timeout(Duration::from_secs(SOON_SECS), idle.accept()).await.unwrap().is_err());
    soon("all links' end", || lab.edge.metrics.links.get() == 0).await;
    assert_eq!(lab.edge.metrics.links_idle.get(), 0);
}

/// A link whose agent has its visitor's bytes and has not passed them on.
async fn visitor_and_reader(lab: &Lab, agent: &Agent, version: Version) -> (Waiting<Io>, Waiting<Io>) {
    let mut waiting = Vec::new();
    for _ in 0..SHARDS {
        let mut io = dial(lab).await;
        say_hello(&mut io, &ticket(agent), version).await.unwrap();
        waiting.push(Waiting::new(io, version));
    }
    parked(lab, i64::try_from(SHARDS).unwrap()).await;
    (waiting.pop().unwrap(), waiting.pop().unwrap())
}

/// Serves one visitor to the end of both directions, so that the edge has nothing left to say; the link below.
async fn to_the_end(waiting: Waiting<Io>) -> Io {
    let (_, mut stream) = waiting.accept().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    stream.shutdown().await.unwrap();
    stream.into_idle().unwrap()
}

#[tokio::test]
async fn a_link_is_claimed_again_only_when_its_agent_says_that_it_is_empty() {
    let (lab, agent) = start(TOKEN).await;
    let (one, two) = visitor_and_reader(&lab, &agent, Version::Two).await;
    let _agent = agent.echo(b"");
    let (one, two) = (tokio::spawn(to_the_end(one)), tokio::spawn(to_the_end(two)));
    // Visitors until both links had one; the others went by the session.
    while !(one.is_finished() && two.is_finished()) {
        exchange(lab.visit().await, b"x").await.unwrap();
    }
    let by_link = carried(&lab, "link");
    assert_eq!(by_link, 2);
    // Both directions have ended, but the agent still has their bytes.
    for _ in 0..8 {
        assert_eq!(exchange(lab.visit().await, b"x").await.unwrap(), b"x");
    }
    assert_eq!((carried(&lab, "link"), lab.edge.metrics.links_idle.get()), (2, 0));
    assert_eq!(lab.edge.metrics.links.get(), 2, "they are kept for when they are empty");
    let _one = Waiting::freed(one.await.unwrap(), Version::Two).await.unwrap();
    let _two = Waiting::freed(two.await.unwrap(), Version::Two).await.unwrap();
    parked(&lab, 2).await;
}

#[tokio::test]
async fn a_link_of_an_agent_that_cannot_say_so_is_claimed_again_after_few_bytes_only() {
    let (lab, agent) = start(TOKEN).await;
    let (one, two) = visitor_and_reader(&lab, &agent, Version::One).await;
    let _agent = agent.echo(b"");
    for link in [one, two] {
        tokio::spawn(async move {
            let mut link = link;
            loop {
                link = Waiting::freed(to_the_end(link).await, Version::One).await.unwrap();
            }
        });
    }
    for _ in 0..4 {
        exchange(lab.visit().await, b"few").await.unwrap();
    }
    parked(&lab, 2).await;
    let before = carried(&lab, "link");
    let much = vec![7; 1 << 20];
    while carried(&lab, "link") == before {
        exchange(lab.visit().await, &much).await.unwrap();
    }
    soon("the end of a link with much on its way", || lab.edge.metrics.links.get() < 2).await;
}

#[tokio::test]
async fn a_link_that_waits_to_be_empty_ends_with_its_session() {
    let (mut lab, agent) = start(TOKEN).await;
    let link = links(&lab, &agent, 1).await.pop().unwrap();
    let (mut visitor, _, mut stream) = visit_link(&lab, agent, link).await;
    visitor.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(visitor.read(&mut [0]).await.unwrap(), 0);
    let mut io = stream.into_idle().unwrap();
    lab.change(|p| drop(p.credentials.remove(&credential_id(TOKEN))));
    assert!(timeout(Duration::from_secs(SOON_SECS), io.read_u8()).await.unwrap().is_err());
    soon("all links' end", || lab.edge.metrics.links.get() == 0).await;
}

/// A link that reads its visitor's bytes and says nothing, as if they had not come.
async fn deaf(lab: &Lab, agent: &Agent) -> Io {
    let io = speak(lab, &ticket(agent)).await;
    parked(lab, 1).await;
    io
}

/// A visitor who came to the one link there is, and what the session carries; visitors without a link are refused.
async fn visit_deaf(lab: &Lab, agent: &mut Agent, bytes: &[u8]) -> TcpStream {
    loop {
        let before = (carried(lab, "link"), carried(lab, "mux"));
        let mut visitor = lab.visit().await;
        visitor.write_all(bytes).await.unwrap();
        soon("a stream", || carried(lab, "link") > before.0 || carried(lab, "mux") > before.1).await;
        if carried(lab, "link") > before.0 {
            return visitor;
        }
        agent.accept().await.1.reset(Code::CANCELLED);
    }
}

#[tokio::test]
async fn a_claim_that_is_not_confirmed_goes_another_way() {
    let (lab, mut agent) = start(TOKEN).await;
    let _link = deaf(&lab, &agent).await;
    let question = vec![7; 100_000];
    let mut visitor = visit_deaf(&lab, &mut agent, &question).await;
    visitor.shutdown().await.unwrap();
    let (header, mut stream) = agent.accept().await;
    assert_eq!((header.claim, header.instead), (0, 1));
    // Nothing more comes before the agent has said that it delivers the visitor here.
    stream.write_u8(DELIVERED).await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(got == question, "{} of {} bytes came", got.len(), question.len());
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await.unwrap();
    assert_eq!((answer.as_str(), lab.edge.metrics.claims_unconfirmed.get()), ("answer", 1));
    soon("the link's end", || lab.edge.metrics.links.get() == 0).await;
}

#[tokio::test]
async fn a_claim_that_is_confirmed_late_stays_on_its_link() {
    let (lab, mut agent) = start(TOKEN).await;
    let link = deaf(&lab, &agent).await;
    let mut visitor = visit_deaf(&lab, &mut agent, b"question").await;
    visitor.shutdown().await.unwrap();
    let (header, mut late) = agent.accept().await;
    assert_eq!(header.instead, 1);
    let (header, mut stream) = Waiting::new(link, Version::Two).accept().await.unwrap();
    assert_eq!(header.claim, 1);
    late.reset(Code::CANCELLED);
    let mut question = String::new();
    stream.read_to_string(&mut question).await.unwrap();
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await.unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
}

#[tokio::test]
async fn a_link_that_is_hung_up_while_it_is_claimed_loses_no_visitor() {
    let (lab, mut agent) = start(TOKEN).await;
    let mut link = deaf(&lab, &agent).await;
    let hung_up = tokio::spawn(async move { drop(link.read_u8().await) });
    let mut visitor = visit_deaf(&lab, &mut agent, b"question").await;
    hung_up.await.unwrap();
    visitor.shutdown().await.unwrap();
    let (header, mut stream) = agent.accept().await;
    assert_eq!(header.instead, 1);
    stream.write_u8(DELIVERED).await.unwrap();
    let mut question = String::new();
    stream.read_to_string(&mut question).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!((question.as_str(), visitor.read(&mut [0]).await.unwrap()), ("question", 0));
}
