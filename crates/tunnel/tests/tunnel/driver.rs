//! The driver over in-memory pipes: what a stream's user sees.

use std::io;
use std::time::Duration;

use ebbgate_tunnel::driver::{
    CLOSE_SECS_MAX, DriverError, Incoming, Session, Stream, WRITE_SECS_MAX, connect,
};
use ebbgate_tunnel::heartbeat::{self, HeartbeatError};
use ebbgate_tunnel::{StreamError, reset_code, rpc_io};
use ebbgate_wire::mux::{Code, Limits, OpenError, Role};
use ebbgate_wire::rpc::{EdgeType, Outcome, ProxyHeader, StopTunnel, StreamKind, Update};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;

use crate::frames::{Seen, data, frames, reset};

type Ended = JoinHandle<Result<(), DriverError>>;

struct End {
    session: Session,
    incoming: Incoming,
    ended: Ended,
}

fn start(io: DuplexStream, role: Role) -> End {
    let limits = match role {
        Role::Client => Limits::AGENT,
        Role::Server => Limits::EDGE,
    };
    let (session, incoming, io) = connect(io, role, limits);
    End { session, incoming, ended: tokio::spawn(io) }
}

fn pair() -> (End, End) {
    let (a, b) = duplex(64 * 1024);
    (start(a, Role::Client), start(b, Role::Server))
}

/// One end of ours and the raw bytes of the other.
fn with_raw_peer() -> (End, DuplexStream) {
    let (a, b) = duplex(1 << 20);
    (start(a, Role::Server), b)
}

/// Opens a stream from `from` to `to`; both handles, kind read.
async fn stream(from: &End, to: &mut End) -> (Stream, Stream) {
    let ours = from.session.open(StreamKind::Proxy).await.unwrap();
    let mut theirs = to.incoming.accept().await.unwrap();
    assert_eq!(theirs.kind().await.unwrap(), StreamKind::Proxy);
    (ours, theirs)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn a_megabyte_goes_both_ways_at_once_with_half_close() {
    let (client, mut server) = pair();
    let (ours, theirs) = stream(&client, &mut server).await;
    let sent = pattern(1_000_000);
    let echo = |mut stream: Stream, sent: Vec<u8>| async move {
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let mut got = Vec::new();
        let (wrote, read) = tokio::join!(
            async {
                writer.write_all(&sent).await?;
                writer.shutdown().await
            },
            reader.read_to_end(&mut got),
        );
        wrote.unwrap();
        read.unwrap();
        got
    };
    let (left, right) = tokio::join!(echo(ours, sent.clone()), echo(theirs, sent.clone()));
    assert!(left == sent && right == sent);
    assert_eq!((client.session.streams(), server.session.local_streams()), (0, 0));
}

#[tokio::test]
async fn after_a_half_close_the_other_direction_goes_on() {
    let (client, mut server) = pair();
    let (mut ours, mut theirs) = stream(&client, &mut server).await;
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut got = String::new();
    theirs.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "question");
    theirs.write_all(b"long answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    drop(theirs);
    let mut got = String::new();
    ours.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "long answer");
}

#[tokio::test]
async fn a_dropped_stream_is_told_as_cancelled() {
    let (client, mut server) = pair();
    let (ours, mut theirs) = stream(&client, &mut server).await;
    drop(ours);
    let error = theirs.read_u8().await.unwrap_err();
    assert_eq!((error.kind(), reset_code(&error)), (io::ErrorKind::ConnectionReset, Some(Code::CANCELLED)));
    let error = theirs.write_all(b"x").await.unwrap_err();
    assert_eq!(reset_code(&error), Some(Code::CANCELLED));
}

#[tokio::test]
async fn a_reset_carries_its_code_and_wakes_a_waiting_writer() {
    let (client, mut server) = pair();
    let (mut ours, mut theirs) = stream(&client, &mut server).await;
    let writing = tokio::spawn(async move { ours.write_all(&pattern(2_000_000)).await });
    let mut some = [0; 1_000];
    theirs.read_exact(&mut some).await.unwrap();
    theirs.reset(Code::REFUSED);
    assert_eq!(reset_code(&theirs.read_u8().await.unwrap_err()), Some(Code::REFUSED));
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!(reset_code(&error), Some(Code::REFUSED));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_stops_its_writer_and_nobody_else() {
    let (client, mut server) = pair();
    let (mut stuck, stuck_peer) = stream(&client, &mut server).await;
    let (mut ours, mut theirs) = stream(&client, &mut server).await;
    let bytes = pattern(4_000_000);
    let stalled = tokio::time::timeout(Duration::from_millis(100), stuck.write_all(&bytes)).await;
    assert!(stalled.is_err(), "4 MB went nowhere");
    ours.write_all(b"still here").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut got = String::new();
    theirs.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "still here");
    drop(stuck_peer);
}

