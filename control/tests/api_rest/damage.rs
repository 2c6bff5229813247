//! Records that cannot be read: each is named by its own GET, left out of lists, deleted with all its names, and nobody
//! else's trouble.

use axum::body::Body;
use ebbgate_control::people::Role;
use ebbgate_control::record::index;
use ebbgate_control::store::{Range, Txn};
use ebbgate_control::{restriction, room::Room};
use ebbgate_model::IpRestrictionKind;
use http::Request;
use http::header::{AUTHORIZATION, HOST};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::lab::{Answer, Lab};

/// Overwrites the record of an object of tenant one.
async fn damage(lab: &Lab, collection: &str, id: &str) {
    let collection = if collection == "bot_users" { "service_users" } else { collection };
    let key = format!("/a/{}/{collection}/{id}", lab.one.account);
    assert!(lab.app.store.get(&key).await.unwrap().is_some(), "{key}");
    let _ = lab.app.store.commit(Txn::new().put(key, "damage")).await.unwrap();
}

/// Ids in a list of tenant one.
async fn listed(lab: &Lab, path: &str, key: &str) -> (Answer, Vec<String>) {
    let answer = lab.get(path).await.expect(200);
    let items = answer.body[key].as_array().cloned().unwrap_or_default();
    let ids = items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned));
    (answer, ids.collect())
}

/// One object of every kind that others may stand on, with what makes it; what stands on something comes first.
fn kinds() -> Vec<(&'static str, &'static str, Value)> {
    let (chain, key) = crate::certificates::leaf("app.other.example.com");
    vec![
        ("/agent_ingresses", "ingresses", json!({"domain": "connect.example.com"})),
        ("/api_keys", "keys", json!({})),
        ("/bot_users", "bot_users", json!({"name": "clinic"})),
        (
            "/certificate_authorities",
            "certificate_authorities",
            json!({"ca_pem": crate::certificates::authority().0}),
        ),
        ("/credentials", "credentials", json!({})),
        ("/endpoints", "endpoints", json!({"url": "https://app.clinic.example.com"})),
        ("/ip_policies", "ip_policies", json!({})),
        ("/kubernetes_operators", "operators", json!({})),
        ("/reserved_addrs", "reserved_addrs", json!({})),
        ("/reserved_domains", "reserved_domains", json!({"domain": "mine.example.org"})),
        ("/tls_certificates", "tls_certificates", json!({"certificate_pem": chain, "private_key_pem": key})),
        ("/vaults", "vaults", json!({"name": "clinic"})),
    ]
}

#[tokio::test]
async fn a_damaged_object_is_named_by_its_own_get_and_can_be_deleted_and_made_anew() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    for (path, key, body) in kinds() {
        let sound = lab.make(
            path,
            if path == "/endpoints" { json!({"url": "https://b.internal"}) } else { other(&body) },
        );
        let sound = sound.await.id();
        let bad = lab.make(path, body.clone()).await.id();
        damage(&lab, path.trim_start_matches('/'), &bad).await;
        let one = format!("{path}/{bad}");

        let answer = lab.get(&one).await.expect(500);
        let said = answer.text("msg");
        assert!(said.contains(&bad) && said.contains("damaged") && said.contains("DELETE"), "{said}");
        assert_eq!(answer.body["details"]["damaged"], bad);
        let change =
            if path == "/bot_users" { json!({"active": false}) } else { json!({"description": "x"}) };
        lab.patch(&one, change).await.expect(500);

        let (answer, ids) = listed(&lab, path, key).await;
        assert!(ids.contains(&sound) && !ids.contains(&bad), "{path}: {ids:?}");
        let warned =
            answer.headers.get_all("ebbgate-warning").iter().any(|w| w.to_str().unwrap().contains(&bad));
        assert!(warned, "{path}: the list says what is missing");
        lab.get(&format!("{path}/{sound}")).await.expect(200);
        lab.call(&lab.two, "DELETE", &one, None).await.expect(404);

        lab.delete(&one).await.expect(204);
        lab.get(&one).await.expect(404);
        let names = lab.app.store.range(Range::all(index::PREFIX)).await.unwrap();
        assert!(!names.items.iter().any(|item| item.key.contains(&bad)), "{path}: a name is still held");
        lab.make(path, body).await;
    }
}

