//! `Runner`: the thread of one process. Takes questions out of the queue, asks, and replaces a process that is of no use.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ebbgate_model::AccountId;
use ebbgate_waf::protocol::Loaded;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::process::{AskError, Process};
use super::shared::{Job, START_SECS_MAX, Shared, WafError, WafSettings};
use crate::net::gauge::GaugeGuard;

/// Milliseconds between looks at whether an idle process still runs.
const IDLE_LOOK_MS: u64 = 200;
/// Milliseconds before a process is replaced, the first time; twice as many each time after.
const AGAIN_MS: u64 = 50;
/// And at most.
const AGAIN_MS_MAX: u64 = 10_000;

/// See the module.
pub(super) struct Runner {
    pub(super) settings: Arc<WafSettings>,
    pub(super) shared: Arc<Shared>,
    pub(super) ready: Gauge,
    pub(super) lost: Counter,
    /// Processes with the rules as they are now, each to take the place of the one before.
    pub(super) renewed: Receiver<Process>,
}

impl Runner {
    /// Runs until the edge ends. `started` is told what came of the first process.
    pub(super) fn run(self, started: &Sender<Result<Loaded, WafError>>) {
        let within = Duration::from_secs(START_SECS_MAX);
        let first = Process::start(&self.settings, within);
        let (process, loaded) = match first {
            Ok((process, loaded)) => (process, Ok(loaded)),
            Err(error) => {
                // The request that started this may have ended already.
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(loaded);
        let mut again_ms = AGAIN_MS;
        let mut next = Some(process);
        loop {
            if let Some(process) = next.take() {
                let Some(why) = self.serve(process, &mut again_ms) else { return };
                self.lost.inc();
                tracing::warn!(why, again_ms, "a process of the Core Rule Set is replaced");
            }
            if !self.shared.rest(Duration::from_millis(again_ms)) {
                return;
            }
            again_ms = (again_ms * 2).min(AGAIN_MS_MAX);
            let renewed = self.renewed.try_iter().last().map(Ok);
            let started =
                renewed.unwrap_or_else(|| Process::start(&self.settings, within).map(|(process, _)| process));
            match started {
                Ok(process) => next = Some(process),
                Err(error) => tracing::error!(%error, again_ms, "the Core Rule Set cannot be run"),
            }
        }
    }

    /// Asks one question after another. None: the edge ends. Otherwise why the process is of no use any more.
    fn serve(&self, mut process: Process, again_ms: &mut u64) -> Option<String> {
        let _ready = GaugeGuard::new(&self.ready);
        loop {
            if let Some(renewed) = self.renewed.try_iter().last() {
                process = renewed;
            }
            let (account, job) = match self.next() {
                Next::Job(account, job) => (account, job),
                Next::Nothing if process.is_alive() => continue,
                Next::Nothing => return Some("it has ended".to_owned()),
                Next::Stop => return None,
            };
            let Job { question, body, answer } = *job;
            // Its visitor may have been told already that there is no answer.
            let asked = (!answer.is_closed()).then(|| process.ask(&question, &body, self.settings.timeout));
            self.shared.lock().queue.done(account);
            self.shared.changed.notify_all();
            let (told, lost) = match asked {
                None => continue,
                Some(Ok(judgement)) => {
                    *again_ms = AGAIN_MS;
                    (Ok(judgement), None)
                }
                Some(Err(AskError::Message(why))) => (Err(why), None),
                Some(Err(AskError::Process(why))) => {
                    (Err(format!("the process of the Core Rule Set failed: {why}")), Some(why))
                }
            };
            // Nobody waits any more.
            let _ = answer.send(told);
            if lost.is_some() {
                return lost;
            }
        }
    }

    fn next(&self) -> Next {
        // One process is kept for the others, whatever an account sends.
        let asked_max = self.settings.workers.saturating_sub(1).max(1);
        let mut state = self.shared.lock();
        let idle = Duration::from_millis(IDLE_LOOK_MS);
        let mut waited = false;
        loop {
            if state.stopped {
                return Next::Stop;
            }
            if let Some((account, job)) = state.queue.take(asked_max) {
                return Next::Job(account, Box::new(job));
            }
            if waited {
                return Next::Nothing;
            }
            let woken = self.shared.changed.wait_timeout(state, idle).unwrap_or_else(PoisonError::into_inner);
            state = woken.0;
            waited = true;
        }
    }
}

/// What a thread does next.
enum Next {
    Job(AccountId, Box<Job>),
    /// Look at the process.
    Nothing,
    Stop,
}
