//! The driver over an in-memory pipe: two ends of our own.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::mux::Limits;

fn pair() -> ((Session, Incoming), (Session, Incoming)) {
    let (a, b) = duplex(64 * 1024);
    let (client, client_in, client_io) = connect(a, Role::Client, Limits::AGENT);
    let (server, server_in, server_io) = connect(b, Role::Server, Limits::EDGE);
    tokio::spawn(client_io);
    tokio::spawn(server_io);
    ((client, client_in), (server, server_in))
}

#[tokio::test]
async fn a_megabyte_goes_both_ways_with_half_close() {
    let ((client, _client_in), (_server, mut server_in)) = pair();
    let mut stream = client.open(StreamKind::Bind).await.unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let answering = tokio::spawn(async move {
        let mut stream = server_in.accept().await.unwrap();
        assert_eq!(stream.kind().await.unwrap(), StreamKind::Bind);
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
    answering.await.unwrap();
    drop(writing.await.unwrap());
    drop(reader);
    stream = client.open(StreamKind::Bind).await.unwrap();
    drop(stream);
}
