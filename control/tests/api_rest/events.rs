//! Event destinations, subscriptions and sources over the API, and what the audit log has of every change.

use ebbgate_control::audit::AUDIT_PREFIX;
use ebbgate_control::store::Range;
use serde_json::{Value, json};

use crate::lab::Lab;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

async fn entries(lab: &Lab) -> Vec<Value> {
    let items = lab.app.store.range(Range::all(format!("{AUDIT_PREFIX}new/"))).await.unwrap().items;
    let texts = items.iter().flat_map(|item| serde_json::from_slice::<Vec<String>>(&item.value).unwrap());
    texts.map(|text| serde_json::from_str(&text).unwrap()).collect()
}

#[tokio::test]
async fn destinations_keep_their_secrets_and_say_what_is_wrong() {
    let lab = Lab::new().await;
    let webhook = json!({"webhook": {"url": "https://hooks.example.com/x", "secret": SECRET}});
    let made =
        lab.post("/event_destinations", json!({"description": "d", "target": webhook})).await.expect(201);
    let id = made.id();
    assert!(id.starts_with("ed_"), "{id}");
    assert_eq!(made.body["format"], "json");
    assert_eq!(made.body["target"]["webhook"], json!({"url": "https://hooks.example.com/x", "ca_pem": ""}));
    assert_eq!(made.body["target"]["datadog"], Value::Null);
    let path = format!("/event_destinations/{id}");
    lab.patch(&path, json!({"metadata": "m"})).await.expect(200);
    // The secret stays with its place, and does not follow to another one.
    let moved = json!({"target": {"webhook": {"url": "https://evil.example.com/"}}});
    assert!(lab.patch(&path, moved).await.expect(400).text("msg").contains("target.webhook.secret"));
    lab.patch(&path, json!({"target": {"webhook": {"url": "https://hooks.example.com/x"}}}))
        .await
        .expect(200);
    for (target, field) in [
        (json!({}), "exactly one"),
        (json!({"firehose": {"arn": "x"}}), "target.firehose"),
        (json!({"file": {"directory": "../etc"}}), "target.file.directory"),
        (json!({"file": {"directory": "a"}, "syslog": {"address": "a:1"}}), "exactly one"),
        (json!({"webhook": {"url": "ftp://x", "secret": SECRET}}), "target.webhook.url"),
        (json!({"webhook": {"url": "https://u:p@x", "secret": SECRET}}), "target.webhook.url"),
        (json!({"webhook": {"url": "https://x", "secret": "short"}}), "openssl rand"),
        (json!({"webhook": {"url": "https://x", "secret": SECRET, "ca_pem": "x"}}), "target.webhook.ca_pem"),
        (json!({"syslog": {"address": "host"}}), "target.syslog.address"),
        (json!({"s3": {"endpoint": "https://x", "bucket": "b", "region": "r"}}), "access_key_id"),
        (json!({"file": {"directory": "a", "keep": 0}}), "target.file.keep"),
        (json!({"fil": {}}), "file"),
    ] {
        let refused = lab.post("/event_destinations", json!({"target": target})).await.expect(400);
        assert!(refused.text("msg").contains(field), "{field} in {}", refused.text("msg"));
    }
    // Where the operator allows no files, the test says so.
    let file = json!({"target": {"file": {"directory": "a"}}});
    let file = lab.post("/event_destinations", file).await.expect(201).id();
    let tried = lab.post(&format!("/event_destinations/{file}/send_test_event"), json!({})).await.expect(400);
    assert!(tried.text("msg").contains("--events-files"), "{}", tried.text("msg"));
    let stored = lab.app.store.range(Range::all("")).await.unwrap().items;
    for item in stored {
        assert!(!String::from_utf8_lossy(&item.value).contains("MfKQ9r8GKYqrTwjUPD8"), "{}", item.key);
    }
}

