//! A decision of the table of rate limits with a million buckets in it, asked for in no order.
//!
//! The table is far larger than the processor's caches, as it is on an edge: so the buckets asked for are mostly cold.
//! The name of a bucket is warm, as after the policy that has just written it.

use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ebbgate_bench::endpoints::account;
use ebbgate_edge::state::rate_limits::RateLimits;
use ebbgate_policy::Quota;
use tokio::time::Instant;

const URL: &str = "https://api.example.com";
/// Buckets in the table; fewer without optimisation, where this is a test of the bench and no measurement.
const KEYS: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
/// A step through all keys in an order that the processor does not foresee; prime to their number.
const STEP: u32 = 618_033;

fn limits(criterion: &mut Criterion) {
    let limits = RateLimits::default();
    let now = Instant::now();
    let quota = |n: u32| Quota {
        name: "by address".to_owned(),
        bucket: format!("[\"203.{}.{}.{}\"]", n >> 16, (n >> 8) & 255, n & 255),
        capacity: 100,
        window: Duration::from_mins(1),
    };
    for quota in (0..KEYS).map(quota) {
        assert_eq!(limits.count(account(), URL, &quota, now), None, "the table has room");
    }
    let mut at = 0;
    criterion.bench_function("limits/rate-limit", |bencher| {
        let next = || {
            at = (at + STEP) % KEYS;
            quota(at)
        };
        let count = |quota: &mut Quota| limits.count(account(), URL, quota, now);
        bencher.iter_batched_ref(next, count, BatchSize::NumIterations(256));
    });
}

criterion_group!(benches, limits);
criterion_main!(benches);
