//! Counts changes of what the edge serves and where, for the thread that waits for them.
//!
//! Knows neither what changed nor which thread waits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A count of changes that a thread can wait for.
#[derive(Debug, Default)]
pub struct Changes {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Changes {
    /// Something changed. Never waits for the waiting thread.
    pub fn note(&self) {
        *self.lock() += 1;
        self.changed.notify_all();
    }

    /// Changes up to now.
    pub fn count(&self) -> u64 {
        *self.lock()
    }

    /// Blocks the thread until there are more changes than `seen`, or `wait` has passed; then gives their count.
    pub fn wait_past(&self, seen: u64, wait: Duration) -> u64 {
        let waited = self.changed.wait_timeout_while(self.lock(), wait, |count| *count <= seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_change_ends_the_wait_and_none_lets_it_end_by_time() {
        let changes = Arc::new(Changes::default());
        assert_eq!(changes.wait_past(0, Duration::ZERO), 0);
        let waiting = std::thread::spawn({
            let changes = Arc::clone(&changes);
            move || changes.wait_past(1, Duration::MAX)
        });
        changes.note();
        changes.note();
        assert_eq!(waiting.join().unwrap(), 2);
        assert_eq!(changes.wait_past(1, Duration::MAX), 2);
    }
}
