//! Signing in by OIDC against a provider in this process that can also lie, dawdle and point elsewhere.
//!
//! The provider is ours: it checks what RFC 6749 and RFC 7636 have a provider check, and signs with fresh P-256 keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ebbgate_control::people::oidc::flow::challenge;
use ebbgate_control::people::oidc::settings::{OIDC_KEY, Oidc};
use ebbgate_control::people::{Role, members};
use ebbgate_control::record;
use ebbgate_control::store::Txn;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::lab::{EPOCH, Lab};
use crate::persons::{HOST, Page};

/// How the provider is to behave.
struct Behaviour {
    keys: Vec<(String, EcdsaKeyPair)>,
    /// Changes the header and claims of the next tokens.
    token: fn(&mut Value, &mut Value),
    /// Changes the discovery document.
    document: fn(&mut Value, SocketAddr),
    /// Answers a request for keys.
    jwks: Option<fn() -> Response>,
    /// Answers a request for the discovery document.
    discovery: Option<fn() -> Response>,
    /// By code: what the browser came with.
    codes: BTreeMap<String, (String, String)>,
    email: String,
    subject: String,
}

#[derive(Clone)]
struct Provider {
    at: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
}

pub(crate) const SECRET: &str = "client:secret/+";

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behaviour = Behaviour {
            keys: vec![("one".into(), key())],
            token: |_, _| {},
            document: |_, _| {},
            jwks: None,
            discovery: None,
            codes: BTreeMap::new(),
            email: "ann@example.com".into(),
            subject: "subject 1".into(),
        };
        let at = listener.local_addr().unwrap();
        let provider = Self { at, behaviour: Arc::new(Mutex::new(behaviour)) };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.at)
    }

    fn with(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }
}

fn key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

async fn discovery(State(provider): State<Provider>) -> Response {
    let behaviour = provider.behaviour.lock().unwrap();
    if let Some(answer) = behaviour.discovery {
        return answer();
    }
    let issuer = provider.issuer();
    let mut document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
    });
    (behaviour.document)(&mut document, provider.at);
    Json(document).into_response()
}

async fn keys(State(provider): State<Provider>) -> Response {
    let behaviour = provider.behaviour.lock().unwrap();
    if let Some(answer) = behaviour.jwks {
        return answer();
    }
    let jwk = |(kid, key): &(String, EcdsaKeyPair)| {
        let point = key.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
            "x": base64url(&point[1..33]), "y": base64url(&point[33..65]),
        })
    };
    Json(json!({ "keys": behaviour.keys.iter().map(jwk).collect::<Vec<_>>() })).into_response()
}

