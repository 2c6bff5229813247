//! How a stream reaches an agent, for both ends: the multiplexed session (`driver`), links (`link`, encrypted by `tls`) and
//! QUIC (`quic`). Generic over the byte stream below. The protocol itself is `ebbgate_wire`'s.
//!
//! Knows no routing, no policy, and neither how the edge accepts connections nor how an agent dials.

pub mod driver;
pub mod heartbeat;
pub mod link;
pub mod quic;
pub mod rpc_io;
mod stream;
mod stream_error;
mod sync;
pub mod tls;

pub use stream::{Abort, TunnelStream};
pub use stream_error::{StreamError, reset_code};
