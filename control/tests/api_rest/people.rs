//! People through the whole router: ways in and out, sessions, invitations, roles, owners of keys.

use ebbgate_control::people::session::{SESSION_IDLE_SECS_MAX, SESSION_SECS_MAX};
use ebbgate_control::people::{Role, members};
use ebbgate_control::record::people::{Membership, Setup, User, UserSession};
use ebbgate_control::record::{self, Record};
use ebbgate_control::snapshot::Snapshot;
use ebbgate_control::store::{Change, Range, Txn};
use ebbgate_control::{plan, secret};
use ebbgate_model::ObjectKey;
use http::Request;
use serde_json::json;

use crate::lab::{Lab, Tenant};
use crate::persons::{HOST, PASSWORD, Person, form};

async fn owner(lab: &Lab) -> Person {
    lab.person(lab.one.account, "ann@example.com", Role::Owner).await
}

#[tokio::test]
async fn a_password_opens_a_session_and_signing_out_ends_it() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let page = lab.visit("/dashboard/people?x=1", None).await.expect(303);
    assert_eq!(page.location(), "/dashboard/sign-in?return_to=%2Fdashboard%2Fpeople%3Fx%3D1");
    let fields =
        [("email", " Ann@Example.com"), ("password", PASSWORD), ("return_to", "/dashboard/people?x=1")];
    let page = lab.submit("/dashboard/sign-in", None, &fields).await.expect(303);
    assert_eq!(page.location(), "/dashboard/people?x=1");
    let line = page.headers["set-cookie"].to_str().unwrap();
    assert!(line.contains("; HttpOnly; SameSite=Lax"), "{line}");
    let cookie = page.cookie().unwrap();
    let page = lab.visit("/dashboard/people", Some(&cookie)).await.expect(200);
    assert!(page.text.contains("ann@example.com (owner)"), "{}", page.text);
    assert!(!page.text.contains(&cookie), "the cookie is on no page");
    let signed = Person { cookie: cookie.clone(), ..ann };
    let page = lab.act(&signed, "/dashboard/sign-out", &[]).await.expect(303);
    assert_eq!(page.cookie().as_deref(), Some(""));
    lab.visit("/dashboard/people", Some(&cookie)).await.expect(303);
}

#[tokio::test]
async fn a_sign_in_gives_a_new_session_and_ends_the_one_before() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let fields = [("email", ann.email.as_str()), ("password", PASSWORD)];
    // A cookie that somebody planted is not taken over (session fixation).
    let planted = "2nQ4fJ8b9c0d1e2f3g4h5i6j7k8_aaaaaaaaaaaaaaaaaaaaa";
    let page = lab.submit("/dashboard/sign-in", Some(planted), &fields).await.expect(303);
    assert_ne!(page.cookie().as_deref(), Some(planted));
    lab.visit("/dashboard", Some(planted)).await.expect(303);
    let page = lab.submit("/dashboard/sign-in", Some(&ann.cookie), &fields).await.expect(303);
    assert_ne!(page.cookie().as_deref(), Some(ann.cookie.as_str()));
    lab.visit("/dashboard", Some(&ann.cookie)).await.expect(303);
    lab.visit("/dashboard", page.cookie().as_deref()).await.expect(200);
}

#[tokio::test]
async fn wrong_passwords_all_look_the_same_and_soon_have_to_wait() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let wrong = async |email: &str| {
        let fields = [("email", email), ("password", "not the right password")];
        lab.submit("/dashboard/sign-in", None, &fields).await
    };
    let (known, unknown) =
        (wrong(&ann.email).await.expect(403), wrong("nobody@example.com").await.expect(403));
    assert_eq!(known.text, unknown.text);
    assert_eq!(known.cookie(), None);
    wrong("no address").await.expect(403);
    for _ in 0..4 {
        wrong(&ann.email).await.expect(403);
    }
    let page = wrong(&ann.email).await.expect(429);
    assert!(page.headers.contains_key("retry-after"));
    // The right one waits too: else a guesser would learn it.
    let fields = [("email", ann.email.as_str()), ("password", PASSWORD)];
    lab.submit("/dashboard/sign-in", None, &fields).await.expect(429);
}

