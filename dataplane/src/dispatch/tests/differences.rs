//! Where connections and requests once differed: one test for each, for both.

use std::slice::from_ref;

use super::*;

/// Both kinds of traffic through the same endpoints, `http` and `tcp`.
fn both(check: impl Fn(&Fake, &str, &str, &dyn Fn(Value) -> Value, &dyn Fn(&Fake, &[Arc<Endpoint>]) -> Ran)) {
    check(&Fake::default(), "tcp", ":1", &on_connect, &|fake, members| fake.connect(members));
    check(&Fake::default(), "https", "", &on_request, &|fake, members| fake.request(members));
}

#[test]
fn the_log_names_the_member_that_was_tried_last() {
    both(|fake, scheme, port, _, run| {
        let url = format!("{scheme}://a.example.com{port}");
        let members = [fake.agent(1, &url, Agent::Refuses), fake.agent(2, &url, Agent::Answers)];
        assert_eq!(run(fake, &members).reached, members[1].id.to_string());
    });
}

#[test]
fn the_log_names_the_internal_endpoint_whose_policy_goes_on() {
    both(|fake, scheme, port, on, run| {
        let url = |name: &str| format!("{scheme}://{name}{port}");
        let to = |name: &str, more| forward(&url(name), more);
        let public = fake.cloud(1, &url("a.example.com"), on(json!([to("b.internal", false)])));
        let inner =
            fake.cloud(2, &url("b.internal"), on(json!([to("c.internal", true), { "type": "deny" }])));
        fake.agent(3, &url("c.internal"), Agent::Refuses);
        assert_eq!(run(fake, &[public]).forwarded_to, inner.id.to_string());
    });
}

#[test]
fn limits_end_a_dispatch_before_anything_is_looked_up() {
    both(|fake, scheme, port, on, run| {
        let nobody = format!("{scheme}://nobody.internal{port}");
        let actions = vec![forward(&nobody, true); hops::STEPS_MAX + 1];
        let public = fake.cloud(1, &format!("{scheme}://a.example.com{port}"), on(json!(actions)));
        assert_eq!(run(fake, &[public]).steps.len(), hops::STEPS_MAX);
    });
}

#[test]
fn only_endpoints_of_the_same_class_are_forwarded_to() {
    both(|fake, scheme, port, on, run| {
        let target = if scheme == "tcp" { "https://b.internal" } else { "tcp://b.internal:1" };
        fake.agent(2, target, Agent::Answers);
        let public =
            fake.cloud(1, &format!("{scheme}://a.example.com{port}"), on(json!([forward(target, false)])));
        let ran = run(fake, &[public]);
        assert!(ran.steps.is_empty() && ran.end.contains("3200 "), "{ran:?}");
        assert!(ran.end.contains("may not forward"), "{ran:?}");
    });
}

#[test]
fn a_pool_that_is_full_is_not_offline() {
    both(|fake, scheme, port, on, run| {
        let target = format!("{scheme}://b.internal{port}");
        let public =
            fake.cloud(1, &format!("{scheme}://a.example.com{port}"), on(json!([forward(&target, false)])));
        let full = fake.agent(2, &target, Agent::Answers);
        let Kind::Agent(agent) = &full.kind else { unreachable!("made as one") };
        let slots: Vec<_> = std::iter::from_fn(|| agent.session.slot().ok()).collect();
        assert!(run(fake, from_ref(&public)).end.starts_with("fail 3210 no member"));
        drop(slots);
        assert!(!run(fake, &[public]).end.starts_with("fail"));
        assert!(run(fake, &[]).end.starts_with("fail 3200"), "nobody is online");
    });
}

#[test]
fn a_forward_that_halts_is_not_tried_again_by_other_members_before_it() {
    both(|fake, scheme, port, on, run| {
        let url = format!("{scheme}://a.example.com{port}");
        let halts =
            fake.cloud(1, &url, on(json!([forward(&format!("{scheme}://nobody.internal{port}"), false)])));
        let ran = run(fake, &[halts, fake.agent(2, &url, Agent::Answers)]);
        assert!(ran.steps.len() == 1 && ran.end.starts_with("fail 3200 the endpoint"), "{ran:?}");
    });
}

