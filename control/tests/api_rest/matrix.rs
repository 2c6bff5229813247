//! The authorization matrix: every route of the routers, for every kind of caller, against the table in `access`. The same
//! table and the same answers are printed into docs/people.md; `EBBGATE_BLESS=1` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use axum::body::Body;
use ebbgate_control::access::{self, Least, Row};
use ebbgate_control::listen::Peer;
use ebbgate_control::people::Role;
use ebbgate_control::record::{self, Account};
use ebbgate_control::store::Txn;
use http::Request;
use serde_json::json;

use crate::isolation::furnish;
use crate::lab::{Answer, Lab};
use crate::persons::{HOST, ORIGIN, Person, form};

/// A well-formed id that nobody has, with the prefix of a route's objects.
fn unknown_id(path: &str) -> String {
    let prefix = match path.split('/').nth(1).unwrap() {
        "agent_ingresses" => "agin",
        "api_keys" => "ak",
        "bot_users" => "bot",
        "certificate_authorities" => "ca",
        "credentials" => "cr",
        "endpoints" => "ep",
        "event_destinations" => "ed",
        "event_subscriptions" => "esb",
        "invitations" => "inv",
        "ip_policies" => "ipp",
        "ip_policy_rules" => "ipr",
        "ip_restrictions" => "ipx",
        "kubernetes_operators" => "k8sop",
        "reserved_addrs" => "ra",
        "reserved_domains" => "rd",
        "service_users" => "service",
        "tls_certificates" => "cert",
        "tunnel_sessions" => "ts",
        "tunnels" => "tn",
        "user_sessions" => "us",
        "users" => "usr",
        "vault_secrets" => "secret",
        "vaults" => "vault",
        _ => "x",
    };
    format!("{prefix}_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8")
}

fn filled(row: &Row, id: &str) -> String {
    row.path.replace("{id}", id).replace("{type}", "endpoint_created.v0")
}

fn with_key(row: &Row, path: &str, key: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(row.method).uri(path).header("ngrok-version", "2");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    request.body(Body::empty()).unwrap()
}

/// Status and code, or that the route served the caller: whatever it then said of the object.
fn outcome(answer: &Answer) -> String {
    match (answer.status, answer.code()) {
        (401 | 403, 0) => answer.status.to_string(),
        (401 | 403, code) => format!("{} ({code})", answer.status),
        _ => "served".to_owned(),
    }
}

