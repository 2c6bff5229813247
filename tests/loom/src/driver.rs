//! The mux's sessions and streams, as `ebbgate_tunnel::driver` has them.

#[path = "../../../crates/tunnel/src/driver/io.rs"]
mod io;
#[path = "../../../crates/tunnel/src/driver/session.rs"]
mod session;
#[path = "../../../crates/tunnel/src/driver/state.rs"]
mod state;
#[path = "../../../crates/tunnel/src/driver/stream.rs"]
mod stream;

pub use io::{CLOSE_SECS_MAX, DriverError, WRITE_SECS_MAX};
pub use session::{Incoming, Session, SessionHandle, connect};
pub use stream::{KIND_SECS_MAX, Stream};
