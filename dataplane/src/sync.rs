//! The atomics and locks of what shards share. `tests/loom` compiles the same files with loom's, and so tries every order of
//! steps.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard};
