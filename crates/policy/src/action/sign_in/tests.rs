//! Whole sign-ins against a provider that a test plays, and the attacks on them, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::Engine;
use crate::facts::tests::request;
use crate::facts::{Context, Phase, TlsFacts};
use crate::identity::{Exchanged, KeyRing, Purpose, SEALING_KEY_BYTES, SealingKey, SessionNote};
use crate::testing::{MINT, World, engine};
use crate::verdict::{Reply, Verdict};

const ISSUER: &str = "https://id.example.com";
const NOW_MS: i64 = 1_767_323_045_678;
const NOW: i64 = NOW_MS / 1_000;

fn key(id: u32, from_unix_secs: i64) -> SealingKey {
    SealingKey { id, from_unix_secs, key: [u8::try_from(id).unwrap(); SEALING_KEY_BYTES] }
}

#[expect(clippy::unnecessary_wraps, reason = "the provider may also not answer")]
fn answer(status: u16, body: &Value) -> Result<Exchanged, String> {
    Ok(Exchanged { status, at_unix_secs: NOW, body: body.to_string().into() })
}

fn id_token(claims: &Value) -> String {
    MINT.compact(json!({ "alg": "ES256", "kid": "p256" }).to_string(), claims.to_string(), "ES256")
}

/// What a browser and a provider know together.
struct Lab {
    engine: Arc<Engine>,
    world: World,
    cookies: BTreeMap<String, String>,
    now_ms: i64,
    uri_host: &'static str,
    endpoint: String,
}

