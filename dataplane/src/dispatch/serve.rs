//! The gateway over real sessions: routes, agents, key sets and events of this edge, from one shard.

use std::any::Any;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::event::RequestEvent;
use ebbgate_model::feed::{FromEdge, VisitorSessionReport};
use ebbgate_model::{AccountId, AppSessionId, EndpointUrl, Host, IpRestrictionKind, Scheme};
use ebbgate_policy::identity::{Exchange, Exchanged, SessionFacts, SessionNote};
use ebbgate_policy::{AddressSource, Breaker, CallError, Inspected, KeySet, Quota};
use ebbgate_waf::protocol::Question;
use http::{HeaderValue, Request, Response, Uri};
use tokio::time::Instant;

use super::gateway::{Gateway, NO_RULES, no_external_calls};
use crate::log;
use crate::state::breakers::Permit;
use crate::state::edge::Stage;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::metrics::{GaugeGuard, StatusLabel};
use crate::state::pool::Pool;
use crate::state::shard::Shard;
use crate::state::shares::Shares;
use crate::state::{clock, random};
use crate::tunnel::health::UpstreamAnswer;
use crate::tunnel::origin::Origin;
use crate::tunnel::session::OpenError;
use crate::tunnel::stream::AgentStream;

impl Gateway for Shard {
    type Stream = AgentStream;

    fn public(&self, scheme: Scheme, host: &Host, port: u16) -> Option<Pool> {
        self.edge().routes.public(scheme, host, port).map(|(_, pool)| pool)
    }

    fn internal(&self, account: AccountId, url: &EndpointUrl) -> Option<Pool> {
        self.edge().routes.internal(account, url)
    }

    async fn returned(&self, account: Option<AccountId>, scheme: Scheme, host: &Host, port: u16) {
        self.edge().routes.returned(account, &[scheme], host, port).await;
    }

    fn http_challenge(&self, host: &Host, token: &str) -> Option<String> {
        self.edge().tables.load().challenges.http(host, token).map(str::to_owned)
    }

    fn admits(&self, account: AccountId, source: IpAddr) -> bool {
        self.edge().tables.load().restrictions.admit(account, IpRestrictionKind::Endpoints, source)
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        client: SocketAddr,
        server: SocketAddr,
        proto: Scheme,
    ) -> Result<AgentStream, OpenError> {
        let Kind::Agent(agent) = &endpoint.kind else { return Err(OpenError::NoAgent(endpoint.id)) };
        self.dialer().open(agent, Origin { client, server, proto, passthrough: false, instead: 0 }).await
    }

    async fn is_heard(&self, endpoint: &Endpoint) -> bool {
        match &endpoint.kind {
            Kind::Cloud => true,
            Kind::Agent(agent) => self.dialer().hears(&agent.session).await,
        }
    }

    fn note_answer(&self, endpoint: &Endpoint, answer: UpstreamAnswer) {
        let Kind::Agent(agent) = &endpoint.kind else { return };
        if agent.health.noted(answer, &self.edge().outliers) {
            self.edge().eject(endpoint, &agent.health);
        }
    }

    async fn silenced(&self, endpoint: &Endpoint) {
        match &endpoint.kind {
            Kind::Cloud => std::future::pending().await,
            Kind::Agent(agent) => {
                // A request on a pooled connection opened no stream that would be watched.
                self.dialer().watch(&agent.session);
                agent.session.liveness.silenced().await;
            }
        }
    }

    async fn keys(&self, account: AccountId, url: &str, fresh: bool) -> Result<Arc<KeySet>, String> {
        self.edge().keys.get(account, url, fresh).await
    }

    fn sessions(&self, account: AccountId) -> SessionFacts {
        let edge = self.edge();
        SessionFacts {
            account: account.to_string(),
            edge: edge.visitors.edge.clone(),
            ring: Arc::clone(&edge.tables.load().session_keys),
            entropy: random::bytes(),
            providers: Arc::clone(&edge.visitors.providers),
            ..SessionFacts::default()
        }
    }

    fn is_ended(&self, account: AccountId, session: AppSessionId) -> bool {
        let tables = self.edge().tables.load();
        tables.objects.ended_sessions.get(&session).is_some_and(|ended| ended.account == account)
    }

