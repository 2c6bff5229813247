//! Dispatches against a script: what they ask for in which order, and how they end. No sockets, no runtime.

mod circuits;
mod differences;
mod recursion;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::{EndpointId, TrafficPolicy};
use ebbgate_policy::{Breaker, CallError, Called, Engine, References};
use http::{Request, Response};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::state::breakers::Breakers;
use crate::state::endpoint::fixture;
use crate::tunnel::session::AgentRef;

/// Steps after which a test gives up: far more than any dispatch may take.
const TEST_STEPS_MAX: usize = 10_000;

/// What an agent does with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Answers,
    /// It fails before anything was acted on.
    Refuses,
    /// It fails after something may have been acted on.
    Breaks,
    /// It does not answer when asked whether it does.
    Hangs,
    /// It takes the work and does not answer in time.
    Late,
}

/// The edge of a test.
struct Fake {
    internal: RefCell<BTreeMap<String, Vec<Arc<Endpoint>>>>,
    pools: RefCell<BTreeMap<String, Pool>>,
    agents: RefCell<BTreeMap<EndpointId, Agent>>,
    numbers: RefCell<BTreeMap<EndpointId, u8>>,
    now: Instant,
    admits: Cell<bool>,
    entered: RefCell<Vec<EndpointId>>,
    breakers: Breakers,
    /// Requests counted by URL and bucket.
    counted: RefCell<BTreeMap<(String, String), u32>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            internal: RefCell::default(),
            pools: RefCell::default(),
            agents: RefCell::default(),
            numbers: RefCell::default(),
            now: Instant::now(),
            admits: Cell::new(true),
            entered: RefCell::default(),
            breakers: Breakers::new(&Counter::default()),
            counted: RefCell::default(),
        }
    }
}

impl Environment for Fake {
    fn now(&self) -> Instant {
        self.now
    }

    fn now_unix_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn rng_seed(&self) -> u64 {
        7
    }

    fn admits(&self, _: AccountId, _: IpAddr) -> bool {
        self.admits.get()
    }

    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration> {
        let mut counted = self.counted.borrow_mut();
        let count = counted.entry((endpoint.url.to_string(), quota.bucket.clone())).or_default();
        *count += 1;
        (*count > quota.capacity).then_some(quota.window)
    }

    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration> {
        self.breakers.ask(endpoint, breaker, self.now)
    }

    fn guessed(&self, _: &Endpoint, _: IpAddr, _: bool) -> Option<Duration> {
        None
    }

    fn has_entered(&self, endpoint: &Endpoint, _: &Arc<Engine>) -> bool {
        self.entered.borrow().contains(&endpoint.id)
    }

    fn entered(&self, endpoint: &Endpoint, _: &Arc<Engine>) {
        self.entered.borrow_mut().push(endpoint.id);
    }
}

impl Fake {
    /// An endpoint, number `n`; internal ones can be forwarded to.
    fn endpoint(&self, n: u8, url: &str, agent: Option<Agent>, policy: Option<Value>) -> Arc<Endpoint> {
        let kind = match agent {
            None => Kind::Cloud,
            Some(does) => {
                let Kind::Agent(agent) = &fixture::agent(n, url).kind else { unreachable!("made as one") };
                self.agents.borrow_mut().insert(fixture::cloud(n, url).id, does);
                Kind::Agent(AgentRef::clone(agent))
            }
        };
        let endpoint = fixture::endpoint(n, url, kind, policy.map(engine));
        self.numbers.borrow_mut().insert(endpoint.id, n);
        if endpoint.url.host().is_internal() {
            let mut internal = self.internal.borrow_mut();
            let members = internal.entry(endpoint.url.to_string()).or_default();
            members.push(Arc::clone(&endpoint));
            self.pools.borrow_mut().insert(endpoint.url.to_string(), Pool::new(members.clone()));
        }
        endpoint
    }

    fn cloud(&self, n: u8, url: &str, policy: Value) -> Arc<Endpoint> {
        self.endpoint(n, url, None, Some(policy))
    }

    fn agent(&self, n: u8, url: &str, does: Agent) -> Arc<Endpoint> {
        self.endpoint(n, url, Some(does), None)
    }

    fn number(&self, endpoint: &Endpoint) -> u8 {
        self.numbers.borrow()[&endpoint.id]
    }

