//! Visitors that come one after the other while a process is replaced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::chain;
use crate::meter::Latency;

/// Visitors at the same time.
pub(super) const VISITORS: usize = 4;
/// Visits of one visitor: so many that a replacement ends first.
const VISITS_MAX: usize = 200_000;

/// What visitors met.
pub(super) struct Visits {
    pub(super) count: u64,
    pub(super) failed: u64,
    pub(super) p99_before_ms: f64,
    pub(super) p99_after_ms: f64,
    /// The longest from the replacement on.
    pub(super) longest_ms: f64,
}

/// A visit: when it began, and how long it took if it worked.
type Visit = (Instant, Option<Duration>);

/// Running visitors.
pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    visitors: Vec<JoinHandle<Vec<Visit>>>,
}

impl Probe {
    /// Sends visitors: each connects, has one message echoed and ends, over and over.
    pub(super) fn start(at: SocketAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let visitor = |n: usize| {
            let stop = Arc::clone(&stop);
            let work = move || {
                let mut visits = Vec::new();
                while !stop.load(Ordering::Relaxed) && visits.len() < VISITS_MAX {
                    let begun = Instant::now();
                    let worked = chain::one_echo(at, &[]).is_ok();
                    visits.push((begun, worked.then(|| begun.elapsed())));
                }
                visits
            };
            thread::Builder::new().name(format!("visitor-{n}")).spawn(work)
        };
        let visitors: std::io::Result<_> = (0..VISITORS).map(visitor).collect();
        Ok(Self { stop, visitors: visitors? })
    }

    /// Ends them; `replaced` is when the replacement began.
    pub(super) fn stop(self, replaced: Instant) -> Result<Visits> {
        self.stop.store(true, Ordering::Relaxed);
        let visits: Vec<Visit> =
            self.visitors.into_iter().flat_map(|visitor| visitor.join().expect("no panic")).collect();
        sum_up(&visits, replaced)
    }
}

fn sum_up(visits: &[Visit], replaced: Instant) -> Result<Visits> {
    ensure!(visits.len() < VISITORS * VISITS_MAX, "the replacement took too long");
    let took = |after: bool| -> Vec<Duration> {
        // A visit that was under way at the replacement counts as one after it.
        let part = visits
            .iter()
            .filter(|(begun, took)| (took.map_or(*begun, |took| *begun + took) >= replaced) == after);
        part.filter_map(|(_, took)| *took).collect()
    };
    let p99 = |took: Vec<Duration>| Latency::of(took).map(|latency| latency.p99_us / 1e3);
    let after = took(true);
    let longest = after.iter().max().context("a visit after the replacement")?.as_secs_f64() * 1e3;
    Ok(Visits {
        count: visits.len() as u64,
        failed: visits.iter().filter(|(_, took)| took.is_none()).count() as u64,
        p99_before_ms: p99(took(false)).context("a visit before the replacement")?,
        p99_after_ms: p99(after).context("a visit after the replacement")?,
        longest_ms: longest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_told_apart_by_the_replacement() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let took = |millis: u64| Some(Duration::from_millis(millis));
        let visits =
            [(at(0), took(2)), (at(2), took(4)), (at(8), took(30)), (at(40), None), (at(41), took(3))];
        let summed = sum_up(&visits, at(10)).unwrap();
        assert_eq!((summed.count, summed.failed), (5, 1));
        assert_eq!(
            (summed.p99_before_ms, summed.p99_after_ms, summed.longest_ms),
            (4.0, 30.0, 30.0),
            "the one under way is after it"
        );
        assert!(sum_up(&visits[..2], at(10)).is_err(), "nobody came after it");
    }
}