/// Writes a session as it would be after a while.
async fn age(lab: &Lab, person: &Person, change: impl FnOnce(&mut UserSession)) {
    let stored = record::load::<UserSession>(&*lab.app.store, person.tenant.account, person.session).await;
    let mut session = stored.unwrap().unwrap().record;
    change(&mut session);
    let _ = lab.app.store.commit(Txn::new().put(session.key(), record::encode(&session))).await.unwrap();
}

#[tokio::test]
async fn sessions_end_by_idleness_by_age_and_when_the_clock_was_put_back() {
    let lab = Lab::new().await;
    for (email, secs, expect) in [
        ("idle@example.com", SESSION_IDLE_SECS_MAX, 303),
        ("busy@example.com", SESSION_IDLE_SECS_MAX - 60, 200),
        ("back@example.com", -86_400, 303),
    ] {
        let person = lab.person(lab.one.account, email, Role::Owner).await;
        age(&lab, &person, |session| session.seen_at -= secs).await;
        lab.visit("/dashboard", Some(&person.cookie)).await.expect(expect);
    }
    let person = lab.person(lab.one.account, "old@example.com", Role::Owner).await;
    age(&lab, &person, |session| session.expires_at -= SESSION_SECS_MAX).await;
    lab.visit("/dashboard", Some(&person.cookie)).await.expect(303);
    assert!(
        !lab.get("/user_sessions").await.expect(200).body.to_string().contains(&person.session.to_string())
    );
}

#[tokio::test]
async fn forged_cookies_open_nothing() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let (id, secret) = ann.cookie.split_once('_').unwrap();
    let other = lab.person(lab.two.account, "bob@example.com", Role::Owner).await;
    let (_, foreign) = other.cookie.split_once('_').unwrap();
    for forged in [
        String::new(),
        id.to_owned(),
        format!("{id}_"),
        format!("{id}_{}", "a".repeat(21)),
        format!("{id}_{foreign}"),
        format!("{id}_{}", secret.to_lowercase() + "x"),
        ann.session.to_string(),
        ann.tenant.key.clone(),
        format!("\"{}\"", ann.cookie),
    ] {
        lab.visit("/dashboard", Some(&forged)).await.expect(303);
    }
    let twice = format!("ebbgate_session={0}; ebbgate_session={0}", ann.cookie);
    let request = Request::builder().uri("/dashboard").header("host", HOST).header("cookie", twice);
    lab.browse(request, String::new()).await.expect(303);
    lab.visit("/dashboard", Some(&ann.cookie)).await.expect(200);
}

#[tokio::test]
async fn ending_a_session_suspending_and_removing_hold_for_the_next_request() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let bob = lab.person(lab.one.account, "bob@example.com", Role::Admin).await;
    lab.act(&ann, &format!("/dashboard/sessions/{}/end", bob.session), &[]).await.expect(303);
    lab.visit("/dashboard", Some(&bob.cookie)).await.expect(303);
    lab.call(&bob.tenant, "GET", "/self", None).await.expect(200);
    let (session, cookie) = lab.session(bob.user, lab.one.account).await;
    let bob = Person { session, cookie, ..bob };
    let change = format!("/dashboard/people/{}/change", bob.user);
    lab.act(&ann, &change, &[("suspended", "yes")]).await.expect(303);
    lab.visit("/dashboard", Some(&bob.cookie)).await.expect(303);
    assert_eq!(lab.call(&bob.tenant, "GET", "/self", None).await.expect(401).code(), 203);
    let fields = [("email", bob.email.as_str()), ("password", PASSWORD)];
    lab.submit("/dashboard/sign-in", None, &fields).await.expect(403);
    lab.act(&ann, &change, &[("suspended", "no")]).await.expect(303);
    lab.visit("/dashboard", Some(&bob.cookie)).await.expect(303);
    lab.call(&bob.tenant, "GET", "/self", None).await.expect(200);
    lab.act(&ann, &format!("/dashboard/people/{}/remove", bob.user), &[]).await.expect(303);
    assert_eq!(lab.call(&bob.tenant, "GET", "/self", None).await.expect(401).code(), 203);
    // Who comes back gets nothing back that an earlier membership left behind.
    let user = members::user(&*lab.app.store, bob.user).await.unwrap().unwrap().record;
    let again = members::join(Txn::new(), lab.one.account, &user, Role::Admin, lab.app.now());
    let _ = lab.app.store.commit(again).await.unwrap();
    assert_eq!(lab.call(&bob.tenant, "GET", "/self", None).await.expect(401).code(), 203);
}

