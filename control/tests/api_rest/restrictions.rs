//! IP restrictions: what they may say, what keeps them whole, and that the one of type `api` holds at the front door.

use axum::body::Body;
use ebbgate_control::listen::Peer;
use http::Request;
use serde_json::{Value, json};

use crate::lab::{Answer, Lab};

/// An IP policy with these rules.
async fn policy(lab: &Lab, rules: &[(&str, &str)]) -> String {
    let policy = lab.make("/ip_policies", json!({})).await.id();
    for (action, cidr) in rules {
        lab.make("/ip_policy_rules", json!({"cidr": cidr, "action": action, "ip_policy_id": policy})).await;
    }
    policy
}

fn restriction(kind: &str, enforced: bool, policies: &[&str]) -> Value {
    json!({"type": kind, "enforced": enforced, "ip_policy_ids": policies})
}

#[tokio::test]
async fn a_type_has_one_restriction_of_policies_that_exist() {
    let lab = Lab::new().await;
    let mine = policy(&lab, &[("allow", "10.0.0.0/8")]).await;
    let strangers = lab.call(&lab.two, "POST", "/ip_policies", Some(json!({}))).await.expect(201).id();
    let many: Vec<String> = {
        let mut many = Vec::new();
        for _ in 0..51 {
            many.push(policy(&lab, &[]).await);
        }
        many
    };
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (body, status, code, expect) in [
        (restriction("endpoints", true, &[]), 400, 1804, "at least one"),
        (json!({"type": "endpoints"}), 400, 1804, "at least one"),
        (restriction("visitors", true, &[&mine]), 400, 1803, "dashboard, api, agent, endpoints"),
        (json!({"ip_policy_ids": [mine]}), 400, 1803, "`type`"),
        (restriction("endpoints", true, &[&mine, &strangers]), 400, 1801, "`ip_policy_ids[1]`"),
        (restriction("endpoints", true, &["ipr_x"]), 400, 1801, "`ipr_x`"),
        (restriction("endpoints", true, &many), 400, 1800, "at most 50 IP policies; 51 are given"),
        (json!({"type": "endpoints", "policies": [mine]}), 400, 214, "ip_policy_ids"),
        (restriction("endpoints", true, &many[..50]), 201, 0, ""),
        (restriction("endpoints", false, &[&mine]), 409, 1802, "change that one"),
        (restriction("agent", false, &[&mine, &mine]), 201, 0, ""),
    ] {
        let answer = lab.post("/ip_restrictions", body.clone()).await.expect(status);
        assert_eq!(answer.code(), code, "{body}");
        assert!(answer.text("msg").contains(expect), "{body}: {}", answer.text("msg"));
    }
    let list = lab.get("/ip_restrictions?filter=obj.type%20==%20'agent'").await.expect(200);
    let agent = &list.body["ip_restrictions"][0];
    assert_eq!(agent["enforced"], false);
    let uri = format!("http://127.0.0.1:4480/ip_policies/{mine}");
    assert_eq!(agent["ip_policies"], json!([{"id": mine, "uri": uri}]), "named twice, held once");
    let one = format!("/ip_restrictions/{}", agent["id"].as_str().unwrap());
    let unnamed = lab.patch(&one, json!({"ip_policy_ids": []})).await.expect(200);
    assert_eq!(unnamed.body["ip_policies"], agent["ip_policies"], "the Python client means: as it is");
    assert!(unnamed.warnings()[0].contains("stay as they were"), "{:?}", unnamed.warnings());
    assert_eq!(lab.patch(&one, json!({"ip_policy_ids": [strangers]})).await.expect(400).code(), 1801);
    assert_eq!(lab.patch(&one, json!({"type": "api"})).await.expect(400).code(), 214);
    assert_eq!(lab.get(&one).await.expect(200).body, *agent, "a refused change changes nothing");
    let changed = lab.patch(&one, json!({"enforced": true, "ip_policy_ids": many[..2]})).await.expect(200);
    assert_eq!(changed.body["ip_policies"].as_array().unwrap().len(), 2);
    // Another account has types of its own.
    let theirs = restriction("agent", true, &[&strangers]);
    lab.call(&lab.two, "POST", "/ip_restrictions", Some(theirs)).await.expect(201);
}

