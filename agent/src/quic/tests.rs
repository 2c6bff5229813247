//! The agent over QUIC against a bare edge of quinn's, by real datagrams.

use std::time::Duration;

use ebbgate_shaper::{Shaper, Weather};
use ebbgate_tunnel::quic::{ATTACHED, Endpoint, Port, ServerKeys, open_proxied};
use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::config::{AgentConfig, CarrierChoice};
use crate::dial::Dial;
use crate::edge_dialer::EdgeDialer;
use crate::stream::Proxied;
use crate::trust::{Trust, provider};

/// An edge's listener, as far as QUIC goes.
struct Edge {
    endpoint: Endpoint,
    address: SocketAddr,
    pem: String,
}

impl Edge {
    fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().self_signed(&key).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let socket = ebbgate_tunnel::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let server = ebbgate_tunnel::quic::server(tls).unwrap();
        let keys = ServerKeys::new(&[7; 32], 0);
        let port = Port::new(keys.ids(), false, Vec::new());
        let endpoint = ebbgate_tunnel::quic::server_endpoint(socket, server, &keys, &port).unwrap();
        Self { endpoint, address, pem: leaf.pem() }
    }

    /// The next connection and its first words.
    async fn accept(&self) -> (Connection, StreamHeader, Stream) {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let mut stream = Stream::new(connection.accept_bi().await.unwrap());
        let opening = StreamHeader::read(&mut stream).await.unwrap();
        (connection, opening, stream)
    }

    fn dialler(&self, to: SocketAddr) -> QuicDialer {
        let mut roots = RootCertStore::empty();
        roots
            .add(
                <CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(self.pem.as_bytes())
                    .unwrap(),
            )
            .unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = ConnectAddress { host: to.ip().to_string(), port: to.port() };
        let name = address.host.clone();
        QuicDialer::new(address, &name, tls, None).unwrap()
    }
}

fn header(id: &str) -> ProxyHeader {
    ProxyHeader { id: id.into(), proto: "tcp".into(), ..ProxyHeader::default() }
}

async fn take(streams: &mut Box<dyn Streams>) -> (String, Stream) {
    match streams.accept().await.unwrap() {
        Proxied {
            header,
            stream: crate::stream::Stream::Tunnel(ebbgate_tunnel::TunnelStream::Quic(stream)),
        } => (header.id, stream),
        _ => panic!("another carrier"),
    }
}

#[tokio::test]
async fn a_session_and_its_streams() {
    let edge = Edge::start();
    let dialler = edge.dialler(edge.address);
    let (reached, (connection, opening, mut session)) = tokio::join!(dialler.session(), edge.accept());
    assert_eq!(opening, StreamHeader::Session);
    let mut reached = reached.unwrap();
    reached.io.write_all(b"as over TLS").await.unwrap();
    let mut got = [0; 11];
    session.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"as over TLS");
    let mut streams = reached.streams.unwrap();
    // One that stalls in its header holds up nobody.
    let (mut stalled, _recv) = connection.open_bi().await.unwrap();
    stalled.write_all(&[0, 0]).await.unwrap();
    let mut visitor = open_proxied(&connection, &header("b1"), b"pre").await.unwrap();
    visitor.write_all(b"amble").await.unwrap();
    visitor.shutdown().await.unwrap();
    let (id, mut stream) = take(&mut streams).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!((id.as_str(), text.as_str()), ("b1", "preamble"));
    stream.write_all(b"answer").await.unwrap();
    // Streams in flight outlive their source.
    drop((streams, reached.io));
    stream.shutdown().await.unwrap();
    text.clear();
    visitor.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    drop(stream);
    connection.closed().await;
}