fn config(more: &Value) -> Value {
    let mut config = json!({ "issuer_url": ISSUER, "client_id": "gate", "client_secret": "hidden-secret" });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

fn policy(more: &Value) -> Value {
    json!({ "on_http_request": [{ "actions": [{ "type": "openid-connect", "config": config(more) }] }] })
}

impl Lab {
    fn new(more: &Value) -> Self {
        Self::of(policy(more))
    }

    fn of(policy: Value) -> Self {
        let mut world = World::default();
        world.sessions.ring = Arc::new(KeyRing::new([key(1, 0)]));
        world.sessions.account = "ac_one".into();
        world.sessions.edge = "edge_one".into();
        world.answers.insert(
            Purpose::Discovery,
            answer(
                200,
                &json!({
                    "issuer": ISSUER,
                    "authorization_endpoint": "https://id.example.com/auth",
                    "token_endpoint": "https://id.example.com/token",
                    "userinfo_endpoint": "https://id.example.com/me",
                    "jwks_uri": "https://id.example.com/jwks",
                }),
            ),
        );
        world.keys.insert("https://id.example.com/jwks".into(), MINT.jwks());
        let endpoint = "https://api.example.com".to_owned();
        let mut lab = Self {
            engine: engine(policy),
            world,
            cookies: BTreeMap::new(),
            now_ms: NOW_MS,
            uri_host: "api.example.com",
            endpoint,
        };
        lab.draw(1);
        lab
    }

    /// Other random bytes from now on.
    fn draw(&mut self, seed: u8) {
        for (at, byte) in self.world.sessions.entropy.iter_mut().enumerate() {
            *byte = seed.wrapping_mul(31).wrapping_add(u8::try_from(at).unwrap());
        }
    }

    fn context(&self, method: Method, uri: &str, headers: &[(&str, &str)]) -> Context {
        let mut cx = request(uri, headers);
        cx.now_unix_ms = self.now_ms;
        Arc::make_mut(&mut cx.conn).tls = Some(Arc::new(TlsFacts::default()));
        Arc::make_mut(&mut cx.endpoint).url = self.endpoint.parse().unwrap();
        let parts = cx.request.as_mut().unwrap();
        parts.method = method;
        parts.headers.insert("host", self.uri_host.parse().unwrap());
        let line: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !line.is_empty() {
            parts.headers.append(COOKIE, line.join("; ").parse().unwrap());
        }
        cx
    }

    /// One request; the browser keeps what it is given.
    fn send(&mut self, method: Method, uri: &str, headers: &[(&str, &str)]) -> (Verdict, Context) {
        let mut cx = self.context(method, uri, headers);
        let verdict = self.world.run(&self.engine.clone(), Phase::HttpRequest, &mut cx);
        let mut set: Vec<_> = cx.cookies.clone();
        if let Verdict::Respond(reply) = &verdict {
            set.extend(reply.headers.get_all(SET_COOKIE).iter().cloned());
        }
        for line in set {
            let line = line.to_str().unwrap();
            for flag in ["; Secure", "; HttpOnly", "; SameSite=Lax", "; Path=/"] {
                assert!(line.contains(flag), "{line}");
            }
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        (verdict, cx)
    }

    fn get(&mut self, uri: &str) -> (Verdict, Context) {
        self.send(Method::GET, uri, &[])
    }

    fn reply(&mut self, uri: &str) -> Reply {
        match self.get(uri).0 {
            Verdict::Respond(reply) => reply,
            other => panic!("{uri}: {other:?}"),
        }
    }

    /// Whether a request goes on, and who it is of then.
    fn is_in(&mut self) -> bool {
        matches!(self.get("/page").0, Verdict::Continue)
    }

    /// Where a visitor is sent, and the parameters there.
    fn away(&mut self, uri: &str) -> BTreeMap<String, String> {
        let reply = self.reply(uri);
        assert_eq!(reply.status, StatusCode::FOUND, "{reply:?}");
        assert_eq!(reply.headers["cache-control"], "no-store");
        let location = reply.headers[LOCATION].to_str().unwrap().to_owned();
        let (place, query) = location.split_once('?').unwrap();
        assert_eq!(place, "https://id.example.com/auth");
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// What the provider gives for the code of a sign-in.
    fn grant(&mut self, sent: &BTreeMap<String, String>, claims: &Value, more: &Value) {
        let mut all = json!({
            "iss": ISSUER, "aud": "gate", "sub": "ann", "exp": NOW + 3600, "iat": NOW, "nonce": sent["nonce"],
            "email": "ann@example.com", "email_verified": true, "name": "Ann",
        });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let mut tokens = json!({
            "access_token": "access-1", "token_type": "Bearer", "id_token": id_token(&all),
        });
        for (name, value) in more.as_object().unwrap() {
            tokens[name] = value.clone();
        }
        self.world.answers.insert(Purpose::Code, answer(200, &tokens));
    }

    /// Comes back from the provider with its answer.
    fn back(&mut self, sent: &BTreeMap<String, String>) -> Reply {
        self.reply(&format!("/ngrok/callback?code=c0de&state={}&iss={ISSUER}", sent["state"]))
    }

    /// A sign-in from first redirect to session.
    fn sign_in(&mut self, more: &Value) {
        let sent = self.away("/page?a=b");
        self.grant(&sent, &json!({}), more);
        let reply = self.back(&sent);
        assert_eq!(reply.status, StatusCode::FOUND, "{reply:?}");
        assert_eq!(reply.headers[LOCATION], "https://api.example.com/page?a=b");
    }

    fn session(&self) -> String {
        self.cookies["__Host-ebbgate-session-default"].clone()
    }
}

#[test]
fn a_visitor_signs_in_and_goes_on_and_signs_out() {
    let mut lab = Lab::new(&json!({}));
    let sent = lab.away("/page?a=b");
    assert_eq!(sent["response_type"], "code");
    assert_eq!(sent["redirect_uri"], "https://api.example.com/ngrok/callback");
    assert_eq!(sent["scope"], "openid profile email");
    assert_eq!(sent["code_challenge_method"], "S256");
    assert!(!sent.contains_key("prompt"));
    lab.grant(&sent, &json!({}), &json!({}));
    let reply = lab.back(&sent);
    assert_eq!(reply.headers[LOCATION], "https://api.example.com/page?a=b");
    let exchange = lab.world.exchanges.iter().find(|e| e.purpose == Purpose::Code).unwrap().clone();
    let form: BTreeMap<String, String> =
        form_urlencoded::parse(exchange.form.as_deref().unwrap().as_bytes()).into_owned().collect();
    assert_eq!(
        (form["code"].as_str(), form["redirect_uri"].as_str()),
        ("c0de", sent["redirect_uri"].as_str())
    );
    let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
    assert_eq!(crate::testing::encode(challenge), sent["code_challenge"]);
    assert!(exchange.authorization.unwrap().starts_with("Basic ") && !form.contains_key("client_secret"));
    assert_eq!(lab.cookies.len(), 1, "the sign-in's own cookie is gone");

    let (verdict, cx) =
        lab.send(Method::POST, "/api", &[("ngrok-auth-user-email", "forged"), ("cookie", "own=1")]);
    assert!(matches!(verdict, Verdict::Continue), "{verdict:?}");
    let result = cx.result("oidc").unwrap();
    assert_eq!(result["identity"]["email"], "ann@example.com");
    assert_eq!(result["identity"]["name"], "Ann");
    assert_eq!(result["identity"]["provider_user_id"], "ann");
    assert!(result["identity"]["id"].as_str().unwrap().starts_with("au_"));
    assert!(result["identity"]["current_session_id"].as_str().unwrap().starts_with("as_"));
    assert_eq!(result["access_token"], "access-1");
    let headers = &cx.request.as_ref().unwrap().headers;
    assert!(!headers.contains_key("ngrok-auth-user-email"));
    assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["own=1"], "no upstream gets the session");
    assert!(cx.cookies.is_empty(), "a cookie that is young enough is left");

    let reply = lab.reply("/ngrok/logout");
    assert_eq!(reply.status, StatusCode::OK);
    assert!(lab.cookies.is_empty() && !lab.is_in());
    let sent = lab.away("/ngrok/login?redirect_path=/there");
    assert_eq!(sent["prompt"], "login", "the provider asks for credentials again");
    lab.grant(&sent, &json!({}), &json!({}));
    assert_eq!(lab.back(&sent).headers[LOCATION], "https://api.example.com/there");
    assert!(lab.is_in());
}

#[test]
fn a_forged_spliced_or_outlived_session_lets_nobody_in() {
    let mut lab = Lab::new(&json!({}));
    lab.sign_in(&json!({}));
    let good = lab.session();
    let name = "__Host-ebbgate-session-default";
    let check = |what: &str, change: &dyn Fn(&mut Lab)| {
        let mut other = Lab::new(&json!({}));
        other.cookies.insert(name.into(), good.clone());
        assert!(other.is_in(), "{what}: before");
        let mut other = Lab::new(&json!({}));
        other.cookies.insert(name.into(), good.clone());
        change(&mut other);
        assert!(!other.is_in(), "{what}");
    };
    check("a character changed", &|lab| {
        let mut forged = good.clone().into_bytes();
        forged[40] = if forged[40] == b'A' { b'B' } else { b'A' };
        lab.cookies.insert(name.into(), String::from_utf8(forged).unwrap());
    });
    check("cut", &|lab| {
        lab.cookies.insert(name.into(), good[..good.len() - 4].into());
    });
    check("another account", &|lab| lab.world.sessions.account = "ac_two".into());
    check("another endpoint", &|lab| lab.endpoint = "https://*.example.com".into());
    check("another host of the same endpoint", &|lab| lab.uri_host = "other.example.com");
    check("another auth_id", &|lab| {
        lab.engine = engine(policy(&json!({ "auth_id": "two" })));
        lab.cookies.insert("__Host-ebbgate-session-two".into(), good.clone());
    });
    check("another client", &|lab| lab.engine = engine(policy(&json!({ "client_id": "other" }))));
    check("another issuer", &|lab| {
        lab.engine = engine(policy(&json!({ "issuer_url": "https://other.example" })));
    });
    check("its key is gone", &|lab| lab.world.sessions.ring = Arc::new(KeyRing::new([key(2, 0)])));
    check("the plain text of a session", &|lab| {
        lab.cookies.insert(name.into(), crate::testing::encode("{\"s\":\"as_1\"}"));
    });
    check("too old", &|lab| lab.now_ms += 14 * 24 * 3_600_000);
    // An old key opens, and the session goes on under the new one.
    lab.world.sessions.ring = Arc::new(KeyRing::new([key(1, 0), key(2, NOW)]));
    lab.now_ms += 120_000;
    assert!(lab.is_in());
    lab.world.sessions.ring = Arc::new(KeyRing::new([key(2, NOW)]));
    assert!(lab.is_in(), "sealed anew");
    lab.world.sessions.ring = Arc::default();
    let (verdict, _) = lab.get("/page");
    assert!(matches!(verdict, Verdict::Failed { .. }), "without a key nobody comes in: {verdict:?}");
}

#[test]
fn sign_ins_and_sign_outs_are_told_and_a_session_that_was_ended_is_over() {
    let mut lab = Lab::new(&json!({ "max_session_duration": "1h" }));
    lab.sign_in(&json!({}));
    let [SessionNote::Began { session, who, provider, started_at, expires_at, .. }] = &lab.world.notes[..]
    else {
        panic!("{:?}", lab.world.notes)
    };
    assert_eq!((who.email.as_str(), provider.as_str()), ("ann@example.com", ISSUER));
    assert_eq!((*started_at, *expires_at), (NOW, NOW + 3_600));
    let session = *session;
    assert!(lab.is_in());
    lab.world.ended.push(session);
    assert!(!lab.is_in());
    let (_, cx) = lab.get("/page");
    assert_eq!(cx.result("oidc").unwrap()["session_timed_out"], true);
    lab.world.ended.clear();
    lab.reply("/ngrok/logout");
    assert_eq!(lab.world.notes.last(), Some(&SessionNote::Ended { session, expires_at: NOW + 3_600 }));
    lab.reply("/ngrok/logout");
    assert_eq!(lab.world.notes.len(), 2, "nobody signs out twice");
}

#[test]
fn a_sign_in_counts_once_and_in_its_own_browser_only() {
    let mut lab = Lab::new(&json!({}));
    let sent = lab.away("/page");
    lab.grant(&sent, &json!({}), &json!({}));
    let pending = lab.cookies.clone();

    let mut stranger = Lab::new(&json!({}));
    stranger.grant(&sent, &json!({}), &json!({}));
    assert_eq!(stranger.back(&sent).status, StatusCode::FORBIDDEN, "no cookie: a login of somebody else's");
    stranger.draw(9);
    stranger.away("/page");
    assert_eq!(stranger.back(&sent).status, StatusCode::FORBIDDEN, "another sign-in's state");
    assert!(stranger.world.exchanges.iter().all(|e| e.purpose == Purpose::Discovery), "no code was given");

    let other_state = sent["state"].replacen(|c: char| c != '.', "_", 1);
    let reply = lab.reply(&format!("/ngrok/callback?code=c&state={other_state}"));
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let reply =
        lab.reply(&format!("/ngrok/callback?code=c&state={}&iss=https://evil.example", sent["state"]));
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "another provider's answer");
    let reply = lab.reply(&format!("/ngrok/callback?error=access_denied%0aevil&state={}", sent["state"]));
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(reply.body.starts_with(b"The provider did not sign you in: access_deniedevil."));

    assert_eq!(lab.back(&sent).status, StatusCode::FOUND);
    assert_eq!(lab.back(&sent).status, StatusCode::FORBIDDEN, "the sign-in is over");
    lab.cookies = pending.clone();
    lab.now_ms += 600_000;
    assert_eq!(lab.back(&sent).status, StatusCode::FORBIDDEN, "took too long");
    lab.now_ms -= 600_001 + 600_000;
    assert_eq!(lab.back(&sent).status, StatusCode::FORBIDDEN, "from the future");
}

#[test]
fn a_session_is_a_new_one_at_every_sign_in() {
    let mut lab = Lab::new(&json!({}));
    lab.cookies.insert("__Host-ebbgate-session-default".into(), "chosen-by-somebody-else".into());
    lab.sign_in(&json!({}));
    let first = lab.session();
    let id = |lab: &mut Lab| lab.get("/page").1.result("oidc").unwrap()["identity"].clone();
    let before = id(&mut lab);
    lab.draw(77);
    let sent = lab.away("/ngrok/login");
    lab.grant(&sent, &json!({}), &json!({}));
    lab.back(&sent);
    let after = id(&mut lab);
    assert_ne!(first, lab.session());
    assert_ne!(before["current_session_id"], after["current_session_id"]);
    assert_eq!(before["id"], after["id"], "the same person");
}

#[test]
fn a_lying_provider_signs_nobody_in() {
    let check = |claims: Value, status: Option<StatusCode>| {
        let mut lab = Lab::new(&json!({}));
        let sent = lab.away("/page");
        lab.grant(&sent, &claims, &json!({}));
        let (verdict, _) = lab.get(&format!("/ngrok/callback?code=c&state={}", sent["state"]));
        match (verdict, status) {
            (Verdict::Respond(reply), Some(status)) => assert_eq!(reply.status, status, "{claims}"),
            (Verdict::Failed { message, .. }, None) => {
                assert!(!message.contains("hidden-secret"), "{message}");
            }
            (other, _) => panic!("{claims}: {other:?}"),
        }
        assert!(!lab.cookies.contains_key("__Host-ebbgate-session-default"), "{claims}");
    };
    check(json!({ "iss": "https://evil.example" }), None);
    check(json!({ "iss": format!("{ISSUER}/") }), None);
    check(json!({ "aud": "other" }), None);
    check(json!({ "aud": ["gate", "other"], "azp": "other" }), None);
    check(json!({ "nonce": "other" }), None);
    check(json!({ "nonce": null }), None);
    check(json!({ "exp": NOW - 31 }), None);
    check(json!({ "exp": null }), None);
    check(json!({ "sub": "x".repeat(300) }), Some(StatusCode::FORBIDDEN));
    check(json!({ "sub": null }), Some(StatusCode::FORBIDDEN));

    // Tokens that nobody signed, or that are none.
    for token in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        let mut lab = Lab::new(&json!({}));
        let sent = lab.away("/page");
        lab.grant(&sent, &json!({}), &json!({ "id_token": token }));
        let (verdict, _) = lab.get(&format!("/ngrok/callback?code=c&state={}", sent["state"]));
        assert!(matches!(verdict, Verdict::Failed { .. }), "{token}: {verdict:?}");
    }
}