    fn note_session(&self, endpoint: &Endpoint, source: IpAddr, note: &SessionNote) {
        let account = endpoint.account;
        let told = match note.clone() {
            SessionNote::Began { session, user, who, provider, user_agent, started_at, expires_at } => {
                FromEdge::VisitorSession(Box::new(VisitorSessionReport {
                    account,
                    session,
                    user,
                    provider,
                    provider_user_id: who.provider_user_id,
                    email: who.email,
                    name: who.name,
                    url: endpoint.url.to_string(),
                    source: source.to_string(),
                    user_agent,
                    started_at,
                    expires_at,
                }))
            }
            SessionNote::Ended { session, expires_at } => {
                FromEdge::VisitorSessionEnded { account, session, expires_at }
            }
        };
        self.edge().reports.event(told);
    }

    async fn exchange(&self, account: AccountId, exchange: Arc<Exchange>) -> Result<Exchanged, String> {
        self.edge().exchanges.get(account, exchange).await
    }

    async fn call_external(
        &self,
        account: AccountId,
        url: Uri,
        request: Request<Bytes>,
        bytes_max: usize,
    ) -> Result<(IpAddr, Response<Bytes>), CallError> {
        match &self.edge().external_calls {
            Some(calls) => calls.call(account, url, request, bytes_max).await,
            None => Err(no_external_calls()),
        }
    }

    fn report_abuse(&self) -> Option<HeaderValue> {
        self.edge().external_calls.as_ref().map(|calls| calls.report_abuse().clone())
    }

    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration> {
        let url = endpoint.url.to_string();
        let wait = self.edge().rate_limits.count(endpoint.account, &url, quota, Instant::now());
        if wait.is_some() {
            self.edge().metrics.rate_limited.inc();
        }
        wait
    }

    fn has_core_rule_set(&self) -> bool {
        self.edge().waf.is_some()
    }

    async fn inspect(
        &self,
        account: AccountId,
        question: Question,
        body: Bytes,
    ) -> Result<Inspected, String> {
        match &self.edge().waf {
            Some(waf) => waf.inspect(account, question, body).await,
            None => Err(NO_RULES.to_owned()),
        }
    }

    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration> {
        let asked = self.edge().breakers.ask(endpoint, breaker, Instant::now());
        if asked.is_err() {
            self.edge().metrics.circuit_refusals.inc();
        }
        asked
    }

    fn guessed(&self, endpoint: &Endpoint, client: IpAddr, is_right: bool) -> Option<Duration> {
        let wait = self.edge().guesses.judge(endpoint, client, is_right, Instant::now());
        if wait.is_some() {
            self.edge().metrics.guesses_refused.inc();
        }
        wait
    }

    fn calls(&self) -> &Shares {
        &self.edge().calls
    }

    fn held(&self) -> &Shares {
        &self.edge().held
    }

    fn coders(&self) -> &Shares {
        &self.edge().coders
    }

    fn addresses(&self) -> Option<Arc<dyn AddressSource>> {
        let addresses = &self.edge().addresses;
        (!addresses.is_empty()).then(|| Arc::clone(addresses) as Arc<dyn AddressSource>)
    }

    fn now_unix_ms(&self) -> i64 {
        clock::unix_ms()
    }

    fn rng_seed(&self) -> u64 {
        random::number()
    }

    fn request_done(&self, mut event: RequestEvent) {
        self.edge().metrics.requests.get_or_create(&StatusLabel::of(event.status)).inc();
        self.edge().count_not_enforced(&event.not_enforced);
        log::shorten_policy_logs(&mut event.policy_logs);
        // A request that reached no endpoint is a stranger's, and there may be many.
        let source = event.endpoint.is_none().then(|| event.client.parse::<SocketAddr>().ok()).flatten();
        let has_line = source.is_none_or(|client| self.edge().refusal_has_line(client.ip()));
        if has_line && !log::request(&event) {
            self.edge().metrics.log_lines_lost.inc();
        }
        self.edge().reports.event(FromEdge::Request(Box::new(event)));
    }

    fn retried(&self, members: u64) {
        self.edge().metrics.retries.inc_by(members);
    }

    fn left_http(&self) -> Box<dyn Any> {
        Box::new(GaugeGuard::new(&self.edge().metrics.http_tunnels_open))
    }

    fn draining(&self) -> impl Future<Output = ()> + 'static {
        self.edge().reached(Stage::Draining)
    }

    fn leaving(&self) -> impl Future<Output = ()> + 'static {
        self.edge().reached(Stage::HandedOver)
    }

    fn is_leaving(&self) -> bool {
        self.edge().stage() > Stage::Serving
    }
}
