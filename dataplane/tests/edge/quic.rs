//! Agents over QUIC, both ends real: sessions, attachments, paths that lose, delay, consume and move.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use ebbgate_edge::state::edge::Stage;
use ebbgate_model::IpRestrictionKind;
use ebbgate_shaper::{Shaper, Weather};
use ebbgate_tunnel::driver;
use ebbgate_tunnel::quic::{StreamHeader, StreamHeaderError};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::Secret;
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::lab::{Agent, Lab, OTHER_TOKEN, Previous, TOKEN, exchange};
use crate::quic_agent::{Dialled, config};
use crate::restrictions::restrict;

const TARGET: &str = "tcp://db.clinic1.internal:433";

/// A lab with the public TCP address in front of [`TARGET`], and a path to it.
async fn lab() -> (Lab, Shaper) {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let shaper = Shaper::start(lab.quic, 1).await.unwrap();
    (lab, shaper)
}

/// An agent with its session over QUIC through the path, echoing.
async fn session(lab: &Lab, shaper: &Shaper) -> (driver::Session, Arc<Dialled>) {
    let dialled = Dialled::new(lab, shaper.address, "localhost").await.unwrap();
    let agent = dialled.session(TOKEN).await;
    agent.bind(TARGET).await;
    let session = agent.session.clone();
    // Answers heartbeats for as long as there are any.
    let _ = agent.echo(b"mux:");
    (session, dialled.echo(b""))
}

/// Waits until the agent knows that its session is over.
async fn ended(session: &driver::Session) {
    while !session.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An agent with its session over TCP and a QUIC connection attached.
async fn attached(lab: &Lab, shaper: &Shaper) -> (Agent, Dialled, ebbgate_tunnel::quic::Stream) {
    let agent = Agent::connect_for(lab, TOKEN, "localhost", &Previous::default(), &["quic"]).await;
    let agent = agent.unwrap_or_else(|reply| panic!("{reply:?}"));
    agent.bind(TARGET).await;
    let dialled = Dialled::new(lab, shaper.address, "localhost").await.unwrap();
    let control = dialled.open(&StreamHeader::Attach(ticket(&agent))).await.unwrap();
    (agent, dialled, control)
}

fn ticket(agent: &Agent) -> Secret {
    let offer = agent.reply.extra.carriers.as_ref().expect("carriers were asked for");
    assert!(offer.quic);
    offer.ticket.clone()
}

/// Sends `length` bytes of a seeded sequence through an echo and compares what comes back by its hash.
async fn echoed<S>(stream: S, seed: u64, length: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from, mut to) = tokio::io::split(stream);
    let talking = async {
        let (mut state, mut sent, mut hash) = (seed | 1, 0, Context::new(&SHA256));
        let mut bytes = vec![0; 16 << 10];
        while sent < length {
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = u8::try_from(state >> 56).unwrap();
            }
            let part = &bytes[..bytes.len().min(length - sent)];
            hash.update(part);
            to.write_all(part).await.unwrap();
            sent += part.len();
        }
        to.shutdown().await.unwrap();
        hash.finish()
    };
    let listening = async {
        let (mut got, mut hash, mut bytes) = (0, Context::new(&SHA256), vec![0; 16 << 10]);
        loop {
            match from.read(&mut bytes).await.unwrap() {
                0 => return (got, hash.finish()),
                n => {
                    hash.update(&bytes[..n]);
                    got += n;
                }
            }
        }
    };
    let (sent, (got, received)) = tokio::join!(talking, listening);
    assert_eq!((got, received.as_ref()), (length, sent.as_ref()));
}

#[tokio::test]
async fn a_session_and_its_visitors_over_quic() {
    let (lab, shaper) = lab().await;
    let (agent, dialled) = session(&lab, &shaper).await;
    assert_eq!(exchange(lab.visit().await, b"question").await.unwrap(), b"question");
    let visitors = (0..8).map(async |seed| echoed(lab.visit().await, seed, 1 << 20).await);
    join_all(visitors).await;
    assert!(agent.streams() <= 2, "heartbeats only: proxied streams are QUIC's own");
    let sent = dialled.connection.stats().udp_tx;
    assert!(sent.ios * 2 < sent.datagrams, "no segmentation offload: {} calls for {sent:?}", sent.ios);
}

