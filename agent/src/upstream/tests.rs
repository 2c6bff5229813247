//! Delivery over real loopback sockets: visitors are streams of an in-memory session, upstreams are real listeners.

use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::Scheme;
use ebbgate_tunnel::driver::Stream as Visitor;
use ebbgate_tunnel::driver::{self, Session};
use ebbgate_tunnel::{TunnelStream, reset_code};
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::rpc::StreamKind;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use tokio_rustls::TlsConnector;

use super::*;
use crate::config::{EndpointDraft, Secret, TerminationPem};

/// An edge's session whose streams are delivered by `upstream`; the handle gives the first delivery's outcome.
async fn visit(upstream: Upstream) -> (Visitor, JoinHandle<Result<(), DeliveryError>>, Session) {
    let (edge_io, agent_io) = tokio::io::duplex(256 * 1024);
    let (edge, _, driving) = driver::connect(edge_io, Role::Server, Limits::EDGE);
    tokio::spawn(driving);
    let (agent, mut incoming, driving) = driver::connect(agent_io, Role::Client, Limits::AGENT);
    tokio::spawn(driving);
    let visitor = edge.open(StreamKind::Proxy).await.unwrap();
    let delivery = tokio::spawn(async move {
        let mut stream = incoming.accept().await.unwrap();
        assert_eq!(stream.kind().await.unwrap(), StreamKind::Proxy);
        let outcome = upstream.deliver(Stream::Tunnel(TunnelStream::Mux(stream))).await;
        // The session outlives its streams, as in an agent.
        tokio::spawn(async move {
            let _keep = (agent, incoming.accept().await);
            std::future::pending::<()>().await;
        });
        outcome
    });
    (visitor, delivery, edge)
}

pub(super) fn draft(scheme: Scheme, upstream: &str) -> EndpointDraft {
    let url = match scheme {
        Scheme::Tcp => "tcp://x.internal:1".to_owned(),
        other => format!("{other}://x.internal"),
    };
    EndpointDraft { name: "x".into(), url, upstream_url: upstream.into(), ..EndpointDraft::default() }
}

pub(super) fn upstream(draft: EndpointDraft) -> Upstream {
    Upstream::new(&draft.check().unwrap().0).unwrap()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn closed_port() -> String {
    listener().await.1
}

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self) -> String {
        self.issuer.as_ref().pem()
    }

    /// A leaf for `name`: chain and key in PEM.
    fn leaf(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(super) fn acceptor(&self, name: &str, alpn: &[&str]) -> TlsAcceptor {
        let (chain, key) = self.leaf(name);
        let mut config = ServerConfig::builder_with_provider(trust_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn trust_provider() -> Arc<rustls::crypto::CryptoProvider> {
    crate::trust::provider()
}

#[tokio::test]
async fn bytes_go_both_ways_and_a_half_close_keeps_the_answer() {
    let (listener, address) = listener().await;
    let (mut visitor, delivery, _edge) = visit(upstream(draft(Scheme::Tcp, &address))).await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"I speak first").await.unwrap();
    let mut first = [0; 13];
    visitor.read_exact(&mut first).await.unwrap();
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    let big = vec![7; 3 << 20];
    let sending = tokio::spawn(async move { server.write_all(&big).await });
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.len(), 3 << 20);
    sending.await.unwrap().unwrap();
    delivery.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upstream_that_resets_resets_the_visitor() {
    let (listener, address) = listener().await;
    let (mut visitor, delivery, _edge) = visit(upstream(draft(Scheme::Tcp, &address))).await;
    let (mut server, _) = listener.accept().await.unwrap();
    visitor.write_u8(1).await.unwrap();
    server.read_u8().await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let error = visitor.read_u8().await.unwrap_err();
    assert_eq!(reset_code(&error), Some(Code::RESET));
    assert!(matches!(delivery.await.unwrap(), Err(DeliveryError::Broken(Broken::Upstream(_)))));
}

#[tokio::test]
async fn a_visitor_that_breaks_off_resets_the_upstream() {
    let (listener, address) = listener().await;
    let (mut visitor, delivery, _edge) = visit(upstream(draft(Scheme::Tcp, &address))).await;
    let (mut server, _) = listener.accept().await.unwrap();
    visitor.reset(Code::CANCELLED);
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(delivery.await.unwrap(), Err(DeliveryError::Broken(Broken::Visitor(_)))));
}

#[tokio::test]
async fn an_upstream_that_is_down_refuses_the_stream() {
    for scheme in [Scheme::Tls, Scheme::Http, Scheme::Https] {
        let address = closed_port().await;
        let (mut visitor, delivery, _edge) = visit(upstream(draft(scheme, &address))).await;
        let error = visitor.read_u8().await.unwrap_err();
        assert_eq!(reset_code(&error), Some(Code::REFUSED), "an edge may try another member of the pool");
        let reason = delivery.await.unwrap().unwrap_err().to_string();
        assert!(reason.contains(&address) && reason.contains("refused"), "{reason}");
    }
}

/// Accepts one TLS connection, reports server name and ALPN, echoes one byte.
async fn tls_once(listener: TcpListener, acceptor: TlsAcceptor) -> (Option<String>, Option<Vec<u8>>) {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut tls = acceptor.accept(tcp).await.unwrap();
    let facts = (
        tls.get_ref().1.server_name().map(str::to_owned),
        tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec),
    );
    let byte = tls.read_u8().await.unwrap();
    tls.write_u8(byte).await.unwrap();
    tls.shutdown().await.unwrap();
    facts
}

