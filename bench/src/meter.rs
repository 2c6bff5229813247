//! CPU time and memory of the processes a chain is made of, from `/proc`, around a piece of work.
//!
//! User and system time of all threads. The kernel charges the work it does on loopback to whoever sends, so a relay pays for
//! delivering to its neighbour too; that holds for every chain alike.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Milliseconds after the work in which a relay may still close connections, counted as part of it.
const SETTLE_MILLIS: u64 = 40;
/// Positions of parent, `utime` and `stime` behind the command name, which ends with `)` (proc(5)).
const PARENT_FIELD: usize = 1;
const USER_FIELD: usize = 11;
const SYSTEM_FIELD: usize = 12;
/// Seconds by which the two ways to read CPU time may differ by rounding alone: two ticks of `/proc/PID/stat`.
const ROUNDING_SECS: f64 = 0.02;

/// What a load moved.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    /// Connections or requests.
    pub(super) count: u64,
    /// Bytes that arrived at the visitor.
    pub(super) bytes: u64,
}

/// One piece of work, measured.
pub(super) struct Sample {
    /// Wall-clock seconds.
    pub(super) seconds: f64,
    /// CPU seconds by part of the chain.
    pub(super) cpu: BTreeMap<&'static str, f64>,
    /// What was moved.
    pub(super) moved: Moved,
    /// Of each request or connection, where there are such.
    pub(super) latency: Option<Latency>,
}

/// What visitors wait.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Latency {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Latency {
    /// None of nothing.
    pub(super) fn of(mut all: Vec<Duration>) -> Option<Self> {
        all.sort_unstable();
        let at = |percent: usize| {
            let place = (all.len() * percent).div_ceil(100).checked_sub(1)?;
            Some(all.get(place)?.as_secs_f64() * 1e6)
        };
        Some(Self { p50_us: at(50)?, p99_us: at(99)? })
    }
}

/// The processes to charge, by part of the chain.
#[derive(Clone, Default)]
pub(super) struct Meter {
    parts: Vec<(&'static str, Vec<u32>)>,
}

impl Meter {
    /// Charges these processes and those they have started by now.
    pub(super) fn of(parts: &[(&'static str, u32)]) -> Result<Self> {
        let parts: Result<_> = parts.iter().map(|(name, pid)| Ok((*name, family(*pid)?))).collect();
        Ok(Self { parts: parts? })
    }

    /// Does the work and says what it cost.
    pub(super) fn measure(&self, work: impl FnOnce() -> Result<(Moved, Option<Latency>)>) -> Result<Sample> {
        let before = self.read()?;
        let start = Instant::now();
        let (moved, latency) = work()?;
        let seconds = start.elapsed().as_secs_f64();
        thread::sleep(Duration::from_millis(SETTLE_MILLIS));
        let cpu = self.spent_since(&before)?;
        Ok(Sample { seconds, cpu, moved, latency })
    }

    /// CPU times now.
    pub(super) fn read(&self) -> Result<Vec<Vec<Times>>> {
        let times = |pids: &Vec<u32>| pids.iter().map(|pid| Times::read(*pid)).collect();
        self.parts.iter().map(|(_, pids)| times(pids)).collect()
    }

    /// CPU seconds since an earlier reading.
    pub(super) fn spent_since(&self, before: &[Vec<Times>]) -> Result<BTreeMap<&'static str, f64>> {
        let after = self.read()?;
        let mut spent = BTreeMap::new();
        for (((name, _), before), after) in self.parts.iter().zip(before).zip(&after) {
            let secs: f64 = after.iter().zip(before).map(|(after, before)| after.since(before)).sum();
            *spent.entry(*name).or_default() += secs;
        }
        Ok(spent)
    }

    /// Resident kilobytes of all processes: `Rss` of `/proc/PID/smaps_rollup`, files and all.
    pub(super) fn resident_kb(&self) -> Result<u64> {
        self.parts.iter().flat_map(|(_, pids)| pids).map(|pid| resident_kb(*pid)).sum()
    }
}

/// CPU time of single processes, some of which begin or end while they are watched.
pub(super) struct Family(BTreeMap<u32, Times>);

impl Family {
    /// These processes now; one that has ended by now is left out.
    pub(super) fn of(pids: &[u32]) -> Self {
        let times = pids.iter().filter_map(|pid| Some((*pid, Times::read(*pid).ok()?))).collect();
        Self(times)
    }