#[tokio::test]
async fn an_attachment_takes_new_streams_until_it_is_let_go() {
    let (lab, shaper) = lab().await;
    let (agent, dialled, mut control) = attached(&lab, &shaper).await;
    let _agent = agent.echo(b"mux:");
    let mut before = lab.visit().await;
    before.write_all(b"x").await.unwrap();
    let (header, mut stream) = dialled.accept().await.unwrap();
    assert_eq!(header.proto, "tcp");
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    let _dialled = dialled.echo(b"quic:");
    assert_eq!(exchange(lab.visit().await, b"").await.unwrap(), b"quic:");
    control.shutdown().await.unwrap();
    // The FIN is at the edge's machine; the edge has still to read it.
    while exchange(lab.visit().await, b"").await.unwrap() != b"mux:" {}
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    before.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"still here", "a change of carrier drops nothing");
}

#[tokio::test]
async fn only_a_living_session_s_ticket_attaches() {
    let (lab, shaper) = lab().await;
    let refused = async |name: &str, ticket: Secret| {
        let dialled = Dialled::new(&lab, shaper.address, name).await.unwrap();
        matches!(
            dialled.open(&StreamHeader::Attach(ticket)).await,
            Err(StreamHeaderError::Refused(Code::REFUSED))
        )
    };
    let (agent, dialled, _control) = attached(&lab, &shaper).await;
    let good = ticket(&agent);
    assert!(refused("localhost", Secret::new(format!("{}x", good.expose()))).await);
    assert!(refused("localhost", agent.reply.extra.cookie.clone()).await);
    assert!(refused("connect.clinic2.example", good.clone()).await, "another account's name");
    agent.session.goaway(Code::NONE, "");
    let closed = dialled.connection.closed().await;
    assert!(
        closed.to_string().contains("the session has ended"),
        "an attachment ends with its session: {closed}"
    );
    assert!(refused("localhost", good).await);
}

