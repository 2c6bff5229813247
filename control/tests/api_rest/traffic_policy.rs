//! `/traffic_policy/{check,explain,test,diff}`: judged with the caller's own objects, bounded, and nothing stored.

use ebbgate_control::store::Range;
use serde_json::{Value, json};

use crate::lab::Lab;

const URL: &str = "https://api.example.com";
const DENY: &str = "on_http_request: [{name: closed, actions: [{type: deny}]}]";

fn with(more: &Value) -> Value {
    let mut body = json!({"url": URL, "traffic_policy": DENY});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn restricting(policy: &str) -> String {
    format!(
        "on_http_request: [{{actions: [{{type: restrict-ips, config: {{ip_policies: [{policy}]}}}}, {{type: deny}}]}}]"
    )
}

#[tokio::test]
async fn check_tells_all_errors_and_doubts_and_stores_nothing() {
    let lab = Lab::new().await;
    let before = lab.app.store.range(Range::all("")).await.unwrap().items.len();
    let checked = async |body| lab.post("/traffic_policy/check", body).await.expect(200).body;
    assert_eq!(checked(with(&json!({}))).await, json!({"valid": true, "errors": [], "warnings": []}));
    let wrong = "on_http_request:\n  - actions: [{type: dney}]\n  - expressions: [\"req.methd == 'GET'\"]\n    actions: [{type: deny}]\n";
    let answer = checked(with(&json!({"traffic_policy": wrong, "owner": "agent"}))).await;
    assert_eq!(answer["valid"], false);
    assert_eq!(answer["errors"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(
        (&answer["errors"][0]["code"], &answer["errors"][0]["line"]),
        (&json!("ERR_NGROK_2201"), &json!(2))
    );
    let open =
        "on_http_request: [{actions: [{type: forward-internal, config: {url: 'https://a.internal'}}]}]";
    let answer = checked(with(&json!({"traffic_policy": open}))).await;
    assert!(
        answer["warnings"][0]["message"].as_str().unwrap().contains("anybody on the internet"),
        "{answer}"
    );
    let stored = lab.app.store.range(Range::all("")).await.unwrap().items.len();
    assert_eq!(before, stored);
}

#[tokio::test]
async fn objects_are_those_of_the_callers_account() {
    let lab = Lab::new().await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    lab.make(
        "/ip_policy_rules",
        json!({"cidr": "203.0.113.0/24", "ip_policy_id": policy, "action": "allow"}),
    )
    .await;
    lab.make("/vaults", json!({"name": "clinic"})).await;
    lab.make("/vault_secrets", json!({"name": "db", "value": "hunter2-hunter2", "vault_name": "clinic"}))
        .await;
    let body = |given: &str| with(&json!({"traffic_policy": restricting(&policy), "given": given}));
    let explained = async |body| lab.post("/traffic_policy/explain", body).await;
    let allowed = explained(body("client_ip: 203.0.113.9")).await.expect(200).body;
    assert_eq!(allowed["explanation"]["decided_by"], "on_http_request[0].actions[1]", "{allowed}");
    let refused = explained(body("{client_ip: 198.51.100.7}")).await.expect(200).body;
    assert_eq!(refused["explanation"]["code"], "ERR_NGROK_3203");
    assert!(refused["text"].as_str().unwrap().ends_with("by on_http_request[0].actions[0]\n"), "{refused}");
    // Another account has none of it, and its secret is not told to its owner either.
    let foreign = lab.call(&lab.two, "POST", "/traffic_policy/explain", Some(body(""))).await.expect(400);
    assert_eq!(foreign.code(), 229, "{}", foreign.text("msg"));
    let secret = "on_http_request: [{actions: [{type: custom-response, config: {body: \"${secrets.get('clinic', 'db')}\"}}]}]";
    let shown = explained(with(&json!({"traffic_policy": secret}))).await.expect(200).body.to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
    let body = with(&json!({"traffic_policy": secret}));
    let answer = lab.call(&lab.two, "POST", "/traffic_policy/check", Some(body)).await.expect(200).body;
    assert_eq!(answer["valid"], false);
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains("there is no secret `db`"), "{answer}");
}

#[tokio::test]
async fn cases_and_records_come_out_as_by_the_command() {
    let lab = Lab::new().await;
    let cases = "[{name: closed, expect: {status: 403}}, {name: open, given: {path: /a}, expect: {outcome: upstream}}]";
    let tested = lab.post("/traffic_policy/test", with(&json!({"cases": cases}))).await.expect(200).body;
    assert_eq!((&tested["passed"], &tested["failed"]), (&json!(1), &json!(1)));
    assert_eq!(tested["cases"][1]["differences"], json!(["outcome is respond, not upstream"]));
    let record = json!({
        "event_type": "http_request_complete.v0", "event_timestamp": "2026-11-29T03:00:00Z",
        "object": {
            "conn": {"client_ip": "203.0.113.9"},
            "http": {"request": {"method": "GET", "headers": {}, "url": {"scheme": "https", "host": "api.example.com", "path": "/a"}}},
        },
    });
    let explained =
        lab.post("/traffic_policy/explain", with(&json!({"record": record.to_string()}))).await.expect(200);
    assert_eq!(explained.body["explanation"]["status"], 403, "{}", explained.body);
    assert!(
        explained.text("text").starts_with("GET /a from 203.0.113.9\non_http_request\n  rule 0 \"closed\"\n")
    );
    let body = |records: String| json!({"url": URL, "old": DENY, "new": DENY.replace("deny", "close-connection"), "records": records});
    let answer =
        lab.post("/traffic_policy/diff", body(format!("{record}\n\n{record}\n"))).await.expect(200).body;
    assert_eq!((&answer["difference"]["compared"], &answer["difference"]["changed"]), (&json!(2), &json!(2)));
    assert!(
        answer["text"].as_str().unwrap().starts_with("changed 2x, first GET /a from 203.0.113.9\n"),
        "{answer}"
    );
    let refused = lab.post("/traffic_policy/diff", body(format!("{record}\nnone\n"))).await.expect(400);
    assert!(
        refused.text("msg").contains("`records`: line 2: this is not an event"),
        "{}",
        refused.text("msg")
    );
}

#[tokio::test]
async fn what_cannot_be_read_or_is_too_much_is_refused_by_its_field() {
    let lab = Lab::new().await;
    let many = format!("[{}]", vec!["{name: a, expect: {status: 403}}"; 51].join(","));
    for (verb, body, words) in [
        ("check", json!({"traffic_policy": DENY}), "`url`"),
        ("check", json!({"url": URL}), "`traffic_policy`: it is required"),
        ("diff", json!({"url": URL, "old": DENY, "records": ""}), "`new`: it is required"),
        ("check", with(&json!({"owner": "me"})), "`owner`"),
        ("check", with(&json!({"given": "{}"})), "unknown field `given`"),
        ("explain", with(&json!({"given": "{adress: 1}"})), "`given`"),
        ("explain", with(&json!({"given": "{path: v1}"})), "path: it begins with `/`"),
        ("explain", with(&json!({"traffic_policy": "a: ["})), "the traffic policy is invalid"),
        ("explain", with(&json!({"record": "{}"})), "no `event_type`"),
        ("explain", with(&json!({"record": "{}", "given": "path: /a"})), "instead of `given`"),
        (
            "explain",
            with(&json!({"record": r#"{"event_type": "a", "object": {}}"#})),
            "it is not of https://api.example.com",
        ),
        ("test", with(&json!({"cases": "[]"})), "1 to 50 are run"),
        ("test", with(&json!({"cases": many})), "1 to 50 are run"),
        ("test", with(&json!({"cases": "[{name: a, expect: {}}]"})), "`cases[0]`: `expect` is empty"),
    ] {
        let refused = lab.post(&format!("/traffic_policy/{verb}"), body.clone()).await.expect(400);
        assert!(refused.text("msg").contains(words), "{words} in {}: {body}", refused.text("msg"));
    }
    let long = with(&json!({"given": "x".repeat(800 * 1024)}));
    lab.post("/traffic_policy/explain", long).await.expect(413);
}