    /// Carries the steps out.
    fn run(&self, mut dispatch: Dispatch) -> Ran {
        let mut ran = Ran::default();
        for _ in 0..TEST_STEPS_MAX {
            let step = dispatch.next(self);
            let mut tried = dispatch.hop.tried.clone();
            tried.sort();
            tried.dedup();
            assert_eq!(tried.len(), dispatch.hop.tried.len(), "a member was tried twice");
            ran.follow(&dispatch.take_trail());
            match step {
                Step::Pause => {}
                Step::Keys { url, .. } => {
                    ran.steps.push(format!("keys {url}"));
                    dispatch.resume(Outcome::Keys(Err("none".into())));
                }
                Step::Call { call, .. } => {
                    ran.steps.push(format!("call {}", call.address()));
                    let answer = Err(CallError { code: ErrorCode::OFFLINE, message: "offline".into() });
                    dispatch.resume(Outcome::Called(Called { took: Duration::ZERO, answer }));
                }
                Step::Exchange { exchange, .. } => {
                    ran.steps.push(format!("ask {}", exchange.url));
                    dispatch.resume(Outcome::Exchanged(Err("none".into())));
                }
                Step::Body { .. } => {
                    ran.steps.push("body".into());
                    dispatch.resume(Outcome::Body(Err(BodyError::Incomplete)));
                }
                Step::Inspect(_) => {
                    ran.steps.push("inspect".into());
                    dispatch.resume(Outcome::Inspected(Err("none".into())));
                }
                Step::EndTls(settings) => {
                    ran.steps.push("tls".into());
                    let facts = TlsFacts { version: "1.3".into(), ..TlsFacts::default() };
                    dispatch.tls_ended(Arc::new(facts), settings);
                }
                Step::Find { account, url } => {
                    ran.steps.push(format!("find {url}"));
                    assert_eq!(account, fixture::account(1));
                    let pool = self.pools.borrow().get(&url.to_string()).cloned();
                    dispatch.found(pool);
                }
                Step::AskAgent(endpoint) => {
                    ran.steps.push(format!("ask {}", self.number(&endpoint)));
                    dispatch.heard(self.agents.borrow()[&endpoint.id] != Agent::Hangs);
                }
                Step::Open(endpoint) => {
                    let n = self.number(&endpoint);
                    ran.steps.push(format!("open {n}"));
                    let does = self.agents.borrow().get(&endpoint.id).copied();
                    match does {
                        None => return ran.ended(format!("let in by {n}")),
                        Some(Agent::Answers) if dispatch.heads().is_none() => {
                            return ran.ended(format!("served by {n}"));
                        }
                        Some(Agent::Answers) => {
                            ran.logs.push(format!("agent {n}"));
                            dispatch.answered(Response::new(()).into_parts().0);
                        }
                        Some(Agent::Breaks) => dispatch.failed(failed_by(n), false),
                        Some(Agent::Late) => dispatch.failed(Failure::upstream_late(), false),
                        Some(Agent::Refuses | Agent::Hangs) => dispatch.failed(failed_by(n), true),
                    }
                }
                Step::Respond(reply) => {
                    let mut head = Response::new(()).into_parts().0;
                    head.status = reply.status;
                    dispatch.answered(head);
                }
                Step::Answer(head) => return ran.ended(format!("answer {}", head.status.as_u16())),
                Step::Fail(failure) => {
                    let code = failure.code.map(ErrorCode::number).unwrap_or_default();
                    return ran.ended(format!("fail {code} {}", failure.detail()));
                }
                Step::Close { code, detail } => {
                    let code = code.map(ErrorCode::number).unwrap_or_default();
                    return ran.ended(format!("close {code} {detail}"));
                }
            }
        }
        panic!("no end after {TEST_STEPS_MAX} steps: {ran:?}");
    }

    fn connect(&self, members: &[Arc<Endpoint>]) -> Ran {
        self.run(Dispatch::connection(facts(), Pool::new(members.to_vec())))
    }

    fn request(&self, members: &[Arc<Endpoint>]) -> Ran {
        self.run(request(Pool::new(members.to_vec())))
    }
}

/// What came of a dispatch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ran {
    steps: Vec<String>,
    logs: Vec<String>,
    reached: String,
    forwarded_to: String,
    retries: u64,
    end: String,
}

impl Ran {
    fn follow(&mut self, trail: &Trail) {
        let name = |endpoint: &Arc<Endpoint>| endpoint.id.to_string();
        if let Some(reached) = &trail.reached {
            self.reached = name(reached);
        }
        if let Some(forwarded_to) = &trail.forwarded_to {
            self.forwarded_to = name(forwarded_to);
        }
        self.retries += trail.retries;
        self.logs.extend(trail.logs.iter().map(|entry| entry["at"].as_str().unwrap().to_owned()));
    }

