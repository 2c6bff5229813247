//! The library's surface against the simulated edge: what a program sees.

use super::*;
use crate::sdk::SdkError;

async fn connect(dialer: Arc<MemoryDialer>) -> Result<crate::Session, SdkError> {
    crate::Session::builder().authtoken("token").metadata("m").connect_by(dialer).await
}

#[tokio::test(start_paused = true)]
async fn a_program_listens_accepts_and_goes_offline_by_dropping() {
    let edge = Edge::default();
    let session = connect(MemoryDialer::new(&edge)).await.unwrap();
    let mut listener = session.listen(A).await.unwrap();
    assert_eq!(listener.url().to_string(), A);
    let mut visitor = edge.visit(A).await;
    visitor.write_all(b"hello").await.unwrap();
    let mut connection = listener.accept().await.unwrap();
    let mut five = [0; 5];
    connection.stream.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"hello");
    assert_eq!(edge.book().auths[0].extra.metadata, "m");
    drop(listener);
    while !edge.book().served.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(edge.book().unbinds.len(), 1);
}

#[tokio::test]
async fn a_listener_gets_the_visitors_own_bytes_after_the_proxy_header_and_tls() {
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["b.internal".into()]).unwrap().self_signed(&key).unwrap();
    let edge = Edge::default();
    let session = connect(MemoryDialer::new(&edge)).await.unwrap();
    let draft = crate::config::EndpointDraft {
        url: B.into(),
        proxy_protocol: "1".into(),
        termination: Some(crate::config::TerminationPem {
            certificate: own.pem(),
            key: Secret::new(key.serialize_pem()),
            client_authorities: Vec::new(),
        }),
        ..Default::default()
    };
    let mut listener = session.listen_with(draft).await.unwrap();
    let mut visitor = edge.visit(B).await;
    visitor.write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n").await.unwrap();
    let roots = crate::trust::from_pem(own.pem().as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(crate::trust::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("b.internal").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect(name, visitor).await.expect("TLS ends in the agent");
    tls.write_all(b"in clear").await.unwrap();
    tls.flush().await.unwrap();
    let mut connection = listener.accept().await.unwrap();
    assert_eq!(connection.client, Some("203.0.113.7:4711".parse().unwrap()));
    let mut said = [0; 8];
    connection.stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"in clear");
    connection.stream.write_all(b"answer").await.unwrap();
    connection.stream.flush().await.unwrap();
    let mut answer = [0; 6];
    tls.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn a_program_forwards_to_an_upstream() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = Edge::default();
    let session = connect(MemoryDialer::new(&edge)).await.unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let forwarding = session.forward(B, &address).await.unwrap();
    assert_eq!(forwarding.url().to_string(), B);
    let bind = edge.book().binds[0].clone();
    assert_eq!(bind.forwards_to, format!("tcp://{address}"));
    assert_eq!(bind.extra.bindings, ["internal"]);
    let mut visitor = edge.visit(B).await;
    visitor.write_all(b"x").await.unwrap();
    let (mut server, _) = upstream.accept().await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    session.close().await;
    assert!(edge.book().served.is_empty());
}

#[tokio::test(start_paused = true)]
async fn first_failures_are_errors_and_later_ones_are_not() {
    let edge = Edge::default();
    let dialer = MemoryDialer::new(&edge);
    dialer.cut(true);
    assert!(matches!(connect(dialer.clone()).await, Err(SdkError::Unreachable(_))));
    dialer.up();
    edge.book().refuse_auth = [107].into();
    assert!(matches!(connect(dialer.clone()).await, Err(SdkError::Refused(r)) if r.is_permanent()));
    let session = connect(dialer.clone()).await.unwrap();
    assert!(matches!(session.listen("https://a.internal/path").await, Err(SdkError::Endpoint(_))));
    assert!(matches!(session.forward(A, "file:///srv").await, Err(SdkError::Endpoint(_))));
    edge.book().refuse_bind.insert(A.into(), [334].into());
    assert!(matches!(session.listen(A).await, Err(SdkError::Bind(BindError::Refused(_)))));
    let _listener = session.listen(A).await.unwrap();
    dialer.cut(true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    dialer.up();
    while !edge.book().served.contains_key(A) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
