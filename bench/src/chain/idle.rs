//! What silent connections cost: memory, the processor while nothing happens, and what others' requests cost beside them.
//!
//! Measured once for each chain, before the rounds, on processes that have carried nothing but a first connection: later their
//! allocators would hand out what earlier loads had left.

use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ebbgate_lab::process::Daemon;
use ebbgate_lab::wait;
use serde::{Deserialize, Serialize};

use super::load::{BESIDE_IDLE, Kind, Load, Table};
use super::route::{Front, Route};
use super::sink::Served;
use super::{https, tcp};
use crate::meter::{Latency, Meter};

/// Milliseconds over which the cost of silence is measured.
const SILENCE_MILLIS: u64 = 300;
/// Milliseconds between two looks at whether a chain has come to rest, and the most CPU it then spends in them.
const REST_MILLIS: u64 = 100;
const REST_CPU_SECS_MAX: f64 = 0.003;
/// Seconds until it must.
const REST_SECS_MAX: u64 = 40;
/// Milliseconds of steady HTTPS requests beside silent connections.
const HTTPS_MILLIS: u64 = 200;

/// One chain with so many silent connections.
#[derive(Serialize, Deserialize)]
pub(super) struct IdleCell {
    pub(super) table: Table,
    pub(super) chain: String,
    pub(super) idle: u32,
    /// `Rss` of all processes.
    pub(super) resident_kb: u64,
    /// Its growth since there were none, for each; absent at none.
    pub(super) kb_each: Option<f64>,
    /// Milliseconds of CPU in a second of silence.
    pub(super) silence_cpu_ms_per_s: f64,
    /// Microseconds of CPU for a request of others.
    pub(super) request_cpu_us: f64,
    pub(super) latency: Option<Latency>,
}

/// Measures a chain at 0 and at each level. What it got is kept when a level fails.
pub(super) fn measure(
    route: &Route,
    levels: &[u32],
    served: &Served,
    dir: &Path,
    cells: &mut Vec<IdleCell>,
) -> Result<()> {
    let meter = route.meter()?;
    let mut held = Held { streams: Vec::new(), holders: Vec::new(), count: 0 };
    // The first requests make what stays for good: buffers, pools, threads.
    route.run(&beside(route), served, dir)?;
    let mut base = 0;
    for level in [0].into_iter().chain(levels.iter().copied().filter(|level| *level <= route.idle_max)) {
        held.grow(route, level, dir)?;
        rest(&meter)?;
        let resident_kb = meter.resident_kb()?;
        if level == 0 {
            base = resident_kb;
        }
        let (before, since) = (meter.read()?, Instant::now());
        thread::sleep(Duration::from_millis(SILENCE_MILLIS));
        let spent: f64 = meter.spent_since(&before)?.values().sum();
        let silence_cpu_ms_per_s = spent * 1e3 / since.elapsed().as_secs_f64();
        let sample = route.run(&beside(route), served, dir)?;
        let cpu: f64 = sample.cpu.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "a bench's counts are far below 2^52")]
        cells.push(IdleCell {
            table: route.table,
            chain: route.name.to_owned(),
            idle: level,
            resident_kb,
            kb_each: (level > 0).then(|| (resident_kb as f64 - base as f64) / f64::from(level)),
            silence_cpu_ms_per_s,
            request_cpu_us: cpu * 1e6 / sample.moved.count as f64,
            latency: sample.latency,
        });
    }
    Ok(())
}

fn beside(route: &Route) -> Load {
    let amount = if route.table == Table::Https { HTTPS_MILLIS } else { BESIDE_IDLE.amount };
    Load { table: route.table, kind: Kind::Requests, amount, ..BESIDE_IDLE }
}

/// Connections held open.
struct Held {
    streams: Vec<TcpStream>,
    holders: Vec<Daemon>,
    count: u32,
}

impl Held {
    fn grow(&mut self, route: &Route, to: u32, dir: &Path) -> Result<()> {
        let more = to - self.count;
        self.count = to;
        match &route.front {
            _ if more == 0 => {}
            Front::Tcp(front) => {
                self.streams.extend(tcp::open(front.small, &front.preface, more as usize)?);
            }
            Front::Https(front) => self.holders.push(https::hold(front, more, dir)?),
        }
        Ok(())
    }
}

/// Waits until a chain spends nothing.
fn rest(meter: &Meter) -> Result<()> {
    wait::until(Duration::from_secs(REST_SECS_MAX), "a chain to come to rest", || {
        let before = meter.read()?;
        thread::sleep(Duration::from_millis(REST_MILLIS));
        let spent: f64 = meter.spent_since(&before)?.values().sum();
        Ok((spent < REST_CPU_SECS_MAX).then_some(()))
    })
    // What never rests is measured as it is: the cost of silence is a column of the table.
    .or(Ok(()))
}