#[tokio::test]
async fn a_lost_transport_fails_streams_after_what_was_received() {
    let (server, mut raw) = with_raw_peer();
    let mut incoming = server.incoming;
    raw.write_all(&data(3, &[0, 0, 0, 1, b'h', b'i'], true, false)).await.unwrap();
    raw.write_all(&data(5, &[0, 0, 0, 1, b'h', b'i'], true, true)).await.unwrap();
    let mut open = incoming.accept().await.unwrap();
    let mut finished = incoming.accept().await.unwrap();
    drop(raw);
    server.ended.await.unwrap().unwrap();
    assert_eq!(open.kind().await.unwrap(), StreamKind::Bind);
    let mut two = [0; 2];
    open.read_exact(&mut two).await.unwrap();
    let error = open.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let mut all = Vec::new();
    finished.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [0, 0, 0, 1, b'h', b'i']);
    let error = finished.write_all(b"x").await.unwrap_err();
    assert_eq!(*error.get_ref().unwrap().downcast_ref::<StreamError>().unwrap(), StreamError::SessionEnded);
    assert!(incoming.accept().await.is_none());
    assert!(matches!(server.session.open(StreamKind::Proxy).await, Err(OpenError::Closed)));
}

#[tokio::test]
async fn goaway_is_the_last_thing_sent_and_the_transport_closes_behind_it() {
    let (server, mut raw) = with_raw_peer();
    let mut stream = server.session.open(StreamKind::Stop).await.unwrap();
    stream.write_all(b"{}").await.unwrap();
    server.session.goaway(Code::NONE, "restart");
    let mut all = Vec::new();
    raw.read_to_end(&mut all).await.unwrap();
    assert_eq!(
        frames(&all),
        [Seen::Data { stream: 2, syn: true, fin: false, length: 6 }, Seen::GoAway(Code::NONE)]
    );
    drop(raw);
    server.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_goaway_of_the_peer_ends_the_session_with_its_words() {
    let (server, mut raw) = with_raw_peer();
    raw.write_all(&[0, 0, 12, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, b'o', b'o', b'p', b's'])
        .await
        .unwrap();
    let Err(DriverError::GoneAway { code, message }) = server.ended.await.unwrap() else { panic!() };
    assert_eq!((code, message.as_str()), (Code::INTERNAL, "oops"));
}

#[tokio::test]
async fn a_violation_is_answered_before_the_transport_closes() {
    let (server, mut raw) = with_raw_peer();
    raw.write_all(&data(2, b"", true, false)).await.unwrap();
    let mut all = Vec::new();
    raw.read_to_end(&mut all).await.unwrap();
    assert_eq!(frames(&all), [Seen::GoAway(Code::PROTOCOL)]);
    drop(raw);
    assert!(matches!(server.ended.await.unwrap(), Err(DriverError::Mux(_))));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_loses_the_session() {
    let (a, _peer_that_never_reads) = duplex(64);
    let server = start(a, Role::Server);
    let mut stream = server.session.open(StreamKind::Proxy).await.unwrap();
    stream.write_all(&[0; 1_000]).await.unwrap();
    let before = tokio::time::Instant::now();
    assert!(matches!(server.ended.await.unwrap(), Err(DriverError::WriteTimeout)));
    assert_eq!(before.elapsed().as_secs(), WRITE_SECS_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_closes_is_left_after_a_moment() {
    let (server, _raw) = with_raw_peer();
    server.session.goaway(Code::NONE, "");
    let before = tokio::time::Instant::now();
    server.ended.await.unwrap().unwrap();
    assert_eq!(before.elapsed().as_secs(), CLOSE_SECS_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_says_its_kind_is_not_waited_for() {
    let (mut server, mut raw) = with_raw_peer();
    raw.write_all(&data(3, &[0, 0, 0], true, false)).await.unwrap();
    let mut stream = server.incoming.accept().await.unwrap();
    assert_eq!(stream.kind().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_session_nobody_holds_ends() {
    let (server, mut raw) = with_raw_peer();
    let stream = server.session.open(StreamKind::Proxy).await.unwrap();
    let second = server.session.clone();
    drop((server.session, server.incoming));
    drop(second);
    drop(stream);
    let mut all = Vec::new();
    raw.read_to_end(&mut all).await.unwrap();
    assert_eq!(frames(&all).last(), Some(&Seen::GoAway(Code::NONE)));
    drop(raw);
    server.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_an_acceptor_streams_are_refused() {
    let (server, mut raw) = with_raw_peer();
    drop(server.incoming);
    raw.write_all(&data(3, b"type", true, false)).await.unwrap();
    let mut frame = [0; 12];
    raw.read_exact(&mut frame).await.unwrap();
    assert_eq!(frames(&frame), [Seen::Reset(3, Code::REFUSED)]);
}

#[tokio::test]
async fn the_driver_can_be_dropped_at_any_time() {
    let (a, _b) = duplex(1024);
    let (session, mut incoming, io) = connect(a, Role::Client, Limits::AGENT);
    let mut stream = session.open(StreamKind::Auth).await.unwrap();
    let reading = tokio::spawn(async move { stream.read_u8().await });
    tokio::task::yield_now().await;
    drop(io);
    assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    assert!(incoming.accept().await.is_none());
    assert!(session.is_closed());
}

#[tokio::test]
async fn an_rpc_needs_no_half_close_of_the_asker_and_leaves_no_stream() {
    let (mut agent, server) = pair();
    let answering = tokio::spawn(async move {
        let mut stream = agent.incoming.accept().await.unwrap();
        assert_eq!(stream.kind().await.unwrap(), StreamKind::Update);
        let update = Update::decode(rpc_io::read_object(&mut stream).await.unwrap()).unwrap();
        assert_eq!(update.version, "9.9.9");
        rpc_io::write_object(&mut stream, &Outcome { error: "not here".into() }).await.unwrap();
        drop(stream);
        agent
    });
    let stream = server.session.open(StreamKind::Update).await.unwrap();
    let request = Update { version: "9.9.9".into(), permit_major_version: true };
    let reply = Outcome::decode(rpc_io::call(stream, &request).await.unwrap()).unwrap();
    assert_eq!(reply.error, "not here");
    let mut agent = answering.await.unwrap();

    let stream = server.session.open(StreamKind::StopTunnel).await.unwrap();
    let notice = StopTunnel { id: "b1".into(), message: "gone".into(), error_code: String::new() };
    rpc_io::notify(stream, &notice).await.unwrap();
    let mut stream = agent.incoming.accept().await.unwrap();
    assert_eq!(stream.kind().await.unwrap(), StreamKind::StopTunnel);
    assert_eq!(StopTunnel::decode(rpc_io::read_object(&mut stream).await.unwrap()).unwrap(), notice);
    stream.shutdown().await.unwrap();
    drop(stream);
    // A round trip later both ends have heard both FINs.
    let stream = server.session.open(StreamKind::Stop).await.unwrap();
    drop((agent.incoming.accept().await.unwrap(), stream));
    tokio::task::yield_now().await;
    assert_eq!(server.session.streams(), 0);
}

#[tokio::test]
async fn a_proxy_header_is_followed_by_the_visitors_bytes() {
    let (mut agent, server) = pair();
    let header = ProxyHeader {
        id: "bind".into(),
        client_addr: "[2001:db8::1]:4711".into(),
        proto: "tcp".into(),
        edge_type: EdgeType::Undefined,
        passthrough_tls: false,
        ..ProxyHeader::default()
    };
    let mut ours = server.session.open(StreamKind::Proxy).await.unwrap();
    rpc_io::write_proxy_header(&mut ours, &header).await.unwrap();
    ours.write_all(b"SSH-2.0").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut theirs = agent.incoming.accept().await.unwrap();
    assert_eq!(theirs.kind().await.unwrap(), StreamKind::Proxy);
    assert_eq!(rpc_io::read_proxy_header(&mut theirs).await.unwrap(), header);
    let mut rest = String::new();
    theirs.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "SSH-2.0");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_echoed_and_a_missing_echo_is_noticed() {
    let (mut agent, server) = pair();
    let stream = server.session.open(StreamKind::Heartbeat).await.unwrap();
    let mut theirs = agent.incoming.accept().await.unwrap();
    assert_eq!(theirs.kind().await.unwrap(), StreamKind::Heartbeat);
    let echoing = tokio::spawn(heartbeat::echo(theirs, || {}));
    let (interval, tolerance) = (Duration::from_secs(10), Duration::from_secs(15));
    let mut echoes = 0;
    let mut stop = Some(echoing);
    let before = tokio::time::Instant::now();
    let error = heartbeat::run(stream, interval, tolerance, |_| {
        echoes += 1;
        if echoes == 5
            && let Some(echoing) = stop.take()
        {
            echoing.abort();
        }
    })
    .await;
    assert_eq!(echoes, 5);
    assert_eq!(before.elapsed().as_secs(), 50);
    assert!(matches!(error, HeartbeatError::Io(_)), "{error}");

    // A peer that accepts the stream and stays silent.
    let stream = server.session.open(StreamKind::Heartbeat).await.unwrap();
    let _silent = agent.incoming.accept().await.unwrap();
    let before = tokio::time::Instant::now();
    let error = heartbeat::run(stream, interval, tolerance, |_| {}).await;
    assert!(matches!(error, HeartbeatError::Lost(_)), "{error}");
    assert_eq!(before.elapsed(), tolerance);
}

#[tokio::test]
async fn a_reset_after_the_peers_fin_keeps_its_words() {
    let (server, mut raw) = with_raw_peer();
    let mut stream = server.session.open(StreamKind::Proxy).await.unwrap();
    let mut first = [0; 12];
    raw.read_exact(&mut first).await.unwrap();
    raw.write_all(&data(2, b"all I had", false, true)).await.unwrap();
    raw.write_all(&reset(2, Code::STREAM_CLOSED)).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "all I had");
    assert_eq!(reset_code(&stream.write_all(b"x").await.unwrap_err()), Some(Code::STREAM_CLOSED));
}

/// What a visitor does to its stream, chosen by its number.
async fn visit(mut stream: Stream, number: usize) {
    let sent = pattern(number * 977 % 90_000);
    match number % 4 {
        0 => drop(stream),
        1 => {
            let _ = stream.write_all(&sent).await;
            stream.reset(Code::REFUSED);
        }
        2 => {
            stream.write_all(&sent).await.unwrap();
            let mut some = vec![0; sent.len() / 2];
            stream.read_exact(&mut some).await.unwrap();
        }
        _ => {
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let mut got = Vec::new();
            let (wrote, read) = tokio::join!(
                async {
                    writer.write_all(&sent).await?;
                    writer.shutdown().await
                },
                reader.read_to_end(&mut got),
            );
            wrote.unwrap();
            read.unwrap();
            assert!(got == sent, "stream {number}");
        }
    }
}

/// Sends back what comes, until somebody has enough.
async fn echo(stream: Stream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    if reader.read_u32().await.is_ok() && tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
        let _ = writer.shutdown().await;
    }
}

/// A lost wake-up would hang this test; a transport of 333 bytes makes every write partial.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_streams_on_many_threads_leave_nothing_behind() {
    let (a, b) = duplex(333);
    let (mut agent, edge) = (start(a, Role::Client), start(b, Role::Server));
    let echoing = tokio::spawn(async move {
        while let Some(stream) = agent.incoming.accept().await {
            tokio::spawn(echo(stream));
        }
        agent.session
    });
    let visits: Vec<_> = (0..400)
        .map(|number| {
            let session = edge.session.clone();
            tokio::spawn(async move { visit(session.open(StreamKind::Proxy).await.unwrap(), number).await })
        })
        .collect();
    for visit in visits {
        visit.await.unwrap();
    }
    edge.session.goaway(Code::NONE, "done");
    edge.ended.await.unwrap().unwrap();
    agent.ended.await.unwrap().unwrap();
    assert!(echoing.await.unwrap().is_closed());
}
