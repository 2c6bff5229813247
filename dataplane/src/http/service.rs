//! `HttpService`: one connection's requests, each taken from the public endpoint through the policies to an upstream and back.
//!
//! Does not know HTTP/1 or HTTP/2: it is given heads and bodies, and gives back the same.

mod calls;
mod requests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use std::sync::Arc;

use ebbgate_model::{EndpointId, ErrorCode};
use ebbgate_policy::{Engine, Phase};
use http::header::UPGRADE;
use http::{Request, Response};

use super::access_log::RequestLog;
use super::answer::{Failed, Failure, Form};
use super::body::{Body, Direction};
use super::exchange::Exchange;
use super::fields;
use super::framing::Authority;
use super::limits::Limits;
use super::min_rate::SlowAllowance;
use super::reply::{framed, may_switch_to};
use super::upstream::{ReplayBody, UpstreamPools, Upstreams};
use crate::dispatch::gateway::{Gateway, HttpConn};
use crate::dispatch::inspect::HopByHop;

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
    /// The log of the request that led here.
    pub(super) log: Rc<RequestLog<G>>,
}

/// See the module.
pub(super) struct HttpService<G: Gateway> {
    gateway: G,
    conn: HttpConn,
    limits: Rc<Limits>,
    upstreams: Upstreams,
    /// Endpoints with a connection policy that has let this connection in, and that policy, latest first.
    entered: RefCell<Vec<(EndpointId, Arc<Engine>)>>,
}

/// Why a request has no response.
enum Stop {
    /// This is told instead.
    Failure(Failure),
    /// The connection is closed without a word; the log says why.
    Close { code: Option<ErrorCode>, detail: String },
}

impl<G: Gateway> HttpService<G> {
    /// A connection after its TLS, if it has any.
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
            entered: RefCell::new(guarded.into_iter().collect()),
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
        let host = authority.host.as_str();
        let log = RequestLog::begin(&self.gateway, &self.conn, &self.limits, &head, host);
        let form = Form::asked(&head.headers);
        let upgrade =
            head.headers.get(UPGRADE).cloned().filter(|protocol| upgrade && may_switch_to(protocol));
        let hop_by_hop = self.gateway.has_core_rule_set().then(|| fields::hop_by_hop(&head.headers));
        fields::strip_hop_by_hop(&mut head.headers);
        fields::strip_origin(&mut head.headers);
        head.extensions = http::Extensions::new();
        if let Some(fields) = hop_by_hop {
            head.extensions.insert(HopByHop(fields.into()));
        }
        let method = head.method.clone();
        let progress = &log.sink().progress;
        let body = ReplayBody::new(body.counted(progress.clone(), Direction::In)).of(exchange);
        let answer = match self.dispatch(head, authority, upgrade, &body, form, &log).await {
            Ok(answer) => answer,
            Err(Stop::Close { code, detail }) => {
                log.coded(code);
                log.failed(&detail);
                return Answer::Close;
            }
            Err(Stop::Failure(failure)) => Answer::Response(self.failed(&failure, authority, form, &log)),
        };
        match answer {
            Answer::Response(response) => {
                log.answered(response.status(), response.headers());
                let response = framed(response, &method);
                let progress = progress.clone();
                Answer::Response(response.map(|body| body.counted(progress, Direction::Out).guarded(log)))
            }
            answer => answer,
        }
    }

    /// What the visitor learns of a failure: the public URL and an id, by which the operator finds the rest in the log.
    fn failed(
        &self,
        failure: &Failure,
        authority: &Authority,
        form: Form,
        log: &RequestLog<G>,
    ) -> Response<Body> {
        let operation = log.event().operation.clone();
        log.failed(failure.detail());
        let url = format!("{}://{}", self.conn.scheme.as_str(), authority.host);
        failure.answer(form, Some(Failed { url: &url, operation: &operation }))
    }
}
