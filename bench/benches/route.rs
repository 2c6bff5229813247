//! Finding the endpoint for a host, among ten, ten thousand and a million.
//!
//! Without optimisation the largest table has a hundred thousand: there it is a test of the bench, and no measurement.

use std::cell::LazyCell;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ebbgate_bench::endpoints::cloud;
use ebbgate_edge::state::route::RouteTable;
use ebbgate_model::{Host, Scheme};

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

criterion_group!(benches, lookups);
criterion_main!(benches);
