//! Visitors who sign in at npm `oidc-provider`, through the real programs to an upstream that tells what it gets.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::api::list;
use ebbgate_lab::guide::{self, REST_INTERNAL};
use ebbgate_lab::http::Answer;
use ebbgate_lab::oidc::{Browser, Cookies, Provider, keep, line};
use ebbgate_lab::process::Daemon;
use ebbgate_lab::program::run;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use ebbgate_lab::web::{self, Reply};
use serde_json::{Map, Value, json};

use crate::chromium;
use crate::visitor::Visitor;

pub(crate) const HOST: &str = "app.clinic-network.com";
const SESSION: &str = "__Host-ebbgate-session-default";

/// What the provider is told of its client; `more` may add to it.
pub(crate) fn client(more: &Value) -> Value {
    let redirect = format!("https://{HOST}/ngrok/callback");
    let mut client =
        json!({ "client_id": "gate", "client_secret": "hidden-secret", "redirect_uri": redirect });
    merge(&mut client, more);
    client
}

fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
}

/// An endpoint behind a sign-in, and a visitor's browser.
pub(crate) struct Site {
    pub(crate) lab: TestLab,
    visitor: Visitor,
    cookies: Cookies,
    browser: Browser,
    _agent: Daemon,
}

impl Site {
    /// `rules`: those before the one that forwards to a service, which answers with its request's headers.
    pub(crate) fn new(rules: &Value, edge_args: &[&str]) -> Result<Self> {
        let mut lab = TestLab::stopped()?;
        lab.edge_args(edge_args.iter().copied());
        lab.start()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        let service = web::spawn(|request| {
            let headers = request.headers.iter().map(|(name, value)| (name.clone(), json!(value)));
            Reply::json(200, &json!({ "path": request.path, "headers": headers.collect::<Map<_, _>>() }))
        })?;
        let mut rules = rules.as_array().context("rules")?.clone();
        rules
            .push(json!({ "actions": [{ "type": "forward-internal", "config": { "url": REST_INTERNAL } }] }));
        guide::cloud(&api, &format!("https://{HOST}"), &json!({ "on_http_request": rules }))?;
        let port = service.port();
        let endpoint =
            format!("  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {port}\n");
        let agent = lab.agent("agent", &token, &endpoint)?;
        lab.wait_online(&[REST_INTERNAL], 1)?;
        let visitor = Visitor::of(&lab)?;
        visitor.wait_https(HOST)?;
        Ok(Self { lab, visitor, cookies: Cookies::new(), browser: Browser::default(), _agent: agent })
    }

    fn get(&mut self, path: &str) -> Result<Answer> {
        let cookies = line(&self.cookies);
        let answer = self.visitor.get(HOST, path, &[("cookie", &cookies)])?;
        keep(&mut self.cookies, &answer);
        Ok(answer)
    }