#[tokio::test]
async fn a_role_that_is_taken_away_holds_for_the_next_call() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let bob = lab.person(lab.one.account, "bob@example.com", Role::Admin).await;
    lab.call(&bob.tenant, "POST", "/ip_policies", Some(json!({}))).await.expect(201);
    let change = format!("/users/{}", bob.user);
    lab.call(&ann.tenant, "PATCH", &change, Some(json!({"role": "viewer"}))).await.expect(200);
    let refused = lab.call(&bob.tenant, "POST", "/ip_policies", Some(json!({}))).await.expect(403);
    assert!(refused.text("msg").contains("takes the role `admin`"), "{}", refused.body);
    assert_eq!(refused.body["details"]["role"], "admin");
    let page = lab.act(&bob, "/dashboard/api-keys", &[("description", "x")]).await.expect(403);
    assert!(page.text.contains("You are viewer"), "{}", page.text);
    let seen = lab.call(&bob.tenant, "GET", "/self", None).await.expect(200);
    assert_eq!(
        (seen.text("role").as_str(), seen.body["user"]["id"].as_str()),
        ("viewer", Some(&*bob.user.to_string()))
    );
}

#[tokio::test]
async fn an_account_keeps_an_owner() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let path = format!("/users/{}", ann.user);
    for (method, body) in [
        ("PATCH", Some(json!({"role": "admin"}))),
        ("PATCH", Some(json!({"suspended": true}))),
        ("DELETE", None),
    ] {
        let refused = lab.call(&ann.tenant, method, &path, body).await.expect(409);
        assert!(refused.text("msg").contains("last owner"), "{}", refused.body);
    }
    let bob = lab.person(lab.one.account, "bob@example.com", Role::Owner).await;
    // Both go at the same moment: one of them stays.
    let (first, second) = (format!("/users/{}", ann.user), format!("/users/{}", bob.user));
    let (first, second) = tokio::join!(
        lab.call(&lab.one, "DELETE", &first, None),
        lab.call(&lab.one, "DELETE", &second, None),
    );
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409]);
}

#[tokio::test]
async fn an_invitation_lets_one_person_in_once() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let body = json!({"email": "Bob@Example.com", "role": "admin"});
    let made = lab.call(&ann.tenant, "POST", "/invitations", Some(body)).await.expect(201);
    assert_eq!(made.text("invited_by"), ann.user.to_string());
    let listed = lab.get("/invitations").await.expect(200).body.to_string();
    assert!(listed.contains("bob@example.com") && !listed.contains(&made.text("token")), "{listed}");
    let path = format!("/dashboard/invitations/{}", made.text("token"));
    let page = lab.visit(&path, None).await.expect(200);
    assert!(
        page.text.contains("bob@example.com is invited to be admin of the account clinic"),
        "{}",
        page.text
    );
    for (password, again, why) in [
        (PASSWORD, "another", "differ"),
        ("short", "short", "15 characters"),
        ("bob@example.com", "bob@example.com", "neither the address"),
    ] {
        let fields = [("password", password), ("again", again)];
        let page = lab.submit(&path, None, &fields).await.expect(422);
        assert!(page.text.contains(why), "{}", page.text);
    }
    let fields = [("password", PASSWORD), ("again", PASSWORD)];
    let (one, two) = tokio::join!(lab.submit(&path, None, &fields), lab.submit(&path, None, &fields));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses[0], 303, "one of two at the same moment is let in");
    assert!([404, 409].contains(&statuses[1]), "{statuses:?}");
    lab.visit(&path, None).await.expect(404);
    let cookie = one.cookie().or_else(|| two.cookie());
    let page = lab.visit("/dashboard/people", cookie.as_deref()).await.expect(200);
    assert!(page.text.contains("bob@example.com (admin)") && !page.text.contains("Invite"), "{}", page.text);
    // Somebody who belongs to the account is not invited again.
    let body = json!({"email": "bob@example.com", "role": "owner"});
    lab.call(&ann.tenant, "POST", "/invitations", Some(body)).await.expect(409);
}