async fn echo_one(visitor: &mut Visitor) {
    visitor.write_u8(42).await.unwrap();
    assert_eq!(visitor.read_u8().await.unwrap(), 42);
}

#[tokio::test]
async fn tls_to_the_upstream_names_it_and_offers_the_protocol() {
    let check = async |scheme: Scheme, protocol: &str, alpn: &[&str], expect: Option<&[u8]>| {
        let (listener, address) = listener().await;
        let port = address.rsplit_once(':').unwrap().1;
        let mut draft = draft(scheme, &format!("https://localhost:{port}"));
        draft.protocol = protocol.into();
        let server = tokio::spawn(tls_once(listener, Authority::new().acceptor("other.name", alpn)));
        let (mut visitor, _delivery, _edge) = visit(upstream(draft)).await;
        echo_one(&mut visitor).await;
        let (name, chosen) = server.await.unwrap();
        assert_eq!(name.as_deref(), Some("localhost"));
        assert_eq!(chosen.as_deref(), expect);
    };
    check(Scheme::Https, "", &["h2", "http/1.1"], Some(b"http/1.1")).await;
    check(Scheme::Https, "http2", &["h2", "http/1.1"], Some(b"h2")).await;
    check(Scheme::Tcp, "", &[], None).await;
}

#[tokio::test]
async fn an_upstreams_certificate_is_checked_when_asked() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let check = async |acceptor: TlsAcceptor, good: bool| {
        let (listener, address) = listener().await;
        let port = address.rsplit_once(':').unwrap().1.to_owned();
        let mut draft = draft(Scheme::Tls, &format!("tls://localhost:{port}"));
        draft.tls_verify_cas = ca.to_string_lossy().into_owned();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _ = tls.write_u8(1).await;
                let _ = tls.read_u8().await;
            }
        });
        let (mut visitor, _delivery, _edge) = visit(upstream(draft)).await;
        assert_eq!(visitor.read_u8().await.is_ok(), good);
    };
    check(authority.acceptor("localhost", &[]), true).await;
    check(authority.acceptor("other.name", &[]), false).await;
    check(stranger.acceptor("localhost", &[]), false).await;
}

#[tokio::test]
async fn the_proxy_header_goes_before_tls() {
    let v1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n".to_vec();
    let v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".as_slice(), &[9; 12]].concat();
    for (version, head) in [("1", v1), ("2", v2)] {
        let (listener, address) = listener().await;
        let mut draft = draft(Scheme::Https, &format!("https://{address}"));
        draft.proxy_protocol = version.into();
        let expect = head.clone();
        let server = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut got = vec![0; expect.len()];
            tcp.read_exact(&mut got).await.unwrap();
            assert_eq!(got, expect);
            let mut tls = Authority::new().acceptor("x", &[]).accept(tcp).await.unwrap();
            let byte = tls.read_u8().await.unwrap();
            tls.write_u8(byte).await.unwrap();
            tls.flush().await.unwrap();
            tls
        });
        let (mut visitor, _delivery, _edge) = visit(upstream(draft)).await;
        visitor.write_all(&head).await.unwrap();
        echo_one(&mut visitor).await;
        drop(server.await.unwrap());
    }
}