    /// What the upstream was told, if the visitor came so far.
    fn upstream(&mut self, path: &str) -> Result<Value> {
        let answer = self.get(path)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Where the visitor is sent.
    fn away(&mut self, path: &str) -> Result<String> {
        let answer = self.get(path)?;
        ensure!(answer.status == 302, "{} {}", answer.status, answer.text());
        Ok(answer.header("location").context("a location")?.to_owned())
    }

    /// A path of ours that the provider sends the visitor back to.
    fn through(&mut self, provider: &Provider, url: &str, login: &str) -> Result<String> {
        let callback = format!("https://{HOST}/ngrok/callback?");
        let back = self.browser.authorize(&provider.issuer, url, &callback, login)?;
        Ok(back.replacen(&format!("https://{HOST}"), "", 1))
    }

    /// Signs in on the way to a path; gives where the visitor is sent then.
    fn sign_in(&mut self, provider: &Provider, path: &str, login: &str) -> Result<String> {
        let away = self.away(path)?;
        let back = self.through(provider, &away, login)?;
        self.away(&back)
    }
}

/// A sign-in at a provider, and what the upstream is told of it.
pub(crate) fn rules(provider: &Provider, more: &Value) -> Value {
    let mut config = json!({
        "issuer_url": provider.issuer, "client_id": "gate", "client_secret": "${secrets.get('clinic', 'oidc')}",
    });
    merge(&mut config, more);
    json!([{ "actions": [
        { "type": "openid-connect", "config": config },
        { "type": "add-headers", "config": { "headers": {
            "x-email": "${actions.ngrok.oidc.identity.email}",
            "x-name": "${actions.ngrok.oidc.identity.name}",
            "x-session": "${actions.ngrok.oidc.identity.current_session_id}",
            "x-access-token": "${actions.ngrok.oidc.access_token}",
        } } },
    ] }])
}

fn with_secret(mut rules: Value) -> Value {
    rules[0]["actions"][0]["config"]["client_secret"] = json!("hidden-secret");
    rules
}

#[test]
fn a_visitor_signs_in_at_a_certified_provider_and_is_known_upstream_until_signing_out() -> Result<()> {
    let Some(provider) = Provider::start(&client(&json!({})))? else { return Ok(()) };
    let mut site = Site::new(&with_secret(rules(&provider, &json!({}))), &[])?;
    let (provider, site) = (&provider, &mut site);
    ensure!(site.sign_in(provider, "/visits?day=1", "ann")? == format!("https://{HOST}/visits?day=1"));
    let told = site.upstream("/visits?day=1")?;
    let headers = &told["headers"];
    ensure!(
        (&headers["x-email"], &headers["x-name"]) == (&json!("ann@example.com"), &json!("ann")),
        "{told}"
    );
    ensure!(headers.get("cookie").is_none(), "no upstream gets the session: {told}");

    // Another edge process goes on with it: the keys come from control, and nothing of the session is kept in one.
    site.lab.kill_edge();
    site.lab.start_edge()?;
    site.lab.wait_online(&[REST_INTERNAL], 1)?;
    soon("the session at an edge that was started again", || {
        Ok(site.upstream("/").ok().filter(|again| again["headers"]["x-session"] == headers["x-session"]))
    })
    .inspect_err(|_| site.lab.show_logs())?;

    // A copy of the cookie with another end, and a stranger without one.
    let good = site.cookies.insert(SESSION.into(), "forged".into()).context("a session")?;
    site.away("/")?;
    site.cookies.insert(SESSION.into(), good);
    site.upstream("/")?;
    let answer = site.get("/ngrok/logout")?;
    ensure!(answer.status == 200 && !site.cookies.contains_key(SESSION), "{answer:?}");

    // Signing in again asks for credentials, though the provider knows the browser.
    let away = site.away("/ngrok/login?redirect_path=/again")?;
    ensure!(away.contains("prompt=login"), "{away}");
    let back = site.through(provider, &away, "ann")?;
    ensure!(site.away(&back)? == format!("https://{HOST}/again"));
    ensure!(site.upstream("/again")?["headers"]["x-email"] == "ann@example.com");
    ensure!(site.get(&back)?.status == 403, "a sign-in counts once");
    Ok(())
}

#[test]
fn an_address_that_the_provider_has_not_verified_is_not_told() -> Result<()> {
    let Some(mut provider) = Provider::start(&client(&json!({})))? else { return Ok(()) };
    let mut site = Site::new(&with_secret(rules(&provider, &json!({}))), &[])?;
    site.sign_in(&provider, "/", "carl")?;
    let told = site.upstream("/")?;
    ensure!(told["headers"]["x-email"] == "" && told["headers"]["x-name"] == "carl", "{told}");
    // A provider that is gone fails new sign-ins, and nobody who is in.
    provider.kill();
    site.sign_in(&provider, "/other", "ann").err().context("nobody signs in")?;
    site.upstream("/")?;
    Ok(())
}

#[test]
fn parallel_requests_spend_a_refresh_token_once() -> Result<()> {
    let Some(provider) = Provider::start(&client(&json!({ "access_secs": 8 })))? else { return Ok(()) };
    let mut site = Site::new(&with_secret(rules(&provider, &json!({}))), &[])?;
    site.sign_in(&provider, "/", "ann")?;
    let first = site.upstream("/")?["headers"]["x-access-token"].clone();
    let before = line(&site.cookies);
    // In the last quarter of the token's time the first request refreshes it; the others share the answer.
    let told = soon("a token that is new", || {
        let answers: Vec<Result<Answer>> = std::thread::scope(|scope| {
            let ask = || site.visitor.get(HOST, "/", &[("cookie", &before)]);
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|one| one.join().expect("a visitor's thread ends")).collect()
        });
        let mut told = Vec::new();
        for answer in answers {
            let answer = answer?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            let headers: Value = serde_json::from_slice(&answer.body)?;
            told.push((headers["headers"]["x-access-token"].clone(), answer));
        }
        Ok(told.iter().all(|(token, _)| *token != first).then_some(told))
    })
    .inspect_err(|_| site.lab.show_logs())?;
    ensure!(told.iter().all(|(token, _)| *token == told[0].0), "all have the same token");
    let refreshed = |provider: &Provider| -> Result<usize> {
        Ok(provider.said("grant")?.iter().filter(|grant| *grant == "refresh_token").count())
    };
    ensure!(refreshed(&provider)? == 1, "{:?}", provider.said("grant")?);
    // Each answer carries the cookie with the next refresh token, which is good: the one before was not spent twice.
    keep(&mut site.cookies, &told[3].1);
    ensure!(line(&site.cookies) != before);
    soon("the next refresh", || {
        site.upstream("/")?;
        Ok((refreshed(&provider)? >= 2).then_some(()))
    })
    .inspect_err(|_| site.lab.show_logs())?;
    ensure!(provider.said("refused")?.is_empty(), "{:?}", provider.said("refused")?);
    Ok(())
}