#[tokio::test]
async fn somebody_who_is_known_proves_it_before_joining_another_account() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let body = json!({"email": ann.email, "role": "viewer"});
    let made = lab.call(&lab.two, "POST", "/invitations", Some(body)).await.expect(201);
    let path = format!("/dashboard/invitations/{}", made.text("token"));
    // Whoever has the link cannot give the known person another password with it.
    let fields = [("password", "a password of the thief"), ("again", "a password of the thief")];
    lab.submit(&path, None, &fields).await.expect(403);
    lab.submit(&path, None, &[("password", PASSWORD)]).await.expect(303);
    let fields = [("email", ann.email.as_str()), ("password", PASSWORD)];
    let cookie = lab.submit("/dashboard/sign-in", None, &fields).await.expect(303).cookie().unwrap();
    let ann = Person { cookie, ..ann };
    // In the one account an owner, in the other a viewer; each session is for one of them.
    let account = lab.two.account.to_string();
    let page = lab.visit("/dashboard", Some(&ann.cookie)).await.expect(200);
    assert!(page.text.contains("Your other accounts") && page.text.contains(&account), "{}", page.text);
    let cookie = lab.act(&ann, "/dashboard/account", &[("account", &account)]).await.expect(303).cookie();
    let page = lab.visit("/dashboard/people", cookie.as_deref()).await.expect(200);
    assert!(page.text.contains("ann@example.com (viewer)"), "{}", page.text);
    lab.visit("/dashboard", Some(&ann.cookie)).await.expect(303);
    let nowhere = json!("ac_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8").as_str().unwrap().to_owned();
    let ann = Person { cookie: cookie.unwrap(), ..ann };
    lab.act(&ann, "/dashboard/account", &[("account", &nowhere)]).await.expect(403);
}

#[tokio::test]
async fn old_withdrawn_and_forged_invitations_let_nobody_in() {
    let lab = Lab::new().await;
    let invite =
        async || lab.make("/invitations", json!({"email": "bob@example.com", "role": "owner"})).await;
    let fields = [("password", PASSWORD), ("again", PASSWORD)];
    let gone = async |token: &str| {
        let path = format!("/dashboard/invitations/{token}");
        lab.visit(&path, None).await.expect(404);
        lab.submit(&path, None, &fields).await.expect(404);
    };
    let withdrawn = invite().await;
    lab.delete(&format!("/invitations/{}", withdrawn.id())).await.expect(204);
    gone(&withdrawn.text("token")).await;
    let old = invite().await;
    let id = old.id().parse().unwrap();
    let stored = record::load::<record::people::Invitation>(&*lab.app.store, lab.one.account, id).await;
    let mut invitation = stored.unwrap().unwrap().record;
    invitation.expires_at = 0;
    let _ =
        lab.app.store.commit(Txn::new().put(invitation.key(), record::encode(&invitation))).await.unwrap();
    gone(&old.text("token")).await;
    let open = invite().await;
    gone(&open.id()).await;
    gone(&format!("{}_{}", &open.id()[4..], "a".repeat(21))).await;
    gone("nonsense").await;
    for (body, field) in [
        (json!({"email": "nobody", "role": "owner"}), "email"),
        (json!({"email": "bob@example.com", "role": "root"}), "role"),
        (json!({"role": "owner"}), "email"),
    ] {
        let refused = lab.post("/invitations", body).await.expect(400);
        assert_eq!((refused.code(), refused.body["details"]["field"].as_str()), (215, Some(field)));
    }
}

