//! `splice` over real sockets on loopback: what arrives is what was sent, and nothing is left behind.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says so by failing")]

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::Mutex;

use bytes::Bytes;
use ebbgate_relay::{End, Ended, First, IdleLimits, PIPES_KEPT_MAX, Side, open_pipes, splice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const IDLE: IdleLimits = IdleLimits { open_ms: 60_000, half_closed_ms: 60_000 };
const BULK_BYTES: usize = 40 << 20;

/// Pipes and descriptors are counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Visitor, upstream, and the relay between them.
async fn chain(first: First) -> (TcpStream, TcpStream, tokio::task::JoinHandle<Ended>) {
    let (visitor, client) = pair().await;
    let (agent, upstream) = pair().await;
    let relay = tokio::spawn(async move { splice(&client, &agent, first, IDLE).await });
    (visitor, upstream, relay)
}

/// Bytes that repeat nowhere near.
fn block(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x.to_be_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), seed: u64, total: usize, piece: usize) -> u64 {
    let block = block(seed, piece);
    let mut hash = DefaultHasher::new();
    let mut left = total;
    while left > 0 {
        let n = left.min(piece);
        hash.write(&block[..n]);
        stream.write_all(&block[..n]).await.unwrap();
        left -= n;
    }
    stream.shutdown().await.unwrap();
    hash.finish()
}

/// Pieces are hashed as they were sent, so that the hash does not depend on how they arrive.
async fn receive(stream: &mut (impl AsyncReadExt + Unpin), total: usize, piece: usize) -> u64 {
    let mut hash = DefaultHasher::new();
    let mut buffer = vec![0; piece];
    let mut left = total;
    while left > 0 {
        let n = left.min(piece);
        stream.read_exact(&mut buffer[..n]).await.unwrap();
        hash.write(&buffer[..n]);
        left -= n;
    }
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0, "more than was sent");
    hash.finish()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// On a thread that has ended, and closed the pipes it kept, before the next test counts any.
fn alone<F: Future<Output: Send> + Send>(future: F) -> F::Output {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::scope(|scope| scope.spawn(|| runtime.block_on(future)).join().unwrap())
}

#[test]
fn hashes_agree_both_ways_at_once_by_copying_and_by_splicing() {
    alone(async {
        for piece in [1, 64, 1460, 20_000, 200_000] {
            let total = BULK_BYTES.min(piece * 5_000);
            let (visitor, upstream, relay) = chain(First::default()).await;
            let (mut visitor_in, mut visitor_out) = visitor.into_split();
            let (mut upstream_in, mut upstream_out) = upstream.into_split();
            let (up, down, up_got, down_got) = tokio::join!(
                send(&mut visitor_out, 1, total, piece),
                send(&mut upstream_out, 2, total, piece),
                receive(&mut upstream_in, total, piece),
                receive(&mut visitor_in, total, piece),
            );
            assert_eq!((up, down), (up_got, down_got), "pieces of {piece}");
            let ended = relay.await.unwrap();
            let total = total as u64;
            assert_eq!((ended.end, ended.bytes_up, ended.bytes_down), (End::Finished, total, total));
        }
    });
}

#[test]
fn a_finished_question_is_answered_and_first_bytes_come_first() {
    alone(async {
        let first =
            First { to_agent: Bytes::from_static(b"hello, "), to_client: Bytes::from_static(b"welcome, ") };
        let (mut visitor, mut upstream, relay) = chain(first).await;
        visitor.write_all(b"upstream").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut question = String::new();
        upstream.read_to_string(&mut question).await.unwrap();
        upstream.write_all(b"visitor").await.unwrap();
        drop(upstream);
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("hello, upstream", "welcome, visitor"));
        let ended = relay.await.unwrap();
        assert_eq!((ended.end, ended.bytes_up, ended.bytes_down), (End::Finished, 15, 16));
    });
}

#[test]
fn a_reset_is_named_on_either_side_in_any_state() {
    let check = |half_closed: bool, mid_bulk: bool, resets: Side| {
        alone(async move {
            let (mut visitor, mut upstream, relay) = chain(First::default()).await;
            if half_closed {
                let other = if resets == Side::Client { &mut upstream } else { &mut visitor };
                other.shutdown().await.unwrap();
            }
            let (mut goes, mut stays) =
                if resets == Side::Client { (visitor, upstream) } else { (upstream, visitor) };
            if mid_bulk {
                let bytes = vec![1; 4 << 20];
                let mut some = vec![0; 1 << 20];
                let read = async { stays.read_exact(&mut some).await.map(drop) };
                // Ends when some has been read, with the rest on its way.
                let write = async {
                    let _ = goes.write_all(&bytes).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! { read = read => read.unwrap(), () = write => {} }
            }
            goes.set_zero_linger().unwrap();
            drop(goes);
            if mid_bulk {
                drop(stays);
            }
            let ended = relay.await.unwrap();
            assert!(matches!(ended.end, End::Failed(_)), "{half_closed} {mid_bulk} {resets:?}: {ended:?}");
            if !mid_bulk {
                assert_eq!(ended.end, End::Failed(resets), "{half_closed} {ended:?}");
            }
            assert!(ended.error.is_some());
        });
    };
    for half_closed in [false, true] {
        for resets in [Side::Client, Side::Agent] {
            check(half_closed, false, resets);
        }
    }
    check(false, true, Side::Client);
    check(false, true, Side::Agent);
}

#[test]
fn descriptors_and_pipes_are_flat_and_an_idle_relay_owns_none() {
    alone(async {
        let before = descriptors();
        let mut open = Vec::new();
        for _ in 0..PIPES_KEPT_MAX + 20 {
            let (mut visitor, mut upstream, relay) = chain(First::default()).await;
            // Bulk has passed, both sides stay open.
            let bytes = vec![7; 300_000];
            let read = async {
                let mut got = vec![0; bytes.len()];
                upstream.read_exact(&mut got).await.unwrap();
                got
            };
            let (sent, got) = tokio::join!(visitor.write_all(&bytes), read);
            sent.unwrap();
            assert_eq!(got, bytes);
            open.push((visitor, upstream, relay));
        }
        assert!(open_pipes() <= PIPES_KEPT_MAX, "{} pipes for idle relays", open_pipes());
        for (visitor, upstream, relay) in open {
            drop((visitor, upstream));
            relay.await.unwrap();
        }
        assert!(open_pipes() <= PIPES_KEPT_MAX);
        assert_eq!(descriptors(), before + 2 * open_pipes(), "something else stays open");
    });
}