#[test]
fn a_session_is_listed_and_one_that_is_deleted_or_left_ends_at_once_everywhere() -> Result<()> {
    let Some(provider) = Provider::start(&client(&json!({})))? else { return Ok(()) };
    let mut site = Site::new(&with_secret(rules(&provider, &json!({}))), &[])?;
    let api = site.lab.api()?;
    site.sign_in(&provider, "/", "ann")?;
    let session = site.upstream("/")?["headers"]["x-session"].clone();
    let listed = soon("the session in the list", || {
        let mut all = list(&api, "/app/sessions", "application_sessions")?;
        Ok(all.pop().filter(|one| one["id"] == session))
    })
    .inspect_err(|_| site.lab.show_logs())?;
    ensure!(listed["public_url"] == format!("https://{HOST}"), "{listed}");
    ensure!(listed["browser_session"]["ip_address"] == "127.0.0.1", "{listed}");
    let user = listed["application_user"]["id"].clone();
    let users = list(&api, "/app/users", "application_users")?;
    ensure!(
        users.len() == 1 && users[0]["id"] == user && users[0]["email"] == "ann@example.com",
        "{users:?}"
    );
    ensure!(users[0]["identity_provider"]["name"] == provider.issuer, "{users:?}");

    let delete = |path: &str| -> Result<()> {
        let answer = api.call("DELETE", path, None)?;
        ensure!(answer.0 == 204, "{path}: {answer:?}");
        Ok(())
    };
    let is_out = |site: &mut Site| -> Result<Option<()>> { Ok((site.get("/")?.status == 302).then_some(())) };
    delete(&format!("/app/sessions/{}", session.as_str().context("an id")?))?;
    soon("the end of the session", || is_out(&mut site)).inspect_err(|_| site.lab.show_logs())?;
    ensure!(list(&api, "/app/sessions", "application_sessions")?.is_empty());

    // Deleting the person ends all sessions; the provider lets the person in again.
    site.sign_in(&provider, "/", "ann")?;
    soon("the new session in the list", || {
        Ok((!list(&api, "/app/sessions", "application_sessions")?.is_empty()).then_some(()))
    })?;
    delete(&format!("/app/users/{}", user.as_str().context("an id")?))?;
    soon("the end of the person's session", || is_out(&mut site)).inspect_err(|_| site.lab.show_logs())?;
    ensure!(list(&api, "/app/users", "application_users")?.is_empty());

    // A copy of the cookie of somebody who signs out is worth nothing.
    site.sign_in(&provider, "/", "ann")?;
    let copy = site.cookies.clone();
    site.get("/ngrok/logout")?;
    soon("the end of the copy", || {
        site.cookies.clone_from(&copy);
        is_out(&mut site)
    })
    .inspect_err(|_| site.lab.show_logs())?;
    Ok(())
}

/// The page; its examples are executed here.
const PAGE: &str = include_str!("../../docs/identity.md");

/// What a fenced block of the page has, by the words behind its fence.
fn block(words: &str) -> Result<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("```{words}\n")).with_context(|| format!("no block {words}"))?;
    Ok(rest.split_once("```").context("the block ends")?.0)
}