#[test]
fn the_reason_of_the_last_member_is_the_failure_and_is_told_to_the_policy() {
    both(|fake, scheme, port, on, run| {
        let target = format!("{scheme}://b.internal{port}");
        let url = format!("{scheme}://a.example.com{port}");
        fake.agent(2, &target, Agent::Refuses);
        fake.agent(3, &target, Agent::Refuses);
        let halts = fake.cloud(1, &url, on(json!([forward(&target, false)])));
        let ran = run(fake, &[halts]);
        assert!(ran.end.starts_with("fail 3210 agent ") && ran.retries == 1, "{ran:?}");
        let told = log("${actions.ngrok.forward_internal.error.message}");
        let continues = fake.cloud(4, &url, on(json!([forward(&target, true), told, { "type": "deny" }])));
        assert!(run(fake, &[continues]).logs.concat().contains("failed"));
    });
}

#[test]
fn a_cloud_endpoint_that_ends_in_no_action_is_a_failed_forward() {
    both(|fake, scheme, port, on, run| {
        let url = format!("{scheme}://a.example.com{port}");
        let target = format!("{scheme}://b.internal{port}");
        fake.cloud(2, &target, json!({}));
        let halts = fake.cloud(1, &url, on(json!([forward(&target, false)])));
        let end = run(fake, &[halts]).end;
        assert!(end.starts_with("fail 3200") && end.contains("did not end in any action"), "{end}");
        let continues =
            fake.cloud(3, &url, on(json!([forward(&target, true), log("on"), { "type": "deny" }])));
        assert_eq!(run(fake, &[continues]).logs, ["on"]);
    });
}

#[test]
fn on_tcp_connect_of_an_http_endpoint_cannot_forward_and_nothing_behind_it_runs() {
    let fake = Fake::default();
    let rules = on_connect(json!([forward("https://b.internal", true)]));
    let public = fake.cloud(1, "https://a.example.com", rules);
    fake.cloud(2, "https://b.internal", on_connect(json!([log("ran")])));
    for ran in [fake.connect(from_ref(&public)), fake.request(from_ref(&public))] {
        assert!(ran.steps.is_empty() && ran.logs.is_empty() && ran.end.starts_with("fail 2300"), "{ran:?}");
    }
}

#[test]
fn on_tcp_connect_of_every_endpoint_on_the_way_is_run_and_once_for_a_connection() {
    let fake = Fake::default();
    let public =
        fake.cloud(1, "https://a.example.com", on_request(json!([forward("https://b.internal", true)])));
    let guarded = json!({ "on_tcp_connect": [{ "actions": [log("guard 2")] }],
        "on_http_request": [{ "actions": [log("in 2"), reply(204)] }] });
    fake.cloud(2, "https://b.internal", guarded);
    assert_eq!(fake.request(from_ref(&public)).logs, ["guard 2", "in 2"]);
    assert_eq!(fake.request(from_ref(&public)).logs, ["in 2"]);
    fake.internal.borrow_mut().clear();
    fake.cloud(3, "https://b.internal", on_connect(json!([{ "type": "deny" }])));
    assert_eq!(fake.request(&[public]).end, "close 0 closed by the policy");
}

#[test]
fn the_code_of_a_close_is_told() {
    both(|fake, scheme, port, _, run| {
        let restrict =
            json!({ "type": "restrict-ips", "config": { "enforce": true, "deny": ["0.0.0.0/0"] } });
        let public = fake.cloud(1, &format!("{scheme}://a.example.com{port}"), on_connect(json!([restrict])));
        assert_eq!(run(fake, &[public]).end, "close 3203 closed by the policy");
    });
}

