//! The files of the edge and of its tunnel whose contents shards share, compiled against loom's atomics and locks: what holds in the tests
//! here holds in every order in which threads can take their steps, and for every value that weak memory may show.
//!
//! The files are included by path. They take what they share with from `crate::sync`, which is std and tokio in the
//! edge, and loom here. The rest of the edge is not compiled again.

// The included files' own tests are for std's forms, and run where the files live.
#[cfg(not(test))]
pub mod driver;
#[cfg(not(test))]
#[path = "../../../dataplane/src/net/listen/limits.rs"]
pub mod limits;
#[cfg(not(test))]
#[path = "../../../dataplane/src/tunnel/session_liveness.rs"]
pub mod session_liveness;
#[cfg(not(test))]
#[path = "../../../crates/tunnel/src/stream_error.rs"]
pub mod stream_error;

#[cfg(not(test))]
pub(crate) mod sync {
    //! Loom's forms of what the edge's `sync` names.

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}