/// Gives a code for a token once, to the client it was given to, with the verifier of its challenge.
async fn token(State(provider): State<Provider>, headers: HeaderMap, body: Bytes) -> Response {
    let form: BTreeMap<_, _> = form_urlencoded::parse(&body).into_owned().collect();
    let mut behaviour = provider.behaviour.lock().unwrap();
    let expect = format!("Basic {}", STANDARD.encode("gate:client%3Asecret%2F%2B"));
    let (Some(code), Some(verifier)) = (form.get("code"), form.get("code_verifier")) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some((nonce, challenged)) = behaviour.codes.remove(code) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let redirect = format!("http://{HOST}/dashboard/oidc/callback");
    if challenge(verifier) != challenged
        || form.get("redirect_uri") != Some(&redirect)
        || form.get("grant_type").map(String::as_str) != Some("authorization_code")
        || headers[AUTHORIZATION] != expect
    {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let (kid, pair) = behaviour.keys.last().unwrap();
    let mut header = json!({ "alg": "ES256", "kid": kid, "typ": "JWT" });
    let mut claims = json!({
        "iss": provider.issuer(), "aud": "gate", "sub": behaviour.subject, "nonce": nonce, "iat": EPOCH,
        "exp": EPOCH + 3_600, "email": behaviour.email, "email_verified": true,
    });
    (behaviour.token)(&mut header, &mut claims);
    let message = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let token = format!("{message}.{}", base64url(signature));
    Json(json!({ "access_token": "x", "token_type": "Bearer", "id_token": token })).into_response()
}

async fn lab() -> (Lab, Provider) {
    let (lab, provider) = (Lab::new().await, Provider::start().await);
    let oidc = Oidc::new(&provider.issuer(), "gate", Some(SECRET), &lab.app.vault).unwrap();
    let _ = lab.app.store.commit(Txn::new().put(OIDC_KEY, record::encode(&oidc))).await.unwrap();
    (lab, provider)
}

/// What the browser has when it is sent away.
pub(crate) struct Away {
    pub(crate) cookie: String,
    pub(crate) url: String,
    pub(crate) query: BTreeMap<String, String>,
}

pub(crate) async fn send_away(lab: &Lab, path: &str) -> Away {
    let page = lab.visit(path, None).await.expect(303);
    let url = page.location().to_owned();
    let query = url.split_once('?').unwrap().1;
    let query: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!((query["response_type"].as_str(), query["code_challenge_method"].as_str()), ("code", "S256"));
    assert_eq!(query["scope"], "openid email");
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    let cookie = cookie.strip_prefix("ebbgate_oidc=").unwrap().split(';').next().unwrap().to_owned();
    Away { cookie, url, query }
}

pub(crate) async fn call_back(lab: &Lab, cookie: &str, query: &[(&str, &str)]) -> Page {
    let query = crate::persons::form(query);
    let request = Request::builder()
        .uri(format!("/dashboard/oidc/callback?{query}"))
        .header("host", HOST)
        .header("cookie", format!("ebbgate_oidc={cookie}"));
    lab.browse(request, String::new()).await
}

/// The whole way, with a provider that lets everybody in.
async fn sign_in(lab: &Lab, provider: &Provider, path: &str) -> Page {
    let away = send_away(lab, path).await;
    let code = format!("code of {}", away.query["nonce"]);
    let came_with = (away.query["nonce"].clone(), away.query["code_challenge"].clone());
    provider.with(|behaviour| drop(behaviour.codes.insert(code.clone(), came_with)));
    call_back(lab, &away.cookie, &[("code", &code), ("state", &away.query["state"])]).await
}

pub(crate) const START: &str = "/dashboard/oidc/start?return_to=%2Fdashboard%2Fpeople";

#[tokio::test]
async fn a_verified_address_opens_a_session_and_stays_one_persons() {
    let (lab, provider) = lab().await;
    let page = sign_in(&lab, &provider, START).await.expect(403);
    assert!(page.text.contains("Nobody with this address belongs here"), "{}", page.text);
    let ann = lab.person(lab.one.account, "ann@example.com", Role::Admin).await;
    let page = lab.visit("/dashboard/sign-in", None).await.expect(200);
    assert!(page.text.contains(&format!("Sign in with {}", provider.issuer())), "{}", page.text);
    let page = sign_in(&lab, &provider, START).await.expect(303);
    assert_eq!(page.location(), "/dashboard/people");
    let shown = lab.visit("/dashboard/sessions", page.cookie().as_deref()).await.expect(200);
    assert!(shown.text.contains("ann@example.com (admin)") && shown.text.contains("oidc"), "{}", shown.text);
    let user = members::user(&*lab.app.store, ann.user).await.unwrap().unwrap().record;
    assert_eq!(user.identity.unwrap().subject, "subject 1");
    // The address passed on to somebody else.
    provider.with(|behaviour| behaviour.subject = "subject 2".into());
    let page = sign_in(&lab, &provider, START).await.expect(403);
    assert!(page.text.contains("somebody else&#39;s"), "{}", page.text);
}

/// Changes header and claims of an ID token.
type Lie = fn(&mut Value, &mut Value);

#[tokio::test]
async fn tokens_that_prove_nothing_open_nothing() {
    let (lab, provider) = lab().await;
    lab.person(lab.one.account, "ann@example.com", Role::Owner).await;
    let lies: [(&str, Lie); 13] = [
        ("nonce of another", |_, claims| claims["nonce"] = "x".into()),
        ("no nonce", |_, claims| drop(claims.as_object_mut().unwrap().remove("nonce"))),
        ("audience", |_, claims| claims["aud"] = "other".into()),
        ("several audiences", |_, claims| claims["aud"] = json!(["gate", "other"])),
        ("other party", |_, claims| claims["azp"] = "other".into()),
        ("issuer", |_, claims| claims["iss"] = format!("{}/", claims["iss"].as_str().unwrap()).into()),
        ("expired", |_, claims| claims["exp"] = (EPOCH - 3_600).into()),
        ("no expiry", |_, claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("not yet", |_, claims| claims["nbf"] = (EPOCH + 86_400).into()),
        ("not verified", |_, claims| claims["email_verified"] = false.into()),
        ("alg none", |header, _| header["alg"] = "none".into()),
        ("alg HS256", |header, _| header["alg"] = "HS256".into()),
        ("a key of its own", |header, _| header["jku"] = "https://evil.example/keys".into()),
    ];
    for (name, lie) in lies {
        provider.with(|behaviour| behaviour.token = lie);
        let page = sign_in(&lab, &provider, START).await;
        // `jku` is looked at by nobody, and the true key has signed.
        let expect = if name == "a key of its own" { 303 } else { 403 };
        assert_eq!(page.status, expect, "{name}: {}", page.text);
        assert_eq!(page.cookie().is_some(), expect == 303, "{name}");
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_but_not_for_every_stranger() {
    let (lab, provider) = lab().await;
    lab.person(lab.one.account, "ann@example.com", Role::Owner).await;
    sign_in(&lab, &provider, START).await.expect(303);
    provider.with(|behaviour| behaviour.keys = vec![("two".into(), key())]);
    sign_in(&lab, &provider, START).await.expect(403);
    lab.app.people.provider.age(Duration::from_secs(31)).await;
    sign_in(&lab, &provider, START).await.expect(303);
    // The same key id, another key.
    provider.with(|behaviour| behaviour.keys = vec![("two".into(), key())]);
    sign_in(&lab, &provider, START).await.expect(403);
}

#[tokio::test]
async fn an_answer_needs_the_browser_that_asked() {
    let (lab, provider) = lab().await;
    lab.person(lab.one.account, "ann@example.com", Role::Owner).await;
    let (mine, others) = (send_away(&lab, START).await, send_away(&lab, START).await);
    let good = |away: &Away| {
        let code = "code".to_owned();
        let came_with = (away.query["nonce"].clone(), away.query["code_challenge"].clone());
        provider.with(|behaviour| drop(behaviour.codes.insert(code.clone(), came_with)));
        code
    };
    let code = good(&others);
    let (state, iss) = (mine.query["state"].clone(), provider.issuer());
    for (cookie, query) in [
        // Of the browser of another: no state of mine.
        (&mine.cookie, vec![("code", code.as_str()), ("state", &others.query["state"])]),
        // My state with a code that another got: the verifier does not fit.
        (&mine.cookie, vec![("code", code.as_str()), ("state", &state)]),
        (&String::new(), vec![("code", code.as_str()), ("state", &state)]),
        (&mine.cookie, vec![("code", code.as_str())]),
        (&mine.cookie, vec![("state", state.as_str())]),
        (&mine.cookie, vec![("error", "access_denied"), ("state", &state)]),
        (&mine.cookie, vec![("code", code.as_str()), ("state", &state), ("iss", "https://evil.example")]),
        (&mine.cookie, vec![("code", "a"), ("code", "b"), ("state", &state)]),
    ] {
        let page = call_back(&lab, cookie, &query).await.expect(403);
        assert_eq!(page.cookie(), None);
    }
    let code = good(&mine);
    let whole = [("code", code.as_str()), ("state", &state), ("iss", &iss)];
    call_back(&lab, &mine.cookie, &whole).await.expect(303);
    call_back(&lab, &mine.cookie, &whole).await.expect(403);
}

#[tokio::test]
async fn a_provider_that_misbehaves_is_told_in_the_log_and_costs_little() {
    let (lab, provider) = lab().await;
    let huge = || vec![b' '; 300 * 1024].into_response();
    let redirect = || (StatusCode::FOUND, [("location", "http://169.254.169.254/latest")]).into_response();
    let failing = || StatusCode::INTERNAL_SERVER_ERROR.into_response();
    let many = || Json(json!({ "keys": vec![json!({"kty": "EC"}); 101] })).into_response();
    let changes: [fn(&mut Behaviour); 4] = [
        |b| b.document = |document, _| document["issuer"] = "https://evil.example".into(),
        |b| b.document = |document, _| document["token_endpoint"] = "http://169.254.169.254/token".into(),
        |b| {
            b.document =
                |document, at| document["jwks_uri"] = format!("https://localhost:{}/keys", at.port()).into();
        },
        |b| b.document = |document, _| drop(document.as_object_mut().unwrap().remove("jwks_uri")),
    ];
    for change in changes {
        provider.with(change);
        lab.visit(START, None).await.expect(502);
    }
    provider.with(|b| b.document = |_, _| {});
    for answer in [huge as fn() -> Response, redirect, failing, many] {
        provider.with(|b| b.jwks = Some(answer));
        lab.visit(START, None).await.expect(502);
        provider.with(|b| (b.jwks, b.discovery) = (None, Some(answer)));
        lab.visit(START, None).await.expect(502);
        provider.with(|b| b.discovery = None);
    }
    lab.visit(START, None).await.expect(303);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_never_answers_is_not_waited_for() {
    let lab = Lab::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", silent.local_addr().unwrap());
    let oidc = Oidc::new(&issuer, "gate", None, &lab.app.vault).unwrap();
    let _ = lab.app.store.commit(Txn::new().put(OIDC_KEY, record::encode(&oidc))).await.unwrap();
    lab.visit(START, None).await.expect(502);
    drop(silent);
}

#[tokio::test]
async fn an_invitation_is_accepted_by_the_invited_address_only() {
    let (lab, provider) = lab().await;
    let made = lab.make("/invitations", json!({"email": "bob@example.com", "role": "viewer"})).await;
    let start = format!("/dashboard/invitations/{}/oidc", made.text("token"));
    let page = sign_in(&lab, &provider, &start).await.expect(403);
    assert!(page.text.contains("another address"), "{}", page.text);
    provider.with(|behaviour| behaviour.email = "Bob@example.com".into());
    let page = sign_in(&lab, &provider, &start).await.expect(303);
    let shown = lab.visit("/dashboard/people", page.cookie().as_deref()).await.expect(200);
    assert!(shown.text.contains("bob@example.com (viewer)"), "{}", shown.text);
    sign_in(&lab, &provider, &start).await.expect(404);
    // Without a password there is none to guess.
    let fields = [("email", "bob@example.com"), ("password", "")];
    lab.submit("/dashboard/sign-in", None, &fields).await.expect(403);
}
