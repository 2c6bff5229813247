//! Two processes at one UDP socket: which of them gets a datagram. Both are played here in one.

use super::*;
use crate::quic::ids::{IDENTIFIER_BYTES, ServerKeys};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;

/// A server's configuration, and that of a client which trusts it.
fn configs() -> (quinn::ServerConfig, quinn::ClientConfig) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(leaf.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (crate::quic::server(server).unwrap(), crate::quic::client(client).unwrap())
}

fn meta(addr: &str, dst: Option<&str>) -> RecvMeta {
    let mut meta = RecvMeta::default();
    (meta.addr, meta.dst_ip) = (addr.parse().unwrap(), dst.map(|dst| dst.parse().unwrap()));
    meta.ecn = EcnCodepoint::from_bits(2);
    meta
}

#[test]
fn addresses_travel_with_a_datagram() {
    for (addr, dst, is_v4) in [
        ("192.0.2.1:4433", Some("198.51.100.7"), true),
        ("192.0.2.1:1", None, true),
        ("[::ffff:192.0.2.1]:4433", Some("::ffff:198.51.100.7"), false),
        ("[fe80::1%3]:443", Some("fe80::2"), false),
    ] {
        let sent = meta(addr, dst);
        let read = read_before(&before(&sent), is_v4).unwrap();
        assert_eq!((read.addr, read.dst_ip, read.ecn), (sent.addr, sent.dst_ip, sent.ecn));
    }
    assert!(read_before(&[0; BEFORE_BYTES - 1], true).is_none());
}

#[test]
fn of_datagrams_in_one_buffer_each_goes_to_its_process() {
    let keys = |generation| ServerKeys::new(&[3; 32], generation).ids();
    let (oldest, old, new) = (keys(1), keys(2), keys(3));
    let datagram = |ids: &Ids, tail: usize| [&[0x40][..], &ids.draw(), &vec![7; tail]].concat();
    let all =
        [datagram(&new, 9), datagram(&old, 9), datagram(&oldest, 9), datagram(&new, 9), datagram(&old, 4)];
    let (to_old, at_old) = passage().unwrap();
    let (to_oldest, at_oldest) = passage().unwrap();
    let mut older = vec![(2, to_old), (1, to_oldest)];
    let mut buf = all.concat();
    let mut meta = meta("192.0.2.1:9", None);
    (meta.len, meta.stride) = (buf.len(), all[0].len());
    sort(&new, &mut older, &mut buf, &mut meta);
    assert_eq!(buf[..meta.len], [&all[0][..], &all[3]].concat());
    let read = |socket: &UnixDatagram| {
        let mut got = Vec::new();
        let (mut buf, mut meta) = (vec![0; 2000], RecvMeta::default());
        while read_one(socket, true, &mut buf, &mut meta).is_ok() {
            assert_eq!(meta.addr.to_string(), "192.0.2.1:9");
            got.push(buf[..meta.len].to_vec());
        }
        got
    };
    assert_eq!(read(&at_old), [all[1].clone(), all[4].clone()]);
    assert_eq!(read(&at_oldest), [all[2].clone()]);
    drop(at_old);
    let mut buf = all[1].clone();
    (meta.len, meta.stride) = (buf.len(), buf.len());
    sort(&new, &mut older, &mut buf, &mut meta);
    assert_eq!((meta.len, older.len()), (0, 1), "a process that has ended is forgotten");
}

#[test]
fn while_two_live_neither_sees_and_so_resets_a_connection_that_it_does_not_know_as_its_own() {
    let keys = |generation| ServerKeys::new(&[3; 32], generation).ids();
    let (old, new) = (keys(2), keys(3));
    let datagram = |id: &[u8]| [&[0x40][..], id, &[7; 30]].concat();
    let (reader, at_old) = passage().unwrap();
    let mut older = vec![(2, reader)];
    for (id, at_new, is_seen) in
        [(new.draw(), true, false), (old.draw(), false, true), ([9; IDENTIFIER_BYTES], false, false)]
    {
        let mut buf = datagram(&id);
        let (mut meta, length) = (meta("192.0.2.1:9", None), buf.len());
        (meta.len, meta.stride) = (length, length);
        sort(&new, &mut older, &mut buf, &mut meta);
        assert_eq!(meta.len == length, at_new);
        if !at_new {
            let (mut buf, mut meta) = (vec![0; 2000], RecvMeta::default());
            read_own(&old, &at_old, true, &mut buf, &mut meta).unwrap();
            assert_eq!(meta.len == length, is_seen);
        }
    }
}

#[tokio::test]
async fn connections_go_on_where_they_began_while_new_ones_begin_at_the_successor() {
    let (server_config, client_config) = configs();
    let socket = crate::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let serve = |socket: UdpSocket, keys: &ServerKeys, port: &Port| {
        crate::quic::server_endpoint(socket, server_config.clone(), keys, port).unwrap()
    };
    let (old_keys, new_keys) = (ServerKeys::new(&[3; 32], 8), ServerKeys::new(&[3; 32], 9));
    let old_port = Port::new(old_keys.ids(), false, Vec::new());
    let old = serve(socket.try_clone().unwrap(), &old_keys, &old_port);
    let client = || {
        let socket = crate::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut endpoint = crate::quic::endpoint(socket).unwrap();
        endpoint.set_default_client_config(client_config.clone());
        endpoint
    };
    let (one, two) = (client(), client());
    let answer = |endpoint: &quinn::Endpoint, word: &'static [u8]| {
        let endpoint = endpoint.clone();
        async move {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            crate::quic::admit(&connection);
            let of_stream = connection.clone();
            tokio::spawn(async move {
                while let Ok((mut send, _recv)) = of_stream.accept_bi().await {
                    send.write_all(word).await.unwrap();
                    send.finish().unwrap();
                }
            });
            connection
        }
    };
    let ask = |connection: quinn::Connection| async move {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        recv.read_to_end(9).await.unwrap()
    };
    let dial = |client: &quinn::Endpoint| client.connect(address, "localhost").unwrap();
    let (at_old, first) = tokio::join!(answer(&old, b"old"), dial(&one));
    let first = first.unwrap();
    assert_eq!(ask(first.clone()).await, b"old");

    // As a hand-over does it: the older one stops reading before the newer one begins.
    let (reader, passage) = passage().unwrap();
    let new_port = Port::new(new_keys.ids(), true, vec![(8, reader)]);
    let new = serve(socket, &new_keys, &new_port);
    old_port.pause();
    old_port.resume();
    assert_eq!(ask(first.clone()).await, b"old", "rolled back");
    old_port.leave(passage);
    new_port.resume();
    assert_eq!(ask(first.clone()).await, b"old");
    let (_at_new, second) = tokio::join!(answer(&new, b"new"), dial(&two));
    let second = second.unwrap();
    assert_eq!(ask(second).await, b"new");
    assert_eq!(ask(first.clone()).await, b"old");
    assert!(at_old.close_reason().is_none() && first.close_reason().is_none());
}