    fn ended(mut self, end: String) -> Self {
        self.end = end;
        self
    }

    fn check(&self, steps: &[&str], end: &str) {
        assert_eq!(
            (self.steps.iter().map(String::as_str).collect::<Vec<_>>(), self.end.as_str()),
            (steps.to_vec(), end)
        );
    }
}

fn facts() -> Arc<ConnFacts> {
    Arc::new(ConnFacts {
        client: "192.0.2.7:40000".parse().unwrap(),
        server: "192.0.2.1:443".parse().unwrap(),
        region: "lab".into(),
        start_unix_ms: 1_700_000_000_000,
        tls: None,
        traffic: None,
    })
}

fn request(pool: Pool) -> Dispatch {
    let head = Request::post("/").header("host", "a.example.com").body(()).unwrap().into_parts().0;
    Dispatch::request(facts(), None, Arc::new(head), pool)
}

fn failed_by(n: u8) -> Failure {
    Failure::agent_stream(format!("agent {n} failed"))
}

fn engine(policy: Value) -> Arc<Engine> {
    let policy: TrafficPolicy = serde_json::from_value(policy).unwrap();
    Arc::new(Engine::compile(&policy, &References::default()).unwrap())
}

/// `forward-internal`; `more`: with `on_error: continue`.
fn forward(url: &str, more: bool) -> Value {
    let on_error = if more { "continue" } else { "halt" };
    json!({ "type": "forward-internal", "config": { "url": url, "on_error": on_error } })
}

fn log(at: &str) -> Value {
    json!({ "type": "log", "config": { "metadata": { "at": at } } })
}

fn reply(status: u16) -> Value {
    json!({ "type": "custom-response", "config": { "status_code": status } })
}

#[expect(clippy::needless_pass_by_value, reason = "tests give it what json! makes")]
fn on_connect(actions: Value) -> Value {
    json!({ "on_tcp_connect": [{ "actions": actions }] })
}

#[expect(clippy::needless_pass_by_value, reason = "tests give it what json! makes")]
fn on_request(actions: Value) -> Value {
    json!({ "on_http_request": [{ "actions": actions }] })
}

#[test]
fn a_connection_goes_through_policies_to_an_agent() {
    let fake = Fake::default();
    let public =
        fake.cloud(1, "tcp://a.example.com:1", on_connect(json!([forward("tcp://b.internal:1", false)])));
    fake.cloud(
        2,
        "tcp://b.internal:1",
        on_connect(json!([log("in 2"), forward("tcp://c.internal:1", false)])),
    );
    let agent = fake.agent(3, "tcp://c.internal:1", Agent::Answers);
    let ran = fake.connect(std::slice::from_ref(&public));
    ran.check(&["find tcp://b.internal:1", "find tcp://c.internal:1", "open 3"], "served by 3");
    assert_eq!(
        (ran.logs, ran.reached, ran.forwarded_to),
        (vec!["in 2".to_owned()], public.id.to_string(), agent.id.to_string())
    );
}

#[test]
fn a_response_goes_back_through_every_hop_innermost_first() {
    let fake = Fake::default();
    let policy = |n: u8, action: Value| {
        json!({ "on_http_request": [{ "actions": [log(&format!("in {n}")), action] }],
            "on_http_response": [{ "actions": [log(&format!("out {n}"))] }] })
    };
    let public = fake.cloud(1, "http://a.example.com", policy(1, forward("https://b.internal", false)));
    fake.cloud(2, "https://b.internal", policy(2, forward("https://c.internal", false)));
    fake.endpoint(
        3,
        "https://c.internal",
        Some(Agent::Answers),
        Some(json!({
        "on_http_response": [{ "actions": [log("out 3")] }] })),
    );
    let ran = fake.request(&[public]);
    ran.check(&["find https://b.internal", "find https://c.internal", "open 3"], "answer 200");
    assert_eq!(ran.logs, ["in 1", "in 2", "agent 3", "out 3", "out 2", "out 1"]);
}