/// The same kind of object under another name.
fn other(body: &Value) -> Value {
    let mut body = body.clone();
    for (field, value) in [("domain", "other.example.org"), ("name", "other")] {
        if body.get(field).is_some() {
            body[field] = value.into();
        }
    }
    body
}

#[tokio::test]
async fn pages_go_on_past_damaged_objects() {
    let lab = Lab::new().await;
    for path in ["/credentials", "/endpoints"] {
        let mut made = Vec::new();
        for n in 0..7 {
            let body = if path == "/endpoints" {
                json!({"url": format!("https://e{n}.internal")})
            } else {
                json!({})
            };
            made.push(lab.make(path, body).await.id());
        }
        for n in [1, 2, 4, 5] {
            damage(&lab, path.trim_start_matches('/'), &made[n]).await;
        }
        let (mut seen, mut next) = (Vec::new(), Some(format!("{path}?limit=2")));
        while let Some(page) = next {
            let (answer, ids) = listed(&lab, &page, path.trim_start_matches('/')).await;
            seen.extend(ids);
            let uri = answer.body["next_page_uri"].as_str().map(str::to_owned);
            next = uri.and_then(|uri| Some(uri[uri.find(path)?..].to_owned()));
            assert!(seen.len() <= 3, "no object comes twice: {seen:?}");
        }
        assert_eq!(seen, [&made[6], &made[3], &made[0]].map(String::clone));
    }
}

#[tokio::test]
async fn a_deleted_account_leaves_no_object_and_no_name() {
    for is_damaged in [false, true] {
        let lab = Lab::new().await;
        let account = lab.one.account;
        lab.reserve_domain().await;
        for (path, _, body) in kinds() {
            lab.make(path, body).await;
        }
        lab.make("/vault_secrets", json!({"name": "db", "value": "v", "vault_name": "clinic"})).await;
        let file = json!({"file": {"directory": "a"}});
        let destination = lab.make("/event_destinations", json!({"target": file})).await.id();
        let sources = json!([{"type": "endpoint_created.v0"}]);
        lab.make("/event_subscriptions", json!({"sources": sources, "destination_ids": [destination]})).await;
        lab.person(account, "a@example.com", Role::Owner).await;
        lab.make("/invitations", json!({"email": "b@example.com", "role": "viewer"})).await;
        if is_damaged {
            let domains = lab.get("/reserved_domains").await.body;
            damage(&lab, "reserved_domains", domains["reserved_domains"][0]["id"].as_str().unwrap()).await;
        }
        let request = Request::delete(format!("/accounts/{account}?force=true"))
            .header(HOST, "127.0.0.1:4481")
            .header(AUTHORIZATION, "Bearer operator");
        let admin = ebbgate_control::admin::router(lab.app.clone(), "operator");
        let answer = admin.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let id = account.to_string();
        for prefix in ["/a/", "/u/", "/people/"] {
            for item in lab.app.store.range(Range::all(prefix)).await.unwrap().items {
                let value = String::from_utf8_lossy(&item.value);
                assert!(!item.key.contains(&id) && !value.contains(&id), "{} is left", item.key);
            }
        }
    }
}

#[tokio::test]
async fn filters_read_what_they_name_and_nothing_else() {
    let lab = Lab::new().await;
    let mut made = Vec::new();
    for n in 0..4 {
        made.push(lab.make("/endpoints", json!({"url": format!("https://e{n}.internal")})).await.id());
    }
    damage(&lab, "endpoints", &made[1]).await;
    let [oldest, bad, middle, newest] = [0, 1, 2, 3].map(|n| made[n].as_str());
    let (two, older) =
        (format!("id={oldest}&id={middle}"), format!("id={oldest}&id={middle}&before_id={middle}"));
    for (filter, expect, is_warned) in [
        ("url=https://e0.internal", vec![oldest], false),
        ("url=https://e3.internal:443&url=https://nobody.internal&url=nonsense", vec![newest], false),
        ("url=https://e1.internal", vec![], true),
        (&format!("id={bad}"), vec![], true),
        (&two, vec![middle, oldest], false),
        (&older, vec![oldest], false),
        (&format!("{two}&url=https://e2.internal"), vec![middle], false),
    ] {
        let (answer, ids) = listed(&lab, &format!("/endpoints?{filter}"), "endpoints").await;
        assert_eq!(
            (ids.iter().map(String::as_str).collect(), answer.headers.contains_key("ebbgate-warning")),
            (expect, is_warned),
            "{filter}"
        );
    }
}

