//! Against the implementation inside the Rust, Python, Node and Java SDKs, in both roles.

use ebbgate_tunnel::driver::{self, Incoming, Session};
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::rpc::StreamKind;
use muxado::{Accept as _, OpenClose as _, SessionBuilder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

const BYTES: usize = 3_000_000;

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|n| (n / 253 + n).to_le_bytes()[0]).collect()
}

fn ours(io: DuplexStream, role: Role) -> (Session, Incoming) {
    let limits = match role {
        Role::Client => Limits::AGENT,
        Role::Server => Limits::EDGE,
    };
    let (session, incoming, io) = driver::connect(io, role, limits);
    tokio::spawn(io);
    (session, incoming)
}

/// Writes the pattern and FIN, and checks that the same comes back.
async fn expect_echo<S>(mut stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let sent = pattern();
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
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
}

/// Sends back everything, then FIN.
async fn echo<S>(mut stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut bytes = vec![0; 30_000];
    loop {
        let length = stream.read(&mut bytes).await.unwrap();
        if length == 0 {
            break;
        }
        stream.write_all(&bytes[..length]).await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn their_client_against_our_server() {
    let (a, b) = duplex(64 * 1024);
    let mut client = SessionBuilder::new(a).client().start();
    let (server, mut incoming) = ours(b, Role::Server);
    let serving = tokio::spawn(async move {
        for _ in 0..4 {
            tokio::spawn(echo(incoming.accept().await.unwrap()));
        }
        incoming
    });
    let mut asking = Vec::new();
    for _ in 0..4 {
        asking.push(tokio::spawn(expect_echo(client.open().await.unwrap())));
    }
    for asked in asking {
        asked.await.unwrap();
    }
    drop(serving.await.unwrap());
    // And the other way round, on streams that we open.
    for _ in 0..4 {
        let stream = server.open(StreamKind::Proxy).await.unwrap();
        let mut theirs = client.accept().await.unwrap();
        let echoing = tokio::spawn(async move {
            assert_eq!(theirs.read_u32().await.unwrap(), 3);
            echo(theirs).await;
        });
        expect_echo(stream).await;
        echoing.await.unwrap();
    }
}

#[tokio::test]
async fn our_client_against_their_server() {
    let (a, b) = duplex(64 * 1024);
    let (client, _incoming) = ours(a, Role::Client);
    let mut server = SessionBuilder::new(b).server().start();
    for _ in 0..4 {
        let stream = client.open(StreamKind::Bind).await.unwrap();
        let mut theirs = server.accept().await.unwrap();
        let echoing = tokio::spawn(async move {
            assert_eq!(theirs.read_u32().await.unwrap(), 1);
            echo(theirs).await;
        });
        expect_echo(stream).await;
        echoing.await.unwrap();
    }
}

#[tokio::test]
async fn their_dropped_stream_ends_ours() {
    let (a, b) = duplex(64 * 1024);
    let mut client = SessionBuilder::new(a).client().start();
    let (server, _incoming) = ours(b, Role::Server);
    let mut stream = server.open(StreamKind::Proxy).await.unwrap();
    drop(client.accept().await.unwrap());
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all.is_empty());
    // They answer what we still send with RST, sooner or later.
    while stream.write_all(&[0; 1_000]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(stream.shutdown().await.is_err());
    drop(stream);
    assert_eq!(server.streams(), 0);
}
