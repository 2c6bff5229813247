//! One run of a compiled policy over one connection or request, effects answered at once.
//!
//! Every figure includes making the run's context, as the edge does for every request; `no-rule` is little else.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ebbgate_bench::endpoints::{cloud, engine};
use ebbgate_bench::mint::{self, Mint};
use ebbgate_body::{Edits, Pipeline, Pulled};
use ebbgate_edge::state::addresses::Addresses;
use ebbgate_policy::{ConnFacts, Context, Effect, Engine, KeySet, Outcome, Phase, Step, Verdict, Work};
use serde_json::{Value, json};

const NOW_UNIX_MS: i64 = 1_767_323_045_678;

fn tcp_phase(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy/tcp-connect");
    let context = context(&[]);
    let mut bench = |name: &str, policy: Value| {
        let engine = engine(policy);
        group.bench_function(name, |bencher| {
            bencher.iter(|| decide(&engine, Phase::TcpConnect, black_box(&context), None));
        });
    };
    bench("no-rule", json!({}));
    bench("restrict-ips-10", restrict_ips(10));
    bench("restrict-ips-10k", restrict_ips(10_000));
    group.finish();
}

fn http_phase(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy/http-request");
    let plain = context(&[("example-token", "1")]);
    let expression = engine(json!({ "on_http_request": [
        { "expressions": ["hasReqHeader('example-token')"], "actions": [{ "type": "deny" }] },
    ] }));
    for (name, engine) in
        [("no-rule", engine(json!({}))), ("one-expression", expression), ("ten-rules", engine(ten_rules()))]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| decide(&engine, Phase::HttpRequest, black_box(&plain), None));
        });
    }
    let engine = engine(mint::policy());
    let mint = Mint::new(NOW_UNIX_MS / 1_000);
    let keys = Arc::new(mint.keys());
    for (name, algorithm) in [("jwt-es256", "ES256"), ("jwt-rs256", "RS256")] {
        let context = context(&[("authorization", &format!("Bearer {}", mint.token(algorithm)))]);
        let verdict = decide(&engine, Phase::HttpRequest, &context, Some(&keys));
        assert!(matches!(verdict, Verdict::Continue), "{verdict:?}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| decide(&engine, Phase::HttpRequest, black_box(&context), Some(&keys)));
        });
    }
    group.finish();
}

/// A condition on what a database of addresses says.
fn addresses(criterion: &mut Criterion) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../dataplane/tests/data/city.mmdb");
    let addresses = Addresses::read(&[file.into()]).expect("the tests' database");
    let mut context = context(&[]);
    let mut conn = ConnFacts::clone(&context.conn);
    conn.client = SocketAddr::from(([192, 0, 2, 7], 50_000));
    context.conn = Arc::new(conn);
    context.addresses = Some(Arc::new(addresses));
    let engine = engine(json!({ "on_http_request": [
        { "expressions": ["conn.geo.country_code == 'DE'"], "actions": [{ "type": "deny" }] },
    ] }));
    let verdict = decide(&engine, Phase::HttpRequest, &context, None);
    assert!(matches!(verdict, Verdict::Respond(_)), "{verdict:?}");
    criterion.bench_function("policy/http-request/address", |bencher| {
        bencher.iter(|| decide(&engine, Phase::HttpRequest, black_box(&context), None));
    });
}

/// Ten rules as a gateway's users write them. The request meets none of the conditions but the last one's.
fn ten_rules() -> Value {
    let deny = json!([{ "type": "deny" }]);
    let headers = json!([{ "type": "add-headers", "config": { "headers": { "x-clinic": "1" } } }]);
    let conditions = [
        "req.method == 'TRACE'",
        "req.url.path.startsWith('/admin')",
        "hasReqHeader('x-debug')",
        "req.headers['user-agent'].exists(agent, agent.contains('scanner'))",
        "req.url.path.matches('^/(wp-admin|phpmyadmin)/')",
        "inCidrRange(conn.client_ip, '192.0.2.0/24')",
        "getQueryParam('page').exists(page, page.size() > 6)",
        "req.content_length > 1048576",
        "req.cookies.size() > 16",
        "req.url.path.startsWith('/patients') && req.method in ['GET', 'HEAD']",
    ];
    let rules: Vec<_> = conditions
        .iter()
        .map(|condition| {
            let actions = if condition.contains("patients") { &headers } else { &deny };
            json!({ "expressions": [condition], "actions": actions })
        })
        .collect();
    json!({ "on_http_request": rules })
}