#[tokio::test]
async fn a_set_up_link_is_used_up_by_the_password_it_sets() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let token = lab.app.token(ann.user.ksuid());
    let give = async |expires_at| {
        let stored = members::user(&*lab.app.store, ann.user).await.unwrap().unwrap();
        let setup = Some(Setup { hash: secret::hash(token.expose()), expires_at });
        let user = User { setup, ..stored.record.clone() };
        let _ = lab.app.store.commit(members::replace_user(Txn::new(), &user, &stored)).await.unwrap();
    };
    let path = format!("/dashboard/setup/{}", token.expose());
    give(0).await;
    lab.visit(&path, None).await.expect(404);
    give(i64::MAX).await;
    lab.visit(&path, None).await.expect(200);
    let fields = [("password", "another good password"), ("again", "another good password")];
    lab.submit(&path, None, &fields).await.expect(303);
    lab.submit(&path, None, &fields).await.expect(404);
    for (password, expect) in [("another good password", 303), (PASSWORD, 403)] {
        let fields = [("email", ann.email.as_str()), ("password", password)];
        lab.submit("/dashboard/sign-in", None, &fields).await.expect(expect);
    }
}

#[tokio::test]
async fn keys_belong_to_people_by_address_and_nobody_gives_away_more_than_the_own_role() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let bob = lab.person(lab.one.account, "bob@example.com", Role::Admin).await;
    let eve = lab.person(lab.one.account, "eve@example.com", Role::Viewer).await;
    let stranger = lab.person(lab.two.account, "stranger@example.com", Role::Owner).await;
    let post = async |by: &Tenant, path: &str, body| lab.call(by, "POST", path, Some(body)).await;
    for (field, value) in [
        ("owner_id", "Eve@example.com".to_owned()),
        ("owner_email", "eve@example.com".to_owned()),
        ("owner_id", eve.user.to_string()),
    ] {
        for path in ["/api_keys", "/credentials"] {
            let made = post(&ann.tenant, path, json!({field: value})).await.expect(201);
            assert_eq!(made.text("owner_id"), eve.user.to_string());
        }
    }
    let own = post(&bob.tenant, "/api_keys", json!({})).await.expect(201);
    assert_eq!(own.text("owner_id"), bob.user.to_string(), "without an owner it is the caller's");
    post(&bob.tenant, "/api_keys", json!({"owner_email": eve.email})).await.expect(201);
    let refused = post(&bob.tenant, "/api_keys", json!({"owner_email": ann.email})).await.expect(403);
    assert_eq!(refused.code(), 630);
    for (body, code) in [
        (json!({"owner_id": "nobody@example.com"}), 634),
        (json!({"owner_email": stranger.email}), 634),
        (json!({"owner_id": stranger.user.to_string()}), 634),
        (json!({"owner_id": eve.user.to_string(), "owner_email": eve.email}), 631),
        (json!({"owner_email": "no address"}), 215),
    ] {
        assert_eq!(post(&ann.tenant, "/api_keys", body.clone()).await.expect(400).code(), code, "{body}");
    }
    // An account's own key stays an owner's to give.
    let made = post(&lab.one, "/api_keys", json!({})).await.expect(201);
    assert_eq!(made.body["owner_id"], json!(null));
    let path = format!("/users/{}", eve.user);
    lab.call(&ann.tenant, "PATCH", &path, Some(json!({"suspended": true}))).await.expect(200);
    assert_eq!(
        post(&ann.tenant, "/api_keys", json!({"owner_email": eve.email})).await.expect(400).code(),
        636
    );
}

#[tokio::test]
async fn sessions_are_seen_and_ended_by_their_person_and_by_owners() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let eve = lab.person(lab.one.account, "eve@example.com", Role::Viewer).await;
    let seen =
        async |by: &Tenant| lab.call(by, "GET", "/user_sessions", None).await.expect(200).body.to_string();
    assert!(seen(&ann.tenant).await.contains(&eve.session.to_string()));
    let own = seen(&eve.tenant).await;
    assert!(own.contains(&eve.session.to_string()) && !own.contains(&ann.session.to_string()), "{own}");
    let (anns, eves) = (format!("/user_sessions/{}", ann.session), format!("/user_sessions/{}", eve.session));
    for method in ["GET", "DELETE"] {
        lab.call(&eve.tenant, method, &anns, None).await.expect(404);
    }
    lab.call(&eve.tenant, "DELETE", &eves, None).await.expect(204);
    lab.visit("/dashboard", Some(&eve.cookie)).await.expect(303);
    let page = lab.visit("/dashboard/sessions", Some(&ann.cookie)).await.expect(200);
    assert!(page.text.contains("End (this one)"), "{}", page.text);
}