#[test]
fn a_reply_runs_the_response_phases_before_it_and_its_own_only_if_custom() {
    for (action, logs, end) in [
        (reply(503), vec!["out 2", "out 1"], "answer 503"),
        (json!({ "type": "deny" }), vec!["out 1"], "answer 403"),
    ] {
        let fake = Fake::default();
        let policy = |n: u8, action: &Value| {
            json!({ "on_http_request": [{ "actions": [action] }],
                "on_http_response": [{ "actions": [log(&format!("out {n}"))] }] })
        };
        let public = fake.cloud(1, "http://a.example.com", policy(1, &forward("https://b.internal", false)));
        fake.cloud(2, "https://b.internal", policy(2, &action));
        let ran = fake.request(&[public]);
        assert_eq!((ran.logs, ran.end.as_str()), (logs.iter().map(ToString::to_string).collect(), end));
    }
}

#[test]
fn a_reply_in_the_response_phase_takes_the_place_of_the_response() {
    let fake = Fake::default();
    let public = fake.cloud(
        1,
        "http://a.example.com",
        json!({
        "on_http_request": [{ "actions": [forward("https://b.internal", false)] }],
        "on_http_response": [{ "actions": [log("out 1")] }] }),
    );
    fake.endpoint(
        2,
        "https://b.internal",
        Some(Agent::Answers),
        Some(json!({
        "on_http_response": [{ "actions": [reply(418), log("never")] }] })),
    );
    let ran = fake.request(&[public]);
    assert_eq!((ran.logs, ran.end.as_str()), (vec!["agent 2".into(), "out 1".into()], "answer 418"));
}

#[test]
fn on_error_continue_is_asked_of_the_hop_that_said_it() {
    let fake = Fake::default();
    let public = fake.cloud(
        1,
        "http://a.example.com",
        on_request(json!([forward("https://b.internal", true), log("back in 1"), reply(503)])),
    );
    // 2 forwards with halt to 3, and 3 with continue to nobody and then with halt: 3 and 2 fail, 1 goes on.
    fake.cloud(2, "https://b.internal", on_request(json!([forward("https://c.internal", false)])));
    fake.cloud(
        3,
        "https://c.internal",
        on_request(json!([
            forward("https://nobody.internal", true),
            log("back in 3"),
            forward("https://nobody.internal", false)
        ])),
    );
    let ran = fake.request(&[public]);
    let nobody = "find https://nobody.internal";
    ran.check(&["find https://b.internal", "find https://c.internal", nobody, nobody], "answer 503");
    assert_eq!(ran.logs, ["back in 3", "back in 1"]);
}

#[test]
fn the_next_member_of_a_pool_is_tried_only_while_nothing_was_acted_on() {
    for (does, steps, end) in [
        (Agent::Refuses, vec!["ask 1", "open 1", "open 2"], "answer 200"),
        (Agent::Hangs, vec!["ask 1", "open 2"], "answer 200"),
        (Agent::Breaks, vec!["ask 1", "open 1"], "fail 3210 agent 1 failed"),
    ] {
        let fake = Fake::default();
        let members = [
            fake.agent(1, "http://a.example.com", does),
            fake.agent(2, "http://a.example.com", Agent::Answers),
        ];
        fake.request(&members).check(&steps, end);
        let end = end.replace("answer 200", "served by 2");
        fake.connect(&members).check(&steps, &end);
    }
}

#[test]
fn a_pool_is_late_when_each_member_that_was_tried_is() {
    let end = |does: &[Agent]| {
        let fake = Fake::default();
        let member = |(n, does): (u8, &Agent)| fake.agent(n, "http://a.example.com", *does);
        let members: Vec<_> = (1..).zip(does).map(member).collect();
        fake.request(&members).end
    };
    assert_eq!(end(&[Agent::Late]), "fail 3005 The upstream did not answer in time.");
    assert_eq!(end(&[Agent::Hangs, Agent::Late]), "fail 3008 No agent of this endpoint answered in time.");
    assert_eq!(end(&[Agent::Refuses, Agent::Late]), "fail 3005 The upstream did not answer in time.");
}

#[test]
fn a_safe_request_does_not_wait_for_the_agent_to_say_that_it_is_there() {
    let fake = Fake::default();
    let members = [1, 2].map(|n| fake.agent(n, "http://a.example.com", Agent::Answers));
    let head = Request::get("/").body(()).unwrap().into_parts().0;
    let ran = fake.run(Dispatch::request(facts(), None, Arc::new(head), Pool::new(members.to_vec())));
    ran.check(&["open 1"], "answer 200");
}

