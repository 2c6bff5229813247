//! The Core Rule Set, run by processes of its own: `ebbgate-waf`, which the edge starts, asks and kills.
//!
//! A shard puts a question into a bounded queue and waits; a thread for each process takes it out, asks, and answers. No thread
//! of a shard runs a rule, and nothing of the edge is in those processes but the messages they judge. A process that ends, or
//! does not answer in time, is replaced; what it was asked fails. When the operator's files change, processes with the new
//! rules take the place of the others.

mod process;
mod queue;
mod reload;
mod runner;
mod shared;
mod watch;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::AccountId;
use ebbgate_policy::{Inspected, MatchedRule};
use ebbgate_waf::protocol::{self, Judgement, Loaded, Question};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::state::metrics::Metrics;
use reload::Reload;
use runner::Runner;
use shared::{Job, START_SECS_MAX, Shared};
pub use shared::{WafError, WafSettings};
use watch::Watch;

/// See the module.
pub struct Waf {
    shared: Arc<Shared>,
    settings: Arc<WafSettings>,
    judged: Counter,
    denied: Counter,
    failed: Counter,
}

impl Waf {
    /// Starts the processes and waits until each has read the rules. Fails if one refuses them.
    pub fn start(settings: WafSettings, metrics: &Metrics) -> Result<Self, WafError> {
        let settings = Arc::new(settings);
        let shared: Arc<Shared> = Arc::default();
        let waf = Self {
            shared: Arc::clone(&shared),
            settings: Arc::clone(&settings),
            judged: metrics.waf_judged.clone(),
            denied: metrics.waf_denied.clone(),
            failed: metrics.waf_failed.clone(),
        };
        let start = |error: String| WafError::Start { program: settings.program.clone(), error };
        let watch = Watch::new(&settings.rules);
        let (started, first) = mpsc::channel();
        let mut runners = Vec::new();
        for index in 0..settings.workers {
            let (renew, renewed) = mpsc::channel();
            runners.push(renew);
            let runner = Runner {
                renewed,
                settings: Arc::clone(&settings),
                shared: Arc::clone(&shared),
                ready: metrics.waf_workers.clone(),
                lost: metrics.waf_workers_lost.clone(),
            };
            let started = started.clone();
            let thread = std::thread::Builder::new().name(format!("waf-{index}"));
            thread.spawn(move || runner.run(&started)).map_err(|error| start(error.to_string()))?;
        }
        let mut loaded = Loaded::default();
        for _ in 0..settings.workers {
            let answer = first.recv_timeout(Duration::from_secs(START_SECS_MAX));
            loaded = answer.map_err(|_| start(format!("it read no rules within {START_SECS_MAX} s")))??;
        }
        settings.log(&loaded);
        let refused = metrics.waf_rules_refused.clone();
        let reload = Reload { settings: Arc::clone(&settings), shared, watch, runners, refused };
        let thread = std::thread::Builder::new().name("waf-rules".to_owned());
        thread.spawn(move || reload.run()).map_err(|error| start(error.to_string()))?;
        Ok(waf)
    }

    /// What the rules say of a message of an account, or a sentence on why they could not be asked. Takes no longer than the
    /// operator lets it.
    pub async fn inspect(
        &self,
        account: AccountId,
        question: Question,
        body: Bytes,
    ) -> Result<Inspected, String> {
        let judged = self.judge(account, question, body).await;
        let Judgement { score, threshold, matched_rules } = judged.inspect_err(|_| {
            self.failed.inc();
        })?;
        self.judged.inc();
        if score >= threshold {
            self.denied.inc();
        }
        let told = |rule: protocol::MatchedRule| {
            let protocol::MatchedRule { id, message, severity, data } = rule;
            MatchedRule { id, message, severity, data }
        };
        let matched_rules = matched_rules.into_iter().map(told).collect();
        Ok(Inspected { score, threshold, enforced: self.settings.block, matched_rules })
    }

    async fn judge(&self, account: AccountId, question: Question, body: Bytes) -> Result<Judgement, String> {
        let (answer, answered) = oneshot::channel();
        let job = Job { question, body, answer };
        self.shared.lock().queue.push(account, job).map_err(|full| full.to_string())?;
        self.shared.changed.notify_all();
        let late =
            || format!("the Core Rule Set did not answer within {} ms", self.settings.timeout.as_millis());
        let answer = timeout(self.settings.timeout, answered).await.map_err(|_| late())?;
        answer.map_err(|_| "the Core Rule Set is stopped".to_owned())?
    }
}

impl Drop for Waf {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
