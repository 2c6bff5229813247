//! Runs policies for a visitor: steps an engine and performs what it asks for.

use std::sync::Arc;

use ebbgate_model::{EndpointId, ErrorCode, canonical_ip};
use ebbgate_policy::{BodyError, Context, Effect, Engine, Outcome, Phase, Run, Step, Verdict, Work};
use http::StatusCode;

use super::{Stop, Visitor};
use crate::dispatch::gateway::Gateway;
use crate::http::answer::Failure;
use crate::http::body::{Body, NotBuffered};
use crate::http::record::Record;
use crate::http::upstream::ReplayBody;
use crate::state::endpoint::Endpoint;

/// Endpoints one connection remembers having been admitted to.
const ADMITTED_MAX: usize = 16;

impl<G: Gateway> Visitor<G> {
    /// What a policy of this endpoint is given to see.
    pub(super) fn context(&self, endpoint: &Endpoint, work: &Work) -> Context {
        let mut cx =
            Context::new(self.conn.facts.clone(), endpoint.facts.clone(), self.gateway.now_unix_ms());
        cx.rng_seed = self.gateway.rng_seed();
        cx.work = work.clone();
        cx
    }

    /// Runs `on_tcp_connect` where the connection half could not: on clear-text HTTP the request names the endpoint, and a
    /// kept connection is judged again when the policy is another than the one that let it in. Else once per connection
    /// and endpoint.
    pub(super) async fn admit(
        &self,
        endpoint: &Arc<Endpoint>,
        work: &Work,
        record: &Record<G>,
    ) -> Result<(), Stop> {
        self.check_source(endpoint)?;
        let engine = endpoint.engine.as_ref().filter(|engine| engine.has(Phase::TcpConnect));
        let Some(engine) = engine else { return Ok(()) };
        let judged = |(id, by): &(EndpointId, Arc<Engine>)| *id == endpoint.id && Arc::ptr_eq(by, engine);
        if self.admitted.borrow().iter().any(judged) {
            return Ok(());
        }
        let mut cx = self.context(endpoint, work);
        let mut run = engine.start(Phase::TcpConnect);
        let verdict = self.drive(endpoint, &mut run, &mut cx, &ReplayBody::new(Body::Empty)).await;
        record.logged(std::mem::take(&mut cx.logs));
        match verdict {
            Verdict::Continue => {
                let mut admitted = self.admitted.borrow_mut();
                admitted.retain(|(id, _)| *id != endpoint.id);
                admitted.truncate(ADMITTED_MAX - 1);
                admitted.insert(0, (endpoint.id, engine.clone()));
                Ok(())
            }
            Verdict::Close { .. } | Verdict::Respond(_) => Err(Stop::Close),
            Verdict::Failed { code, message } => Err(policy_failed(endpoint, code, &message)),
            Verdict::Forward { .. } => {
                let message = "forward-internal in on_tcp_connect needs a tcp or tls endpoint";
                Err(policy_failed(endpoint, ErrorCode::new(2300), message))
            }
        }
    }

    /// The IP restriction of the account, at every request: it may have changed since the last.
    fn check_source(&self, endpoint: &Endpoint) -> Result<(), Stop> {
        let source = self.conn.facts.client.ip();
        if self.gateway.admits(endpoint.account, source) {
            return Ok(());
        }
        let message = format!("{} may not reach this account's endpoints.", canonical_ip(source));
        Err(Stop::Failure(Failure::coded(StatusCode::FORBIDDEN, ErrorCode::ENDPOINTS_RESTRICTED, message)))
    }

    /// Steps a phase to its verdict, performing what it needs.
    pub(super) async fn drive(
        &self,
        endpoint: &Endpoint,
        run: &mut Run,
        cx: &mut Context,
        body: &ReplayBody,
    ) -> Verdict {
        loop {
            let outcome = match run.step(cx) {
                Step::Done(verdict) => return verdict,
                Step::Pause => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Step::Need(Effect::Keys { url, fresh }) => {
                    Outcome::Keys(self.gateway.keys(endpoint.account, &url, fresh).await)
                }
                Step::Need(Effect::Body { bytes_max }) => {
                    body.exchange().ask_for_body();
                    let mut taken = body.take();
                    let read = taken.buffer(bytes_max).await;
                    body.give_back(taken);
                    Outcome::Body(read.map_err(|error| match error {
                        NotBuffered::TooLong => BodyError::TooLong { bytes_max },
                        NotBuffered::Broken(_) => BodyError::Incomplete,
                    }))
                }
                // TLS is over: what it was not asked for, only a new connection can show.
                Step::Need(Effect::TerminateTls(settings)) => {
                    match (&self.conn.facts.tls, &self.conn.tls_settings) {
                        (Some(tls), Some(done)) if settings.are_met_by(done, tls) => {
                            Outcome::Tls(tls.clone())
                        }
                        _ => return Verdict::Close { code: Some(ErrorCode::new(2300)) },
                    }
                }
            };
            run.resume(cx, outcome);
        }
    }
}

/// A policy that failed is answered without its message, which may quote configuration.
pub(super) fn policy_failed(endpoint: &Endpoint, code: ErrorCode, message: &str) -> Stop {
    tracing::warn!(endpoint = %endpoint.id, %code, message, "traffic policy failed");
    let detail = format!("the traffic policy of {} failed: {message}", endpoint.url);
    let message = "The traffic policy of this endpoint failed.";
    Stop::Failure(Failure::coded(StatusCode::INTERNAL_SERVER_ERROR, code, message).because(detail))
}
