//! Against ourselves and against rustls whole, both ways round; and against bytes that were altered on the way.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;

use bytes::BytesMut;
use ebbgate_wire::link::ALPN_LINK;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::records::{Opened, Records};
use super::stream::{SEAL_BYTES_MAX, TlsStream};
use super::{accept, connect};

fn configs(alpn: &[u8]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["edge.test".into()]).unwrap().self_signed(&key).unwrap();
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let versions = [&rustls::version::TLS13];
    let mut server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    server.alpn_protocols = vec![alpn.to_vec()];
    server.enable_secret_extraction = true;
    let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![alpn.to_vec()];
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("edge.test").unwrap()
}

async fn ours() -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
    let (server, client) = configs(ALPN_LINK);
    let (near, far) = duplex(20_000);
    let (server, client) = tokio::join!(accept(far, server), connect(near, client, name()));
    (server.unwrap(), client.unwrap())
}

/// Much each way, in pieces of many sizes, more records than one key is used for; then both ends.
async fn talk<A, B>(mut one: A, mut other: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    async fn talker<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, salt: u8) -> Vec<u8> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let send = async {
            for (n, length) in
                [1usize, 4, 16_384, 16_385, 70_000, 3].into_iter().cycle().take(150).enumerate()
            {
                let piece = vec![salt.wrapping_add(u8::try_from(n).unwrap()); length];
                writer.write_all(&piece).await.unwrap();
                writer.flush().await.unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let ((), ended) = tokio::join!(send, reader.read_to_end(&mut got));
        ended.unwrap();
        got
    }
    let (at_one, at_other) = tokio::join!(talker(&mut one, 1), talker(&mut other, 100));
    for (got, salt) in [(at_one, 100u8), (at_other, 1)] {
        let mut rest = got.as_slice();
        for (n, length) in [1usize, 4, 16_384, 16_385, 70_000, 3].into_iter().cycle().take(150).enumerate() {
            let (piece, after) = rest.split_at(length);
            assert!(piece.iter().all(|byte| *byte == salt.wrapping_add(u8::try_from(n).unwrap())));
            rest = after;
        }
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn both_ends_ours() {
    let (server, client) = ours().await;
    talk(server, client).await;
}

#[tokio::test]
async fn either_end_may_be_another_implementation() {
    let (server, client) = configs(ALPN_LINK);
    let (near, far) = duplex(20_000);
    let connector = TlsConnector::from(Arc::clone(&client));
    let (ours, theirs) = tokio::join!(accept(far, Arc::clone(&server)), connector.connect(name(), near));
    talk(ours.unwrap(), theirs.unwrap()).await;
    let (near, far) = duplex(20_000);
    let (theirs, ours) = tokio::join!(TlsAcceptor::from(server).accept(far), connect(near, client, name()));
    talk(theirs.unwrap(), ours.unwrap()).await;
}

#[tokio::test]
async fn a_peers_new_key_is_taken() {
    let (server, client) = configs(ALPN_LINK);
    let (near, far) = duplex(20_000);
    let connector = TlsConnector::from(client);
    let (ours, theirs) = tokio::join!(accept(far, server), connector.connect(name(), near));
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    for round in 0..3u8 {
        // Asks us for a new key too.
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round]).await.unwrap();
        theirs.flush().await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), round);
        ours.write_all(&[round]).await.unwrap();
        ours.flush().await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn who_speaks_another_protocol_is_no_link() {
    let (server, client) = configs(b"other/1");
    let (near, far) = duplex(20_000);
    let (server, client) = tokio::join!(accept(far, server), connect(near, client, name()));
    assert!(server.is_err() && client.is_err());
}

#[tokio::test]
async fn who_is_not_trusted_is_refused() {
    let (server, _) = configs(ALPN_LINK);
    let (_, client) = configs(ALPN_LINK);
    let (near, far) = duplex(20_000);
    let (server, client) = tokio::join!(accept(far, server), connect(near, client, name()));
    assert!(client.err().unwrap().to_string().contains("certificate"));
    assert!(server.is_err());
}

/// A record of ten bytes, and who can open it.
async fn sealed() -> (BytesMut, Records) {
    let (server, mut client) = ours().await;
    let mut out = BytesMut::new();
    client.records.seal(&[IoSlice::new(b"01234"), IoSlice::new(b"56789")], SEAL_BYTES_MAX, &mut out).unwrap();
    assert_eq!(out.len(), 5 + 10 + 1 + 16);
    (out, server.records)
}

#[tokio::test]
async fn an_altered_record_is_noticed_at_every_byte() {
    let (good, mut records) = sealed().await;
    let mut open = |mut bytes: BytesMut| records.open(&mut bytes, &mut BytesMut::new());
    assert!(matches!(open(good.clone()), Ok(Opened::Data(plain)) if plain == b"0123456789"[..]));
    assert!(open(good.clone()).is_err(), "a record counts once");
    for at in 0..good.len() {
        let (mut bytes, mut records) = sealed().await;
        bytes[at] ^= 1;
        // A length that grew only waits for more.
        let opened = records.open(&mut bytes, &mut BytesMut::new());
        assert!(matches!(opened, Err(_) | Ok(Opened::Incomplete)), "at {at}");
        bytes.extend_from_slice(&[0; 1024]);
        assert!(records.open(&mut bytes, &mut BytesMut::new()).is_err(), "at {at}");
    }
}

#[tokio::test]
async fn an_end_without_farewell_is_none() {
    let (mut server, mut client) = ours().await;
    client.write_all(b"half").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut got = Vec::new();
    assert_eq!(server.read_to_end(&mut got).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(got, b"half");
}

#[tokio::test]
async fn records_that_are_none() {
    for bytes in
        [&b"HTTP/1.1 400 Bad Request"[..], &[22, 3, 3, 0, 40], &[23, 3, 3, 0xff, 0xff], &[23, 3, 3, 0, 16]]
    {
        let (_, mut records) = sealed().await;
        assert!(records.open(&mut BytesMut::from(bytes), &mut BytesMut::new()).is_err(), "{bytes:?}");
    }
}

#[tokio::test]
async fn an_idle_stream_owns_no_buffer() {
    let (mut server, mut client) = ours().await;
    for _ in 0..3 {
        let write = async {
            client.write_all(&vec![7; 100_000]).await.unwrap();
            client.flush().await.unwrap();
        };
        let mut got = vec![0; 100_000];
        let (read, ()) = tokio::join!(server.read_exact(&mut got), write);
        read.unwrap();
        let mut byte = [0];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut server).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending());
        let owned = [&server.incoming, &server.plain, &server.out, &client.out].map(BytesMut::capacity);
        assert_eq!(owned, [0; 4]);
    }
}
