//! An ACME authority for tests: as much of RFC 8555 and RFC 9773 as the issuer asks for, in whatever manner a test wants.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, KeyPair, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::acme::{AcmeSettings, ChallengeKind};
use crate::clock::UnixSecs;
use crate::listen;

/// What `Retry-After` says where the authority is asked too often.
pub(super) const RETRY_AFTER_SECS: i64 = 900;
const DAY: i64 = 86_400;

/// How the authority behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Good,
    OtherName,
    Expired,
    Future,
    OtherKey,
    Garbage,
    Oversize,
    TwoNames,
    ProvesAnother,
    BadToken,
    RateLimited,
    Refuses,
    Unavailable,
    Silent,
    BreaksOff,
    RefusesReplaces,
}

struct Order {
    told: bool,
    chain: Option<String>,
}

struct Inner {
    manner: Manner,
    now: UnixSecs,
    orders: Vec<Order>,
    refused: usize,
    accounts: usize,
    replaced: Vec<bool>,
    wish: Option<(UnixSecs, UnixSecs)>,
}

#[derive(Clone)]
pub(super) struct Ca {
    at: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    issuer: Arc<(String, rcgen::Issuer<'static, KeyPair>)>,
    root_pem: String,
    _stop: Arc<watch::Sender<bool>>,
}

impl Ca {
    pub(super) async fn start(manner: Manner, now: UnixSecs) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (root_pem, key_pem) = (own.cert.pem(), own.signing_key.serialize_pem());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![CertificateDer::from_pem_slice(root_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
        let mut tls = versions.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "issuer");
        let issuer_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Arc::new((issuer_pem, rcgen::Issuer::new(params, key)));
        let (stop, stopping) = watch::channel(false);
        let inner = Inner {
            manner,
            now,
            orders: Vec::new(),
            refused: 0,
            accounts: 0,
            replaced: Vec::new(),
            wish: None,
        };
        let ca = Self { at, inner: Arc::new(Mutex::new(inner)), issuer, root_pem, _stop: Arc::new(stop) };
        tokio::spawn(listen::serve(
            listener,
            Some(TlsAcceptor::from(Arc::new(tls))),
            router(ca.clone()),
            stopping,
        ));
        ca
    }

    pub(super) fn settings(&self) -> AcmeSettings {
        AcmeSettings {
            directory: self.url("dir"),
            email: String::new(),
            root_pem: Some(self.root_pem.clone()),
            external_account: None,
            challenge: ChallengeKind::Http01,
            dns: None,
            dns_wait_secs: 0,
        }
    }

    pub(super) fn behave(&self, manner: Manner) {
        self.locked().manner = manner;
    }

    /// When certificates are to be renewed.
    pub(super) fn wishes(&self, start: UnixSecs, end: UnixSecs) {
        self.locked().wish = Some((start, end));
    }

    pub(super) fn orders(&self) -> usize {
        self.locked().orders.len()
    }

    pub(super) fn refused(&self) -> usize {
        self.locked().refused
    }

    pub(super) fn accounts(&self) -> usize {
        self.locked().accounts
    }

