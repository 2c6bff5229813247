//! The HTTP half of the edge against an in-memory gateway: visitors and upstreams are byte streams under a paused clock.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that is wrong about this has failed"
)]

mod answers;
mod bodies;
mod calls;
mod circuits;
mod codec;
mod desync;
mod downgrade;
mod floods;
mod frames;
mod grpc;
mod guesses;
mod held;
mod inspected;
mod lab;
mod not_enforced;
mod rfc9113;
mod stalls;
mod trailers;
mod upstreams;
mod walk;