#[test]
fn tls_ends_once_and_later_endpoints_must_be_content_with_it() {
    let fake = Fake::default();
    let end_tls = json!({ "type": "terminate-tls", "config": { "min_version": "1.3" } });
    let public = fake.cloud(
        1,
        "tls://a.example.com",
        on_connect(json!([end_tls, forward("tls://b.internal", false)])),
    );
    fake.cloud(2, "tls://b.internal", on_connect(json!([end_tls, forward("tls://c.internal", false)])));
    fake.agent(3, "tls://c.internal", Agent::Answers);
    let find = ["find tls://b.internal", "find tls://c.internal", "open 3"];
    fake.connect(&[public]).check(&[&["tls"][..], &find].concat(), "served by 3");
}

#[test]
fn thirty_two_forwards_are_the_end_whatever_on_error_says() {
    let fake = Fake::default();
    let actions = vec![forward("https://nobody.internal", true); hops::STEPS_MAX + 1];
    let public = fake.cloud(1, "http://a.example.com", on_request(json!(actions)));
    let ran = fake.request(&[public]);
    assert_eq!(ran.steps.len(), hops::STEPS_MAX);
    assert!(ran.end.starts_with("fail 3501 more than 32 forwards"), "{}", ran.end);
}

#[test]
fn a_circle_of_forwards_is_eight_deep() {
    let fake = Fake::default();
    let circle = on_request(json!([forward("https://b.internal", false)]));
    let public = fake.cloud(1, "http://a.example.com", circle.clone());
    fake.cloud(2, "https://b.internal", circle);
    let ran = fake.request(&[public]);
    assert_eq!(ran.steps.len(), hops::HOPS_MAX);
    assert!(ran.end.starts_with("fail 3501 forwarded through more than 8"), "{}", ran.end);
}

#[test]
fn asked_again_it_says_the_same() {
    let fake = Fake::default();
    let public =
        fake.cloud(1, "http://a.example.com", on_request(json!([forward("https://b.internal", false)])));
    let mut dispatch = request(Pool::new(vec![public]));
    for _ in 0..3 {
        assert!(matches!(dispatch.next(&fake), Step::Find { .. }));
    }
    dispatch.found(None);
    assert!(matches!(dispatch.next(&fake), Step::Fail(_)));
    assert!(matches!(dispatch.next(&fake), Step::Close { .. }), "the end is told once");
}

#[test]
fn without_a_policy_the_head_is_not_copied() {
    let fake = Fake::default();
    let pool = Pool::new(vec![fake.agent(1, "http://a.example.com", Agent::Answers)]);
    let head = Arc::new(Request::get("/").body(()).unwrap().into_parts().0);
    let mut dispatch = Dispatch::request(facts(), None, Arc::clone(&head), pool);
    assert!(matches!(dispatch.next(&fake), Step::Open(_)));
    let (entry, sent) = dispatch.heads().unwrap();
    assert!(std::ptr::eq(entry, &raw const *head) && std::ptr::eq(sent, entry));
}

#[test]
fn a_head_that_a_policy_changed_is_the_one_that_is_forwarded_and_sent() {
    for more in [false, true] {
        let fake = Fake::default();
        let add = json!({ "type": "add-headers", "config": { "headers": { "x-added": "1" } } });
        let forward = forward("https://b.internal", more);
        let public = fake.cloud(1, "http://a.example.com", on_request(json!([add, forward])));
        fake.agent(2, "https://b.internal", Agent::Answers);
        let mut dispatch = request(Pool::new(vec![public]));
        assert!(matches!(dispatch.next(&fake), Step::Find { .. }));
        dispatch.found(fake.pools.borrow().get("https://b.internal").cloned());
        assert!(matches!(dispatch.next(&fake), Step::Open(_)));
        let (_, sent) = dispatch.heads().unwrap();
        assert_eq!(
            (sent.headers["x-added"].as_bytes(), sent.headers["host"].as_bytes()),
            (&b"1"[..], &b"a.example.com"[..])
        );
    }
}

