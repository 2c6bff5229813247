//! `Visitor`: one connection's requests, each walked from the public endpoint through the policies to an upstream and
//! back.
//!
//! Does not know HTTP/1 or HTTP/2: it is given heads and bodies, and gives back the same.

mod policy;
mod walk;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use std::sync::Arc;

use ebbgate_model::{EndpointId, Ksuid};
use ebbgate_policy::{Engine, Phase};
use http::header::UPGRADE;
use http::{Request, Response};

use super::answer::{Failed, Failure};
use super::body::{Body, Direction};
use super::exchange::Exchange;
use super::fields;
use super::framing::Authority;
use super::limits::Limits;
use super::min_rate::SlowAllowance;
use super::record::Record;
use super::reply::{framed, may_switch_to};
use super::upstream::{ReplayBody, UpstreamPools, Upstreams};
use crate::dispatch::gateway::{Gateway, HttpConn};

/// How long before an exchange is idle a stalled visitor is told so.
const BEFORE_IDLE: Duration = Duration::from_secs(1);

/// What a request comes to.
pub(super) enum Answer<G: Gateway> {
    /// A response.
    Response(Response<Body>),
    /// The 101, and the upstream the connection now belongs to.
    Switched(Response<Body>, Tunnel<G>),
    /// Drop the connection without a word.
    Close,
}

/// An upstream that left HTTP.
pub(super) struct Tunnel<G: Gateway> {
    /// Its stream.
    pub(super) stream: G::Stream,
    /// What was read from it already.
    pub(super) read: BytesMut,
    /// The event of the request that led here.
    pub(super) record: Rc<Record<G>>,
}

/// See the module.
pub(super) struct Visitor<G: Gateway> {
    gateway: G,
    conn: HttpConn,
    limits: Rc<Limits>,
    upstreams: Upstreams,
    /// Endpoints whose connection rules let this connection in, and the policy that said so, latest first.
    admitted: RefCell<Vec<(EndpointId, Arc<Engine>)>>,
}

/// Why a walk is over without an upstream.
enum Stop {
    Failure(Failure),
    Close,
}

impl<G: Gateway> Visitor<G> {
    /// A connection whose TLS (if any) is done.
    pub(super) fn new(gateway: G, pools: UpstreamPools, conn: HttpConn, limits: Rc<Limits>) -> Self {
        let guarded = conn.first_endpoint.as_ref().and_then(|first| {
            let engine = first.engine.clone().filter(|engine| engine.has(Phase::TcpConnect))?;
            Some((first.id, engine))
        });
        Self {
            gateway,
            conn,
            upstreams: Upstreams::new(pools, limits.clone()),
            limits,
            admitted: RefCell::new(guarded.into_iter().collect()),
        }
    }

    /// The connection's limits.
    pub(super) fn limits(&self) -> &Rc<Limits> {
        &self.limits
    }

    /// How long its slowness is borne with: nearly as long as an exchange may rest, so that the cause is told by its name.
    pub(super) fn patience(&self) -> Rc<SlowAllowance> {
        let window = self.limits.idle.saturating_sub(BEFORE_IDLE);
        SlowAllowance::new(window, &self.limits.slow, self.conn.facts.client.ip())
    }

    /// The gateway.
    pub(super) fn gateway(&self) -> &G {
        &self.gateway
    }

    /// Answers one request. Its head has passed the codec or its HTTP/2 twin and has a Host header; `upgrade` says that
    /// it may leave HTTP.
    pub(super) async fn answer(
        &self,
        request: Request<Body>,
        authority: &Authority,
        upgrade: bool,
        exchange: &Exchange,
    ) -> Answer<G> {
        let (mut head, body) = request.into_parts();
        let record = Record::new(&self.gateway, &self.conn, &self.limits, &head, authority.host.as_str());
        let upgrade =
            head.headers.get(UPGRADE).cloned().filter(|protocol| upgrade && may_switch_to(protocol));
        fields::strip_hop_by_hop(&mut head.headers);
        fields::strip_origin(&mut head.headers);
        head.extensions = http::Extensions::new();
        let method = head.method.clone();
        let body = ReplayBody::new(body.counted(record.progress.clone(), Direction::In)).of(exchange);
        let answer = match self.walk(head, authority, upgrade, &body, &record).await {
            Ok(answer) => answer,
            Err(Stop::Close) => return Answer::Close,
            Err(Stop::Failure(failure)) => Answer::Response(self.failed(&failure, authority, &record)),
        };
        match answer {
            Answer::Response(response) => {
                record.answered(response.status());
                record.coded(response.headers());
                let response = framed(response, &method);
                let progress = record.progress.clone();
                Answer::Response(response.map(|body| body.counted(progress, Direction::Out).guarded(record)))
            }
            answer => answer,
        }
    }

    /// What the visitor learns of a failure: the public URL and an id, by which the operator finds the rest in the log.
    fn failed(&self, failure: &Failure, authority: &Authority, record: &Record<G>) -> Response<Body> {
        let operation = self.operation_id();
        record.failed(&operation, failure.detail());
        let url = format!("{}://{}", self.conn.scheme.as_str(), authority.host);
        failure.answer(record.form(), Some(Failed { url: &url, operation: &operation }))
    }

    fn operation_id(&self) -> String {
        let unix_secs = u64::try_from(self.gateway.now_unix_ms()).unwrap_or_default() / 1_000;
        let entropy = (u128::from(self.gateway.rng_seed()) << 64) | u128::from(self.gateway.rng_seed());
        format!("op_{}", Ksuid::new(unix_secs, entropy.to_be_bytes()))
    }
}
