//! How long the edge takes to find an endpoint among so many: `route-lookup ENDPOINTS` prints the median and the 99th percentile
//! in nanoseconds, over names in no order, so that memory is as cold as visitors of many endpoints find it.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use ebbgate_bench::endpoints::cloud;
use ebbgate_edge::state::route::RouteTable;
use ebbgate_model::{Host, Scheme};

/// Look-ups measured.
const SAMPLES: u32 = 200_000;
/// A step that visits names in no order.
const STEP: u32 = 7_919;
/// Most endpoints.
const ENDPOINTS_MAX: u32 = 10_000_000;

fn main() -> ExitCode {
    let asked = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(endpoints) = asked.filter(|count| (1..=ENDPOINTS_MAX).contains(count)) else {
        eprintln!("route-lookup: usage: route-lookup ENDPOINTS, 1 to {ENDPOINTS_MAX}");
        return ExitCode::FAILURE;
    };
    let name = |n: u32| format!("host{n}.clinics.example.com");
    let table = RouteTable::default();
    let all: Vec<_> = (0..endpoints).map(|n| cloud(n, &format!("https://{}", name(n)), None)).collect();
    table.put_all(&all);
    let mut took: Vec<u128> = (0..SAMPLES)
        .map(|n| {
            let host: Host = name(n.wrapping_mul(STEP) % endpoints).parse().expect("a host");
            let begun = Instant::now();
            assert!(black_box(table.public(Scheme::Https, black_box(&host), 443)).is_some());
            begun.elapsed().as_nanos()
        })
        .collect();
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    println!("{} {}", at(50), at(99));
    ExitCode::SUCCESS
}