/// Networks of both families' documentation ranges' neighbours; the visitor's is the last one.
fn restrict_ips(prefixes: u32) -> Value {
    let mut allow: Vec<String> = (1..prefixes).map(|n| format!("10.{}.{}.0/24", n >> 8, n & 255)).collect();
    allow.push("203.0.113.0/24".into());
    json!({ "on_tcp_connect": [{ "actions": [{ "type": "restrict-ips", "config": { "allow": allow } }] }] })
}

/// A GET from 203.0.113.42 with these headers besides Host.
fn context(headers: &[(&str, &str)]) -> Context {
    let conn = ConnFacts {
        client: SocketAddr::from(([203, 0, 113, 42], 50_000)),
        server: SocketAddr::from(([192, 0, 2, 1], 443)),
        region: "lab".into(),
        start_unix_ms: NOW_UNIX_MS,
        tls: None,
        traffic: None,
    };
    let endpoint = cloud(1, "https://api.example.com", None);
    let mut context = Context::new(Arc::new(conn), endpoint.facts.clone(), NOW_UNIX_MS);
    let mut request = http::Request::builder().uri("/patients?page=1").header("host", "api.example.com");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    context.request = Some(request.body(()).expect("a request").into_parts().0);
    context
}

/// A stream of [`EVENTS`] events: each is judged, every second one is changed.
fn events(criterion: &mut Criterion) {
    const EVENTS: u32 = 1_000;
    let action = json!({ "type": "sse-find-replace", "config": { "replacements": [{ "from": "tide", "to": "ebb" }] } });
    let stream: Vec<String> =
        (0..EVENTS).map(|n| format!("event: e{}\nid: {n}\ndata: the tide of {n}\n\n", n % 2)).collect();
    let stream = Bytes::from(stream.concat());
    let mut group = criterion.benchmark_group("policy/event-stream");
    group.throughput(Throughput::Elements(EVENTS.into()));
    for (name, expressions) in [("known", json!([])), ("judged", json!(["event.name == 'e1'"]))] {
        let engine = engine(
            json!({ "on_event_stream_message": [{ "expressions": expressions, "actions": [action] }] }),
        );
        let mut context = context(&[]);
        let head = http::Response::builder().header("content-type", "text/event-stream");
        context.response = Some(head.body(()).expect("a response").into_parts().0);
        let mut run = engine.start(Phase::EventStream);
        assert!(matches!(run.step(&mut context), Step::Done(Verdict::Continue)));
        let head = context.response.expect("a response");
        let edits = head.extensions.get::<Edits>().expect("edits");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut pipeline = Pipeline::new(edits).expect("a pipeline");
                pipeline.push(stream.clone());
                pipeline.end();
                while !matches!(black_box(pipeline.pull()), Ok(Pulled::Over) | Err(_)) {}
            });
        });
    }
    group.finish();
}

fn decide(engine: &Arc<Engine>, phase: Phase, context: &Context, keys: Option<&Arc<KeySet>>) -> Verdict {
    let mut context = context.clone();
    context.work = Work::default();
    let mut run = engine.start(phase);
    loop {
        match run.step(&mut context) {
            Step::Done(verdict) => return verdict,
            Step::Need(Effect::Keys { .. }) => {
                let keys = keys.cloned().ok_or_else(|| "this case has no keys".to_owned());
                run.resume(&mut context, Outcome::Keys(keys));
            }
            Step::Pause => {}
            Step::Need(effect) => panic!("no case here asks for {effect:?}"),
        }
    }
}

criterion_group!(benches, tcp_phase, http_phase, addresses, events);
criterion_main!(benches);