#[tokio::test]
async fn a_strict_installation_takes_an_empty_list_at_its_word() {
    let lab = Lab::strict().await;
    let policy = policy(&lab, &[]).await;
    let made = lab.make("/ip_restrictions", restriction("agent", false, &[&policy])).await;
    let one = format!("/ip_restrictions/{}", made.id());
    assert_eq!(lab.patch(&one, json!({"ip_policy_ids": []})).await.expect(400).code(), 1804);
}

#[tokio::test]
async fn a_policy_stays_as_long_as_a_restriction_names_it() {
    let lab = Lab::new().await;
    let policy = policy(&lab, &[("allow", "10.0.0.0/8")]).await;
    let made = lab.make("/ip_restrictions", restriction("agent", false, &[&policy])).await;
    let refused = lab.delete(&format!("/ip_policies/{policy}")).await.expect(409);
    assert_eq!(refused.code(), 1420);
    assert!(refused.text("msg").contains(&made.id()), "{}", refused.text("msg"));
    lab.delete(&format!("/ip_restrictions/{}", made.id())).await.expect(204);
    lab.delete(&format!("/ip_policies/{policy}")).await.expect(204);
}

#[tokio::test]
async fn what_would_surprise_is_told_when_it_is_saved() {
    let lab = Lab::new().await;
    let deny_only = policy(&lab, &[("deny", "10.0.0.0/8")]).await;
    let made = lab.make("/ip_restrictions", restriction("endpoints", true, &[&deny_only])).await;
    assert!(made.warnings()[0].contains("refuses everybody"), "{:?}", made.warnings());
    let one = format!("/ip_restrictions/{}", made.id());
    assert!(lab.patch(&one, json!({"enforced": false})).await.expect(200).warnings().is_empty());
    assert_eq!(lab.patch(&one, json!({"enforced": true})).await.expect(200).warnings().len(), 1);
    lab.make("/ip_policy_rules", json!({"cidr": "0.0.0.0/0", "action": "allow", "ip_policy_id": deny_only}))
        .await;
    assert!(lab.patch(&one, json!({"enforced": true})).await.expect(200).warnings().is_empty());
    let dashboard = lab.make("/ip_restrictions", restriction("dashboard", true, &[&deny_only])).await;
    assert!(dashboard.warnings().is_empty(), "{:?}", dashboard.warnings());
}

/// A call of the first tenant from an address; None: nobody told which.
async fn from(lab: &Lab, source: Option<&str>, method: &str, path: &str, body: Option<Value>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("ngrok-version", "2")
        .header("content-type", "application/json")
        .header("x-forwarded-for", "10.0.0.1")
        .header("authorization", format!("Bearer {}", lab.one.key));
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let mut request = request.body(body).unwrap();
    if let Some(source) = source {
        request.extensions_mut().insert(Peer((source.parse::<std::net::IpAddr>().unwrap(), 40_000).into()));
    }
    lab.send_as_is(request).await
}

