//! One HTTP request through the edge's HTTP half and back, in this process: see `ebbgate_bench::memory` for what is and
//! what is not in the figure.

use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use ebbgate_bench::endpoints::{agent, cloud, engine};
use ebbgate_bench::memory::Memory;
use ebbgate_edge::state::endpoint::Endpoint;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

const URL: &str = "http://api.example.com";

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let policy = engine(json!({ "on_http_request": [{
        "expressions": ["req.method == 'GET'"],
        "actions": [{ "type": "forward-internal", "config": { "url": "https://rest.clinic1.internal" } }],
    }] }));
    let cases: [(&str, Arc<Endpoint>); 2] = [
        ("keep-alive/agent-endpoint", agent(1, URL)),
        ("keep-alive/one-rule-then-agent", cloud(1, URL, Some(policy))),
    ];
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    for (name, endpoint) in cases {
        let tasks = LocalSet::new();
        let gateway = Memory::new(endpoint);
        let mut visitor = tasks.block_on(&runtime, async { gateway.visit() });
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|requests| {
                tasks.block_on(&runtime, async {
                    let start = Instant::now();
                    for _ in 0..requests {
                        visitor.get().await;
                    }
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
