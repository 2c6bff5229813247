//! CPU time of the processes a chain is made of, from `/proc/PID/stat`, around a piece of work.
//!
//! User and system time of all threads, those that have ended included. The kernel charges the work it does on loopback
//! to whoever sends, so a relay pays for delivering to its neighbour too; that holds for every chain alike.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Milliseconds after the work in which a relay may still close connections, counted as part of it.
const SETTLE_MILLIS: u64 = 100;
/// Positions of `utime` and `stime` behind the command name, which ends with `)` (proc(5)).
const USER_FIELD: usize = 11;
const SYSTEM_FIELD: usize = 12;

/// What a load moved.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    /// Connections or requests.
    pub(super) count: u64,
    /// Bytes that arrived at the visitor.
    pub(super) bytes: u64,
}

impl std::iter::Sum for Moved {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            count: sum.count + part.count,
            bytes: sum.bytes + part.bytes,
        })
    }
}

/// One piece of work, measured.
pub(super) struct Sample {
    /// Wall-clock seconds.
    pub(super) seconds: f64,
    /// CPU seconds by process.
    pub(super) cpu: BTreeMap<&'static str, f64>,
    /// What was moved.
    pub(super) moved: Moved,
}

/// The processes to charge.
pub(super) struct Meter<'a>(pub(super) &'a [(&'static str, u32)]);

impl Meter<'_> {
    /// Does the work and says what it cost.
    pub(super) fn measure(&self, work: impl FnOnce() -> Result<Moved>) -> Result<Sample> {
        let before = self.read()?;
        let start = Instant::now();
        let moved = work()?;
        let seconds = start.elapsed().as_secs_f64();
        thread::sleep(Duration::from_millis(SETTLE_MILLIS));
        let after = self.read()?;
        let spent =
            |(after, before): (&(&'static str, f64), &(&'static str, f64))| (after.0, after.1 - before.1);
        Ok(Sample { seconds, cpu: after.iter().zip(&before).map(spent).collect(), moved })
    }

    fn read(&self) -> Result<Vec<(&'static str, f64)>> {
        self.0.iter().map(|(name, pid)| Ok((*name, cpu_secs(*pid)?))).collect()
    }
}

/// User and system time of a process so far.
pub(super) fn cpu_secs(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}; did the process end?"))?;
    let ticks = cpu_ticks(&text).with_context(|| format!("{path} has no times: {text}"))?;
    #[expect(clippy::cast_precision_loss, reason = "a bench's tick counts are far below 2^52")]
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let field = |at: usize| fields.split_whitespace().nth(at)?.parse::<u64>().ok();
    Some(field(USER_FIELD)? + field(SYSTEM_FIELD)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_command_name() {
        let rest = "S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 3 0 12345 1000000 500";
        for name in ["edge", "a) b (c"] {
            assert_eq!(cpu_ticks(&format!("7 ({name}) {rest}")), Some(281));
        }
        assert_eq!(cpu_ticks("7 (edge) S 1"), None);
    }
}