#[test]
fn a_provider_that_does_not_answer_well_fails_its_own_visitors_with_the_reason_in_the_log() {
    let failed = |lab: &mut Lab, uri: &str| match lab.get(uri).0 {
        Verdict::Failed { message, .. } => message,
        other => panic!("{other:?}"),
    };
    for (discovery, expect) in [
        (Err("no answer within 5 s".to_owned()), "no answer within 5 s"),
        (answer(500, &json!({})), "the answer is 500"),
        (answer(302, &json!({})), "redirects are not followed"),
        (answer(200, &json!([])), "cannot be read"),
        (
            answer(
                200,
                &json!({ "issuer": "https://evil.example", "authorization_endpoint": "https://e/a",
            "token_endpoint": "https://e/t", "jwks_uri": "https://e/j" }),
            ),
            "is of the issuer `https://evil.example`",
        ),
    ] {
        let mut lab = Lab::new(&json!({}));
        lab.world.answers.insert(Purpose::Discovery, discovery);
        let message = failed(&mut lab, "/page");
        assert!(message.contains(expect), "{message}");
    }
    for (tokens, expect) in [
        (answer(500, &json!({})), "the answer is 500"),
        (answer(401, &json!({ "error": "invalid_client" })), "`invalid_client`"),
        (answer(200, &json!({ "token_type": "Bearer" })), "no access token"),
        (Ok(Exchanged { status: 200, at_unix_secs: NOW, body: "<html>".into() }), "no access token"),
    ] {
        let mut lab = Lab::new(&json!({}));
        let sent = lab.away("/page");
        lab.world.answers.insert(Purpose::Code, tokens);
        let message = failed(&mut lab, &format!("/ngrok/callback?code=c&state={}", sent["state"]));
        assert!(message.contains(expect) && !message.contains("hidden-secret"), "{message}");
    }
    let mut lab = Lab::new(&json!({}));
    let sent = lab.away("/page");
    lab.world.answers.insert(Purpose::Code, answer(400, &json!({ "error": "invalid_grant" })));
    assert_eq!(
        lab.back(&sent).status,
        StatusCode::FORBIDDEN,
        "a code that somebody made up is nobody else's fault"
    );
}

