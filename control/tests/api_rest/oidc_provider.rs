//! Signing in by npm `oidc-provider`, a provider that others wrote and had certified, as a process beside the laboratory.
//!
//! It checks PKCE, codes, redirect URI and client by its own rules, and leaves the address to its user info, as providers
//! do for `response_type=code`. What no honest provider does is tried in `oidc`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_control::clock::SystemClock;
use ebbgate_control::people::oidc::settings::{OIDC_KEY, Oidc};
use ebbgate_control::people::{Role, members};
use ebbgate_control::store::Txn;
use ebbgate_control::{record, secret};
use ebbgate_lab::http;
use ebbgate_lab::process::{Daemon, Signal, Spec};
use ebbgate_lab::program::{skip, tools};
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};

use crate::lab::{Lab, router};
use crate::oidc::{Away, SECRET, START, call_back, send_away};
use crate::persons::{HOST, Page};

/// Redirects and pages of one sign-in at the provider.
const STEPS_MAX: usize = 12;

struct Provider {
    daemon: Daemon,
    issuer: String,
    _dir: tempfile::TempDir,
}

impl Provider {
    /// None, visibly, where it is not installed.
    fn start() -> Option<Self> {
        let home = tools().map(|tools| tools.join("node"));
        let home = home.filter(|home| home.join("node_modules/oidc-provider").exists());
        let Some(home) = home else {
            skip("oidc-provider", "it is not in target/tools/node: `cargo xtask test` installs it");
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/oidc_provider.mjs");
        let redirect = format!("http://{HOST}/dashboard/oidc/callback");
        let client = json!({"client_id": "gate", "client_secret": SECRET, "redirect_uri": redirect});
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec::new("oidc-provider", "node").arg(script).arg(client.to_string()).current_dir(home);
        let mut daemon = spec.start(dir.path()).unwrap();
        let issuer = said(&mut daemon, "issuer");
        Some(Self { daemon, issuer, _dir: dir })
    }

    fn rotate(&mut self) {
        self.daemon.signal(Signal::HUP);
        assert_eq!(said(&mut self.daemon, "keys"), "ES256");
    }
}

/// Waits for a line of JSON with a field.
fn said(daemon: &mut Daemon, field: &str) -> String {
    let look = || {
        daemon.check_alive()?;
        let log = daemon.log()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut found = lines.filter_map(|line| Some(line.get(field)?.as_str()?.to_owned()));
        Ok(found.next())
    };
    soon(field, look).unwrap()
}

/// A browser at the provider.
#[derive(Default)]
struct Browser(BTreeMap<String, String>);

impl Browser {
    fn ask(&mut self, method: &str, url: &str, form: &str) -> http::Answer {
        let rest = url.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let headers = [("cookie", cookies.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let stream = http::connect(host.parse().unwrap()).unwrap();
        let answer = http::request(stream, method, host, &format!("/{path}"), &headers, form.as_bytes());
        let answer = answer.unwrap();
        for (_, value) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let (name, value) = value.split(';').next().unwrap().split_once('=').unwrap();
            self.0.insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    /// Goes where the dashboard sent it, signs in, allows it, and gives the query it comes back with.
    fn authorize(&mut self, issuer: &str, away: &Away, login: &str) -> Vec<(String, String)> {
        let callback = format!("http://{HOST}/dashboard/oidc/callback?");
        let (mut method, mut url, mut form) = ("GET", away.url.clone(), String::new());
        for _ in 0..STEPS_MAX {
            let answer = self.ask(method, &url, &form);
            let text = answer.text();
            if let Some(to) = answer.header("location") {
                if let Some(query) = to.strip_prefix(&callback) {
                    return form_urlencoded::parse(query.as_bytes()).into_owned().collect();
                }
                url = if to.starts_with('/') { format!("{issuer}{to}") } else { to.to_owned() };
                (method, form) = ("GET", String::new());
                continue;
            }
            assert_eq!(answer.status, 200, "{text}");
            let between =
                |before: &str| text.split_once(before).unwrap().1.split('"').next().unwrap().to_owned();
            url = between("action=\"");
            let prompt = between("name=\"prompt\" value=\"");
            (method, form) = ("POST", format!("prompt={prompt}&login={login}&password=x"));
        }
        panic!("the provider never sends the browser back");
    }
}

async fn sign_in(lab: &Lab, provider: &Provider, browser: &mut Browser, login: &str, path: &str) -> Page {
    let away = send_away(lab, path).await;
    let query = browser.authorize(&provider.issuer, &away, login);
    bring(lab, &away, &query).await
}

async fn bring(lab: &Lab, away: &Away, query: &[(String, String)]) -> Page {
    let query: Vec<_> = query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    call_back(lab, &away.cookie, &query).await
}

async fn lab() -> Option<(Lab, Provider)> {
    let provider = Provider::start()?;
    let mut lab = Lab::new().await;
    // The provider's tokens are of the machine's time.
    lab.app.clock = Arc::new(SystemClock);
    lab.router = router(&lab.app);
    let oidc = Oidc::new(&provider.issuer, "gate", Some(SECRET), &lab.app.vault).unwrap();
    let _ = lab.app.store.commit(Txn::new().put(OIDC_KEY, record::encode(&oidc))).await.unwrap();
    Some((lab, provider))
}

#[tokio::test]
async fn a_certified_provider_lets_in_who_is_known_here_and_nobody_else() {
    let Some((lab, provider)) = lab().await else { return };
    let browser = &mut Browser::default();
    let page = sign_in(&lab, &provider, browser, "ann", START).await.expect(403);
    assert!(page.text.contains("Nobody with this address belongs here"), "{}", page.text);
    let ann = lab.person(lab.one.account, "ann@example.com", Role::Admin).await;
    let page = sign_in(&lab, &provider, browser, "ann", START).await.expect(303);
    assert_eq!(page.location(), "/dashboard/people");
    let cookie = page.cookie().unwrap();
    let shown = lab.visit("/dashboard/sessions", Some(&cookie)).await.expect(200);
    assert!(shown.text.contains("ann@example.com (admin)") && shown.text.contains("oidc"), "{}", shown.text);
    let user = members::user(&*lab.app.store, ann.user).await.unwrap().unwrap().record;
    assert_eq!(user.identity.unwrap().subject, "ann");

    // An address that the provider has not verified is nobody's.
    lab.person(lab.one.account, "carl@example.com", Role::Owner).await;
    let page = sign_in(&lab, &provider, &mut Browser::default(), "carl", START).await.expect(403);
    assert_eq!(page.cookie(), None);

    let made = lab.make("/invitations", json!({"email": "dora@example.com", "role": "viewer"})).await;
    let start = format!("/dashboard/invitations/{}/oidc", made.text("token"));
    sign_in(&lab, &provider, &mut Browser::default(), "ann", &start).await.expect(403);
    let page = sign_in(&lab, &provider, &mut Browser::default(), "dora", &start).await.expect(303);
    let shown = lab.visit("/dashboard/people", page.cookie().as_deref()).await.expect(200);
    assert!(shown.text.contains("dora@example.com (viewer)"), "{}", shown.text);

    // Signing out ends the session here; the provider still knows the browser.
    let csrf = secret::hash_hex(format!("ebbgate csrf {cookie}").as_bytes());
    lab.submit("/dashboard/sign-out", Some(&cookie), &[("csrf", &csrf)]).await.expect(303);
    let page = lab.visit("/dashboard/sessions", Some(&cookie)).await.expect(303);
    assert!(page.location().starts_with("/dashboard/sign-in"), "{}", page.location());
    let page = sign_in(&lab, &provider, browser, "ann", START).await.expect(303);
    assert!(page.cookie().is_some_and(|new| new != cookie));
}

#[tokio::test]
async fn a_certified_provider_gives_a_code_to_its_own_sign_in_once_and_may_change_its_keys() {
    let Some((lab, mut provider)) = lab().await else { return };
    lab.person(lab.one.account, "ann@example.com", Role::Owner).await;
    let browser = &mut Browser::default();
    let (mine, others) = (send_away(&lab, START).await, send_away(&lab, START).await);
    let (answer, stolen) = (
        browser.authorize(&provider.issuer, &mine, "ann"),
        browser.authorize(&provider.issuer, &others, "ann"),
    );
    let field = |answer: &[(String, String)], name: &str| {
        answer.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone()).unwrap()
    };
    // The answer names its issuer (RFC 9207) and carries the state of its sign-in alone.
    assert_eq!(field(&answer, "iss"), provider.issuer);
    assert_eq!(field(&answer, "state"), mine.query["state"]);
    bring(&lab, &mine, &stolen).await.expect(403);
    // Another's code under my state: the provider compares the verifier with that code's challenge.
    let mixed = [("code".to_owned(), field(&stolen, "code")), ("state".to_owned(), field(&answer, "state"))];
    let page = bring(&lab, &mine, &mixed).await.expect(403);
    assert_eq!(page.cookie(), None);
    bring(&lab, &mine, &answer).await.expect(303);
    bring(&lab, &mine, &answer).await.expect(403);

    provider.rotate();
    // So long ago that a token of an unknown key is reason enough to ask for keys.
    lab.app.people.provider.age(Duration::from_secs(31)).await;
    sign_in(&lab, &provider, browser, "ann", START).await.expect(303);
}
