//! Rules across objects hold when calls race: names stay unique, and nothing refers to what is gone.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::lab::{Answer, Lab};

async fn race(lab: &Arc<Lab>, calls: Vec<(&'static str, String, Option<Value>)>) -> Vec<Answer> {
    let calls = calls.into_iter().map(|(method, path, body)| {
        let lab = lab.clone();
        tokio::spawn(async move { lab.call(&lab.one, method, &path, body).await })
    });
    join_all(calls).await.into_iter().map(Result::unwrap).collect()
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

fn post(path: &str, body: Value) -> (&'static str, String, Option<Value>) {
    ("POST", path.to_owned(), Some(body))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_want_a_name_one_gets_it() {
    let lab = Arc::new(Lab::new().await);
    lab.reserve_domain().await;
    for (path, body) in [
        ("/bot_users", json!({"name": "clinic"})),
        ("/reserved_domains", json!({"domain": "one.example.org"})),
        ("/agent_ingresses", json!({"domain": "connect.example.org"})),
        ("/endpoints", json!({"url": "https://app.clinic.example.com"})),
        ("/endpoints", json!({"url": "https://app.internal"})),
    ] {
        let answers = race(&lab, (0..12).map(|_| post(path, body.clone())).collect()).await;
        assert_eq!((count(&answers, 201), count(&answers, 409)), (1, 11), "{path}");
    }
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let restriction = json!({"type": "agent", "ip_policy_ids": [policy]});
    let answers = race(&lab, (0..12).map(|_| post("/ip_restrictions", restriction.clone())).collect()).await;
    assert_eq!((count(&answers, 201), count(&answers, 409)), (1, 11), "one of a type");
    let mixed = (0..12)
        .map(|n| post("/endpoints", json!({"url": "https://pool.internal", "pooling_enabled": n % 2 == 0})));
    race(&lab, mixed.collect()).await;
    let list = lab.get("/endpoints?url=https://pool.internal").await;
    let pooled: Vec<_> = list.body["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["pooling_enabled"].as_bool().unwrap())
        .collect();
    assert!(pooled == [false] || pooled.iter().all(|p| *p), "{pooled:?}");
    let both = vec![
        post("/endpoints", json!({"url": "https://both.clinic.example.com"})),
        post("/endpoints", json!({"url": "tls://both.clinic.example.com"})),
    ];
    assert_eq!(count(&race(&lab, both).await, 201), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ports_are_given_out_once() {
    let lab = Arc::new(Lab::with(false, 20_000..=20_019).await);
    let answers = race(&lab, (0..24).map(|_| post("/reserved_addrs", json!({}))).collect()).await;
    assert_eq!((count(&answers, 201), count(&answers, 409)), (20, 4));
    let mut addresses: Vec<_> = answers.iter().map(|a| a.text("addr")).filter(|a| !a.is_empty()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_that_refers_to_what_is_gone() {
    for round in 0..8 {
        let lab = Arc::new(Lab::new().await);
        let domain = lab.reserve_domain().await.id();
        let user = lab.make("/bot_users", json!({"name": "clinic"})).await.id();
        let policy = lab.make("/ip_policies", json!({})).await.id();
        let restrict = json!({"type": "restrict-ips", "config": {"enforce": true, "ip_policies": [policy]}});
        let text = json!({"on_http_request": [{"actions": [restrict, {"type": "deny"}]}]}).to_string();
        let mut calls = vec![
            post("/endpoints", json!({"url": "https://app.clinic.example.com"})),
            ("DELETE", format!("/reserved_domains/{domain}"), None),
            post("/credentials", json!({"owner_id": user})),
            ("DELETE", format!("/bot_users/{user}"), None),
            post("/endpoints", json!({"url": "https://a.internal", "traffic_policy": text})),
            post("/ip_policy_rules", json!({"cidr": "10.0.0.0/8", "action": "deny", "ip_policy_id": policy})),
            ("DELETE", format!("/ip_policies/{policy}"), None),
            post("/ip_restrictions", json!({"type": "agent", "ip_policy_ids": [policy]})),
        ];
        calls.rotate_left(round % 8);
        let answers = race(&lab, calls).await;
        assert!(answers.iter().all(|answer| answer.status < 500), "{answers:?}");
        let endpoints = lab.get("/endpoints").await;
        for endpoint in endpoints.body["endpoints"].as_array().unwrap() {
            if let Some(id) = endpoint["domain"]["id"].as_str() {
                lab.get(&format!("/reserved_domains/{id}")).await.expect(200);
            }
            if endpoint["traffic_policy"].as_str().unwrap().contains(&policy) {
                lab.get(&format!("/ip_policies/{policy}")).await.expect(200);
            }
        }
        for credential in lab.get("/credentials").await.body["credentials"].as_array().unwrap() {
            lab.get(&format!("/bot_users/{}", credential["owner_id"].as_str().unwrap())).await.expect(200);
        }
        for named in lab.get("/ip_restrictions").await.body["ip_restrictions"].as_array().unwrap() {
            assert_eq!(named["ip_policies"][0]["id"], policy);
            lab.get(&format!("/ip_policies/{policy}")).await.expect(200);
        }
        for rule in lab.get("/ip_policy_rules").await.body["ip_policy_rules"].as_array().unwrap() {
            lab.get(&format!("/ip_policies/{}", rule["ip_policy"]["id"].as_str().unwrap())).await.expect(200);
        }
    }
}

/// A change that joins a pool and one that leaves it cannot both succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_url_is_shared_only_by_endpoints_that_all_pool() {
    for round in 0..16 {
        let lab = Arc::new(Lab::new().await);
        let pooled = json!({"url": "https://pool.internal", "pooling_enabled": true});
        let one = lab.make("/endpoints", pooled.clone()).await.id();
        let leave = ("PATCH", format!("/endpoints/{one}"), Some(json!({"pooling_enabled": false})));
        let mut calls = vec![post("/endpoints", pooled), leave];
        calls.rotate_left(round % 2);
        race(&lab, calls).await;
        let all = lab.get("/endpoints").await;
        let all = all.body["endpoints"].as_array().unwrap();
        let pooling = all.iter().all(|endpoint| endpoint["pooling_enabled"] == true);
        assert!(all.len() == 1 || pooling, "{all:?}");
    }
}
