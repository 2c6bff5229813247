//! Authorization: an account sees and touches nothing of another, on any route, and no route answers without a key.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::lab::Lab;
use crate::live;

/// One object of every kind, as path of the collection, key of the list, and id.
pub(crate) async fn furnish(lab: &Lab) -> Vec<(&'static str, &'static str, String)> {
    lab.reserve_domain().await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let rule = json!({"cidr": "10.0.0.0/8", "ip_policy_id": policy, "action": "deny"});
    let (chain, key) = crate::certificates::leaf("app.clinic.example.com");
    let pair = json!({"certificate_pem": chain, "private_key_pem": key});
    let authority = json!({"ca_pem": crate::certificates::authority().0});
    let bodies = [
        ("/agent_ingresses", "ingresses", json!({"domain": "connect.example.com"})),
        ("/api_keys", "keys", json!({})),
        ("/bot_users", "bot_users", json!({"name": "clinic"})),
        ("/certificate_authorities", "certificate_authorities", authority),
        ("/credentials", "credentials", json!({})),
        ("/endpoints", "endpoints", json!({"url": "https://app.clinic.example.com"})),
        ("/endpoints", "endpoints", json!({"url": "https://app.internal"})),
        ("/ip_policies", "ip_policies", json!({})),
        ("/ip_policy_rules", "ip_policy_rules", rule),
        ("/ip_restrictions", "ip_restrictions", json!({"type": "agent", "ip_policy_ids": [policy]})),
        ("/kubernetes_operators", "operators", json!({})),
        ("/reserved_addrs", "reserved_addrs", json!({})),
        ("/reserved_domains", "reserved_domains", json!({"domain": "mine.example.org"})),
        ("/service_users", "service_users", json!({"name": "clinic 2"})),
        ("/tls_certificates", "tls_certificates", pair),
        ("/vaults", "vaults", json!({"name": "clinic"})),
        ("/vault_secrets", "secrets", json!({"name": "db", "value": "hunter2", "vault_name": "clinic"})),
    ];
    let mut made = Vec::new();
    for (path, key, body) in bodies {
        made.push((path, key, lab.make(path, body).await.id()));
    }
    let (session, endpoint) = live::join(lab, &lab.one, "https://rest-api.clinic1.internal");
    made.push(("/tunnel_sessions", "tunnel_sessions", session.to_string()));
    made.push(("/endpoints", "endpoints", endpoint.to_string()));
    made.push(("/tunnels", "tunnels", format!("tn_{}", endpoint.ksuid())));
    made
}

#[tokio::test]
async fn the_objects_of_one_account_do_not_exist_for_another() {
    let lab = Lab::new().await;
    let made = furnish(&lab).await;
    let snapshot = async || {
        let mut all = Vec::new();
        for (path, _, id) in &made {
            all.push(lab.get(&format!("{path}/{id}")).await.expect(200).body);
        }
        all
    };
    let before = snapshot().await;
    let stranger = async |method: &str, path: &str, body| lab.call(&lab.two, method, path, body).await;
    for (path, key, id) in &made {
        let one = format!("{path}/{id}");
        let list = stranger("GET", path, None).await.expect(200);
        let text = list.body.to_string();
        assert!(!text.contains(id.as_str()), "{path}: {text}");
        assert!(
            list.body[*key].as_array().unwrap().len() <= 1,
            "{path}: only the stranger's own key is listed"
        );
        stranger("GET", &one, None).await.expect(404);
        if matches!(*path, "/tunnel_sessions" | "/tunnels") {
            continue;
        }
        let name = if path.ends_with("users") { "name" } else { "description" };
        stranger("PATCH", &one, Some(json!({name: "stolen"}))).await.expect(404);
        stranger("DELETE", &one, None).await.expect(404);
    }
    for (path, _, id) in &made {
        for action in ["stop", "restart", "update"] {
            if *path == "/tunnel_sessions" {
                stranger("POST", &format!("{path}/{id}/{action}"), Some(json!({}))).await.expect(404);
            }
        }
        for action in ["drain", "undrain"] {
            if *path == "/endpoints" {
                stranger("POST", &format!("{path}/{id}/{action}"), None).await.expect(404);
            }
        }
        if *path == "/reserved_domains" {
            stranger("DELETE", &format!("{path}/{id}/certificate"), None).await.expect(404);
            stranger("DELETE", &format!("{path}/{id}/certificate_management_policy"), None).await.expect(404);
        }
    }
    assert_eq!(snapshot().await, before);
}

#[tokio::test]
async fn a_stranger_cannot_build_on_what_is_not_its_own() {
    let lab = Lab::new().await;
    let made = furnish(&lab).await;
    let id = |path: &str| made.iter().find(|(p, ..)| *p == path).unwrap().2.clone();
    let address = lab.get(&format!("/reserved_addrs/{}", id("/reserved_addrs"))).await.text("addr");
    let stranger = async |path: &str, body: Value| lab.call(&lab.two, "POST", path, Some(body)).await;
    for (path, body, code) in [
        ("/endpoints", json!({"url": "https://app.clinic.example.com"}), 18006),
        ("/endpoints", json!({"url": "https://other.clinic.example.com"}), 18006),
        ("/endpoints", json!({"url": address}), 18022),
        ("/endpoints", json!({"url": format!("tcp://{address}")}), 18006),
        ("/credentials", json!({"owner_id": id("/bot_users")}), 634),
        ("/api_keys", json!({"owner_id": id("/bot_users")}), 634),
        ("/reserved_domains", json!({"domain": "x.org", "certificate_id": id("/tls_certificates")}), 1965),
        (
            "/ip_policy_rules",
            json!({"cidr": "10.0.0.0/8", "action": "deny", "ip_policy_id": id("/ip_policies")}),
            1414,
        ),
        ("/ip_restrictions", json!({"type": "agent", "ip_policy_ids": [id("/ip_policies")]}), 1801),
        ("/credentials", json!({"account": lab.one.account.to_string()}), 214),
        ("/credentials", json!({"account_id": lab.one.account.to_string()}), 214),
        ("/credentials", json!({"token": "x"}), 214),
    ] {
        assert_eq!(stranger(path, body.clone()).await.expect(400).code(), code, "{path} {body}");
    }
    // `.internal` is a namespace of each account.
    stranger("/endpoints", json!({"url": "https://app.internal"})).await.expect(201);
    stranger("/bot_users", json!({"name": "clinic"})).await.expect(201);
}

#[tokio::test]
async fn every_operation_of_the_document_exists_and_wants_a_key() {
    let lab = Lab::new().await;
    let document = serde_json::to_value(ebbgate_control::api::openapi()).unwrap();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "patch", "delete"].iter().filter(|m| item.get(**m).is_some()) {
            let uri = path.replace("{id}", "x");
            let request = Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(&uri)
                .body(Body::empty())
                .unwrap();
            let status = lab.router.clone().oneshot(request).await.unwrap().status().as_u16();
            let is_open = item[*method]["security"] == json!([]);
            assert_eq!(status, if is_open { 200 } else { 401 }, "{method} {path}");
            assert_eq!(is_open, ["/", "/docs", "/openapi.json"].contains(&path.as_str()), "{method} {path}");
            if is_open {
                continue;
            }
            let answer = lab.call(&lab.one, &method.to_uppercase(), &uri, None).await;
            assert!(![404, 405].contains(&answer.status), "{method} {path} is documented but not routed");
            operations += 1;
        }
    }
    assert!(operations > 60, "{operations}");
}
