//! Whatever a client sends, the answer is JSON and never a fault of ours.

use axum::body::Body;
use http::Request;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::lab::Lab;

const FIELDS: &str = "id|name|active|url|type|domain|region|acl|owner_id|cidr|action|ip_policy_id|ip_policy_ids|enforced|bindings|metadata|\
                      description|traffic_policy|pooling_enabled|certificate_id|certificate_management_policy|\
                      resolves_to|certificate_pem|private_key_pem|ca_pem|version|value|vault_id|vault_name|\
                      enabled_features|deployment|binding|csr|endpoint_selectors|ingress_endpoint";
const PATHS: [&str; 17] = [
    "/agent_ingresses",
    "/api_keys",
    "/bot_users",
    "/certificate_authorities",
    "/credentials",
    "/endpoints",
    "/ip_policies",
    "/ip_policy_rules",
    "/ip_restrictions",
    "/kubernetes_operators",
    "/reserved_addrs",
    "/reserved_domains",
    "/service_users",
    "/tls_certificates",
    "/tunnel_sessions",
    "/vault_secrets",
    "/vaults",
];

/// JSON with names and texts that the API often knows.
fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "\\PC{0,12}",
        "(https|tls|tcp|http)://[a-z*.-]{0,12}(\\.internal|\\.example\\.com)?(:[0-9]{0,6})?",
        "(bind:)?[*a-z.]{0,9}(:[0-9]{1,5})?",
        "[0-9a-f.:]{0,12}/[0-9]{1,3}",
        "(allow|deny|api|agent|endpoints|cloud|public|internal|kubernetes|letsencrypt)",
        "\\{\"on_http_request\": \\[.{0,20}",
        "-----BEGIN [A-Z ]{0,16}-----\n[A-Za-z0-9+/=]{0,20}\n-----END CERTIFICATE-----",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(FIELDS, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let object = btree_map(FIELDS, json(), 0..5).prop_map(|map| Value::Object(map.into_iter().collect()));
    let well_formed = prop_oneof![4 => object, 1 => json()].prop_map(|value| value.to_string().into_bytes());
    prop_oneof![6 => well_formed, 1 => vec(any::<u8>(), 0..40), 1 => "[\\[{}\\]\":,a-z0-9]{0,40}".prop_map(String::into_bytes)]
}

#[test]
fn arbitrary_bodies_and_queries_never_fail_the_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lab = runtime.block_on(Lab::new());
    let patched: Vec<String> = runtime.block_on(async {
        let domain = lab.reserve_domain().await.text("uri");
        let endpoint =
            lab.make("/endpoints", serde_json::json!({"url": "https://a.internal"})).await.text("uri");
        let user = lab.make("/bot_users", serde_json::json!({"name": "clinic"})).await.text("uri");
        [domain, endpoint, user].map(|uri| uri.replace("http://127.0.0.1:4480", "")).to_vec()
    });
    let target = prop_oneof![
        3 => prop::sample::select(PATHS.to_vec()).prop_map(|path| ("POST", path.to_owned())),
        2 => prop::sample::select(patched).prop_map(|path| ("PATCH", path)),
        1 => (prop::sample::select(PATHS.to_vec()), "[/?&=%a-zA-Z0-9_]{0,20}")
            .prop_map(|(path, rest)| ("GET", format!("{path}{rest}"))),
    ];
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(target, body()), |((method, path), body)| {
        let body = if method == "GET" { Vec::new() } else { body };
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("authorization", format!("Bearer {}", lab.one.key))
            .header("ngrok-version", "2")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let answer = runtime.block_on(lab.send(request));
        prop_assert!(answer.status < 500, "{} {}: {:#}", method, path, answer.body);
        if answer.status >= 400 {
            prop_assert_eq!(&answer.body["status_code"], answer.status);
            prop_assert!(answer.body["details"]["operation_id"].is_string());
        }
        Ok(())
    });
    outcome.unwrap();
}
