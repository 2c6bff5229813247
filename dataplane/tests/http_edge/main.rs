//! The HTTP half of the edge against an in-memory gateway: visitors and upstreams are byte streams under a paused clock.

#![expect(clippy::indexing_slicing, reason = "a test that indexes wrongly has failed")]

mod desync;
mod downgrade;
mod floods;
mod framer;
mod frames;
mod grpc;
mod lab;
mod stalls;
mod walk;
