//! Links: any bytes in any pieces through two ends, one visitor after another, and ends that are none.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ebbgate_tunnel::link::{LinkStream, Parked, Waiting};
use ebbgate_tunnel::reset_code;
use ebbgate_wire::link::{Frame, Version};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use proptest::prelude::*;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};

fn visitor(n: usize) -> ProxyHeader {
    ProxyHeader { id: format!("bind-{n}"), client_addr: "192.0.2.1:5".into(), ..ProxyHeader::default() }
}

/// Writes in pieces, ends, and reads to the end in pieces, both at once.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        for piece in bytes.chunks(piece) {
            write.write_all(piece).await.unwrap();
        }
        write.shutdown().await.unwrap();
    };
    let receive = async {
        let (mut got, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match read.read(&mut buffer).await.unwrap() {
                0 => return got,
                n => got.extend_from_slice(&buffer[..n]),
            }
        }
    };
    tokio::join!(send, receive).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One visitor after another on one link: every byte arrives once and in order, both ends arrive, and the link is idle
    /// again, however small the pipe and however the bytes are cut.
    #[test]
    fn visitors_follow_one_another(
        pipe in 1usize..40_000,
        visitors in prop::collection::vec((0usize..120_000, 0usize..120_000, 1usize..70_000, 1usize..70_000), 1..4),
        says_free: bool,
    ) {
        let version = if says_free { Version::Two } else { Version::One };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut edge, agent) = duplex(pipe);
            let mut agent = Waiting::new(agent, version);
            for (n, (up, down, edge_piece, agent_piece)) in visitors.into_iter().enumerate() {
                let pattern = |length: usize, seed: usize| -> Vec<u8> {
                    (0..length).map(|i| u8::try_from((i * 31 + seed) % 251).unwrap()).collect()
                };
                let (question, answer) = (pattern(up, n), pattern(down, n + 7));
                let edge_side = async {
                    let mut parked = Parked::new(edge, version);
                    assert!(parked.is_quiet());
                    let mut stream = parked.claim(&visitor(n)).unwrap();
                    let got = exchange(&mut stream, &question, edge_piece).await;
                    (got, stream.freed().await.expect("both ends were seen"))
                };
                let agent_side = async {
                    let (header, mut stream) = agent.accept().await.unwrap();
                    assert_eq!(header, visitor(n));
                    let got = exchange(&mut stream, &answer, agent_piece).await;
                    let idle = stream.into_idle().expect("both ends were seen");
                    (got, Waiting::freed(idle, version).await.unwrap())
                };
                let ((got_answer, e), (got_question, a)) = tokio::join!(edge_side, agent_side);
                assert!(got_answer == answer && got_question == question);
                (edge, agent) = (e, a);
            }
        });
    }

    /// An agent that is fed anything fails or waits; it neither panics nor keeps more than one claim.
    #[test]
    fn any_bytes_to_an_agent(bytes in prop::collection::vec(any::<u8>(), 0..200), claimed in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut edge, agent) = duplex(100_000);
            if claimed {
                let claim = [&[3, 0, 0, 10][..], br#"{"Id":"x"}"#].concat();
                edge.write_all(&claim).await.unwrap();
            }
            edge.write_all(&bytes).await.unwrap();
            edge.shutdown().await.unwrap();
            if let Ok((_, mut stream)) = Waiting::new(agent, Version::Two).accept().await {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
    }
}

async fn claimed() -> (LinkStream<DuplexStream>, LinkStream<DuplexStream>) {
    let (edge, agent) = duplex(1 << 20);
    let mut edge = Parked::new(edge, Version::Two).claim(&visitor(1)).unwrap();
    edge.flush().await.unwrap();
    (edge, Waiting::new(agent, Version::Two).accept().await.unwrap().1)
}

