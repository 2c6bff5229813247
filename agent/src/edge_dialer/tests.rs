//! The dialler against real listeners: whom it trusts, what it says when it does not, and the way through a proxy.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A CA and a TLS listener with a leaf for `name` that writes one byte to whoever comes.
async fn edge(name: &str) -> (Arc<str>, u16) {
    edge_with(name, &[]).await
}

/// The same, choosing among these protocols.
async fn edge_with(name: &str, alpn: &[&[u8]]) -> (Arc<str>, u16) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let mut config = ServerConfig::builder_with_provider(trust::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let is_link = tls.get_ref().1.alpn_protocol() == Some(ALPN_LINK);
                let suite = tls.get_ref().1.negotiated_cipher_suite().unwrap().suite();
                assert!(!is_link || suite == CipherSuite::TLS13_AES_128_GCM_SHA256);
                let _ = tls.write_u8(if is_link { 8 } else { 7 }).await;
                let _ = tls.flush().await;
            }
        }
    });
    (issuer.as_ref().pem().into(), port)
}

fn agent(address: &str, ca: &Arc<str>) -> AgentConfig {
    AgentConfig {
        connect: vec![ConnectAddress::parse(address).unwrap()],
        trust: Trust::Pem(ca.clone()),
        ..AgentConfig::default()
    }
}

async fn dial(agent: &AgentConfig) -> Result<u8, String> {
    let dialer = EdgeDialer::new(agent).unwrap();
    let mut io = dialer.dial().await.map_err(|error| error.to_string())?.io;
    io.read_u8().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn only_the_right_name_under_the_right_authority_is_believed() {
    let (ca, port) = edge("localhost").await;
    let (stranger, _) = edge("localhost").await;
    let named = format!("localhost:{port}");
    assert_eq!(dial(&agent(&named, &ca)).await, Ok(7));
    let refused = dial(&agent(&named, &stranger)).await.unwrap_err();
    assert!(refused.contains("TLS with") && refused.contains("connect_cas"), "{refused}");
    assert!(
        dial(&agent(&format!("127.0.0.1:{port}"), &ca)).await.is_err(),
        "the certificate names localhost only"
    );
}

#[tokio::test]
async fn addresses_are_names_too_when_the_certificate_has_them() {
    let (ca, port) = edge("127.0.0.1").await;
    assert_eq!(dial(&agent(&format!("127.0.0.1:{port}"), &ca)).await, Ok(7));
}

#[tokio::test]
async fn an_edge_that_has_no_time_says_when_to_come_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ca, _) = edge("localhost").await;
    let agent = agent(&listener.local_addr().unwrap().to_string(), &ca);
    let answers = tokio::spawn(async move {
        for alert in [retry::alert(Duration::from_secs(7)), 224, 112] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            let mut rest = vec![0; u16::from_be_bytes([hello[3], hello[4]]).into()];
            stream.read_exact(&mut rest).await.unwrap();
            stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).await.unwrap();
        }
    });
    let dialer = EdgeDialer::new(&agent).unwrap();
    let busy = dialer.dial().await.err().unwrap();
    assert!(matches!(busy, DialError::Busy { retry_after, .. } if retry_after.as_secs() == 7), "{busy}");
    for _ in 0..2 {
        let failed = dialer.dial().await.err().unwrap();
        assert!(matches!(failed, DialError::Tls { .. }), "{failed}");
    }
    answers.await.unwrap();
}

#[tokio::test]
async fn an_edge_that_says_nothing_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ca, _) = edge("localhost").await;
    let mut agent = agent(&listener.local_addr().unwrap().to_string(), &ca);
    agent.connect_timeout = Duration::from_millis(50);
    assert!(dial(&agent).await.unwrap_err().contains("did not answer within 50ms"));
}

#[tokio::test]
async fn an_edge_that_another_named_shows_a_name_of_the_configuration() {
    let told = async |name: &str| {
        let (ca, port) = edge_with(name, &[ALPN_LINK]).await;
        let any = EdgeDialer::new(&agent("localhost:1", &ca)).unwrap();
        let dialer = any.to(ConnectAddress::parse(&format!("127.0.0.1:{port}")).unwrap()).unwrap();
        let session = dialer.dial().await.map(|dialled| dialled.io).map_err(|error| error.to_string());
        (session.map(drop), dialer.link().await.map(drop).map_err(|error| error.to_string()))
    };
    assert_eq!(told("localhost").await, (Ok(()), Ok(())), "the address need not be in the certificate");
    let (session, link) = told("127.0.0.1").await;
    for refused in [session, link] {
        assert!(refused.unwrap_err().contains("not valid for name \"localhost\""), "a name of its own");
    }
}

#[tokio::test]
async fn a_proxy_is_asked_for_the_edge_and_tls_goes_through_it() {
    let (ca, port) = edge("localhost").await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut agent = agent(&format!("localhost:{port}"), &ca);
    agent.proxy = Some(ProxyUrl::parse(&format!("http://{}", proxy.local_addr().unwrap())).unwrap());
    let served = tokio::spawn(async move {
        let (mut near, _) = proxy.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(near.read_u8().await.unwrap());
        }
        let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        String::from_utf8(request).unwrap()
    });
    assert_eq!(dial(&agent).await, Ok(7));
    assert!(served.await.unwrap().starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n")));
}

#[tokio::test]
async fn links_name_their_protocol_and_sessions_none() {
    let (ca, port) = edge_with("localhost", &[ALPN_LINK]).await;
    let named = agent(&format!("localhost:{port}"), &ca);
    assert_eq!(dial(&named).await, Ok(7));
    let dialer = EdgeDialer::new(&named).unwrap();
    for _ in 0..2 {
        assert_eq!(dialer.link().await.unwrap().read_u8().await.unwrap(), 8);
    }
    // An edge that knows no links takes the connection for a session; nothing is said on it.
    let (ca, port) = edge("localhost").await;
    let dialer = EdgeDialer::new(&agent(&format!("localhost:{port}"), &ca)).unwrap();
    assert!(matches!(dialer.link().await.err(), Some(DialError::Unsupported(_))));
}

#[test]
fn there_is_no_dialler_without_an_address_or_roots() {
    let check = |agent: &AgentConfig, expect: &str| {
        let error = EdgeDialer::new(agent).err().unwrap().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&AgentConfig::default(), "EBBGATE_CONNECT_URL");
    let mut agent = agent("edge:1", &"no PEM".into());
    check(&agent, "not PEM");
    agent.trust = Trust::File("/nonexistent/ca.pem".into());
    check(&agent, "/nonexistent/ca.pem");
}