/// Routes as the router itself has them: axum prints them and offers no other way to learn them.
fn routes(printed: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    // What takes unknown paths is no route.
    let printed = printed.split("fallback_router").next().unwrap();
    let paths: Vec<(&str, &str)> = printed
        .split("Node { paths: {")
        .skip(1)
        .flat_map(|rest| rest.split('}').next().into_iter().chain([rest]).skip(1))
        .flat_map(|paths| paths.split("RouteId(").skip(1))
        .filter_map(|entry| {
            let (id, rest) = entry.split_once("): \"")?;
            Some((id, rest.split('"').next()?))
        })
        .collect();
    for (id, path) in paths {
        let start =
            printed.find(&format!("RouteId({id}): MethodRouter(")).expect("each path has its methods");
        let methods = &printed[start..];
        let end = methods[1..].find("RouteId(").map_or(methods.len(), |end| end + 1);
        for method in ["get", "post", "patch", "delete", "put", "head", "options", "trace"] {
            let is_there = !methods[..end].contains(&format!("{method}: None"));
            if is_there {
                found.insert((path.to_owned(), method.to_uppercase()));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_route_has_a_row_and_every_row_a_route() {
    let lab = Lab::new().await;
    let found = routes(&format!("{:?}", lab.router));
    let rows: BTreeSet<_> = access::API
        .iter()
        .chain(access::DASHBOARD)
        .map(|row| (row.path.to_owned(), row.method.to_owned()))
        .collect();
    let missing: Vec<_> = found.difference(&rows).collect();
    assert!(missing.is_empty(), "routes without a row in control/src/access.rs: {missing:?}");
    let stale: Vec<_> = rows.difference(&found).collect();
    assert!(stale.is_empty(), "rows without a route: {stale:?}");
    assert!(found.len() > 100, "{}", found.len());
}

struct Cast {
    viewer: Person,
    admin: Person,
    owner: Person,
    /// Column, and what is sent as bearer.
    keys: Vec<(&'static str, Option<String>)>,
}

const SERVED: [&str; 3] = ["viewer", "admin", "owner"];

async fn cast(lab: &Lab) -> Cast {
    let viewer = lab.person(lab.one.account, "viewer@example.com", Role::Viewer).await;
    let admin = lab.person(lab.one.account, "admin@example.com", Role::Admin).await;
    let owner = lab.person(lab.one.account, "owner@example.com", Role::Owner).await;
    let gone = lab.person(lab.one.account, "gone@example.com", Role::Admin).await;
    lab.delete(&format!("/users/{}", gone.user)).await.expect(204);
    let away = lab.person(lab.one.account, "away@example.com", Role::Admin).await;
    lab.patch(&format!("/users/{}", away.user), json!({"suspended": true})).await.expect(200);
    let revoked = lab.make("/api_keys", json!({})).await;
    lab.delete(&format!("/api_keys/{}", revoked.id())).await.expect(204);
    let robot = lab.make("/bot_users", json!({"name": "robot"})).await.id();
    let robots = lab.make("/api_keys", json!({"owner_id": robot})).await;
    let idle = lab.make("/bot_users", json!({"name": "idle"})).await.id();
    let idles = lab.make("/api_keys", json!({"owner_id": idle})).await;
    lab.patch(&format!("/bot_users/{idle}"), json!({"active": false})).await.expect(200);
    let authtoken = lab.make("/credentials", json!({})).await.text("token");
    let stored =
        record::read::<Account>(&*lab.app.store, &Account::key(lab.two.account)).await.unwrap().unwrap();
    let suspended = Account { suspended_at: Some(1), ..stored.record };
    let put = Txn::new().put(Account::key(lab.two.account), record::encode(&suspended));
    let _ = lab.app.store.commit(put).await.unwrap();
    let keys = vec![
        ("no key", None),
        ("garbage", Some("garbage".to_owned())),
        ("revoked key", Some(revoked.text("token"))),
        ("authtoken", Some(authtoken)),
        ("id of a key", Some(robots.id())),
        ("account suspended", Some(lab.two.key.clone())),
        ("service user inactive", Some(idles.text("token"))),
        ("person removed", Some(gone.tenant.key)),
        ("person suspended", Some(away.tenant.key)),
        ("viewer", Some(viewer.tenant.key.clone())),
        ("service user", Some(robots.text("token"))),
        ("admin", Some(admin.tenant.key.clone())),
        ("owner", Some(owner.tenant.key.clone())),
        ("account's key", Some(lab.one.key.clone())),
    ];
    Cast { viewer, admin, owner, keys }
}

/// What the table promises a caller of the API.
fn promised(row: &Row, caller: &str) -> String {
    let Least::Role(least) = row.least else { return "served".into() };
    let refused = || match (row.path.contains("service_users") || row.path.contains("bot_users"), caller) {
        (true, _) => "403 (4111)".to_owned(),
        _ => "403".to_owned(),
    };
    let with = |role: Role| if role >= least { "served".to_owned() } else { refused() };
    match caller {
        "no key" => "401 (200)".into(),
        "garbage" => "401 (202)".into(),
        "revoked key" | "service user inactive" | "person removed" | "person suspended" => "401 (203)".into(),
        "authtoken" => "401 (206)".into(),
        "id of a key" => "401 (208)".into(),
        "account suspended" => "403 (205)".into(),
        "viewer" => with(Role::Viewer),
        "service user" | "admin" => with(Role::Admin),
        _ => with(Role::Owner),
    }
}

#[tokio::test]
async fn the_matrix_of_the_api() {
    let lab = Lab::new().await;
    let cast = cast(&lab).await;
    for row in access::API {
        let path = filled(row, &unknown_id(row.path));
        if row.least == Least::Anyone {
            let request = Request::builder().method(row.method).uri(&path);
            lab.browse(request, String::new()).await.expect(200);
            continue;
        }
        for (caller, key) in &cast.keys {
            let answer = lab.send(with_key(row, &path, key.as_deref())).await;
            assert_eq!(outcome(&answer), promised(row, caller), "{} {} as {caller}", row.method, row.path);
        }
        // A cookie means nothing here: the API has no door for browsers.
        let request = with_key(row, &path, None);
        let (mut parts, body) = request.into_parts();
        let cookie = format!("ebbgate_session={}", cast.owner.cookie);
        parts.headers.insert("cookie", cookie.parse().unwrap());
        let answer = lab.send(Request::from_parts(parts, body)).await;
        assert_eq!(outcome(&answer), promised(row, "no key"), "{} {} with a cookie", row.method, row.path);
    }
}

#[tokio::test]
async fn another_accounts_objects_are_not_there_on_any_route() {
    let lab = Lab::new().await;
    let made = furnish(&lab).await;
    let owner = lab.person(lab.one.account, "owner@example.com", Role::Owner).await;
    let stranger = lab.person(lab.two.account, "stranger@example.com", Role::Owner).await;
    let invited = lab.make("/invitations", json!({"email": "new@example.com", "role": "viewer"})).await;
    let own = [
        ("/users", owner.user.to_string()),
        ("/user_sessions", owner.session.to_string()),
        ("/invitations", invited.id()),
    ];
    let ids: Vec<_> = made.iter().map(|(path, _, id)| (*path, id.clone())).chain(own).collect();
    let mut asked = 0;
    for row in access::API.iter().filter(|row| row.path.contains("{id}")) {
        for (_, id) in ids.iter().filter(|(path, _)| row.path.starts_with(&format!("{path}/"))) {
            let path = filled(row, id);
            let body = match row.method {
                "PATCH"
                    if row.path.contains("users")
                        && !row.path.contains("bot")
                        && !row.path.contains("service") =>
                {
                    Some(json!({"role": "viewer"}))
                }
                "PATCH" if row.path.contains("users") => Some(json!({"name": "stolen"})),
                "PATCH" => Some(json!({"description": "stolen"})),
                _ => None,
            };
            let answer = lab.call(&stranger.tenant, row.method, &path, body).await;
            assert_eq!((answer.status, answer.code()), (404, 0), "{} {path}", row.method);
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
    for (path, id) in &ids {
        lab.get(&format!("{path}/{id}")).await.expect(200);
    }
}

#[tokio::test]
async fn an_address_that_the_account_refuses_is_served_on_no_route() {
    let lab = Lab::new().await;
    let owner = lab.person(lab.one.account, "owner@example.com", Role::Owner).await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let rule = json!({"cidr": "127.0.0.0/8", "ip_policy_id": policy, "action": "allow"});
    lab.make("/ip_policy_rules", rule).await;
    for kind in ["api", "dashboard"] {
        let body = json!({"type": kind, "enforced": true, "ip_policy_ids": [policy]});
        lab.make("/ip_restrictions", body).await;
    }
    let elsewhere = Peer(([192, 0, 2, 1], 40_000).into());
    for row in access::API.iter().filter(|row| row.least != Least::Anyone) {
        let path = filled(row, &unknown_id(row.path));
        let mut request = with_key(row, &path, Some(&owner.tenant.key));
        request.extensions_mut().insert(elsewhere);
        let answer = lab.send_as_is(request).await;
        let expect = if answer.status == 429 { "served" } else { "403 (220)" };
        assert_eq!(outcome(&answer), expect, "{} {}", row.method, row.path);
        assert_eq!(outcome(&lab.send(with_key(row, &path, Some(&owner.tenant.key))).await), "served");
    }
    for row in dashboard_rows() {
        let request = browser(row, Some(&owner.cookie)).extension(elsewhere);
        let page = lab.browse(request, form(&[("csrf", &owner.csrf())])).await;
        // The way out is open from everywhere.
        let out = ["/dashboard/account", "/dashboard/sign-out"].contains(&row.path);
        assert_eq!(
            page.status == 403 && page.text.contains("from 192.0.2.1"),
            !out,
            "{} {}",
            row.method,
            row.path
        );
        if row.path == "/dashboard/sign-out" {
            return;
        }
    }
}

/// Rows for people who are signed in, the one that ends the session last.
fn dashboard_rows() -> impl Iterator<Item = &'static Row> {
    let known = access::DASHBOARD.iter().filter(|row| row.least != Least::Anyone);
    let (out, others): (Vec<_>, Vec<_>) = known.partition(|row| row.path == "/dashboard/sign-out");
    others.into_iter().chain(out)
}

fn browser(row: &Row, cookie: Option<&str>) -> http::request::Builder {
    let path = row.path.replace("{id}", "x_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8");
    let mut request = Request::builder().method(row.method).uri(path).header("host", HOST);
    if row.method == "POST" {
        request =
            request.header("origin", ORIGIN).header("content-type", "application/x-www-form-urlencoded");
    }
    match cookie {
        Some(cookie) => request.header("cookie", format!("ebbgate_session={cookie}")),
        None => request,
    }
}

/// What the table promises a browser.
fn promised_page(row: &Row, caller: &str) -> &'static str {
    let Least::Role(least) = row.least else { return "served" };
    let reads = row.method == "GET";
    let with = |role: Role| if role >= least { "served" } else { "403" };
    match caller {
        "no session" | "garbage" | "ended session" | "person suspended" | "API key" if reads => "to sign-in",
        "owner, form of another site" | "owner, no token" if reads => "served",
        "viewer" => with(Role::Viewer),
        "admin" => with(Role::Admin),
        "owner" => with(Role::Owner),
        _ => "403",
    }
}

#[tokio::test]
async fn the_matrix_of_the_dashboard() {
    let lab = Lab::new().await;
    let cast = cast(&lab).await;
    let away = lab.person(lab.one.account, "off@example.com", Role::Owner).await;
    lab.patch(&format!("/users/{}", away.user), json!({"suspended": true})).await.expect(200);
    let ended = lab.session(cast.owner.user, lab.one.account).await;
    lab.delete(&format!("/user_sessions/{}", ended.0)).await.expect(204);
    let foreign = "https://evil.example";
    for row in dashboard_rows() {
        for (caller, person) in [
            ("no session", None),
            ("garbage", Some(Person { cookie: "garbage".into(), ..cast.owner.clone() })),
            ("ended session", Some(Person { cookie: ended.1.clone(), ..cast.owner.clone() })),
            ("person suspended", Some(away.clone())),
            ("API key", None),
            ("owner, form of another site", Some(cast.owner.clone())),
            ("owner, no token", Some(cast.owner.clone())),
            ("viewer", Some(cast.viewer.clone())),
            ("admin", Some(cast.admin.clone())),
            ("owner", Some(cast.owner.clone())),
        ] {
            // The route that ends the session it is called in gets a session of its own.
            let person = match person {
                Some(person) if SERVED.contains(&caller) && row.path == "/dashboard/sign-out" => {
                    let (session, cookie) = lab.session(person.user, lab.one.account).await;
                    Some(Person { session, cookie, ..person })
                }
                person => person,
            };
            let mut request = browser(row, person.as_ref().map(|person| person.cookie.as_str()));
            match caller {
                "API key" => request = request.header("authorization", format!("Bearer {}", lab.one.key)),
                "owner, form of another site" => {
                    request.headers_mut().unwrap().insert("origin", foreign.parse().unwrap());
                }
                _ => {}
            }
            let csrf = person.as_ref().map(Person::csrf).unwrap_or_default();
            let body = if caller == "owner, no token" { String::new() } else { form(&[("csrf", &csrf)]) };
            let page = lab.browse(request, if row.method == "POST" { body } else { String::new() }).await;
            let seen = match page.status {
                303 if page.location().starts_with("/dashboard/sign-in?") => "to sign-in",
                403 => "403",
                _ => "served",
            };
            assert_eq!(seen, promised_page(row, caller), "{} {} as {caller}", row.method, row.path);
        }
    }
}

const API_CALLERS: [&str; 12] = [
    "no key",
    "garbage",
    "revoked key",
    "authtoken",
    "id of a key",
    "account suspended",
    "service user inactive",
    "person removed",
    "viewer",
    "service user",
    "admin",
    "owner",
];
const PAGE_CALLERS: [&str; 7] = [
    "no session",
    "ended session",
    "owner, form of another site",
    "owner, no token",
    "viewer",
    "admin",
    "owner",
];

fn table(title: &str, head: &[&str], rows: &[Row], say: impl Fn(&Row, &str) -> String) -> String {
    let mut text = format!("<!-- matrix: {title} -->\n| route | {} |\n|---|", head.join(" | "));
    text += &"---|".repeat(head.len());
    for row in rows {
        let cells: Vec<_> = head.iter().map(|caller| say(row, caller)).collect();
        write!(text, "\n| `{} {}` | {} |", row.method, row.path, cells.join(" | ")).unwrap();
    }
    text + &format!("\n<!-- end of matrix: {title} -->")
}

fn api_table() -> String {
    table("API", &API_CALLERS, access::API, promised)
}

fn dashboard_table() -> String {
    table("dashboard", &PAGE_CALLERS, access::DASHBOARD, |row, caller| promised_page(row, caller).to_owned())
}

#[test]
fn the_page_shows_the_matrix() {
    document(&api_table());
    document(&dashboard_table());
}

/// The page has this table.
fn document(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/people.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (first, last) = (table.lines().next().unwrap(), table.lines().last().unwrap());
    let start = text.find(first).unwrap_or_else(|| panic!("docs/people.md has no line {first}"));
    let end = text.find(last).unwrap_or_else(|| panic!("docs/people.md has no line {last}")) + last.len();
    #[expect(clippy::disallowed_methods, reason = "a test's rim: blessing is asked for by the environment")]
    if std::env::var_os("EBBGATE_BLESS").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &text[..start], &text[end..])).unwrap();
        return;
    }
    assert!(text[start..end] == *table, "docs/people.md is not current: run this test with EBBGATE_BLESS=1");
}
