//! `Load`: the connections and requests that an endpoint has now, counted over all shards. Does not know what they are.

use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub struct Load(AtomicUsize);

impl Load {
    /// How many there are now.
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One is over that began.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
