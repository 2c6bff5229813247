//! What circuits are told: answers and failures of upstreams, and nothing that a policy or a visitor did.

use super::*;

fn breaker() -> Value {
    json!({ "type": "circuit-breaker", "config": { "error_threshold": 0.1, "volume_threshold": 1 } })
}

fn guarded(rest: &Value) -> Value {
    on_request(json!([breaker(), rest]))
}

const OPEN: &str = "answer 503";

/// Runs a request twice, and gives both ends.
fn twice(fake: &Fake, public: &Arc<Endpoint>) -> (String, String) {
    let once = || fake.request(std::slice::from_ref(public)).end;
    (once(), once())
}

#[test]
fn an_upstream_that_fails_opens_the_circuit_of_every_hop() {
    for does in [Agent::Refuses, Agent::Breaks, Agent::Late, Agent::Answers] {
        let fake = Fake::default();
        let public = fake.cloud(1, "http://a.example.com", guarded(&forward("https://b.internal", false)));
        fake.cloud(2, "https://b.internal", guarded(&forward("https://c.internal", false)));
        fake.agent(3, "https://c.internal", does);
        let (first, second) = twice(&fake, &public);
        if does == Agent::Answers {
            assert_eq!((first.as_str(), second.as_str()), ("answer 200", "answer 200"));
            continue;
        }
        assert!(first.starts_with("fail "), "{does:?}: {first}");
        assert_eq!(second, OPEN, "{does:?}");
        // The inner one is open too: asked by another public endpoint that has no circuit, it refuses by itself.
        let other = on_request(json!([forward("https://b.internal", false)]));
        let other = fake.cloud(4, "http://d.example.com", other);
        assert_eq!(fake.request(&[other]).end, OPEN, "{does:?}");
    }
}

#[test]
fn an_offline_target_opens_it_also_where_the_policy_goes_on() {
    for more in [false, true] {
        let fake = Fake::default();
        let actions = if more {
            json!([breaker(), forward("https://b.internal", true), reply(202)])
        } else {
            json!([breaker(), forward("https://b.internal", false)])
        };
        let public = fake.cloud(1, "http://a.example.com", on_request(actions));
        let (first, second) = twice(&fake, &public);
        assert!(first.starts_with(if more { "answer 202" } else { "fail 3200" }), "{first}");
        assert_eq!(second, OPEN);
    }
}

#[test]
fn what_policies_answer_is_not_counted() {
    let fake = Fake::default();
    let own = fake.cloud(1, "http://a.example.com", guarded(&reply(503)));
    assert_eq!(twice(&fake, &own), ("answer 503".into(), "answer 503".into()));
    // Told from an open circuit by another answer.
    let own = fake.cloud(2, "http://b.example.com", guarded(&reply(500)));
    assert_eq!(twice(&fake, &own), ("answer 500".into(), "answer 500".into()));
    let inner = fake.cloud(3, "http://c.example.com", guarded(&forward("https://d.internal", false)));
    fake.cloud(4, "https://d.internal", on_request(json!([reply(500)])));
    assert_eq!(twice(&fake, &inner), ("answer 500".into(), "answer 500".into()));
}

#[test]
fn a_policy_that_fails_behind_it_is_not_counted() {
    let fake = Fake::default();
    let public = fake.cloud(1, "http://a.example.com", guarded(&forward("https://b.internal", false)));
    let broken = json!({ "on_http_request": [{ "expressions": ["req.headers['no'][0] == 'a'"],
        "actions": [reply(200)] }] });
    fake.cloud(2, "https://b.internal", broken);
    let (first, second) = twice(&fake, &public);
    assert!(first.starts_with("fail 2300"), "{first}");
    assert_eq!(first, second);
}

#[test]
fn each_member_of_a_pool_has_its_own() {
    let fake = Fake::default();
    let policy = || on_request(json!([breaker()]));
    let bad = fake.endpoint(1, "http://a.example.com", Some(Agent::Refuses), Some(policy()));
    let good = fake.endpoint(2, "http://a.example.com", Some(Agent::Answers), Some(policy()));
    let ran = fake.request(&[Arc::clone(&bad), Arc::clone(&good)]);
    assert_eq!(ran.end, "answer 200");
    assert_eq!(fake.request(&[good]).end, "answer 200");
    // Asked only if the first request came to it first.
    let opened = ran.retries == 1;
    assert_eq!(fake.request(&[bad]).end == OPEN, opened);
}

#[test]
fn a_request_that_is_given_up_does_not_count() {
    let fake = Fake::default();
    let public =
        fake.endpoint(1, "http://a.example.com", Some(Agent::Answers), Some(on_request(json!([breaker()]))));
    let mut dispatch = request(Pool::new(vec![Arc::clone(&public)]));
    assert!(matches!(dispatch.next(&fake), Step::Open(_)));
    assert_eq!(dispatch.take_trail().decisions.circuit_breaker, "allow");
    drop(dispatch);
    assert_eq!(twice(&fake, &public), ("answer 200".into(), "answer 200".into()));
}