#[tokio::test]
async fn a_missing_proxy_header_is_refused() {
    let (_listener, address) = listener().await;
    let mut draft = draft(Scheme::Tcp, &address);
    draft.proxy_protocol = "1".into();
    let (mut visitor, delivery, _edge) = visit(upstream(draft)).await;
    visitor.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert!(visitor.read_u8().await.is_err());
    assert!(matches!(delivery.await.unwrap(), Err(DeliveryError::ProxyHead(_))));
}

/// What a visitor of an agent-terminated endpoint may show and say first.
async fn terminated(preamble: &[u8], answers: &[u8], identity: Option<(String, String)>) -> bool {
    let authority = Authority::new();
    let identity = identity.unwrap_or_else(|| authority.leaf("doctor"));
    mutual(preamble, answers, authority.pem(), identity).await
}

/// The same, of an endpoint that trusts these authorities. An empty identity is none.
async fn mutual(preamble: &[u8], answers: &[u8], trusted: String, identity: (String, String)) -> bool {
    let authority = Authority::new();
    let (chain, key) = authority.leaf("db.internal");
    let (listener, address) = listener().await;
    let mut draft = draft(Scheme::Tls, &address);
    draft.termination =
        Some(TerminationPem { certificate: chain, key: Secret::new(key), client_authorities: vec![trusted] });
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let byte = tcp.read_u8().await.unwrap();
        tcp.write_u8(byte).await.unwrap();
        let _ = tcp.read_u8().await;
    });
    let (mut visitor, _delivery, _edge) = visit(upstream(draft)).await;
    visitor.write_all(preamble).await.unwrap();
    let mut answer = vec![0; answers.len()];
    visitor.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, answers);
    let roots = crate::trust::from_pem(authority.pem().as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(trust_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        (chain, key) if !chain.is_empty() => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        _ => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("db.internal").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, visitor);
    let Ok(mut tls) = connecting.await else { return false };
    tls.write_u8(42).await.is_ok() && tls.read_u8().await.is_ok_and(|byte| byte == 42)
}