#[tokio::test]
async fn a_form_needs_its_own_site_and_its_sessions_token() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let bob = lab.person(lab.one.account, "bob@example.com", Role::Owner).await;
    let post = |headers: &[(&'static str, &str)], csrf: &str| {
        let mut request = Request::builder().method("POST").uri("/dashboard/api-keys").header("host", HOST);
        request = request.header("cookie", format!("ebbgate_session={}", ann.cookie));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        lab.browse(request, form(&[("csrf", csrf), ("description", "made")]))
    };
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let own = ("origin", "http://127.0.0.1:4480");
    for (headers, csrf, expect) in [
        (vec![kind, own], ann.csrf(), 200),
        (vec![kind], ann.csrf(), 403),
        (vec![kind, ("origin", "null")], ann.csrf(), 403),
        (vec![kind, ("origin", "http://localhost:4480")], ann.csrf(), 403),
        (vec![kind, own, ("sec-fetch-site", "same-site")], ann.csrf(), 403),
        (vec![kind, own], String::new(), 403),
        (vec![kind, own], bob.csrf(), 403),
        (vec![("content-type", "text/plain"), own], ann.csrf(), 415),
        (vec![own], ann.csrf(), 415),
    ] {
        post(&headers, &csrf).await.expect(expect);
    }
    let page =
        lab.browse(Request::builder().uri("/dashboard").header("host", "evil.example"), String::new()).await;
    page.expect(421);
}

#[tokio::test]
async fn what_anybody_wrote_is_text_on_every_page() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    lab.reserve_domain().await;
    lab.make("/reserved_domains", json!({"domain": "a.example.org", "description": hostile})).await;
    lab.make("/endpoints", json!({"url": "https://app.clinic.example.com", "description": hostile})).await;
    lab.make("/api_keys", json!({"description": hostile})).await;
    age(&lab, &ann, |session| session.user_agent = hostile.to_owned()).await;
    for path in [
        "/dashboard",
        "/dashboard/domains",
        "/dashboard/api-keys",
        "/dashboard/sessions",
        "/dashboard/people",
    ] {
        let page = lab.visit(path, Some(&ann.cookie)).await.expect(200);
        assert!(!page.text.contains("<script") && !page.text.contains("<img"), "{path}: {}", page.text);
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{policy}");
        assert_eq!(page.headers["cache-control"], "no-store");
        assert_eq!(page.headers["x-frame-options"], "DENY");
        if path != "/dashboard/people" {
            assert!(page.text.contains("&lt;script&gt;"), "{path}: {}", page.text);
        }
    }
    let page = lab.visit("/dashboard/domains", Some(&ann.cookie)).await;
    assert!(page.text.contains("issued here, valid until 20"), "{}", page.text);
    for query in ["return_to=%22%3E%3Cscript%3E", "return_to=//evil.example"] {
        let page = lab.visit(&format!("/dashboard/sign-in?{query}"), None).await.expect(200);
        assert!(page.text.contains("name=\"return_to\" value=\"/dashboard\""), "{}", page.text);
    }
}

#[tokio::test]
async fn an_authtoken_works_as_long_as_its_person_does() {
    let lab = Lab::new().await;
    let ann = owner(&lab).await;
    let eve = lab.person(lab.one.account, "eve@example.com", Role::Viewer).await;
    let made = lab.call(&ann.tenant, "POST", "/credentials", Some(json!({"owner_email": eve.email}))).await;
    let id = made.expect(201).id().parse().unwrap();
    let key = ObjectKey::Credential(id);
    let read = async || {
        let page = lab.app.store.range(Range::all("/")).await.unwrap();
        Snapshot::read(&page.items, page.revision, &lab.app.vault)
    };
    let works = async || plan::object(&read().await, &key).is_some();
    let mut followed = read().await;
    assert!(works().await);
    let path = format!("/users/{}", eve.user);
    lab.call(&ann.tenant, "PATCH", &path, Some(json!({"suspended": true}))).await.expect(200);
    assert!(!works().await);
    // Who follows changes is told that the credential has to do with it.
    let membership = record::key::<Membership>(lab.one.account, eve.user);
    let item = lab.app.store.get(&membership).await.unwrap().unwrap();
    let touched = followed.follow(&[Change::Put(item)], lab.app.store.revision(), &lab.app.vault);
    assert!(touched.contains(&key) && plan::object(&followed, &key).is_none(), "{touched:?}");
    lab.call(&ann.tenant, "PATCH", &path, Some(json!({"suspended": false}))).await.expect(200);
    assert!(works().await);
    lab.call(&ann.tenant, "DELETE", &path, None).await.expect(204);
    assert!(!works().await);
    assert_eq!(Membership::COLLECTION, "users");
}