#[test]
fn claims_that_fit_no_cookie_are_refused_clearly() {
    let mut lab = Lab::new(&json!({}));
    let sent = lab.away("/page");
    lab.grant(&sent, &json!({ "groups": "g".repeat(6_000) }), &json!({}));
    assert_eq!(lab.back(&sent).status, StatusCode::FOUND, "the ID token is left out");
    let (_, cx) = lab.get("/page");
    assert_eq!(cx.result("oidc").unwrap()["identity_token"], "");

    let sent = lab.away("/ngrok/login");
    lab.grant(&sent, &json!({}), &json!({ "access_token": "a".repeat(4_000) }));
    let (verdict, _) = lab.get(&format!("/ngrok/callback?code=c&state={}", sent["state"]));
    let Verdict::Failed { message, .. } = verdict else { panic!("{verdict:?}") };
    assert!(message.contains("browsers keep 4096") && message.contains(ISSUER), "{message}");
}

#[test]
fn an_address_that_the_token_leaves_out_is_asked_for_and_never_anothers() {
    let signed_in = |info: Result<Exchanged, String>| {
        let mut lab = Lab::new(&json!({}));
        let sent = lab.away("/page");
        lab.grant(&sent, &json!({ "email": null }), &json!({}));
        lab.world.answers.insert(Purpose::UserInfo, info);
        let (verdict, _) = lab.get(&format!("/ngrok/callback?code=c&state={}", sent["state"]));
        matches!(verdict, Verdict::Respond(_)).then(|| {
            lab.get("/page").1.result("oidc").unwrap()["identity"]["email"].as_str().unwrap().to_owned()
        })
    };
    let info = |sub: &str| answer(200, &json!({ "sub": sub, "email": "ann@example.org" }));
    assert_eq!(signed_in(info("ann")).as_deref(), Some("ann@example.org"));
    assert_eq!(signed_in(info("bob")), None, "the user info is another person's");
    assert_eq!(signed_in(Err("gone".into())).as_deref(), Some(""), "the ID token says who it is");
}

