//! What writes of the API stage while a canary edge is connected, and what may not go while it is needed.

use ebbgate_control::presence::Hold;
use ebbgate_control::record::rollout::Rollout;
use ebbgate_control::record::{self, Stored};
use ebbgate_model::{EdgeId, EndpointId};
use serde_json::{Value, json};

use crate::lab::Lab;

const INTERNAL: &str = "https://target.internal";

fn forward() -> Value {
    json!({"on_http_request": [{"actions": [{"type": "forward-internal", "config": {"url": INTERNAL}}]}]})
}

fn answer(status: u16) -> Value {
    json!({"on_http_request": [{"actions": [{"type": "custom-response", "config": {"status_code": status}}]}]})
}

/// A canary edge, connected until it is dropped.
fn canary(lab: &Lab) -> Hold {
    let edge = EdgeId::new(lab.app.ksuid());
    lab.app.presence.set_canary(edge, true);
    lab.app.presence.join(edge, "1".into(), 0).0
}

async fn staged(lab: &Lab, id: &str) -> Option<Stored<Rollout>> {
    let id: EndpointId = id.parse().unwrap();
    record::load::<Rollout>(&*lab.app.store, lab.one.account, id).await.unwrap()
}

async fn write(lab: &Lab, id: &str, policy: &Value) {
    lab.patch(&format!("/endpoints/{id}"), json!({"traffic_policy": policy.to_string()})).await.expect(200);
}

async fn endpoint(lab: &Lab, url: &str, policy: &Value) -> String {
    lab.make("/endpoints", json!({"url": url, "traffic_policy": policy.to_string()})).await.id()
}

#[tokio::test]
async fn a_new_policy_is_staged_and_nothing_else_of_an_endpoint() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    let id = endpoint(&lab, "https://app.clinic.example.com", &answer(200)).await;
    write(&lab, &id, &answer(201)).await;
    assert!(staged(&lab, &id).await.is_none(), "without a canary edge nothing waits");
    let _canary = canary(&lab);
    let path = format!("/endpoints/{id}");
    for other in [
        json!({"description": "x"}),
        json!({"pooling_enabled": true}),
        json!({"url": "https://b.clinic.example.com"}),
    ] {
        lab.patch(&path, other.clone()).await.expect(200);
        assert!(staged(&lab, &id).await.is_none(), "{other}");
    }
    let dry = json!({"traffic_policy": answer(202).to_string()});
    lab.patch(&format!("{path}?dry_run=true"), dry).await.expect(200);
    assert!(staged(&lab, &id).await.is_none());
    write(&lab, &id, &answer(202)).await;
    let policy = staged(&lab, &id).await.unwrap().record.policy.unwrap();
    assert_eq!(
        serde_json::to_value(policy).unwrap()["on_http_request"][0]["actions"][0]["config"]["status_code"],
        201
    );
    assert_eq!(lab.get(&path).await.text("traffic_policy"), answer(202).to_string());
    // What led somewhere from one place is nothing for another.
    lab.patch(&path, json!({"url": "https://c.clinic.example.com"})).await.expect(200);
    assert!(staged(&lab, &id).await.is_none(), "a place and its policy go together");
    let both = json!({"url": "https://d.clinic.example.com", "traffic_policy": answer(203).to_string()});
    lab.patch(&path, both).await.expect(200);
    assert!(staged(&lab, &id).await.is_none());
    write(&lab, &id, &answer(204)).await;
    assert!(staged(&lab, &id).await.is_some());
    lab.delete(&path).await.expect(204);
    assert!(staged(&lab, &id).await.is_none(), "it goes with the endpoint");
}

#[tokio::test]
async fn what_the_policy_before_needs_does_not_go_before_it() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    let target = endpoint(&lab, INTERNAL, &answer(200)).await;
    let ip_policy = lab.make("/ip_policies", json!({})).await.id();
    let mut guarded = answer(200);
    let restrict = json!({"type": "restrict-ips", "config": {"ip_policies": [ip_policy]}});
    guarded["on_http_request"][0]["actions"].as_array_mut().unwrap().insert(0, restrict);
    let one = endpoint(&lab, "https://one.clinic.example.com", &forward()).await;
    let two = endpoint(&lab, "https://two.clinic.example.com", &guarded).await;
    let three = endpoint(&lab, "https://three.clinic.example.com", &answer(200)).await;
    let _canary = canary(&lab);
    for id in [&one, &two, &three] {
        write(&lab, id, &answer(201)).await;
        assert!(staged(&lab, id).await.is_some(), "{id}");
    }
    let refused = lab.delete(&format!("/ip_policies/{ip_policy}")).await;
    assert!(refused.status >= 400 && refused.text("msg").contains(&two), "{:#}", refused.body);
    // An endpoint goes at once, and takes along what would lead there.
    lab.delete(&format!("/endpoints/{target}")).await.expect(204);
    assert!(staged(&lab, &one).await.is_none(), "all edges get the policy that does without");
    assert!(staged(&lab, &three).await.is_some(), "another waits on");
    lab.delete(&format!("/endpoints/{two}")).await.expect(204);
    lab.delete(&format!("/ip_policies/{ip_policy}")).await.expect(204);
}
