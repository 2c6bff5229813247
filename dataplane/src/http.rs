//! HTTP at the edge.

pub mod framing;