#[tokio::test]
async fn a_restriction_of_the_api_holds_for_every_call() {
    let lab = Lab::new().await;
    let policy = policy(&lab, &[("allow", "10.0.0.0/8"), ("deny", "10.6.0.0/16")]).await;
    let body = |enforced| Some(restriction("api", enforced, &[&policy]));
    let locked_out =
        from(&lab, Some("203.0.113.9"), "POST", "/ip_restrictions", body(true)).await.expect(400);
    assert!(locked_out.text("msg").contains("203.0.113.9"), "{}", locked_out.text("msg"));
    let made = from(&lab, Some("203.0.113.9"), "POST", "/ip_restrictions", body(false)).await.expect(201);
    let one = format!("/ip_restrictions/{}", made.id());
    from(&lab, Some("203.0.113.9"), "PATCH", &one, Some(json!({"enforced": true}))).await.expect(400);
    from(&lab, Some("10.0.0.9"), "PATCH", &one, Some(json!({"enforced": true}))).await.expect(200);
    for (source, status) in [
        (Some("10.0.0.9"), 200),
        (Some("::ffff:10.0.0.9"), 200),
        (Some("10.6.0.9"), 403),
        (Some("::ffff:10.6.0.9"), 403),
        (Some("203.0.113.9"), 403),
        (Some("2001:db8::1"), 403),
        (None, 403),
    ] {
        for (method, path) in [("GET", "/ip_policies"), ("GET", "/self"), ("DELETE", one.as_str())] {
            if method == "DELETE" && status == 200 {
                continue;
            }
            let answer = from(&lab, source, method, path, None).await.expect(status);
            assert_eq!(answer.code(), if status == 403 { 220 } else { 0 }, "{source:?} {method} {path}");
        }
    }
    let refused = from(&lab, Some("203.0.113.9"), "GET", "/api_keys", None).await;
    assert!(refused.text("msg").contains("203.0.113.9"), "{}", refused.text("msg"));
    // The other account demands nothing.
    lab.call(&lab.two, "GET", "/api_keys", None).await.expect(200);
    from(&lab, Some("10.0.0.9"), "DELETE", &one, None).await.expect(204);
    from(&lab, Some("203.0.113.9"), "GET", "/api_keys", None).await.expect(200);
}

/// Whoever changes rules must still be let in afterwards; only the API could change them back.
#[tokio::test]
async fn no_change_of_a_rule_locks_its_caller_out() {
    let lab = Lab::new().await;
    let policy = policy(&lab, &[]).await;
    let rule = |action: &str, cidr: &str| json!({"cidr": cidr, "action": action, "ip_policy_id": policy});
    let allow = lab.make("/ip_policy_rules", rule("allow", "10.0.0.0/8")).await;
    let other = lab.make("/ip_policy_rules", rule("allow", "10.6.0.0/16")).await;
    let me = Some("10.6.0.9");
    from(&lab, me, "POST", "/ip_restrictions", Some(restriction("api", true, &[&policy]))).await.expect(201);
    let (allow, other) =
        (format!("/ip_policy_rules/{}", allow.id()), format!("/ip_policy_rules/{}", other.id()));
    for (method, path, body, status) in [
        ("POST", "/ip_policy_rules", Some(rule("deny", "10.6.0.0/24")), 400),
        ("POST", "/ip_policy_rules", Some(rule("deny", "10.7.0.0/24")), 201),
        // Either of the two may go, not both.
        ("DELETE", &allow, None, 204),
        ("DELETE", &other, None, 400),
        ("PATCH", &other, Some(json!({"cidr": "10.7.0.0/16"})), 400),
        ("PATCH", &other, Some(json!({"cidr": "10.6.0.0/24"})), 200),
        ("PATCH", &other, Some(json!({"metadata": "m"})), 200),
    ] {
        let answer = from(&lab, me, method, path, body.clone()).await.expect(status);
        assert_eq!(
            status == 400,
            answer.text("msg").contains("would refuse the address 10.6.0.9"),
            "{body:?}"
        );
    }
    from(&lab, me, "GET", "/ip_policies", None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_rules_deleted_at_once_do_not_lock_out() {
    for _ in 0..8 {
        let lab = Lab::new().await;
        let policy = policy(&lab, &[]).await;
        let mut rules = Vec::new();
        for cidr in ["10.0.0.0/8", "10.6.0.0/16"] {
            let body = json!({"cidr": cidr, "action": "allow", "ip_policy_id": policy});
            rules.push(format!("/ip_policy_rules/{}", lab.make("/ip_policy_rules", body).await.id()));
        }
        let me = Some("10.6.0.9");
        let body = Some(restriction("api", true, &[&policy]));
        from(&lab, me, "POST", "/ip_restrictions", body).await.expect(201);
        let delete = |path| from(&lab, me, "DELETE", path, None);
        let (one, two) = tokio::join!(delete(&rules[0]), delete(&rules[1]));
        assert!(one.status == 204 || two.status == 204);
        from(&lab, me, "GET", "/ip_policies", None).await.expect(200);
    }
}