#[tokio::test]
async fn an_attachment_is_asked_for_and_let_go() {
    let edge = Edge::start();
    let dialler = edge.dialler(edge.address);
    let answer = async |code: u8| {
        let (connection, opening, mut control) = edge.accept().await;
        assert_eq!(opening, StreamHeader::Attach(Secret::new("ticket")));
        control.write_u8(code).await.unwrap();
        (connection, control)
    };
    let (refused, _edge) = tokio::join!(dialler.attach(Secret::new("ticket")), answer(5));
    assert!(refused.err().unwrap().to_string().contains("refused"));
    let (streams, (connection, mut control)) =
        tokio::join!(dialler.attach(Secret::new("ticket")), answer(ATTACHED));
    let mut streams = streams.unwrap();
    streams.finish();
    assert_eq!(control.read(&mut [0]).await.unwrap(), 0, "no new streams, please");
    let mut late = open_proxied(&connection, &header("b2"), b"").await.unwrap();
    let (_, mut stream) = take(&mut streams).await;
    stream.reset(Code::REFUSED);
    let refused = late.read_u8().await.unwrap_err();
    assert_eq!(reset_code(&refused), Some(Code::REFUSED));
}

#[tokio::test]
async fn an_edge_that_is_not_trusted_is_not_spoken_to() {
    let (edge, other) = (Edge::start(), Edge::start());
    let accepting = async { edge.endpoint.accept().await.unwrap().await.err() };
    let dialler = other.dialler(edge.address);
    let (failed, refused) = tokio::join!(dialler.session(), accepting);
    assert!(failed.err().unwrap().to_string().contains("certificate"));
    assert!(refused.is_some());
}

#[tokio::test]
async fn streams_survive_loss_and_a_nat_that_forgets() {
    let edge = Edge::start();
    let shaper = Shaper::start(edge.address, 3).await.unwrap();
    let dialler = edge.dialler(shaper.address);
    let (reached, (connection, ..)) = tokio::join!(dialler.session(), edge.accept());
    let reached = reached.unwrap();
    let mut streams = reached.streams.unwrap();
    shaper.set(Weather { loss_per_mille: 50, delay: Duration::from_millis(10) });
    let sent: Vec<u8> =
        (0..1_000_000_u32).map(|n| n.to_be_bytes()[usize::try_from(n % 4).unwrap()]).collect();
    let mut visitor = open_proxied(&connection, &header("b1"), b"").await.unwrap();
    let talking = async {
        for part in sent.chunks(200_000) {
            visitor.write_all(part).await.unwrap();
            shaper.rename();
        }
        visitor.shutdown().await.unwrap();
    };
    let listening = async {
        let (_, mut stream) = take(&mut streams).await;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = tokio::join!(talking, listening);
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    assert!(shaper.lost() > 0);
}

/// The agent's configuration for an edge at one address.
fn config(edge: &Edge, port: u16, carrier: CarrierChoice) -> AgentConfig {
    AgentConfig {
        connect: vec![ConnectAddress { host: "127.0.0.1".into(), port }],
        trust: Trust::Pem(edge.pem.as_str().into()),
        carrier,
        ..AgentConfig::default()
    }
}

#[tokio::test]
async fn where_tcp_is_swallowed_the_session_comes_over_quic() {
    let edge = Edge::start();
    // Accepts nothing and says nothing: connections hang in its queue, as behind a firewall that drops TLS.
    let silent = tokio::net::TcpListener::bind(edge.address).await.unwrap();
    let dialler = EdgeDialer::new(&config(&edge, edge.address.port(), CarrierChoice::Auto)).unwrap();
    let (reached, (_, opening, _)) = tokio::join!(dialler.dial(), edge.accept());
    assert!(reached.unwrap().streams.is_some());
    assert_eq!(opening, StreamHeader::Session);
    drop(silent);
}

#[tokio::test]
async fn an_edge_that_refuses_tcp_is_not_asked_over_quic() {
    let edge = Edge::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let dialler = EdgeDialer::new(&config(&edge, port, CarrierChoice::Auto)).unwrap();
    assert!(matches!(dialler.dial().await, Err(DialError::Tcp { .. })));
    let dialler = EdgeDialer::new(&config(&edge, edge.address.port(), CarrierChoice::Quic)).unwrap();
    let (reached, _edge) = tokio::join!(dialler.dial(), edge.accept());
    reached.unwrap();
}