/// What `ebbgate login` sends and gets, without the program.
#[tokio::test]
async fn a_program_is_let_in_once_by_the_person_and_with_its_own_verifier() {
    let lab = Lab::new().await;
    owner(&lab).await;
    let eve = lab.person(lab.one.account, "eve@example.com", Role::Viewer).await;
    let verifier = "v".repeat(43);
    let challenge = ebbgate_control::people::oidc::flow::challenge(&verifier);
    let asked = [("port", "45678"), ("challenge", challenge.as_str()), ("state", "some-state")];
    let page = lab.visit(&format!("/dashboard/cli?{}", form(&asked)), Some(&eve.cookie)).await.expect(200);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'self' http://127.0.0.1:45678;"), "{policy}");
    let allow = async || {
        let page = lab.act(&eve, "/dashboard/cli", &asked).await.expect(303);
        let query = page.location().strip_prefix("http://127.0.0.1:45678/?").unwrap().to_owned();
        assert!(query.ends_with("&state=some-state"), "{query}");
        query.split(['=', '&']).nth(1).unwrap().to_owned()
    };
    let redeem = async |code: &str, verifier: &str| {
        let body = json!({"code": code, "verifier": verifier, "machine": "desk"});
        let request = Request::builder().method("POST").uri("/dashboard/cli/token").header("host", HOST);
        lab.browse(request, body.to_string()).await
    };
    let code = allow().await;
    redeem(&code, &"w".repeat(43)).await.expect(403);
    redeem(&code, &verifier).await.expect(403);
    let code = allow().await;
    let made: serde_json::Value =
        serde_json::from_str(&redeem(&code, &verifier).await.expect(201).text).unwrap();
    redeem(&code, &verifier).await.expect(403);
    let tenant = Tenant { account: lab.one.account, key: made["api_key"].as_str().unwrap().to_owned() };
    let seen = lab.call(&tenant, "GET", "/self", None).await.expect(200);
    assert_eq!((seen.text("role"), made["email"].as_str().unwrap()), ("viewer".into(), "eve@example.com"));
    assert_eq!(seen.body["api_key"]["description"], "ebbgate login on desk");
    // Who was suspended meanwhile gets nothing.
    let code = allow().await;
    lab.patch(&format!("/users/{}", eve.user), json!({"suspended": true})).await.expect(200);
    redeem(&code, &verifier).await.expect(403);
    redeem("", "").await.expect(403);
    lab.patch(&format!("/users/{}", eve.user), json!({"suspended": false})).await.expect(200);
    let (session, cookie) = lab.session(eve.user, lab.one.account).await;
    let eve = Person { session, cookie, ..eve };
    // Without a port the person carries the code.
    let asked = [("challenge", challenge.as_str()), ("state", "s")];
    let page = lab.act(&eve, "/dashboard/cli", &asked).await.expect(200);
    assert!(page.text.contains("Paste it into the terminal"), "{}", page.text);
    for (port, challenge, state) in [
        ("80", challenge.as_str(), "s"),
        ("65536", &challenge, "s"),
        ("45678.evil.example", &challenge, "s"),
        ("45678", "short", "s"),
        ("45678", &challenge, ""),
        ("45678", &challenge, "a&b"),
    ] {
        let asked = [("port", port), ("challenge", challenge), ("state", state)];
        lab.act(&eve, "/dashboard/cli", &asked).await.expect(400);
        lab.visit(&format!("/dashboard/cli?{}", form(&asked)), Some(&eve.cookie)).await.expect(400);
    }
}
