//! What a connection's first bytes cost: a TLS hello, a request in clear, PostgreSQL's request for TLS.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ebbgate_bench::hello::client_hello;
use ebbgate_edge::net::detect::{POSTGRES_SSL_REQUEST, detect};

fn first_bytes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("detect");
    let hello = client_hello("api-clinic1.clinic-network.com");
    let cases: [(&str, &[u8]); 3] = [
        ("tls-hello", &hello),
        ("http", b"GET /patients HTTP/1.1\r\nHost: api.example.com\r\n\r\n"),
        ("postgres-ssl-request", &POSTGRES_SSL_REQUEST),
    ];
    for (name, bytes) in cases {
        group.bench_function(name, |bencher| bencher.iter(|| detect(black_box(bytes))));
    }
    group.finish();
}

criterion_group!(benches, first_bytes);
criterion_main!(benches);
