//! `Reload`: the thread that looks at the operator's files, and has other processes read them when they change.
//!
//! Those that run go on until all of the new ones are ready. Files at fault change nothing.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use ebbgate_waf::protocol::Loaded;
use prometheus_client::metrics::counter::Counter;

use super::process::Process;
use super::shared::{START_SECS_MAX, Shared, WafError, WafSettings};
use super::watch::Watch;

/// Milliseconds between looks at the files.
const LOOK_MS: u64 = 1_000;

/// See the module.
pub(super) struct Reload {
    pub(super) settings: Arc<WafSettings>,
    pub(super) shared: Arc<Shared>,
    pub(super) watch: Watch,
    /// Where each runner takes its next process from.
    pub(super) runners: Vec<Sender<Process>>,
    pub(super) refused: Counter,
}

impl Reload {
    /// Looks until the edge ends. Processes that it starts live as long as its thread.
    pub(super) fn run(mut self) {
        while self.shared.rest(Duration::from_millis(LOOK_MS)) {
            if !self.watch.has_changed() {
                continue;
            }
            match self.start() {
                Ok((processes, loaded)) => {
                    for (runner, process) in self.runners.iter().zip(processes) {
                        // The runner may have ended with the edge.
                        let _ = runner.send(process);
                    }
                    self.settings.log(&loaded);
                }
                Err(error) => {
                    self.refused.inc();
                    tracing::error!(%error, "the Core Rule Set has changed and is at fault; the one before stays in use");
                }
            }
        }
    }

    /// As many processes as there are runners.
    fn start(&self) -> Result<(Vec<Process>, Loaded), WafError> {
        let (mut processes, mut last) = (Vec::new(), Loaded::default());
        for _ in &self.runners {
            let (process, loaded) = Process::start(&self.settings, Duration::from_secs(START_SECS_MAX))?;
            processes.push(process);
            last = loaded;
        }
        Ok((processes, last))
    }
}
