//! The clock, as an argument: what the API stamps on objects and certificates expire by.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in seconds.
pub type UnixSecs = i64;

/// A source of wall-clock time, so that tests can fix it.
pub trait Clock: Send + Sync + 'static {
    /// Unix time in seconds.
    fn unix_secs(&self) -> UnixSecs;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_secs(&self) -> UnixSecs {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
    }
}