#[test]
fn tokens_are_refreshed_at_home_before_they_expire() {
    let tokens = json!({ "expires_in": 400, "refresh_token": "refresh-1" });
    let mut lab = Lab::new(&json!({}));
    lab.sign_in(&tokens);
    let new = json!({ "access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 400 });
    let new = Exchanged { status: 200, at_unix_secs: NOW + 300, body: new.to_string().into() };
    lab.world.answers.insert(Purpose::Refresh, Ok(new));
    let refreshes = |lab: &Lab| lab.world.exchanges.iter().filter(|e| e.purpose == Purpose::Refresh).count();
    lab.now_ms += 299_000;
    assert!(lab.is_in() && refreshes(&lab) == 0);
    // Another edge goes on with the old token, and spends nothing.
    lab.now_ms += 1_000;
    lab.world.sessions.edge = "edge_two".into();
    let before = lab.cookies.clone();
    let (_, cx) = lab.get("/page");
    assert_eq!(cx.result("oidc").unwrap()["access_token"], "access-1");
    assert_eq!(refreshes(&lab), 0);
    lab.world.sessions.edge = "edge_one".into();
    let (_, cx) = lab.get("/page");
    assert_eq!(cx.result("oidc").unwrap()["access_token"], "access-2");
    assert_eq!(refreshes(&lab), 1);
    let (_, cx) = lab.get("/page");
    assert_eq!((cx.result("oidc").unwrap()["access_token"].clone(), refreshes(&lab)), (json!("access-2"), 1));
    // A second request with the cookie of before asks for the same exchange: the edge shares its answer.
    let keys: Vec<String> = lab.world.exchanges.iter().map(|e| e.share.key.clone()).collect();
    lab.cookies = before;
    lab.get("/page");
    let again = lab.world.exchanges.last().unwrap();
    assert!(again.purpose == Purpose::Refresh && keys.contains(&again.share.key));
    assert!(again.share.answered_secs >= 60 && !again.share.key.contains("refresh-1"));

    // At another edge an expired token means a new sign-in, never a second use of the refresh token.
    lab.world.sessions.edge = "edge_two".into();
    lab.now_ms += 400_000;
    let spent = refreshes(&lab);
    assert!(!lab.is_in() && refreshes(&lab) == spent);
}

#[test]
fn a_refused_refresh_ends_the_session_and_a_silent_provider_does_not_until_the_token_expires() {
    let tokens = json!({ "expires_in": 400, "refresh_token": "refresh-1" });
    let mut lab = Lab::new(&json!({}));
    lab.sign_in(&tokens);
    lab.now_ms += 300_000;
    lab.world.answers.insert(Purpose::Refresh, Err("no answer within 5 s".into()));
    assert!(lab.is_in());
    lab.now_ms += 100_000;
    let (verdict, _) = lab.get("/page");
    assert!(matches!(&verdict, Verdict::Respond(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE));
    lab.world.answers.insert(Purpose::Refresh, answer(400, &json!({ "error": "invalid_grant" })));
    assert!(!lab.is_in());
}

#[test]
fn the_provider_is_asked_again_who_the_visitor_is() {
    let mut lab = Lab::new(&json!({ "userinfo_refresh_interval": "10m" }));
    lab.sign_in(&json!({}));
    lab.now_ms += 599_000;
    assert!(lab.is_in());
    lab.now_ms += 1_000;
    lab.world
        .answers
        .insert(Purpose::UserInfo, answer(200, &json!({ "sub": "ann", "email": "new@example.com" })));
    let (_, cx) = lab.get("/page");
    assert_eq!(cx.result("oidc").unwrap()["identity"]["email"], "new@example.com");
    lab.world.answers.insert(Purpose::UserInfo, answer(401, &json!({})));
    assert!(lab.is_in(), "not asked again so soon");
    lab.now_ms += 600_000;
    assert!(!lab.is_in(), "the token is not good any more");
    for (info, expect) in [
        (answer(200, &json!({ "sub": "bob" })), false),
        (answer(500, &json!({})), true),
        (Err("slow".to_owned()), true),
    ] {
        lab.world.answers.insert(Purpose::UserInfo, info);
        assert_eq!(lab.is_in(), expect);
    }
}

#[test]
fn a_session_ends_by_rest_and_goes_on_by_use() {
    let mut lab = Lab::new(&json!({ "idle_session_duration": "10m", "max_session_duration": "30m" }));
    lab.sign_in(&json!({}));
    for _ in 0..3 {
        lab.now_ms += 599_000;
        assert!(lab.is_in());
    }
    lab.now_ms += 3_000;
    assert!(!lab.is_in(), "thirty minutes are over");
    let mut lab = Lab::new(&json!({ "idle_session_duration": "10m" }));
    lab.sign_in(&json!({}));
    lab.now_ms += 600_000;
    let (verdict, cx) = lab.get("/page");
    assert!(matches!(verdict, Verdict::Respond(_)));
    assert_eq!(cx.result("oidc").unwrap()["session_timed_out"], true);
}

#[test]
fn only_a_page_that_is_opened_is_sent_away() {
    let mut lab = Lab::new(&json!({}));
    let mut status = |method: Method, headers: &[(&str, &str)]| match lab.send(method, "/page", headers).0 {
        Verdict::Respond(reply) => reply.status.as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!(status(Method::GET, &[("sec-fetch-mode", "navigate")]), 302);
    assert_eq!(status(Method::HEAD, &[]), 302);
    assert_eq!(status(Method::POST, &[]), 401);
    assert_eq!(status(Method::GET, &[("sec-fetch-mode", "cors")]), 401);
    assert_eq!(status(Method::GET, &[("sec-fetch-mode", "no-cors")]), 401);
    assert_eq!(status(Method::GET, &[("upgrade", "websocket")]), 401);
    let preflight = [("origin", "https://app.example"), ("access-control-request-method", "PUT")];
    assert_eq!(status(Method::OPTIONS, &preflight), 401);
    let mut lab = Lab::new(&json!({ "allow_cors_preflight": true }));
    let (verdict, cx) = lab.send(Method::OPTIONS, "/page", &preflight);
    assert!(matches!(verdict, Verdict::Continue) && cx.result("oidc").is_none());
    for bad in [&[][..], &preflight[..1], &preflight[1..]] {
        assert!(matches!(lab.send(Method::OPTIONS, "/page", bad).0, Verdict::Respond(_)), "{bad:?}");
    }
    assert!(matches!(lab.send(Method::PUT, "/page", &preflight).0, Verdict::Respond(_)));
}

#[test]
fn no_visitor_is_sent_to_another_host() {
    let mut lab = Lab::new(&json!({}));
    for bad in [
        "//h",
        "/%5Ch",
        "/%09/h",
        "/%2509/h",
        "%5C%5Ch",
        "https://h",
        "/%0d%0ax:y",
        "",
        "//h&redirect_path=/a",
    ] {
        let reply = lab.reply(&format!("/ngrok/login?redirect_path={bad}"));
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(!reply.headers.contains_key(LOCATION));
    }
    // The path that was asked for is no better.
    let sent = lab.away("//evil.example/x");
    lab.grant(&sent, &json!({}), &json!({}));
    assert_eq!(lab.back(&sent).headers[LOCATION], "https://api.example.com/");
}

#[test]
fn sign_ins_of_one_document_are_told_apart_by_auth_id() {
    let one = |id: &str, path: &str| {
        let config = config(&json!({ "auth_id": id, "client_id": format!("gate-{id}") }));
        json!({
            "expressions": [format!("req.url.path.startsWith('{path}')")],
            "actions": [{ "type": "openid-connect", "config": config }],
        })
    };
    let last =
        json!({ "actions": [{ "type": "forward-internal", "config": { "url": "https://x.internal" } }] });
    let policy = json!({ "on_http_request": [one("a", "/a"), last, one("b", "/b")] });
    let mut lab = Lab::of(policy.clone());
    let sent = lab.away("/a/x");
    assert_eq!(sent["client_id"], "gate-a");
    assert_eq!(sent["state"].split('.').next_back(), Some("a"));
    assert_eq!(lab.away("/ngrok/login")["client_id"], "gate-a", "the first");
    // What stands before the sign-in that a path is for may not let the path through.
    assert_eq!(lab.reply("/ngrok/login?auth_id=b").status, StatusCode::NOT_FOUND);
    assert_eq!(lab.reply("/ngrok/callback?state=x.b&code=c").status, StatusCode::NOT_FOUND);
    assert!(matches!(lab.get("/ngrok/login?auth_id=c").0, Verdict::Forward { .. }), "no sign-in's path");
    let rules = &policy["on_http_request"];
    let mut lab = Lab::of(json!({ "on_http_request": [rules[0], rules[2], rules[1]] }));
    let sent = lab.away("/ngrok/login?auth_id=b");
    assert_eq!(sent["client_id"], "gate-b");
    lab.grant(&sent, &json!({ "aud": "gate-b" }), &json!({}));
    assert_eq!(lab.back(&sent).status, StatusCode::FOUND, "whatever the expressions of its rule say");
    assert!(matches!(lab.get("/b").0, Verdict::Forward { .. }));
    assert!(matches!(lab.get("/a").0, Verdict::Respond(_)), "another sign-in's session");
}

#[test]
fn a_domain_shares_a_session_among_its_hosts() {
    let mut lab = Lab::new(&json!({ "auth_cookie_domain": "example.com" }));
    lab.sign_in(&json!({}));
    lab.uri_host = "other.example.com";
    lab.endpoint = "https://other.example.com".into();
    assert!(lab.is_in());
    lab.uri_host = "example.org";
    assert!(matches!(lab.get("/page").0, Verdict::Failed { .. }), "no browser would keep such a cookie");
    lab.uri_host = "notexample.com";
    assert!(matches!(lab.get("/page").0, Verdict::Failed { .. }));
}

#[test]
fn cookies_do_not_travel_in_clear() {
    let lab = Lab::new(&json!({}));
    let mut cx = lab.context(Method::GET, "/page", &[]);
    Arc::make_mut(&mut cx.conn).tls = None;
    let mut world = World::default();
    let verdict = world.run(&lab.engine, Phase::HttpRequest, &mut cx);
    assert!(
        matches!(&verdict, Verdict::Failed { message, .. } if message.contains("not https")),
        "{verdict:?}"
    );
}

#[test]
fn a_rotated_key_is_fetched_anew() {
    let mut lab = Lab::new(&json!({}));
    let jwks = "https://id.example.com/jwks";
    lab.world.keys.insert(jwks.into(), json!({ "keys": [] }));
    lab.world.rotated.insert(jwks.into(), MINT.jwks());
    lab.sign_in(&json!({}));
    assert_eq!(lab.world.refreshed, 1);
}

#[test]
fn oauth_signs_in_by_user_info_and_tells_the_upstream_its_tokens() {
    let config = json!({ "provider": "github", "client_id": "gate", "client_secret": "hidden-secret" });
    let policy = json!({ "on_http_request": [{ "actions": [{ "type": "oauth", "config": config }] }] });
    let mut lab = Lab::of(policy);
    let reply = lab.reply("/page?a=b");
    let location = reply.headers[LOCATION].to_str().unwrap();
    let query = location.strip_prefix("https://github.com/login/oauth/authorize?").unwrap();
    let sent: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!(sent["scope"], "read:user user:email");
    assert!(!sent.contains_key("nonce") && sent.contains_key("code_challenge"));
    lab.world.answers.insert(Purpose::Code, answer(200, &json!({ "error": "bad_verification_code" })));
    assert_eq!(lab.back(&sent).status, StatusCode::FORBIDDEN, "GitHub says errors with status 200");
    let tokens = json!({ "access_token": "access-1", "refresh_token": "refresh-1" });
    lab.world.answers.insert(Purpose::Code, answer(200, &tokens));
    lab.world
        .answers
        .insert(Purpose::UserInfo, answer(200, &json!({ "id": 583, "login": "ann", "email": null })));
    let emails = json!([{ "email": "ann@example.com", "primary": true, "verified": true }]);
    lab.world.answers.insert(Purpose::Emails, answer(200, &emails));
    let reply = lab.back(&sent);
    assert_eq!(reply.headers[LOCATION], "https://api.example.com/page?a=b");
    let code = lab.world.exchanges.iter().rfind(|e| e.purpose == Purpose::Code).unwrap();
    assert!(
        code.authorization.is_none() && code.form.as_ref().unwrap().contains("client_secret=hidden-secret")
    );
    let forged = [("ngrok-auth-oauth-access-token", "forged")];
    let (verdict, cx) = lab.send(Method::GET, "/page", &forged);
    assert!(matches!(verdict, Verdict::Continue));
    let headers = &cx.request.as_ref().unwrap().headers;
    assert_eq!(headers.get_all("ngrok-auth-oauth-access-token").iter().collect::<Vec<_>>(), ["access-1"]);
    assert_eq!(headers["ngrok-auth-oauth-refresh-token"], "refresh-1");
    let identity = &cx.result("oauth").unwrap()["identity"];
    assert_eq!((&identity["provider_user_id"], &identity["name"]), (&json!("583"), &json!("ann")));
    assert_eq!(identity["email"], "ann@example.com");
}

#[test]
fn an_operators_endpoints_stand_in_for_published_ones() {
    let config = json!({ "provider": "gitlab", "client_id": "gate", "client_secret": "hidden-secret" });
    let policy = json!({ "on_http_request": [{ "actions": [{ "type": "oauth", "config": config }] }] });
    let mut lab = Lab::of(policy);
    let own = r#"{"gitlab": {"authorization_endpoint": "https://git.clinic.example/auth",
        "token_endpoint": "https://git.clinic.example/token", "userinfo_endpoint": "https://git.clinic.example/me"}}"#;
    lab.world.sessions.providers = Arc::new(crate::identity::parse_endpoints(own).unwrap());
    let reply = lab.reply("/page");
    assert!(reply.headers[LOCATION].to_str().unwrap().starts_with("https://git.clinic.example/auth?"));
}
