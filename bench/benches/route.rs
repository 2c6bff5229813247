//! Finding the endpoint for a host, among ten, ten thousand and a million; and a member of a pool.
//!
//! Without optimisation the largest table has a hundred thousand: there it is a test of the bench, and no measurement.

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ebbgate_bench::endpoints::{agent, cloud, engine};
use ebbgate_edge::state::pool::{Ask, Pool};
use ebbgate_edge::state::route::RouteTable;
use ebbgate_model::{Host, Scheme};
use ebbgate_policy::{Balancing, ConnFacts, Context, Phase, Step, Verdict};
use serde_json::json;

/// Endpoints of the largest table.
const LARGEST: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for endpoints in [10, 10_000, LARGEST] {
        // Only for a bench that runs: a test runs one of them.
        let table = LazyCell::new(|| table(endpoints));
        let cases = [
            ("exact", "host5.clinics.example.com"),
            ("wildcard", "anything.wild.example.com"),
            ("miss", "anything.elsewhere.example.org"),
        ];
        for (name, host) in cases {
            let host: Host = host.parse().expect("a host");
            let id = BenchmarkId::new(name, endpoints);
            group.bench_function(id, |bencher| {
                bencher.iter(|| table.public(Scheme::Https, black_box(&host), 443));
            });
        }
    }
    group.finish();
}

/// `endpoints` in all, one of them a wildcard.
fn table(endpoints: u32) -> RouteTable {
    let table = RouteTable::default();
    table.put(cloud(0, "https://*.wild.example.com", None));
    for n in 1..endpoints {
        table.put(cloud(n, &format!("https://host{n}.clinics.example.com"), None));
    }
    table
}

/// Choosing a member, by each strategy.
fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for members in [3, 1_000] {
        let pool = Pool::new((0..members).map(|n| agent(n, "https://rest.clinic1.internal")).collect());
        for strategy in ["round_robin", "least_connections", "sticky_client_address", "sticky_cookie"] {
            let pool = pool.select(&balancing(strategy));
            let ask = Ask { client: Some([192, 0, 2, 7].into()), ..Ask::repeatable() };
            let id = BenchmarkId::new(strategy, members);
            group.bench_function(id, |bencher| bencher.iter(|| pool.pick(&[], black_box(ask))));
        }
    }
    group.finish();
}

/// What a policy says that forwards by this strategy, one member in a hundred at half of the weight.
fn balancing(strategy: &str) -> Arc<Balancing> {
    let weights = json!([{ "selector": "endpoint.id.endsWith('00')", "weight": 1 },
        { "selector": "true", "weight": 2 }]);
    let config = json!({ "url": "https://rest.clinic1.internal", "strategy": strategy,
        "endpoint_weights": weights });
    let engine = engine(json!({ "on_http_request": [{ "actions": [
        { "type": "forward-internal", "config": config }] }] }));
    let facts = ConnFacts {
        client: ([192, 0, 2, 7], 1).into(),
        server: ([192, 0, 2, 1], 443).into(),
        region: String::new(),
        start_unix_ms: 0,
        tls: None,
        traffic: None,
    };
    let endpoint = cloud(9, "https://a.example.com", None);
    let mut cx = Context::new(Arc::new(facts), Arc::clone(&endpoint.facts), 0);
    match engine.start(Phase::HttpRequest).step(&mut cx) {
        Step::Done(Verdict::Forward { balancing: Some(balancing), .. }) => balancing,
        other => panic!("the policy forwards: {other:?}"),
    }
}

criterion_group!(benches, lookups, picks);
criterion_main!(benches);
