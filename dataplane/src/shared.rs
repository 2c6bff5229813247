//! What shards share things with: one place for it, so that `tests/loom` can put forms in whose every order of steps is
//! tried.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard};
