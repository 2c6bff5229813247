//! Turns a `Mux` and any byte stream into sessions and streams with `AsyncRead` and `AsyncWrite`. Knows no sockets and no
//! TLS, and nothing of what streams carry beyond their four type bytes.
//!
//! One future per session does all transport I/O; streams share its `Mux` behind a lock that is never held across an
//! await. All waiting bytes live in the `Mux`, so its limits are the session's limits.

mod io;
mod session;
mod state;
mod stream;

pub use io::{CLOSE_SECS_MAX, DriverError, WRITE_SECS_MAX};
pub use session::{Incoming, Session, SessionHandle, connect};
pub use stream::{KIND_SECS_MAX, Stream};
