//! Bodies that policies change, a mebibyte of HTML at a time.
//!
//! Every figure includes making the pipeline, as for every body. Levels are those of the edge.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ebbgate_bench::page::{PAGE_BYTES, WORD, page};
use ebbgate_body::{Coding, Edit, Edits, Pattern, Pipeline, Pulled, Replacement};

/// Bytes that come at a time, as from a link.
const CHUNK_BYTES: usize = 32 * 1024;

/// Passes a body and gives the number of bytes that came out.
fn pass(edits: &Edits, body: &Bytes) -> usize {
    let mut pipeline = Pipeline::new(edits).expect("a pipeline");
    let (mut rest, mut out) = (body.clone(), 0);
    loop {
        match pipeline.pull().expect("a body that can be changed") {
            Pulled::Data(data) => out += data.len(),
            Pulled::Starved if rest.is_empty() => pipeline.end(),
            Pulled::Starved => pipeline.push(rest.split_to(CHUNK_BYTES.min(rest.len()))),
            Pulled::Tired => {}
            Pulled::Over => return out,
        }
    }
}

fn bodies(criterion: &mut Criterion) {
    let page = Bytes::from(page());
    let mut group = criterion.benchmark_group("body");
    group.throughput(Throughput::Bytes(PAGE_BYTES as u64));
    let mut bench = |name: &str, edits: &Edits| {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || page.clone(),
                |body| black_box(pass(edits, &body)),
                BatchSize::LargeInput,
            );
        });
    };
    for coding in Coding::ALL {
        let mut edits = Edits::default();
        edits.encode(coding);
        bench(&format!("compress/{coding}"), &edits);
    }
    for (name, from) in [
        ("replace/literal-absent", "no such words"),
        ("replace/literal-in-every-line", WORD),
        ("replace/pattern-in-every-line", "patient [0-9]{1,6}"),
    ] {
        let mut edits = Edits::default();
        let pattern = Pattern::new(from).expect("a pattern");
        edits.push(Edit::Replace(Arc::new(Replacement::new(Arc::new(pattern), "hospital"))));
        bench(name, &edits);
    }
    group.finish();
}

criterion_group!(benches, bodies);
criterion_main!(benches);