#[tokio::test]
async fn what_a_damaged_endpoint_may_stand_on_is_not_given_back_before_it() {
    let lab = Lab::new().await;
    let domain = lab.reserve_domain().await.id();
    let endpoint = lab.make("/endpoints", json!({"url": "https://app.clinic.example.com"})).await.id();
    damage(&lab, "endpoints", &endpoint).await;
    for damaged in [false, true] {
        if damaged {
            damage(&lab, "reserved_domains", &domain).await;
        }
        let said = lab.delete(&format!("/reserved_domains/{domain}")).await.expect(409).text("msg");
        assert!(said.contains(&endpoint), "{said}");
    }
    lab.delete(&format!("/endpoints/{endpoint}")).await.expect(204);
    lab.delete(&format!("/reserved_domains/{domain}")).await.expect(204);
}

#[tokio::test]
async fn a_restriction_or_rule_that_cannot_be_read_admits_nobody_of_its_account() {
    let lab = Lab::new().await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let rule = json!({"cidr": "127.0.0.0/8", "ip_policy_id": policy, "action": "allow"});
    let rule = lab.make("/ip_policy_rules", rule).await.id();
    let body = json!({"type": "agent", "enforced": true, "ip_policy_ids": [policy]});
    let agent = lab.make("/ip_restrictions", body).await.id();
    let admits = async |kind| {
        let source = Some([127, 0, 0, 1].into());
        restriction::admits(&*lab.app.store, lab.one.account, kind, source).await.unwrap()
    };
    assert!(admits(IpRestrictionKind::Agent).await);
    damage(&lab, "ip_policy_rules", &rule).await;
    assert!(!admits(IpRestrictionKind::Agent).await, "the rule may have denied");
    assert!(admits(IpRestrictionKind::Api).await);
    let said = lab.get(&format!("/ip_policy_rules/{rule}")).await.expect(500).text("msg");
    assert!(said.contains(&rule), "{said}");
    lab.delete(&format!("/ip_policy_rules/{rule}")).await.expect(204);
    damage(&lab, "ip_restrictions", &agent).await;
    assert!(!admits(IpRestrictionKind::Api).await, "it may have been of this type");
    lab.get("/credentials").await.expect(403);
    lab.call(&lab.two, "GET", "/credentials", None).await.expect(200);
}

#[tokio::test]
async fn a_write_that_edges_could_not_be_sent_is_refused_with_number_and_limit() {
    let mut lab = Lab::new().await;
    lab.room(Room::new(64 << 10));
    lab.app.room.planned(1, 60 << 10, 2);
    let said = lab
        .post("/endpoints", json!({"url": "https://a.internal", "traffic_policy": large_policy(5 << 10)}))
        .await
        .expect(403)
        .text("msg");
    assert!(said.contains("KiB") && said.contains("63 KiB"), "{said}");
    let id = lab.make("/endpoints", json!({"url": "https://a.internal"})).await.id();
    lab.patch(&format!("/endpoints/{id}"), json!({"traffic_policy": large_policy(5 << 10)}))
        .await
        .expect(403);
    lab.delete(&format!("/endpoints/{id}")).await.expect(204);
}

fn large_policy(bytes: usize) -> String {
    let body = "x".repeat(bytes);
    json!({"on_http_request": [{"actions": [{"type": "custom-response", "config": {"status_code": 200, "body": body}}]}]})
        .to_string()
}
