//! What threads share a session through: one place for it, so that `tests/loom` can put its own forms in.

pub(crate) use std::sync::{Mutex, MutexGuard};
