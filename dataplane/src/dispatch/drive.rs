//! Carries out the steps of a dispatch that need neither the client nor a stream: key sets, lookups, questions to agents.

use ebbgate_policy::Outcome;

use super::event::{AccessLog, AccessSink};
use super::gateway::Gateway;
use super::{Dispatch, Environment, Step};

impl Dispatch {
    /// The next step that the caller has to carry out. The log follows.
    pub async fn drive(
        &mut self,
        gateway: &impl Gateway,
        env: &impl Environment,
        log: &AccessLog<impl AccessSink>,
    ) -> Step {
        loop {
            let step = self.next(env);
            log.follow(self.take_trail());
            match step {
                Step::Pause => tokio::task::yield_now().await,
                Step::Keys { account, url, fresh } => {
                    let keys = gateway.keys(account, &url, fresh).await;
                    self.resume(Outcome::Keys(keys));
                }
                Step::Exchange { account, exchange } => {
                    let answer = gateway.exchange(account, exchange).await;
                    self.resume(Outcome::Exchanged(answer));
                }
                Step::Find { account, url } => {
                    gateway.returned(Some(account), url.scheme(), url.host(), url.port()).await;
                    self.found(gateway.internal(account, &url));
                }
                Step::AskAgent(endpoint) => {
                    let is_heard = gateway.is_heard(&endpoint).await;
                    self.heard(is_heard);
                }
                step => return step,
            }
        }
    }
}