/// The application protocol that TLS in the agent picks for a client that offers `offer`; the upstream speaks `protocol`.
async fn picked(protocol: &str, offer: &[&str]) -> io::Result<Option<Vec<u8>>> {
    let authority = Authority::new();
    let (certificate, key) = authority.leaf("db.internal");
    let (_listener, address) = listener().await;
    let mut draft = draft(Scheme::Tls, &address);
    draft.protocol = protocol.into();
    draft.termination =
        Some(TerminationPem { certificate, key: Secret::new(key), client_authorities: Vec::new() });
    let (visitor, _delivery, _edge) = visit(upstream(draft)).await;
    let mut config = ClientConfig::builder_with_provider(trust_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(crate::trust::from_pem(authority.pem().as_bytes()).unwrap())
        .with_no_client_auth();
    config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("db.internal").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, visitor).await?;
    Ok(tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

#[tokio::test]
async fn tls_that_ends_in_the_agent_picks_no_protocol_the_service_may_not_speak() {
    for offer in
        [&[][..], &["h2", "http/1.1"], &["http/1.1"], &["mqtt"], &["tds/8.0"], &["acme-proto", "imap"]]
    {
        assert_eq!(picked("", offer).await.unwrap(), None, "{offer:?}");
    }
    let postgresql = Some(b"postgresql".to_vec());
    assert_eq!(picked("", &["postgresql"]).await.unwrap(), postgresql, "psql 17 insists on it");
    assert_eq!(
        picked("http2", &["http/1.1", "h2"]).await.unwrap(),
        Some(b"h2".to_vec()),
        "gRPC insists on it"
    );
    assert_eq!(picked("http2", &["http/1.1"]).await.unwrap(), None);
}

const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 48];

#[tokio::test]
async fn tls_that_ends_in_the_agent_with_and_without_psqls_preamble() {
    assert!(terminated(b"", b"", None).await);
    assert!(terminated(SSL_REQUEST, b"S", None).await);
    assert!(terminated(GSS_REQUEST, b"N", None).await);
}

/// A visitor before its handshake, with TLS that ends in the agent, and the upstream's listener.
async fn terminated_visitor() -> (Visitor, ClientConfig, TcpListener, Session) {
    let authority = Authority::new();
    let (chain, key) = authority.leaf("db.internal");
    let (listener, address) = listener().await;
    let mut draft = draft(Scheme::Tls, &address);
    draft.termination =
        Some(TerminationPem { certificate: chain, key: Secret::new(key), client_authorities: Vec::new() });
    let (visitor, _delivery, edge) = visit(upstream(draft)).await;
    let config = ClientConfig::builder_with_provider(trust_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(crate::trust::from_pem(authority.pem().as_bytes()).unwrap())
        .with_no_client_auth();
    (visitor, config, listener, edge)
}

#[tokio::test]
async fn a_tls_client_of_the_agent_that_closes_without_close_notify_loses_nothing() {
    const BYTES: usize = 3 << 20;
    let (visitor, config, listener, _edge) = terminated_visitor().await;
    let name = ServerName::try_from("db.internal").unwrap();
    let sending = tokio::spawn(async move {
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, visitor).await.unwrap();
        tls.write_all(&vec![3; BYTES]).await.unwrap();
        tls.flush().await.unwrap();
        // Ends the stream below alone.
        tls.get_mut().0.shutdown().await.unwrap();
        tls
    });
    let mut got = Vec::new();
    listener.accept().await.unwrap().0.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), BYTES);
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn tls_that_ends_in_the_agent_sends_no_tickets_that_a_mere_sender_leaves_unread() {
    let (visitor, config, listener, _edge) = terminated_visitor().await;
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let byte = tcp.read_u8().await.unwrap();
        tcp.write_u8(byte).await.unwrap();
        let _ = tcp.read_u8().await;
    });
    let name = ServerName::try_from("db.internal").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, visitor).await.unwrap();
    tls.write_u8(42).await.unwrap();
    assert_eq!(tls.read_u8().await.unwrap(), 42);
    let (_, session) = tls.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(session.tls13_tickets_received(), 0);
}

#[tokio::test]
async fn an_upstream_that_closes_without_close_notify_has_ended_in_order() {
    let (listener, address) = listener().await;
    let port = address.rsplit_once(':').unwrap().1;
    let (mut visitor, delivery, _edge) =
        visit(upstream(draft(Scheme::Tls, &format!("tls://localhost:{port}")))).await;
    let acceptor = Authority::new().acceptor("localhost", &[]);
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.unwrap();
        let mut question = Vec::new();
        tls.read_to_end(&mut question).await.unwrap();
        tls.write_all(b"last words").await.unwrap();
        tls.flush().await.unwrap();
        question
    });
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await.unwrap();
    assert_eq!((answer.as_str(), serving.await.unwrap()), ("last words", b"question".to_vec()));
    delivery.await.unwrap().unwrap();
}

#[tokio::test]
async fn mutual_tls_in_the_agent_keeps_strangers_out() {
    assert!(!terminated(b"", b"", Some((String::new(), String::new()))).await, "no certificate");
    assert!(!terminated(b"", b"", Some(Authority::new().leaf("doctor"))).await, "another authority's");
}

