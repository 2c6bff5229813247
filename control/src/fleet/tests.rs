//! Certificates that are stolen, expired, foreign or missing, at the real listener.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ebbgate_model::feed::{
    EdgeReach, Enrolled, FEED_PATH, FEED_VERSION, FromEdge, JOIN_PATH, JoinRequest, RENEW_PATH, RenewRequest,
};
use ebbgate_model::{EdgeId, Ksuid};
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::server::EDGE_CONNECTIONS_MAX;
use super::tls::Time;
use super::{Fleet, new_join, remove, serve};
use crate::app::testing::Lab;
use crate::authority::{Authority, Purpose, certificates, new_authority};
use crate::clock::UnixSecs;
use crate::listen::SOURCE_CONNECTIONS_MAX;
use crate::push::{Feeds, Published};

/// A listener of a lab.
struct Server {
    lab: Lab,
    at: SocketAddr,
    task: JoinHandle<Infallible>,
    _plan: watch::Sender<crate::push::Planned>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a peer shows: chain and key, both PEM.
struct Shown {
    certificate_pem: String,
    key_pem: String,
}

async fn server() -> Server {
    let lab = Lab::new().await;
    let (plan, planned) = watch::channel(crate::push::Planned::default());
    let feeds = Feeds::new(Arc::<Published>::default(), planned, lab.app.presence.clone(), Arc::default());
    let host = "control.test".parse().unwrap();
    let fleet = Fleet::new(lab.app.clone(), &host, lab.edge_authority_pem.clone(), Arc::new(feeds)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    Server { lab, at, task: tokio::spawn(serve(listener, Arc::new(fleet))), _plan: plan }
}

impl Server {
    /// Lets an edge join.
    async fn joined(&self) -> (EdgeId, Shown) {
        let (token, _) = new_join(&self.lab.app, "").await.unwrap();
        let (key_pem, csr) = key();
        let asked = JoinRequest { token: token.expose().to_owned(), csr };
        let (status, body) = self.post(None, JOIN_PATH, &asked).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
        let enrolled: Enrolled = serde_json::from_value(body).unwrap();
        (enrolled.edge, Shown { certificate_pem: enrolled.certificate_pem, key_pem })
    }

    /// None: no answer, because TLS failed.
    async fn post(
        &self,
        shown: Option<&Shown>,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Option<(StatusCode, Value)> {
        let body = Full::new(Bytes::from(serde_json::to_vec(body).unwrap())).boxed();
        let response = self.send(shown, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn send(
        &self,
        shown: Option<&Shown>,
        path: &str,
        body: BoxBody<Bytes, Infallible>,
    ) -> Option<http::Response<hyper::body::Incoming>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.lab.edge_authority_pem));
        let time = Arc::new(Time(Arc::clone(&self.lab.app.clock)));
        let builder = ClientConfig::builder_with_details(Arc::new(default_provider()), time);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(Shown { certificate_pem, key_pem }) => {
                let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(certificates(certificate_pem), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let io = TcpStream::connect(self.at).await.unwrap();
        let name = ServerName::try_from("control.test").unwrap();
        let io = TlsConnector::from(Arc::new(config)).connect(name, io).await.ok()?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await;
        let (mut send, connection) = handshake.ok()?;
        tokio::spawn(connection);
        let request = Request::post(format!("https://control.test{path}")).body(body).unwrap();
        send.send_request(request).await.ok()
    }

    /// What a feed of this peer comes to: the first bytes control sends, or None when there are none.
    async fn feed(&self, shown: Option<&Shown>, edge: EdgeId) -> Result<Bytes, Option<StatusCode>> {
        let hello = FromEdge::Hello {
            edge,
            feed: FEED_VERSION,
            version: "test".into(),
            generation: 0,
            digest: None,
            unix_secs: self.lab.app.now() + 60,
            core_rule_set: false,
            handed_over: false,
            reach: EdgeReach::default(),
        };
        let line = Bytes::from(format!("{}\n", serde_json::to_string(&hello).unwrap()));
        let first = stream::once(async move { Ok::<_, Infallible>(Frame::data(line)) });
        let frames = futures_util::StreamExt::chain(first, stream::pending());
        let body = BodyExt::boxed(StreamBody::new(Box::pin(frames)));
        let response = self.send(shown, FEED_PATH, body).await.ok_or(None)?;
        if response.status() != StatusCode::OK {
            return Err(Some(response.status()));
        }
        let mut body = response.into_body();
        let frame = body.frame().await.ok_or(None)?.map_err(|_| None)?;
        frame.into_data().ok().filter(|data| !data.is_empty()).ok_or(None)
    }
}

/// A certificate for an edge by this authority, made at this time.
fn made(authority: &Authority, edge: EdgeId, at: UnixSecs) -> Shown {
    let key = KeyPair::generate().unwrap();
    let pair = authority.client(&edge.to_string(), &key.subject_public_key_info(), at).unwrap();
    Shown { certificate_pem: pair.certificate_pem, key_pem: key.serialize_pem() }
}

#[tokio::test]
async fn an_edge_with_too_many_connections_is_refused_and_strangers_do_not_count_for_edges() {
    let server = server().await;
    let (edge, shown) = server.joined().await;
    let mut kept = Vec::new();
    let mut feed = async || {
        let body = BodyExt::boxed(StreamBody::new(stream::pending()));
        let response = server.send(Some(&shown), FEED_PATH, body).await?;
        kept.push(response);
        Some(())
    };
    let mut open = 0;
    while feed().await.is_some() {
        open += 1;
        assert!(open <= EDGE_CONNECTIONS_MAX, "{open} connections of one edge");
    }
    assert_eq!(open, EDGE_CONNECTIONS_MAX);
    assert_eq!(server.feed(Some(&shown), edge).await, Err(None));
    // Another edge of the same address has its own; what one source has as a stranger is bounded too.
    let (other, its) = server.joined().await;
    let mut silent = Vec::new();
    for _ in 0..=SOURCE_CONNECTIONS_MAX {
        silent.push(TcpStream::connect(server.at).await.unwrap());
    }
    drop(silent);
    while server.feed(Some(&its), other).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn key() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap();
    (key.serialize_pem(), STANDARD.encode(csr.der()))
}

fn stranger() -> EdgeId {
    EdgeId::new(Ksuid::new(1_700_000_000, [9; 16]))
}

#[tokio::test]
async fn an_edge_that_joined_has_its_feed_and_a_new_certificate() {
    let server = server().await;
    let (edge, shown) = server.joined().await;
    assert!(server.feed(Some(&shown), edge).await.unwrap().starts_with(b"{\"type\":\"hello\""));
    let live = server.lab.app.presence.edges();
    assert_eq!(live.first().map(|live| live.id), Some(edge));
    assert!(live.first().unwrap().clock_ahead_secs.is_some());
    let (key_pem, csr) = key();
    let (status, body) = server.post(Some(&shown), RENEW_PATH, &RenewRequest { csr }).await.unwrap();
    assert_eq!((status, &body["edge"]), (StatusCode::OK, &Value::from(edge.to_string())));
    let renewed = Shown { certificate_pem: body["certificate_pem"].as_str().unwrap().to_owned(), key_pem };
    assert!(server.feed(Some(&renewed), edge).await.is_ok());
}

#[tokio::test]
async fn a_peer_with_nothing_or_something_foreign_has_no_feed() {
    let server = server().await;
    let (edge, shown) = server.joined().await;
    let app = &server.lab.app;
    assert_eq!(server.feed(None, edge).await, Err(Some(StatusCode::UNAUTHORIZED)));
    // Of an authority with the same name.
    let pair = new_authority(Purpose::Edge, "test", app.now()).unwrap();
    let foreign = Authority::load(Purpose::Edge, &pair.certificate_pem, &pair.key_pem).unwrap();
    let forged = made(&foreign, edge, app.now());
    assert_eq!(server.feed(Some(&forged), edge).await, Err(None));
    // Of another authority of the installation: agents and visitors have those.
    for other in [&app.issuer.connect, &app.issuer.ingress] {
        assert_eq!(server.feed(Some(&made(other, edge, app.now())), edge).await, Err(None));
    }
    // Expired, and of a time to come.
    for days in [-200, 200] {
        let forged = made(&app.issuer.edge, edge, app.now() + days * 86_400);
        assert_eq!(server.feed(Some(&forged), edge).await, Err(None), "{days}");
    }
    // Of an edge that never joined, and of one that says it is another.
    let forged = made(&app.issuer.edge, stranger(), app.now());
    assert_eq!(server.feed(Some(&forged), stranger()).await, Err(Some(StatusCode::FORBIDDEN)));
    assert_eq!(server.feed(Some(&shown), stranger()).await, Err(None));
    assert!(server.lab.app.presence.edges().is_empty(), "none of them is listed");
}

#[tokio::test]
async fn an_edge_that_is_removed_has_no_feed_and_joins_no_second_time() {
    let server = server().await;
    let (edge, shown) = server.joined().await;
    let (_, csr) = key();
    let again = JoinRequest { token: "x".into(), csr: csr.clone() };
    let (status, _) = server.post(Some(&shown), JOIN_PATH, &again).await.unwrap();
    assert_eq!(status, StatusCode::CONFLICT);
    remove(&server.lab.app, edge).await.unwrap();
    assert_eq!(server.feed(Some(&shown), edge).await, Err(Some(StatusCode::FORBIDDEN)));
    let (status, body) = server.post(Some(&shown), RENEW_PATH, &RenewRequest { csr }).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["error"].as_str().unwrap().contains("edge list"), "{body}");
}

#[tokio::test]
async fn a_feed_that_is_open_ends_when_its_edge_is_removed() {
    let server = server().await;
    let (edge, shown) = server.joined().await;
    let connected = || server.lab.app.presence.edges().iter().any(|live| live.id == edge && live.connected);
    let feed = server.feed(Some(&shown), edge);
    assert!(feed.await.is_ok());
    // From here on nothing but clocks is waited for.
    tokio::time::pause();
    remove(&server.lab.app, edge).await.unwrap();
    while connected() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
