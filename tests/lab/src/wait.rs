//! Waiting for a condition of the real world, with a deadline: the only form of waiting the verbs and the tests know.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Milliseconds between two looks at a condition.
const POLL_MILLIS: u64 = 15;

/// Looks until `probe` yields a value; errors of the probe end the wait at once.
///
/// # Errors
/// The probe's own, or one that names `what` when `limit` has passed.
pub fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(POLL_MILLIS));
    }
}

/// Seconds within which something that takes milliseconds must have happened, however busy the machine is.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits until a probe of the caller's yields a value.
pub fn soon<T>(what: &str, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until(SOON, what, probe)
}