/// A self-signed certificate and its key, good until `year`.
fn self_signed(is_ca: IsCa, year: i32, usage: Option<ExtendedKeyUsagePurpose>) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = is_ca;
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    params.extended_key_usages.extend(usage);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_that_is_authority_and_client_at_once_is_trusted_by_the_agent() {
    let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    let good = self_signed(ca(), 2090, None);
    assert!(mutual(b"", b"", good.0.clone(), good.clone()).await);
    let for_clients = self_signed(ca(), 2090, Some(ExtendedKeyUsagePurpose::ClientAuth));
    assert!(mutual(b"", b"", for_clients.0.clone(), for_clients).await);
    let stranger = self_signed(ca(), 2090, None);
    assert!(!mutual(b"", b"", good.0, stranger).await, "the same name, another key");
    let expired = self_signed(ca(), 2001, None);
    assert!(!mutual(b"", b"", expired.0.clone(), expired).await, "expired");
    let for_servers = self_signed(ca(), 2090, Some(ExtendedKeyUsagePurpose::ServerAuth));
    assert!(!mutual(b"", b"", for_servers.0.clone(), for_servers).await, "for servers only");
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_never_finishes_its_handshake_is_given_up() {
    let (chain, key) = Authority::new().leaf("db.internal");
    let mut draft = draft(Scheme::Tls, "127.0.0.1:1");
    draft.termination =
        Some(TerminationPem { certificate: chain, key: Secret::new(key), client_authorities: Vec::new() });
    let (mut visitor, delivery, _edge) = visit(upstream(draft)).await;
    visitor.write_all(&[0x16, 3, 1]).await.unwrap();
    let begin = tokio::time::Instant::now();
    assert!(matches!(delivery.await.unwrap(), Err(DeliveryError::VisitorTls(_))));
    assert!(begin.elapsed() <= Duration::from_secs(HANDSHAKE_SECS_MAX + 1));
}

/// A claimed raw link, delivered by `upstream`: the edge's socket, and the delivery's outcome.
async fn visit_raw(upstream: Upstream, first: &[u8]) -> (TcpStream, JoinHandle<Result<(), DeliveryError>>) {
    let (listener, address) = listener().await;
    let agent = TcpStream::connect(address).await.unwrap();
    let (edge, _) = listener.accept().await.unwrap();
    let stream = Stream::Raw(RawStream::new(agent, first.to_vec().into()));
    (edge, tokio::spawn(async move { upstream.deliver(stream).await }))
}

#[tokio::test]
async fn a_raw_link_is_spliced_after_its_status_and_both_ends_pass_on() {
    let (listener, address) = listener().await;
    let (mut edge, delivery) = visit_raw(upstream(draft(Scheme::Tls, &address)), b"hello, ").await;
    let (mut server, _) = listener.accept().await.unwrap();
    let big = vec![5; 3 << 20];
    let sent = big.clone();
    let asking = tokio::spawn(async move {
        assert_eq!(edge.read_u8().await.unwrap(), 0, "the status comes first");
        edge.write_all(b"world").await.unwrap();
        edge.shutdown().await.unwrap();
        let mut answer = Vec::new();
        edge.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let mut question = String::new();
    server.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "hello, world");
    server.write_all(&sent).await.unwrap();
    drop(server);
    assert!(asking.await.unwrap() == big);
    delivery.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_raw_link_keeps_the_proxy_header_in_front() {
    let (listener, address) = listener().await;
    let mut draft = draft(Scheme::Tls, &address);
    draft.proxy_protocol = "1".into();
    let first = b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\nhello";
    let (_edge, _delivery) = visit_raw(upstream(draft), first).await;
    let mut got = vec![0; first.len()];
    listener.accept().await.unwrap().0.read_exact(&mut got).await.unwrap();
    assert_eq!(got, first);
}

#[tokio::test]
async fn a_raw_link_whose_upstream_is_down_says_so_and_nothing_else() {
    let (mut edge, delivery) = visit_raw(upstream(draft(Scheme::Tls, &closed_port().await)), b"hello").await;
    let mut heard = Vec::new();
    edge.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, [5], "REFUSED: the edge may try another member of the pool");
    assert!(matches!(delivery.await.unwrap(), Err(DeliveryError::Dial { .. })));
}

#[tokio::test]
async fn a_raw_link_that_breaks_breaks_the_other_side() {
    let (listener, address) = listener().await;
    let (mut edge, delivery) = visit_raw(upstream(draft(Scheme::Tls, &address)), b"hello").await;
    let (mut server, _) = listener.accept().await.unwrap();
    assert_eq!(edge.read_u8().await.unwrap(), 0);
    let mut hello = [0; 5];
    server.read_exact(&mut hello).await.unwrap();
    edge.set_zero_linger().unwrap();
    drop(edge);
    assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(delivery.await.unwrap(), Err(DeliveryError::Broken(Broken::Visitor(_)))));

    let (mut edge, delivery) = visit_raw(upstream(draft(Scheme::Tls, &address)), b"hello").await;
    let (mut server, _) = listener.accept().await.unwrap();
    assert_eq!(edge.read_u8().await.unwrap(), 0);
    server.read_exact(&mut hello).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    assert_eq!(edge.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(delivery.await.unwrap(), Err(DeliveryError::Broken(Broken::Upstream(_)))));
}
