//! The access log of one request: what its event says at the beginning, and where it goes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::event::RequestEvent;
use ebbgate_policy::{Received, name_and_serial};
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, Version};

use super::body::{Direction, Progress};
use super::fields::ERROR_CODE;
use super::limits::Limits;
use super::told;
use crate::dispatch::event::{AccessLog, AccessSink, operation_id};
use crate::dispatch::gateway::{Gateway, HttpConn};
use crate::state::endpoint::InFlight;
use crate::state::shares::Share;

/// See the module.
pub(super) type RequestLog<G> = AccessLog<RequestSink<G>>;

/// Takes the event of a request: see [`AccessSink`].
pub(super) struct RequestSink<G: Gateway> {
    gateway: G,
    /// What has moved.
    pub(super) progress: Rc<Progress>,
    /// The request counts as work of these endpoints until its response is over.
    pub(super) in_flight: RefCell<Vec<InFlight>>,
    /// What is held for the request until it is over.
    held: RefCell<Vec<Share>>,
}

impl<G: Gateway> RequestSink<G> {
    /// The end of a body, if all of it has come.
    pub(super) fn received(&self, direction: Direction) -> Option<Arc<Received>> {
        let (ago, trailers) = self.progress.end(direction)?;
        let ago_ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        Some(Arc::new(Received { at_unix_ms: self.gateway.now_unix_ms().saturating_sub(ago_ms), trailers }))
    }

    /// Holds a share until the request is over.
    pub(super) fn hold(&self, share: Share) {
        self.held.borrow_mut().push(share);
    }
}

impl<G: Gateway> AccessSink for RequestSink<G> {
    type Event = RequestEvent;

    fn bytes(&self) -> (u64, u64) {
        (self.progress.bytes_in.get(), self.progress.bytes_out.get())
    }

    fn retried(&self, members: u64) {
        self.gateway.retried(members);
    }

    fn ends(&self) -> (Option<Arc<Received>>, Option<Arc<Received>>) {
        (self.received(Direction::In), self.received(Direction::Out))
    }

    fn write(&self, mut event: RequestEvent) {
        event.connection_reused = self.progress.reused.get();
        self.gateway.request_done(event);
    }
}

impl<G: Gateway> RequestLog<G> {
    /// A request, when its head has arrived.
    pub(super) fn begin(gateway: &G, conn: &HttpConn, limits: &Limits, head: &Parts, host: &str) -> Rc<Self> {
        let tls = conn.facts.tls.as_deref();
        let leaf = tls.and_then(|tls| tls.client_chain.first());
        let (client_cert_cn, client_cert_serial) = leaf.map(|der| name_and_serial(der)).unwrap_or_default();
        let now_unix_ms = gateway.now_unix_ms();
        let event = RequestEvent {
            client: conn.facts.client.to_string(),
            server: conn.facts.server.to_string(),
            server_name: tls.map(|tls| tls.sni.clone()).unwrap_or_default(),
            tls_version: tls.map(|tls| tls.version.clone()).unwrap_or_default(),
            method: head.method.to_string(),
            host: host.to_owned(),
            path: head.uri.path().to_owned(),
            version: match head.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            }
            .to_owned(),
            user_agent: told::value(&head.headers, &USER_AGENT).unwrap_or_default(),
            query: head.uri.query().map(told::query).unwrap_or_default(),
            request_headers: told::request_headers(&head.headers),
            cipher_suite: tls.map(|tls| tls.cipher_suite.clone()).unwrap_or_default(),
            ja4: tls.map(|tls| tls.ja4.clone()).unwrap_or_default(),
            client_cert_cn: told::short(client_cert_cn),
            client_cert_serial: told::short(client_cert_serial),
            started_at_ms: now_unix_ms,
            operation: operation_id(now_unix_ms, [gateway.rng_seed(), gateway.rng_seed()]),
            ..RequestEvent::default()
        };
        let progress = Progress::new(limits.idle);
        Rc::new(Self::new(
            event,
            RequestSink {
                gateway: gateway.clone(),
                progress,
                in_flight: RefCell::default(),
                held: RefCell::default(),
            },
        ))
    }

    /// It failed: what only the operator may know.
    pub(super) fn failed(&self, detail: &str) {
        detail.clone_into(&mut self.event_mut().detail);
    }

    /// The head of its response: the status, and the edge's own error if it carries one.
    pub(super) fn answered(&self, status: http::StatusCode, headers: &HeaderMap) {
        let mut event = self.event_mut();
        event.status = status.as_u16();
        event.response_headers = told::response_headers(headers);
        drop(event);
        self.coded(headers.get(ERROR_CODE).and_then(|code| code.to_str().ok()?.parse().ok()));
    }
}