    /// CPU seconds since an earlier reading. A process that was not there then is charged from its start on; one that has
    /// ended since is not charged.
    pub(super) fn spent_since(&self, before: &Self) -> f64 {
        let since = |(pid, now): (&u32, &Times)| {
            before.0.get(pid).map_or(now.ticks.max(now.threads), |before| now.since(before))
        };
        self.0.iter().map(since).sum()
    }

    /// Resident kilobytes of all.
    pub(super) fn resident_kb(&self) -> Result<u64> {
        self.0.keys().map(|pid| resident_kb(*pid)).sum()
    }
}

/// A process and all its descendants.
fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end while we look.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        parents.extend(field(&stat, PARENT_FIELD).map(|parent| (pid, parent)));
    }
    let mut family = vec![root];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == u64::from(parent)).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(family)
}

/// CPU time of one process, read in two ways.
pub(super) struct Times {
    /// Of all threads that ever were, in whole ticks.
    ticks: f64,
    /// Of the threads that are, in nanoseconds.
    threads: f64,
}

impl Times {
    fn read(pid: u32) -> Result<Self> {
        Ok(Self { ticks: cpu_secs(pid)?, threads: thread_secs(pid)? })
    }

    /// The finer reading, unless threads have come and gone, whose time is in the coarse one only.
    fn since(&self, before: &Self) -> f64 {
        let (ticks, threads) = (self.ticks - before.ticks, self.threads - before.threads);
        if ticks - threads > ROUNDING_SECS { ticks } else { threads }
    }
}

/// User and system time of a process so far, in ticks of the clock (usually 10 ms).
pub(super) fn cpu_secs(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}; did the process end?"))?;
    let ticks = cpu_ticks(&text).with_context(|| format!("{path} has no times: {text}"))?;
    #[expect(clippy::cast_precision_loss, reason = "a bench's tick counts are far below 2^52")]
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(field(stat, USER_FIELD)? + field(stat, SYSTEM_FIELD)?)
}

fn field(stat: &str, at: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(at)?.parse().ok()
}

/// Time on a processor of a process's threads, by the scheduler's own count.
fn thread_secs(pid: u32) -> Result<f64> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanos = 0.0;
    for entry in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        // A thread may end while we look; the ticks have its time.
        let text = fs::read_to_string(entry?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(nanos / 1e9)
}

fn resident_kb(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    kilobytes(&text, "Rss:").with_context(|| format!("{path} has no Rss"))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_command_name() {
        let rest = "S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 3 0 12345 1000000 500";
        for name in ["edge", "a) b (c"] {
            let stat = format!("7 ({name}) {rest}");
            assert_eq!((cpu_ticks(&stat), field(&stat, PARENT_FIELD)), (Some(281), Some(1)));
        }
        assert_eq!(cpu_ticks("7 (edge) S 1"), None);
    }

    #[test]
    fn the_finer_time_counts_until_threads_have_gone() {
        let check = |ticks: f64, threads: f64, expect: f64| {
            let before = Times { ticks: 1.0, threads: 0.5 };
            let after = Times { ticks: 1.0 + ticks, threads: 0.5 + threads };
            assert!((after.since(&before) - expect).abs() < 1e-9, "{ticks} {threads}");
        };
        check(0.01, 0.0123, 0.0123);
        check(0.02, 0.0123, 0.0123);
        check(0.5, 0.1, 0.5);
        check(0.5, -0.3, 0.5);
    }

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let check = |count: u64, expect: Option<Latency>| {
            assert_eq!(Latency::of((1..=count).rev().map(Duration::from_micros).collect()), expect);
        };
        check(0, None);
        check(1, Some(Latency { p50_us: 1.0, p99_us: 1.0 }));
        check(200, Some(Latency { p50_us: 100.0, p99_us: 198.0 }));
    }

    #[test]
    fn a_process_is_in_its_family_and_has_memory() {
        let me = std::process::id();
        assert!(family(me).unwrap().contains(&me));
        assert!(resident_kb(me).unwrap() > 100);
        assert_eq!(kilobytes("Rss:   120 kB\nPss: 7 kB\n", "Pss:"), Some(7));
    }
}
