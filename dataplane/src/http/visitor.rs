//! `Visitor`: one connection's requests, each walked from the public endpoint through the policies to an upstream and
//! back.
//!
//! Does not know HTTP/1 or HTTP/2: it is given heads and bodies, and gives back the same.

mod policy;
mod walk;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;
use std::sync::Arc;

use ebbgate_model::EndpointId;
use ebbgate_policy::{Engine, Phase};
use http::header::UPGRADE;
use http::{Request, Response};

use super::answer::{Failure, takes_html};
use super::body::{Body, Direction};
use super::fields;
use super::framing::Authority;
use super::limits::Limits;
use super::pace::Leisure;
use super::record::Record;
use super::reply::{framed, may_switch_to};
use super::upstream::{Lender, Upstreams};
use crate::gateway::{Gateway, HttpConn};

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
    pub(super) fn new(gateway: G, conn: HttpConn, limits: Rc<Limits>) -> Self {
        let guarded = conn.first_endpoint.as_ref().and_then(|first| {
            let engine = first.engine.clone().filter(|engine| engine.has(Phase::TcpConnect))?;
            Some((first.id, engine))
        });
        Self {
            gateway,
            conn,
            upstreams: Upstreams::new(limits.clone()),
            limits,
            admitted: RefCell::new(guarded.into_iter().collect()),
        }
    }

    /// The connection's limits.
    pub(super) fn limits(&self) -> &Rc<Limits> {
        &self.limits
    }

    /// The gateway.
    pub(super) fn gateway(&self) -> &G {
        &self.gateway
    }

    /// Answers one request. Its head has passed the framer or its HTTP/2 twin and has a Host header; `upgrade` says that
    /// it may leave HTTP, `leisure` is its body's.
    pub(super) async fn answer(
        &self,
        request: Request<Body>,
        authority: &Authority,
        upgrade: bool,
        leisure: &Leisure,
    ) -> Answer<G> {
        let (mut head, body) = request.into_parts();
        let record = Record::new(&self.gateway, &self.conn, &self.limits, &head, authority.host.as_str());
        let upgrade =
            head.headers.get(UPGRADE).cloned().filter(|protocol| upgrade && may_switch_to(protocol));
        fields::strip_hop_by_hop(&mut head.headers);
        head.extensions = http::Extensions::new();
        let (method, html) = (head.method.clone(), takes_html(&head.headers));
        let body = Lender::new(body.counted(record.progress.clone(), Direction::In)).at(leisure);
        let answer = match self.walk(head, authority, upgrade, &body, &record).await {
            Ok(answer) => answer,
            Err(Stop::Close) => return Answer::Close,
            Err(Stop::Failure(failure)) => Answer::Response(failure.answer(html)),
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
}
