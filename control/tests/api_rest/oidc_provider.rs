//! Signing in by npm `oidc-provider`, a provider that others wrote and had certified, as a process beside the laboratory.
//!
//! What no honest provider does is tried in `oidc`.

use std::sync::Arc;
use std::time::Duration;

use ebbgate_control::clock::SystemClock;
use ebbgate_control::people::oidc::settings::{OIDC_KEY, Oidc};
use ebbgate_control::people::{Role, members};
use ebbgate_control::store::Txn;
use ebbgate_control::{record, secret};
use ebbgate_lab::oidc::{Browser, Provider};
use serde_json::json;

use crate::lab::{Lab, router};
use crate::oidc::{Away, SECRET, START, call_back, send_away};
use crate::persons::{HOST, Page};

/// The provider, for the dashboard's callback. None, visibly, where it is not installed.
fn start() -> Option<Provider> {
    let redirect = format!("http://{HOST}/dashboard/oidc/callback");
    let client = json!({"client_id": "gate", "client_secret": SECRET, "redirect_uri": redirect});
    Provider::start(&client).unwrap()
}

/// Goes where the dashboard sent the browser, and gives the query it comes back with.
fn authorize(provider: &Provider, browser: &mut Browser, away: &Away, login: &str) -> Vec<(String, String)> {
    let callback = format!("http://{HOST}/dashboard/oidc/callback?");
    let back = browser.authorize(&provider.issuer, &away.url, &callback, login).unwrap();
    let query = back.strip_prefix(&callback).unwrap();
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

async fn sign_in(lab: &Lab, provider: &Provider, browser: &mut Browser, login: &str, path: &str) -> Page {
    let away = send_away(lab, path).await;
    let query = authorize(provider, browser, &away, login);
    bring(lab, &away, &query).await
}

async fn bring(lab: &Lab, away: &Away, query: &[(String, String)]) -> Page {
    let query: Vec<_> = query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    call_back(lab, &away.cookie, &query).await
}

async fn lab() -> Option<(Lab, Provider)> {
    let provider = start()?;
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
    let (answer, stolen) =
        (authorize(&provider, browser, &mine, "ann"), authorize(&provider, browser, &others, "ann"));
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

    provider.rotate().unwrap();
    // So long ago that a token of an unknown key is reason enough to ask for keys.
    lab.app.people.provider.age(Duration::from_secs(31)).await;
    sign_in(&lab, &provider, browser, "ann", START).await.expect(303);
}