#[tokio::test]
async fn strangers_are_refused_in_the_handshake() {
    let (lab, _) = lab().await;
    let failed = async |config, name: &str| {
        Dialled::with(config, lab.quic, name).await.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let mut tls = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let other = quinn::crypto::rustls::QuicClientConfig::try_from(tls.clone()).unwrap();
    let alpn = failed(quinn::ClientConfig::new(Arc::new(other)), "localhost").await;
    assert!(alpn.contains("known protocol"), "{alpn}");
    tls.alpn_protocols.clear();
    let none = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let alpn = failed(quinn::ClientConfig::new(Arc::new(none)), "localhost").await;
    assert!(alpn.contains("known protocol"), "{alpn}");
    let name = failed(config(&lab), "nobody.example.com").await;
    assert!(name.contains("no server certificate"), "{name}");
    // The dialler knows before the edge has counted.
    while lab.edge.metrics.handshakes_failed.get() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(lab.edge.metrics.handshakes_failed.get(), 3);
}

#[tokio::test]
async fn nonsense_and_silence_after_the_handshake_end_it() {
    let (lab, shaper) = lab().await;
    let dialled = Dialled::new(&lab, shaper.address, "localhost").await.unwrap();
    let (mut send, _recv) = dialled.connection.open_bi().await.unwrap();
    send.write_all(b"GET / HTTP/1.1").await.unwrap();
    assert!(dialled.connection.closed().await.to_string().contains("no session"));
    let silent = Dialled::new(&lab, shaper.address, "localhost").await.unwrap();
    assert!(silent.connection.closed().await.to_string().contains("no session"));
}

#[tokio::test]
async fn codes_arrive_as_on_the_mux() {
    let (mut lab, shaper) = lab().await;
    let dialled = Dialled::new(&lab, shaper.address, "localhost").await.unwrap();
    let agent = dialled.session(TOKEN).await;
    agent.bind(TARGET).await;
    // Refused is "nothing was delivered": the other member of the pool takes it.
    let other = lab.agent(TOKEN).await;
    other.bind(TARGET).await;
    let other = other.echo(b"other:");
    let refusing = tokio::spawn(async move {
        let (_, mut stream) = dialled.accept().await.unwrap();
        stream.reset(Code::REFUSED);
        dialled
    });
    while !refusing.is_finished() {
        assert_eq!(exchange(lab.visit().await, b"x").await.unwrap(), b"other:x");
    }
    let dialled = refusing.await.unwrap();
    other.kill();
    while lab.agents.sessions.all().len() > 1 {
        tokio::task::yield_now().await;
    }
    while lab.event().await.error.is_none() {
        let mut visitor = lab.visit().await;
        visitor.write_all(b"x").await.unwrap();
        let (_, mut stream) = dialled.accept().await.unwrap();
        stream.write_all(b"half").await.unwrap();
        visitor.read_exact(&mut [0; 4]).await.unwrap();
        stream.reset(Code::RESET);
        assert_eq!(visitor.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_visitor_who_breaks_off_resets_the_stream() {
    let (lab, shaper) = lab().await;
    let dialled = Dialled::new(&lab, shaper.address, "localhost").await.unwrap();
    let agent = dialled.session(TOKEN).await;
    agent.bind(TARGET).await;
    let mut visitor = lab.visit().await;
    visitor.write_all(b"x").await.unwrap();
    let (_, mut stream) = dialled.accept().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    visitor.set_zero_linger().unwrap();
    drop(visitor);
    let broken = stream.read_u8().await.unwrap_err();
    assert_eq!(ebbgate_tunnel::reset_code(&broken), Some(Code::CANCELLED));
}

#[tokio::test]
async fn a_nat_that_forgets_costs_nothing() {
    let (lab, shaper) = lab().await;
    let (_agent, dialled) = session(&lab, &shaper).await;
    let renaming = async {
        for _ in 0..3 {
            let carried = shaper.carried() + 400;
            while shaper.carried() < carried {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            shaper.rename();
        }
    };
    tokio::join!(echoed(lab.visit().await, 7, 8 << 20), renaming);
    assert_eq!(exchange(lab.visit().await, b"and on").await.unwrap(), b"and on");
    assert!(dialled.connection.close_reason().is_none());
    while lab.edge.metrics.quic_migrations.get() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_agent_that_changes_its_socket_goes_on() {
    let (lab, shaper) = lab().await;
    let (_agent, dialled) = session(&lab, &shaper).await;
    let rebinding = async {
        while shaper.carried() < 500 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        dialled.endpoint.rebind(ebbgate_tunnel::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
    };
    tokio::join!(echoed(lab.visit().await, 7, 4 << 20), rebinding);
    assert!(dialled.connection.close_reason().is_none());
}

#[tokio::test]
async fn loss_and_delay_change_no_byte() {
    let (lab, shaper) = lab().await;
    let (_agent, dialled) = session(&lab, &shaper).await;
    for percent in [1, 5, 20] {
        shaper.set(Weather { delay: Duration::from_millis(5), ..Weather::loss(percent) });
        let visitors = (0..4).map(async |seed| echoed(lab.visit().await, seed, 128 << 10).await);
        join_all(visitors).await;
    }
    shaper.set(Weather { loss_per_mille: 10, delay: Duration::from_millis(200) });
    echoed(lab.visit().await, 9, 256 << 10).await;
    assert!(shaper.lost() > 0 && dialled.connection.stats().path.lost_packets > 0);
}

#[tokio::test]
async fn where_udp_falls_silent_visitors_go_another_way() {
    let (lab, shaper) = lab().await;
    let (agent, dialled, _control) = attached(&lab, &shaper).await;
    let _agent = agent.echo(b"mux:");
    let dialled = dialled.echo(b"quic:");
    assert_eq!(exchange(lab.visit().await, b"x").await.unwrap(), b"quic:x");
    shaper.set(Weather::black_hole());
    // This one was sent into the silence: nobody heard it, so it is sent again when the silence is certain. Those who
    // come once the silence is noticed wait for nothing.
    let lost = async { exchange(lab.visit().await, b"lost").await.map_err(|e| e.to_string()) };
    let late = async {
        while lab.edge.metrics.quic_silent.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer = exchange(lab.visit().await, b"late").await.unwrap();
        assert!(dialled.connection.close_reason().is_none(), "without waiting for the end of the connection");
        answer
    };
    let (lost, late) = tokio::join!(lost, late);
    assert_eq!(late, b"mux:late");
    assert_eq!(lost.as_deref(), Ok(&b"mux:lost"[..]));
}

#[tokio::test]
async fn a_short_silence_ends_nothing() {
    let (lab, shaper) = lab().await;
    let (_agent, _dialled) = session(&lab, &shaper).await;
    let storm = async {
        while shaper.carried() < 500 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        shaper.set(Weather::black_hole());
        while lab.edge.metrics.quic_silent.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shaper.set(Weather::default());
    };
    tokio::join!(echoed(lab.visit().await, 3, 4 << 20), storm);
    assert_eq!(exchange(lab.visit().await, b"and on").await.unwrap(), b"and on");
}

#[tokio::test]
async fn an_agent_may_not_go_where_it_may_not_come_from() {
    let (mut lab, shaper) = lab().await;
    let (agent, dialled) = session(&lab, &shaper).await;
    lab.change(|program| restrict(program, IpRestrictionKind::Agent, &["127.0.0.1/32"]));
    assert_eq!(exchange(lab.visit().await, b"fine").await.unwrap(), b"fine");
    shaper.move_to("127.0.0.2".parse().unwrap());
    ended(&agent).await;
    dialled.connection.closed().await;
}

#[tokio::test]
async fn a_flood_of_first_packets_is_asked_to_prove_itself() {
    let (lab, shaper) = lab().await;
    // Sources that never hear the answer, as forged ones do not.
    shaper.set_each(Weather::default(), Weather::black_hole());
    let socket = ebbgate_tunnel::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = ebbgate_tunnel::quic::endpoint(socket).unwrap();
    let client = config(&lab);
    let flood: Vec<_> = (0..400)
        .map(|_| endpoint.connect_with(client.clone(), shaper.address, "localhost").unwrap())
        .collect();
    let metrics = &lab.edge.metrics;
    while metrics.quic_retries.get() < 400 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(metrics.agent_connections_open.get(), 0);
    assert_eq!(lab.edge.limits.total(), 0, "nobody's share is used up by packets that anybody may have sent");
    let honest = Dialled::new(&lab, lab.quic, "localhost").await.unwrap();
    assert!(honest.session(TOKEN).await.reply.error.is_empty());
    drop(flood);
}

/// Bytes sent from an unproven address, and bytes that came back until the edge answered the last datagram, which is a
/// real first packet.
async fn answered(lab: &Lab, datagrams: &[Vec<u8>]) -> (usize, usize) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let last = first_packet(lab).await;
    for datagram in datagrams.iter().chain([&last]) {
        socket.send_to(datagram, lab.quic).await.unwrap();
    }
    let sent = last.len() + datagrams.iter().map(Vec::len).sum::<usize>();
    let mut got = 0;
    loop {
        let mut answer = [0; 2048];
        let n = socket.recv(&mut answer).await.unwrap();
        got += n;
        // Identifiers are in the clear (RFC 9000 section 17.2): ours, then theirs.
        let identifier = |packet: &[u8], at: usize| packet[at + 1..=at + usize::from(packet[at])].to_vec();
        let ours = identifier(&last, 6 + usize::from(last[5]));
        if answer[0] & 0x80 != 0 && identifier(&answer, 5) == ours {
            assert_eq!(
                (answer[0] & 0xf0, &answer[1..5]),
                (0xf0, &[0, 0, 0, 1][..]),
                "a Retry and nothing else"
            );
            return (sent, got);
        }
    }
}

/// The first packet of an agent.
async fn first_packet(lab: &Lab) -> Vec<u8> {
    let edge = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let socket = ebbgate_tunnel::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = ebbgate_tunnel::quic::endpoint(socket).unwrap();
    let _connecting = endpoint.connect_with(config(lab), edge.local_addr().unwrap(), "localhost").unwrap();
    let mut packet = vec![0; 2048];
    let n = edge.recv(&mut packet).await.unwrap();
    packet.truncate(n);
    packet
}

#[tokio::test]
async fn an_address_that_is_not_proven_gets_at_most_three_times_what_it_sent() {
    let (lab, _shaper) = lab().await;
    let first = first_packet(&lab).await;
    let unknown_version = [&[0xc3, 0x1a, 0x2a, 0x3a, 0x4a][..], &first[5..]].concat();
    let short_header = |length: usize| [&[0x40][..], &vec![7; length - 1]].concat();
    for (what, datagrams) in [
        ("a first packet", vec![]),
        ("the same again and again", vec![first.clone(); 8]),
        ("another version", vec![unknown_version; 8]),
        ("another version in a small datagram", vec![vec![0xc3, 0x1a, 0x2a, 0x3a, 0x4a, 1, 1, 1, 1]; 8]),
        ("packets of no connection", (0..8).map(|n| short_header(30 + 150 * n)).collect()),
        ("a first packet cut short", vec![first[..600].to_vec(); 8]),
    ] {
        let (sent, got) = answered(&lab, &datagrams).await;
        assert!(got <= 3 * sent, "{what}: {got} bytes for {sent}");
        assert_eq!(lab.edge.metrics.agent_connections_open.get(), 0, "{what}");
    }
}

#[tokio::test]
async fn nobody_waits_behind_visitors_who_never_read() {
    let (lab, shaper) = lab().await;
    let dialled = Dialled::new(&lab, shaper.address, "localhost").await.unwrap();
    let agent = dialled.session(TOKEN).await;
    agent.bind(TARGET).await;
    let mut stuck = Vec::new();
    for _ in 0..24 {
        let visitor = lab.visit().await;
        let (_, mut stream) = dialled.accept().await.unwrap();
        stuck.push(visitor);
        tokio::spawn(async move {
            let bytes = vec![0; 64 << 10];
            while stream.write_all(&bytes).await.is_ok() {}
        });
    }
    let _dialled = dialled.echo(b"");
    let answer = exchange(lab.visit().await, b"quick").await.unwrap();
    assert_eq!(answer, b"quick");
    drop(stuck);
}

#[tokio::test]
async fn the_end_of_the_edge_is_told() {
    let (lab, shaper) = lab().await;
    let (agent, dialled) = session(&lab, &shaper).await;
    let mut visitor = lab.visit().await;
    visitor.write_all(b"x").await.unwrap();
    visitor.read_u8().await.unwrap();
    lab.edge.enter(Stage::Draining);
    assert!(Dialled::new(&lab, shaper.address, "localhost").await.is_err(), "nobody new");
    visitor.write_all(b"y").await.unwrap();
    assert_eq!(visitor.read_u8().await.unwrap(), b'y', "what is in flight goes on");
    lab.edge.enter(Stage::Ending);
    ended(&agent).await;
    let closed = dialled.connection.closed().await;
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
    assert!(visitor.read_u8().await.is_err(), "no clean end that looks like a whole answer");
}

#[tokio::test]
async fn accounts_are_kept_apart() {
    let (lab, shaper) = lab().await;
    let dialled = Dialled::new(&lab, shaper.address, "connect.clinic2.example").await.unwrap();
    let stream = dialled.open(&StreamHeader::Session).await.unwrap();
    let refused = Agent::over(stream, TOKEN, &Previous::default(), &[]).await;
    assert!(refused.is_err(), "an ingress of another account");
    let dialled = Dialled::new(&lab, shaper.address, "connect.clinic2.example").await.unwrap();
    dialled.session(OTHER_TOKEN).await;
}