#[test]
fn an_endpoint_that_asks_more_of_a_handshake_than_it_gave_says_so() {
    let mutual = json!({ "type": "terminate-tls", "config": { "min_version": "1.3" } });
    let fake = Fake::default();
    let public = fake.cloud(1, "https://a.example.com", on_connect(json!([mutual])));
    let pool = Pool::new(vec![public]);
    // The request came in clear: no handshake can follow.
    fake.run(request(pool.clone())).check(&[], "close 2300 TLS ended before it came to https://a.example.com, whose settings demand more of the client");
    let mut connection = Dispatch::connection(facts(), pool);
    let old = TlsFacts { version: "1.2".into(), ..TlsFacts::default() };
    connection.tls_ended(Arc::new(old), crate::net::tls::default_settings());
    assert!(fake.run(connection).end.starts_with("close 2300 TLS ended before"));
}

#[test]
fn what_policies_log_is_known_before_they_end() {
    let fake = Fake::default();
    let keys = json!({ "type": "jwt-validation", "config": { "issuer": { "allow_list": [{ "value": "i" }] }, "audience": { "allow_list": [{ "value": "a" }] },
        "http": { "tokens": [{ "type": "access_token", "method": "header", "name": "authorization", "prefix": "Bearer " }] },
        "jws": { "allowed_algorithms": ["RS256"], "keys": { "sources": { "additional_jkus": ["https://keys.example.com/"] } } } } });
    let public = fake.cloud(1, "http://a.example.com", on_request(json!([log("first"), keys])));
    // Good but for its signature.
    let token = format!(
        "Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImEifQ.eyJpc3MiOiJpIiwiYXVkIjoiYSIsImV4cCI6NDEwMjQ0NDgwMH0.{}",
        "A".repeat(342)
    );
    let head = Request::get("/").header("authorization", token).body(()).unwrap().into_parts().0;
    let mut dispatch = Dispatch::request(facts(), None, Arc::new(head), Pool::new(vec![public]));
    assert!(matches!(dispatch.next(&fake), Step::Keys { .. }));
    assert_eq!(dispatch.take_trail().logs.len(), 1);
}

#[test]
fn retries_are_counted() {
    both(|fake, scheme, port, _, run| {
        let url = format!("{scheme}://a.example.com{port}");
        let members = [fake.agent(1, &url, Agent::Refuses), fake.agent(2, &url, Agent::Answers)];
        assert_eq!(run(fake, &members).retries, 1);
        assert_eq!(run(fake, &members[..1]).retries, 0, "there is nobody else");
    });
}

#[test]
fn a_policy_that_fails_is_named_by_its_endpoint() {
    both(|fake, scheme, port, _, run| {
        let rules = if scheme == "tcp" { "on_tcp_connect" } else { "on_http_request" };
        let policy = json!({ rules: [{ "expressions": ["1 / int(conn.client_ip == '') > 0"], "actions": [{ "type": "deny" }] }] });
        let public = fake.cloud(1, &format!("{scheme}://a.example.com{port}"), policy);
        let end = run(fake, &[public]).end;
        assert!(end.contains(&format!("the traffic policy of {scheme}://a.example.com")), "{end}");
    });
}

#[test]
fn the_accounts_restriction_is_asked_at_every_public_member_before_any_policy() {
    both(|fake, scheme, port, on, run| {
        let url = format!("{scheme}://a.example.com{port}");
        let public = fake.cloud(1, &url, on(json!([log("ran"), { "type": "deny" }])));
        fake.admits.set(false);
        let ran = run(fake, from_ref(&public));
        assert!(ran.end.starts_with("fail 3205") && ran.logs.is_empty(), "{ran:?}");
        assert_eq!(ran.reached, public.id.to_string());
    });
    let fake = Fake::default();
    fake.admits.set(false);
    let https = fake.cloud(1, "https://a.example.com", json!({}));
    assert_eq!(fake.connect(&[https]).end, "let in by 1", "its requests are told why");
}