#[tokio::test]
async fn the_claim_and_the_first_bytes_leave_together() {
    let (edge, mut agent) = duplex(1 << 20);
    let mut edge = Parked::new(edge, Version::Two).claim(&visitor(1)).unwrap();
    assert_eq!(poll_read(&mut agent, &mut [0; 8]), None, "nothing has left yet");
    edge.write_all(b"hi").await.unwrap();
    let mut stream = Waiting::new(agent, Version::Two).accept().await.unwrap().1;
    stream.read_exact(&mut [0; 2]).await.unwrap();
    // Whoever only reads pushes the claim out too: the agent's side may speak first.
    let (edge, agent) = duplex(1 << 20);
    let mut edge = Parked::new(edge, Version::Two).claim(&visitor(1)).unwrap();
    let greet = async {
        let mut stream = Waiting::new(agent, Version::Two).accept().await.unwrap().1;
        stream.write_all(b"220 ready").await.unwrap();
        stream
    };
    let mut greeting = [0; 9];
    let (read, _stream) = tokio::join!(edge.read_exact(&mut greeting), greet);
    assert_eq!((read.unwrap(), &greeting), (9, b"220 ready"));
}

fn poll_read<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut [u8]) -> Option<usize> {
    let mut buf = ReadBuf::new(bytes);
    match Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
        Poll::Ready(Ok(())) => Some(buf.filled().len()),
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_reset_carries_its_code_and_ends_the_link() {
    let (mut edge, mut agent) = claimed().await;
    agent.write_all(b"half").await.unwrap();
    agent.reset(Code::REFUSED);
    edge.read_exact(&mut [0; 4]).await.unwrap();
    let error = edge.read_u8().await.unwrap_err();
    assert_eq!(reset_code(&error), Some(Code::REFUSED));
    assert_eq!(reset_code(&edge.write_all(b"x").await.unwrap_err()), Some(Code::REFUSED));
    assert!(edge.into_idle().is_none() && agent.into_idle().is_none());
}

#[tokio::test]
async fn dropping_an_unfinished_stream_cancels_it() {
    let (mut edge, agent) = claimed().await;
    edge.shutdown().await.unwrap();
    drop(agent);
    assert_eq!(reset_code(&edge.read_u8().await.unwrap_err()), Some(Code::CANCELLED));
}

#[tokio::test]
async fn a_link_that_ends_under_a_stream_is_no_end_of_it() {
    let (edge, agent) = duplex(100);
    let mut stream = Parked::new(edge, Version::Two).claim(&visitor(1)).unwrap();
    drop(agent);
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!((error.kind(), reset_code(&error)), (std::io::ErrorKind::ConnectionAborted, None));
    assert!(stream.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn a_writer_is_held_back_by_its_reader() {
    const PIPE_BYTES: usize = 10_000;
    let (edge, _agent) = duplex(PIPE_BYTES);
    let mut stream = Parked::new(edge, Version::Two).claim(&visitor(1)).unwrap();
    let mut taken = 0;
    let bytes = vec![0; 1 << 20];
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(n) = Pin::new(&mut stream).poll_write(&mut cx, &bytes) {
        taken += n.unwrap();
        assert!(taken < 100_000, "takes {taken} bytes that nobody reads");
    }
}

/// What an edge meets when the agent's side of a claimed link breaks the rules.
#[tokio::test]
async fn broken_rules_end_the_link() {
    let cases: [(&str, &[u8]); 13] = [
        ("no frame", b"HTTP/1.1 200 OK"),
        ("an empty DATA", &[0, 0, 0, 0]),
        ("a DATA that is too long", &[0, 1, 0, 0]),
        ("a FIN with a value", &[1, 0, 0, 9]),
        ("a claim by an agent", &[3, 0, 0, 2, b'{', b'}']),
        ("a second FIN", &[1, 0, 0, 0, 1, 0, 0, 0]),
        ("DATA after FIN", &[1, 0, 0, 0, 0, 0, 0, 1, 7]),
        ("half a header", &[0, 0]),
        ("DATA before TAKEN", &[0, 0, 0, 1, 7]),
        ("FIN before TAKEN", &[1, 0, 0, 0]),
        ("FREE before TAKEN", &[5, 0, 0, 0]),
        ("a second TAKEN", &[4, 0, 0, 0, 4, 0, 0, 0]),
        ("FREE before FIN", &[4, 0, 0, 0, 5, 0, 0, 0]),
    ];
    for (what, bytes) in cases {
        let taken = [&Frame::Taken.encode()[..], bytes].concat();
        let bytes = if what.contains("TAKEN") { bytes } else { &taken };
        let (edge, mut agent) = duplex(1 << 16);
        let mut stream = Parked::new(edge, Version::Two).claim(&visitor(1)).unwrap();
        agent.write_all(bytes).await.unwrap();
        agent.shutdown().await.unwrap();
        let mut got = Vec::new();
        let read = stream.read_to_end(&mut got).await;
        stream.shutdown().await.ok();
        // What comes after a FIN belongs to the link, not to the stream: a reader that waits for its end finds it.
        let usable = read.is_ok() && stream.freed().await.is_some();
        assert!(!usable, "{what}");
        assert_eq!(got, b"", "{what}");
    }
}

/// What an agent meets when the edge does not begin with a claim.
#[tokio::test]
async fn only_a_claim_begins() {
    let long = [&[3, 0, 0x40, 1][..], &vec![b'{'; 20_000]].concat();
    for bytes in
        [&[0, 0, 0, 1, 7][..], &[1, 0, 0, 0], &[2, 0, 0, 6], &[3, 0, 0, 2, b'[', b']'], &long, &[], &[3]]
    {
        let (mut edge, agent) = duplex(1 << 16);
        edge.write_all(bytes).await.unwrap();
        edge.shutdown().await.unwrap();
        assert!(Waiting::new(agent, Version::Two).accept().await.is_err(), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_parked_link_that_speaks_or_ends_is_not_quiet() {
    let (edge, mut agent) = duplex(100);
    let mut parked = Parked::new(edge, Version::Two);
    assert!(parked.is_quiet() && parked.is_quiet());
    agent.write_all(&[0]).await.unwrap();
    assert!(!parked.is_quiet());
    let (edge, agent) = duplex(100);
    drop(agent);
    assert!(!Parked::new(edge, Version::Two).is_quiet());
}

#[tokio::test]
async fn a_link_is_free_when_its_agent_says_so_and_not_before() {
    let (mut edge, mut agent) = claimed().await;
    assert_eq!(edge.version(), Version::Two);
    edge.shutdown().await.unwrap();
    agent.shutdown().await.unwrap();
    assert_eq!((edge.read(&mut [0]).await.unwrap(), agent.read(&mut [0]).await.unwrap()), (0, 0));
    // Both directions ended, and the agent has yet to pass on what it read.
    let mut freed = Box::pin(edge.freed());
    assert!(freed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let agent = Waiting::freed(agent.into_idle().unwrap(), Version::Two).await.unwrap();
    let mut parked = Parked::new(freed.await.unwrap(), Version::Two);
    assert!(parked.is_quiet());
    let mut edge = parked.claim(&visitor(2)).unwrap();
    edge.flush().await.unwrap();
    assert_eq!(agent.accept().await.unwrap().0, visitor(2));
}

#[tokio::test]
async fn a_link_of_the_first_version_says_neither_taken_nor_free() {
    let (edge, agent) = duplex(1 << 16);
    let mut edge = Parked::new(edge, Version::One).claim(&visitor(1)).unwrap();
    edge.shutdown().await.unwrap();
    assert!(!edge.is_untaken());
    let (_, mut agent) = Waiting::new(agent, Version::One).accept().await.unwrap();
    agent.read_to_end(&mut Vec::new()).await.unwrap();
    agent.shutdown().await.unwrap();
    assert_eq!(edge.read(&mut [0]).await.unwrap(), 0);
    let mut parked = Parked::new(edge.freed().await.unwrap(), Version::One);
    drop(Waiting::freed(agent.into_idle().unwrap(), Version::One).await.unwrap());
    assert_eq!(parked.get_mut().read(&mut [0]).await.unwrap(), 0, "not a byte was said");
}

#[tokio::test]
async fn a_link_that_is_let_go_before_it_is_free_still_brings_what_was_sent() {
    let (mut edge, mut agent) = claimed().await;
    edge.write_all(b"the end").await.unwrap();
    edge.shutdown().await.unwrap();
    agent.shutdown().await.unwrap();
    assert_eq!(edge.read(&mut [0]).await.unwrap(), 0);
    drop(edge.freed());
    let mut got = String::new();
    agent.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "the end");
}