#[test]
fn the_page_of_identity_says_what_happens() -> Result<()> {
    let Some(provider) = Provider::start(&client(&json!({})))? else { return Ok(()) };
    let mut lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    api.create("/vaults", &json!({ "name": "clinic" }))?;
    let secret = json!({ "name": "oidc", "value": "hidden-secret", "vault_name": "clinic" });
    api.create("/vault_secrets", &secret)?;
    let policy = block("yaml app.yml")?.replace("$ISSUER", &provider.issuer);
    let body = json!({
        "type": "cloud", "url": format!("https://{HOST}"), "bindings": ["public"], "traffic_policy": policy,
    });
    api.create("/endpoints", &body)?;
    let visitor = Visitor::of(&lab)?;
    soon("the page's policy at the edge", || Ok(visitor.get(HOST, "/", &[])?.header("location").map(drop)))
        .inspect_err(|_| lab.show_logs())?;
    let home = tempfile::tempdir()?;
    let (port, authority) = (lab.ports().https(), lab.ingress_ca());
    let settings = format!("connect-to = {HOST}:443:127.0.0.1:{port}\ncacert = {}\n", authority.display());
    std::fs::write(home.path().join(".curlrc"), settings)?;
    let mut commands = 0;
    for console in PAGE.split("```console\n").skip(1) {
        let console = console.split_once("```").context("the block ends")?.0;
        for part in console.split("$ curl ").skip(1) {
            let (line, printed) = part.split_once('\n').context("it prints something")?;
            let script = format!("curl {line}");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).env("URL", format!("https://{HOST}")).env("HOME", home.path());
            let ran = run(&mut shell)?;
            ensure!(
                ran.ok && ran.text == printed.replace("$ISSUER", &provider.issuer),
                "{script}: {}",
                ran.text
            );
            commands += 1;
        }
    }
    ensure!(commands == 4, "{commands} commands");
    let mut browser = Browser::default();
    let mut cookies = Cookies::new();
    let answer = visitor.get(HOST, "/", &[])?;
    keep(&mut cookies, &answer);
    let away = answer.header("location").context("a location")?;
    let back =
        browser.authorize(&provider.issuer, away, &format!("https://{HOST}/ngrok/callback?"), "ann")?;
    let back = back.replacen(&format!("https://{HOST}"), "", 1);
    let answer = visitor.get(HOST, &back, &[("cookie", &line(&cookies))])?;
    keep(&mut cookies, &answer);
    let answer = visitor.get(HOST, "/", &[("cookie", &line(&cookies))])?;
    ensure!(answer.text() == "signed in as ann@example.com\n", "{answer:?}");
    ensure!(lab.stop_edge()?);
    Ok(())
}

#[test]
fn an_operators_provider_signs_visitors_in_by_oauth_and_the_upstream_gets_the_token() -> Result<()> {
    let Some(provider) = Provider::start(&client(&json!({ "auth_method": "client_secret_post" })))? else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("providers.json");
    std::fs::write(&file, block("json providers.json")?.replace("$ISSUER", &provider.issuer))?;
    let config = json!({ "provider": "gitlab", "client_id": "gate", "client_secret": "hidden-secret" });
    let rules = json!([{ "actions": [{ "type": "oauth", "config": config }] }]);
    let file = file.to_str().context("a path")?.to_owned();
    let mut site = Site::new(&rules, &["--identity-providers", &file])?;
    ensure!(site.sign_in(&provider, "/", "ann")? == format!("https://{HOST}/"));
    let told = site.upstream("/")?;
    let token = &told["headers"]["ngrok-auth-oauth-access-token"];
    ensure!(token.as_str().is_some_and(|token| !token.is_empty()), "{told}");
    Ok(())
}

#[test]
fn a_browser_signs_in_is_known_upstream_signs_out_and_must_sign_in_again() -> Result<()> {
    let test = "a_browser_signs_in_is_known_upstream_signs_out_and_must_sign_in_again";
    if !chromium::is_there(test) {
        return Ok(());
    }
    let Some(provider) = Provider::start(&client(&json!({})))? else { return Ok(()) };
    let site = Site::new(&with_secret(rules(&provider, &json!({}))), &[])?;
    let saw = chromium::run(&site.lab, HOST, "chromium.mjs", &json!({}))?;
    let told = |name: &str| -> Result<Value> {
        Ok(serde_json::from_str(saw[name].as_str().context(name.to_owned())?)?)
    };
    let first = told("first")?;
    ensure!(first["path"] == "/visits?day=1" && first["headers"]["x-email"] == "ann@example.com", "{saw}");
    ensure!(first["headers"].get("cookie").is_none(), "{saw}");
    ensure!(saw["url"] == format!("https://{HOST}/visits?day=1"), "{saw}");
    let cookie = json!({ "name": SESSION, "httpOnly": true, "secure": true, "sameSite": "Lax" });
    ensure!(saw["cookies"] == json!([cookie]) && saw["script"] == "", "{saw}");
    ensure!(saw["fetched"] == 200 && saw["fetchedAfter"] == 401 && saw["cookiesAfter"] == json!([]), "{saw}");
    ensure!(saw["logout"].as_str().is_some_and(|text| text.starts_with("You are signed out")), "{saw}");
    ensure!(told("again")?["headers"]["x-email"] == "dora@example.com", "{saw}");
    ensure!(saw["urlAgain"] == format!("https://{HOST}/again"), "{saw}");
    Ok(())
}
