//! The agent protocol without a transport: frames written and read, and a session's two ends moving bytes in memory.

use std::hint::black_box;

use bytes::{BufMut as _, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ebbgate_wire::mux::frame::{Decoder, put_data_header};
use ebbgate_wire::mux::{BATCH_BYTES, Limits, Mux, MuxEvent, Readable, Role, StreamId};

/// Payload bytes of one frame.
const PAYLOAD_BYTES: usize = 1_024;
/// Frames encoded or decoded at a time.
const FRAMES: usize = 64;
/// Bytes one iteration sends from edge to agent, over all streams.
const SENT_BYTES: usize = 1 << 20;
const PAYLOAD: [u8; PAYLOAD_BYTES] = [7; PAYLOAD_BYTES];

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/frame-1k");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let mut encoded = BytesMut::new();
    encode(&mut encoded);
    let mut out = BytesMut::with_capacity(encoded.len());
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(&mut out);
            black_box(&out);
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let (mut decoder, mut input) = (Decoder::default(), black_box(&encoded[..]));
            while let Some(piece) = decoder.next(&mut input).expect("frames of our own") {
                black_box(piece);
            }
        });
    });
    group.finish();
}

fn encode(out: &mut BytesMut) {
    let length = u32::try_from(PAYLOAD_BYTES).expect("a frame's length");
    for _ in 0..FRAMES {
        put_data_header(out, 2, length, false, false);
        out.put_slice(&PAYLOAD);
    }
}

fn mux(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/mux-1MiB");
    group.throughput(Throughput::Bytes(SENT_BYTES as u64));
    for streams in [1, 64] {
        let mut pair = Pair::new(streams);
        group.bench_function(format!("{streams}-streams"), |bencher| bencher.iter(|| pair.send()));
    }
    group.finish();
}

/// Both ends of a session with its streams open.
struct Pair {
    edge: Mux,
    agent: Mux,
    streams: Vec<StreamId>,
    wire: BytesMut,
}

impl Pair {
    fn new(streams: usize) -> Self {
        let mut edge = Mux::new(Role::Server, Limits::EDGE);
        let streams = (0..streams).map(|_| edge.open().expect("room for streams")).collect();
        let agent = Mux::new(Role::Client, Limits::AGENT);
        Self { edge, agent, streams, wire: BytesMut::with_capacity(2 * BATCH_BYTES) }
    }

    /// Sends [`SENT_BYTES`] in equal parts on all streams and reads them, with the window updates that takes.
    fn send(&mut self) {
        let each = SENT_BYTES / self.streams.len();
        let mut left = vec![each; self.streams.len()];
        let mut received = 0;
        while received < SENT_BYTES {
            for (id, left) in self.streams.iter().zip(&mut left) {
                while *left > 0 {
                    let piece = PAYLOAD.get(..*left).unwrap_or(&PAYLOAD);
                    let taken = self.edge.write(*id, piece).expect("the stream is open");
                    *left -= taken;
                    if taken < piece.len() {
                        break;
                    }
                }
            }
            carry(&mut self.edge, &mut self.agent, &mut self.wire);
            received += read_all(&mut self.agent);
            carry(&mut self.agent, &mut self.edge, &mut self.wire);
            while self.edge.poll_event().is_some() {}
        }
    }
}

fn carry(from: &mut Mux, to: &mut Mux, wire: &mut BytesMut) {
    wire.clear();
    from.poll_transmit(wire);
    to.receive(0, wire).expect("frames of our own");
}

fn read_all(mux: &mut Mux) -> usize {
    let mut read = 0;
    while let Some(event) = mux.poll_event() {
        match event {
            MuxEvent::Opened => drop(mux.accept()),
            MuxEvent::Readable(id) => {
                while let Ok(Readable::Bytes(bytes)) = mux.readable(id) {
                    let length = black_box(bytes).len();
                    read += length;
                    mux.consume(id, length);
                }
            }
            _ => {}
        }
    }
    read
}

criterion_group!(benches, frames, mux);
criterion_main!(benches);
