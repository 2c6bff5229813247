//! Who may run at the same time: tests that measure a time, or that bring heavy load, run alone.
//!
//! nextest arranges that by itself (`.config/nextest.toml`), with a process for each test; this is for plain
//! `cargo test`, where all tests are threads of one process.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// Turns taken now.
struct Taken {
    shared: usize,
    alone: bool,
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken { shared: 0, alone: false });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// Whether this thread's test runs alone: its labs need no turns of their own.
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// A turn; over when dropped.
pub enum Turn {
    /// One of many.
    Shared,
    /// The only one.
    Alone,
    /// Covered by the test's own turn.
    Covered,
}

impl Turn {
    /// Waits while a test runs alone. A test may take several.
    pub fn shared() -> Self {
        if IS_ALONE.get() {
            return Self::Covered;
        }
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken =
            CHANGED.wait_while(taken, |taken| taken.alone).unwrap_or_else(PoisonError::into_inner);
        taken.shared += 1;
        Self::Shared
    }

    /// Waits until nothing else runs. Take it first in a test, before any lab.
    pub fn alone() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = |taken: &mut Taken| taken.alone || taken.shared > 0;
        let mut taken = CHANGED.wait_while(taken, busy).unwrap_or_else(PoisonError::into_inner);
        taken.alone = true;
        IS_ALONE.set(true);
        Self::Alone
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        match self {
            Self::Shared => taken.shared -= 1,
            Self::Alone => {
                taken.alone = false;
                IS_ALONE.set(false);
            }
            Self::Covered => return,
        }
        CHANGED.notify_all();
    }
}
