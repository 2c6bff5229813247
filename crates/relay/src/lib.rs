//! Two byte streams joined until both have ended: by copying any two streams of tokio, or by `splice(2)` between two
//! kernel sockets. Edge and agent share it.
//!
//! [`Relay`] decides (pure: no sockets, no clock, no buffers), [`copy()`] and [`splice()`] act. Knows nothing of who the
//! two sides are, why they are joined, or what the bytes mean.

#![forbid(unsafe_code)]

mod copy;
mod eof;
mod kernel;
mod pipe;
mod prefixed;
mod scratch;
mod splice;
mod state;
mod turn;

pub use copy::copy;
pub use eof::IgnoreUnexpectedEof;
pub use kernel::{Kernel, calls};
pub use pipe::{PIPE_BYTES, PIPES_KEPT_MAX, PIPES_MAX, Pipe, open_pipes};
pub use prefixed::Prefixed;
pub use splice::{First, splice};
pub use state::{End, Ended, IdleLimits, Limits, Next, Relay, Side};
