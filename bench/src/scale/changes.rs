//! Changes by the API, and the visitor who sees them live.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ebbgate_lab::api::Api;
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use serde_json::json;

use super::endpoint::create;
use super::row::Cpu;
use crate::meter::{Latency, Meter, Moved};

/// Domain of the endpoints that visitors ask for.
const DOMAIN: &str = "scale.example.com";
/// Seconds in which a change must be live.
const LIVE_SECS_MAX: u64 = 30;
/// Rounds in which the processor time of a change is measured.
const CPU_ROUNDS: u32 = 9;
/// Microseconds between two looks of a visitor.
const LOOK_MICROS: u64 = 500;

/// Reserves the domain, and has one endpoint below it.
pub(super) fn prepare(api: &Api) -> Result<()> {
    api.create("/reserved_domains", &json!({ "domain": format!("*.{DOMAIN}"), "region": "us" }))?;
    create(api, &format!("http://{}", name(0))).map(drop)
}

fn name(n: u32) -> String {
    format!("n{n}.{DOMAIN}")
}

/// Changes and visits of one lab.
pub(super) struct Visits {
    pub(super) api: Api,
    /// Port for HTTP in clear.
    pub(super) http: u16,
}

impl Visits {
    /// Visits an endpoint until it answers, each time by a connection of its own.
    pub(super) fn live(&self, n: u32) -> Result<()> {
        let begun = Instant::now();
        loop {
            let answer = http::request(http::connect(local(self.http))?, "GET", &name(n), "/", &[], b"")?;
            if answer.status == 200 {
                return Ok(());
            }
            ensure!(begun.elapsed().as_secs() < LIVE_SECS_MAX, "{} answers {}", name(n), answer.status);
            thread::sleep(Duration::from_micros(LOOK_MICROS));
        }
    }

    /// Creates an endpoint; from the answer to being live.
    fn change(&self, n: u32) -> Result<(String, Duration)> {
        let id = create(&self.api, &format!("http://{}", name(n)))?;
        let begun = Instant::now();
        self.live(n)?;
        Ok((id, begun.elapsed()))
    }

    fn delete(&self, id: &str) -> Result<()> {
        let (status, answer) = self.api.call("DELETE", &format!("/endpoints/{id}"), None)?;
        ensure!(status == 204, "{status} {answer}");
        Ok(())
    }

    /// What one change costs, nothing beside: the median of several rounds, since programs have other work now and then.
    pub(super) fn cpu(&self, meter: &Meter, samples: u32) -> Result<Cpu> {
        let of_round = samples.div_ceil(CPU_ROUNDS);
        let rounds =
            (0..CPU_ROUNDS).map(|_| self.cpu_of_round(meter, of_round)).collect::<Result<Vec<_>>>()?;
        let median = |of: fn(&Cpu) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_unstable_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        Ok(Cpu { control_ms: median(|cpu| cpu.control_ms), edge_ms: median(|cpu| cpu.edge_ms) })
    }

    fn cpu_of_round(&self, meter: &Meter, samples: u32) -> Result<Cpu> {
        let mut made = Vec::new();
        let sample = meter.measure(|| {
            for n in 0..samples {
                // Its answer only, so that visits do not count as work of the change.
                made.push(create(&self.api, &format!("http://{}", name(10_000 + n)))?);
            }
            self.live(10_000 + samples - 1)?;
            Ok((Moved { count: u64::from(samples), bytes: 0 }, None))
        })?;
        made.iter().try_for_each(|id| self.delete(id))?;
        let of = |part| sample.cpu.get(part).copied().unwrap_or_default() * 1e3 / f64::from(samples);
        Ok(Cpu { control_ms: of("control"), edge_ms: of("edge") })
    }

    /// How soon changes are live, with so many others a second.
    pub(super) fn beside(&self, samples: u32, others: u32) -> Result<Option<Latency>> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let beside = scope.spawn(|| self.others(others, &over));
            let measured = (1..=samples).map(|n| {
                let (id, took) = self.change(n)?;
                self.delete(&id)?;
                Ok(took)
            });
            let measured: Result<Vec<Duration>> = measured.collect();
            over.store(true, Ordering::Relaxed);
            beside.join().expect("no panic")?;
            Ok(Latency::of(measured?))
        })
    }

    /// Creates and deletes endpoints in turns, at a steady rate.
    fn others(&self, a_second: u32, over: &AtomicBool) -> Result<()> {
        if a_second == 0 {
            return Ok(());
        }
        let pause = Duration::from_secs(1) / a_second;
        let mut due = Instant::now();
        let mut last: Option<String> = None;
        for n in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            match last.take() {
                Some(id) => self.delete(&id)?,
                None => last = Some(create(&self.api, &format!("http://{}", name(20_000 + n)))?),
            }
            due += pause;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}