#[test]
fn a_sticky_member_is_named_to_the_client_once_and_asked_first_again() {
    let fake = Fake::default();
    let sticky = json!({ "type": "forward-internal", "config": {
        "url": "https://b.internal", "strategy": "sticky_cookie" } });
    let public = fake.cloud(1, "https://a.example.com", on_request(json!([sticky])));
    for n in 2..5 {
        fake.agent(n, "https://b.internal", Agent::Answers);
    }
    let answered = |cookie: Option<&str>| {
        let head = Request::get("/").header("host", "a.example.com");
        let head = cookie.into_iter().fold(head, |head, cookie| head.header("cookie", cookie));
        let head = head.body(()).unwrap().into_parts().0;
        let mut dispatch = Dispatch::request(facts(), None, Arc::new(head), Pool::new(vec![public.clone()]));
        let mut opened = Vec::new();
        loop {
            match dispatch.next(&fake) {
                Step::Find { url, .. } => dispatch.found(fake.pools.borrow().get(&url.to_string()).cloned()),
                Step::Open(endpoint) => {
                    let n = fake.number(&endpoint);
                    opened.push(n);
                    if fake.agents.borrow()[&endpoint.id] == Agent::Answers {
                        dispatch.answered(Response::new(()).into_parts().0);
                    } else {
                        dispatch.failed(failed_by(n), true);
                    }
                }
                Step::AskAgent(_) => dispatch.heard(true),
                Step::Answer(head) => {
                    let set = head.headers.get("set-cookie").map(|set| set.to_str().unwrap().to_owned());
                    return (opened, set);
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let (first, set) = answered(None);
    let set = set.expect("a cookie");
    assert!(set.starts_with("ebbgate_sticky=") && set.ends_with("Secure"), "{set}");
    let cookie = set.split(';').next().unwrap().to_owned();
    for _ in 0..4 {
        assert_eq!(answered(Some(&cookie)), (first.clone(), None), "the client has it already");
    }
    let id = *fake.numbers.borrow().iter().find(|(_, n)| **n == first[0]).unwrap().0;
    fake.agents.borrow_mut().insert(id, Agent::Refuses);
    let (tried, set) = answered(Some(&cookie));
    assert_eq!((tried.len(), tried[0]), (2, first[0]), "another member answers");
    assert!(!set.expect("another cookie").starts_with(&cookie));
}

#[test]
fn work_counts_until_it_is_taken_and_dropped_and_a_failed_member_has_none() {
    let fake = Fake::default();
    let public =
        fake.cloud(1, "http://a.example.com", on_request(json!([forward("https://b.internal", false)])));
    let bad = fake.agent(2, "https://b.internal", Agent::Refuses);
    let good = fake.agent(3, "https://b.internal", Agent::Answers);
    let loads = || [&public, &bad, &good].map(|endpoint| endpoint.load().now());
    let mut dispatch = request(Pool::new(vec![public.clone()]));
    assert!(matches!(dispatch.next(&fake), Step::Find { .. }));
    dispatch.found(fake.pools.borrow().get("https://b.internal").cloned());
    assert!(matches!(dispatch.next(&fake), Step::AskAgent(_)));
    dispatch.heard(true);
    assert!(matches!(dispatch.next(&fake), Step::Open(_)));
    assert_eq!(loads(), [1, 1, 0]);
    dispatch.failed(failed_by(2), true);
    assert!(matches!(dispatch.next(&fake), Step::Open(_)));
    assert_eq!(loads(), [1, 0, 1]);
    dispatch.answered(Response::new(()).into_parts().0);
    assert!(matches!(dispatch.next(&fake), Step::Answer(_)));
    let held = dispatch.take_in_flight();
    drop(dispatch);
    assert_eq!(loads(), [1, 0, 1], "its response is on the way");
    drop(held);
    assert_eq!(loads(), [0, 0, 0]);
}

#[test]
fn where_no_member_is_selected_the_policy_may_go_on() {
    for (on_error, end) in
        [("halt", "fail 3200 no endpoint at https://b.internal"), ("continue", "answer 418")]
    {
        let fake = Fake::default();
        let nobody = json!({ "type": "forward-internal", "config": { "url": "https://b.internal",
            "on_error": on_error, "endpoint_selectors": ["endpoint.type == 'cloud'"] } });
        let mut actions = vec![nobody];
        if on_error == "continue" {
            actions.push(reply(418));
        }
        let public = fake.cloud(1, "http://a.example.com", on_request(json!(actions)));
        let mut member = Arc::into_inner(fixture::agent(2, "https://b.internal")).unwrap();
        let facts = ebbgate_policy::EndpointFacts::new("ep".into(), member.url.clone());
        member.facts = Arc::new(ebbgate_policy::EndpointFacts { member: Some(Box::default()), ..facts });
        fake.pools.borrow_mut().insert("https://b.internal".into(), Pool::new(vec![Arc::new(member)]));
        let ran = fake.request(&[public]);
        assert!(ran.end.starts_with(end), "{}", ran.end);
    }
}