    /// Whether each order since the last that was made without a wish said what it replaces.
    pub(super) fn replaced(&self) -> Vec<bool> {
        self.locked().replaced.clone()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.at.port())
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn order_json(&self, n: usize) -> Value {
        let inner = self.locked();
        let order = &inner.orders[n];
        let status = match (order.told, &order.chain) {
            (_, Some(_)) => "valid",
            (true, None) => "ready",
            (false, None) => "pending",
        };
        let authorizations = match inner.manner {
            Manner::TwoNames => vec![self.url(&format!("authz/{n}")), self.url(&format!("authz/{n}"))],
            _ => vec![self.url(&format!("authz/{n}"))],
        };
        json!({
            "status": status, "identifiers": [{ "type": "dns", "value": "a.example.com" }],
            "authorizations": authorizations, "finalize": self.url(&format!("fin/{n}")),
            "certificate": order.chain.is_some().then(|| self.url(&format!("cert/{n}"))),
        })
    }
}

fn router(ca: Ca) -> Router {
    Router::new()
        .route("/dir", get(directory))
        .route("/nonce", head(|| async { [("replay-nonce", "n")] }))
        .route("/account", post(account))
        .route("/order", post(new_order))
        .route("/order/{n}", post(order))
        .route("/authz/{n}", post(authorization))
        .route("/chal/{n}", post(challenge))
        .route("/fin/{n}", post(finalize))
        .route("/cert/{n}", post(certificate))
        .route("/ari/{id}", get(renewal))
        .with_state(ca)
}

fn problem(status: StatusCode, kind: &str, detail: &str) -> Response {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let body = json!({ "type": kind, "detail": detail, "status": status.as_u16() });
    (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
}

fn payload(body: &Bytes) -> Value {
    let jws: Value = serde_json::from_slice(body).unwrap();
    let payload = URL_SAFE_NO_PAD.decode(jws["payload"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap_or_default()
}

async fn directory(State(ca): State<Ca>) -> Response {
    let manner = ca.locked().manner;
    match manner {
        Manner::Silent => std::future::pending().await,
        Manner::Unavailable => problem(StatusCode::SERVICE_UNAVAILABLE, "serverInternal", "closed for today"),
        _ => {
            let mut directory = json!({
                "newNonce": ca.url("nonce"), "newAccount": ca.url("account"), "newOrder": ca.url("order"),
                "revokeCert": ca.url("revoke"), "keyChange": ca.url("key"),
            });
            if ca.locked().wish.is_some() {
                directory["renewalInfo"] = ca.url("ari").into();
            }
            directory.to_string().into_response()
        }
    }
}

async fn account(State(ca): State<Ca>) -> Response {
    ca.locked().accounts += 1;
    (StatusCode::CREATED, [("location", ca.url("acct/1"))], json!({ "status": "valid" }).to_string())
        .into_response()
}

async fn new_order(State(ca): State<Ca>, body: Bytes) -> Response {
    let asked = payload(&body);
    let manner = ca.locked().manner;
    let replaces = asked.get("replaces").cloned();
    match manner {
        Manner::RateLimited => {
            ca.locked().refused += 1;
            let mut response = problem(StatusCode::TOO_MANY_REQUESTS, "rateLimited", "slow down");
            response.headers_mut().insert("retry-after", RETRY_AFTER_SECS.into());
            return response;
        }
        Manner::Refuses => return problem(StatusCode::FORBIDDEN, "rejectedIdentifier", "not you"),
        Manner::RefusesReplaces => {
            ca.locked().replaced.push(replaces.is_some());
            if replaces.is_some() {
                return problem(StatusCode::CONFLICT, "alreadyReplaced", "no such certificate");
            }
        }
        _ => {}
    }
    let n = {
        let mut inner = ca.locked();
        inner.orders.push(Order { told: false, chain: None });
        inner.orders.len() - 1
    };
    let mut answer = ca.order_json(n);
    if let Some(replaces) = replaces {
        answer["replaces"] = replaces;
    }
    let location = ca.url(&format!("order/{n}"));
    (StatusCode::CREATED, [("location", location)], answer.to_string()).into_response()
}

async fn order(State(ca): State<Ca>, Path(n): Path<usize>) -> Response {
    ca.order_json(n).to_string().into_response()
}

async fn authorization(State(ca): State<Ca>, Path(n): Path<usize>) -> Response {
    let (manner, told) = {
        let inner = ca.locked();
        (inner.manner, inner.orders[n].told)
    };
    let name = if manner == Manner::ProvesAnother { "b.example.com" } else { "a.example.com" };
    let token = if manner == Manner::BadToken { "../../secret" } else { "token-of-the-test" };
    let status = if told { "valid" } else { "pending" };
    let body = json!({
        "identifier": { "type": "dns", "value": name }, "status": status,
        "challenges": [{ "type": "http-01", "url": ca.url(&format!("chal/{n}")), "token": token, "status": status }],
    });
    body.to_string().into_response()
}

async fn challenge(State(ca): State<Ca>, Path(n): Path<usize>) -> Response {
    if ca.locked().manner == Manner::BreaksOff {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "serverInternal", "broken off");
    }
    ca.locked().orders[n].told = true;
    let url = ca.url(&format!("chal/{n}"));
    json!({ "type": "http-01", "url": url, "token": "t", "status": "valid" }).to_string().into_response()
}

async fn finalize(State(ca): State<Ca>, Path(n): Path<usize>, body: Bytes) -> Response {
    let csr = URL_SAFE_NO_PAD.decode(payload(&body)["csr"].as_str().unwrap()).unwrap();
    let (manner, now) = {
        let inner = ca.locked();
        (inner.manner, inner.now)
    };
    let mut csr =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
    let (from, to) = match manner {
        Manner::Expired => (-90 * DAY, -DAY),
        Manner::Future => (DAY, 90 * DAY),
        _ => (-3_600, 90 * DAY),
    };
    csr.params.not_before = OffsetDateTime::from_unix_timestamp(now + from).unwrap();
    csr.params.not_after = OffsetDateTime::from_unix_timestamp(now + to).unwrap();
    csr.params.use_authority_key_identifier_extension = true;
    if manner == Manner::OtherName {
        csr.params.subject_alt_names = vec![SanType::DnsName("b.example.com".try_into().unwrap())];
    }
    let (issuer_pem, issuer) = &*ca.issuer;
    let leaf = match manner {
        Manner::OtherKey => csr.params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().pem(),
        _ => csr.signed_by(issuer).unwrap().pem(),
    };
    let chain = match manner {
        Manner::Garbage => "-----BEGIN CERTIFICATE-----\nnonsense".to_owned(),
        Manner::Oversize => "x".repeat(1 << 20),
        _ => leaf + issuer_pem,
    };
    ca.locked().orders[n].chain = Some(chain);
    ca.order_json(n).to_string().into_response()
}

async fn certificate(State(ca): State<Ca>, Path(n): Path<usize>) -> Response {
    ca.locked().orders[n].chain.clone().unwrap().into_response()
}

async fn renewal(State(ca): State<Ca>, _: HeaderMap) -> Response {
    let (start, end) = ca.locked().wish.unwrap();
    let time = |at: UnixSecs| crate::api::timestamp(at);
    let body = json!({ "suggestedWindow": { "start": time(start), "end": time(end) } });
    ([("retry-after", "21600")], body.to_string()).into_response()
}