#[tokio::test]
async fn subscriptions_and_their_sources() {
    let lab = Lab::new().await;
    let file = json!({"target": {"file": {"directory": "a"}}});
    let destination = lab.post("/event_destinations", file).await.expect(201).id();
    let body = json!({
        "sources": [
            {"type": "endpoint_created.v0"},
            {"type": "tcp_connection_closed.v0", "fields": ["conn.client_ip", "ja4_fingerprint"], "filter": "ev.conn.server_port == 443"},
        ],
        "destination_ids": [destination],
    });
    let made = lab.post("/event_subscriptions", body).await.expect(201);
    assert!(made.warnings().is_empty(), "{:?}", made.warnings());
    let id = made.id();
    assert_eq!(made.body["destinations"][0]["id"], destination.as_str());
    let path = format!("/event_subscriptions/{id}/sources");
    let listed = lab.get(&path).await.expect(200);
    assert_eq!(listed.body["sources"].as_array().unwrap().len(), 2);
    let http = json!({"type": "http_request_complete.v0", "filter": "ev.conn.client_ip in ['192.0.2.1']",
        "fields": ["conn.client_ip", "compression.algorithm"]});
    let warnings = lab.post(&path, http.clone()).await.expect(201).warnings();
    assert!(warnings.iter().any(|warning| warning.contains("compression.algorithm")), "{warnings:?}");
    lab.post(&path, http).await.expect(409);
    let one = format!("{path}/http_request_complete.v0");
    let changed = lab.patch(&one, json!({"filter": ""})).await.expect(200);
    assert_eq!(changed.body["filter"], "");
    lab.patch(&one, json!({})).await.expect(400);
    for (source, expect) in [
        (json!({"type": "endpoint_create.v0"}), "did you mean `endpoint_created.v0`?"),
        (json!({"type": "endpoint_deleted.v0", "filter": "true"}), "always delivered whole"),
        (json!({"type": "endpoint_deleted.v0", "fields": ["id"]}), "always delivered whole"),
    ] {
        let refused = lab.post(&path, source).await.expect(400);
        assert!(refused.text("msg").contains(expect), "{}", refused.text("msg"));
    }
    let refused = lab.patch(&one, json!({"filter": "ev.conn.bytes_in > 1"})).await.expect(400);
    assert_eq!(refused.code(), 250, "{}", refused.text("msg"));
    let refused = lab.patch(&one, json!({"fields": ["conn.client_i"]})).await.expect(400);
    assert!(refused.text("msg").contains("conn.client_ip"), "{}", refused.text("msg"));
    lab.delete(&format!("/event_destinations/{destination}")).await.expect(409);
    lab.delete(&one).await.expect(204);
    lab.get(&one).await.expect(404);
    lab.delete(&format!("/event_subscriptions/{id}")).await.expect(204);
    lab.delete(&format!("/event_destinations/{destination}")).await.expect(204);
}

#[tokio::test]
async fn every_change_has_its_entry_with_who_and_what_and_no_secret() {
    let lab = Lab::new().await;
    let policy = "on_http_request:\n  - actions:\n      - type: basic-auth\n        config: {credentials: ['ann:hunter2hunter2']}\n      - type: custom-response\n        config: {status_code: 200}\n";
    let before = entries(&lab).await.len();
    let key = lab.post("/api_keys", json!({"description": "k"})).await.expect(201);
    let endpoint = json!({"url": "https://a.internal", "bindings": ["internal"], "traffic_policy": policy});
    let endpoint = lab.post("/endpoints", endpoint).await.expect(201).id();
    lab.patch(&format!("/endpoints/{endpoint}"), json!({"description": "new"})).await.expect(200);
    let hook = json!({"target": {"webhook": {"url": "https://hooks.example.com/x", "secret": SECRET}}});
    lab.post("/event_destinations", hook).await.expect(201);
    lab.delete(&format!("/endpoints/{endpoint}")).await.expect(204);
    lab.patch(&format!("/endpoints/{endpoint}"), json!({"description": "gone"})).await.expect(404);
    let all = entries(&lab).await.split_off(before);
    let kinds: Vec<_> = all.iter().map(|entry| entry["event_type"].as_str().unwrap()).collect();
    let expect = [
        "api_key_created.v0",
        "endpoint_created.v0",
        "endpoint_updated.v0",
        "event_destination_created.v0",
        "endpoint_deleted.v0",
    ];
    assert_eq!(kinds, expect);
    for entry in &all {
        assert_eq!(entry["account_id"], lab.one.account.to_string().as_str());
        assert_eq!(entry["principal"]["type"], "api_key");
        assert!(entry["principal"]["id"].as_str().unwrap().starts_with("ak_"), "{entry}");
        assert!(entry["principal"]["source_address"].is_string(), "{entry}");
        assert!(entry["operation_id"].as_str().unwrap().starts_with("op_"), "{entry}");
    }
    assert_eq!(
        (&all[2]["before"]["description"], &all[2]["object"]["description"]),
        (&json!(""), &json!("new"))
    );
    assert_eq!(all[4]["object"]["id"], endpoint.as_str());
    let text = serde_json::to_string(&all).unwrap();
    let token = key.text("token");
    for secret in ["hunter2", "MfKQ9r8", token.as_str()] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(text.contains("ann:") || text.contains("basic-auth"), "{text}");
}
