//! `Record`: the one event of a request, handed to the gateway when the request is over, however it ends.

use std::cell::RefCell;
use std::rc::Rc;

use ebbgate_model::event::RequestEvent;
use http::request::Parts;
use http::{HeaderMap, Version};
use tokio::time::Instant;

use super::answer::Form;
use super::body::Progress;
use super::fields::ERROR_CODE;
use super::limits::Limits;
use crate::dispatch::gateway::{Gateway, HttpConn};
use crate::state::endpoint::Endpoint;

/// Log entries of policies one event carries.
const LOGS_MAX: usize = 64;

/// See the module. Emits on drop.
pub(super) struct Record<G: Gateway> {
    gateway: G,
    event: RefCell<RequestEvent>,
    started: Instant,
    form: Form,
    /// What has moved.
    pub(super) progress: Rc<Progress>,
}

impl<G: Gateway> Record<G> {
    /// A request whose head has arrived.
    pub(super) fn new(gateway: &G, conn: &HttpConn, limits: &Limits, head: &Parts, host: &str) -> Rc<Self> {
        let event = RequestEvent {
            client: conn.facts.client.to_string(),
            method: head.method.to_string(),
            host: host.to_owned(),
            path: head.uri.path().to_owned(),
            version: match head.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            }
            .to_owned(),
            started_at_ms: gateway.now_unix_ms(),
            ..RequestEvent::default()
        };
        Rc::new(Self {
            gateway: gateway.clone(),
            event: RefCell::new(event),
            form: Form::asked(&head.headers),
            started: Instant::now(),
            progress: Progress::new(limits.idle),
        })
    }

    /// The form of answers that the edge makes to it.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// It failed: what the visitor was told to name, and what only the operator may know.
    pub(super) fn failed(&self, operation: &str, detail: &str) {
        let mut event = self.event.borrow_mut();
        operation.clone_into(&mut event.operation);
        detail.clone_into(&mut event.detail);
    }

    /// The public endpoint it reached.
    pub(super) fn reached(&self, endpoint: &Endpoint) {
        let mut event = self.event.borrow_mut();
        event.account = Some(endpoint.account);
        event.endpoint = Some(endpoint.id);
        event.url = endpoint.url.to_string();
    }

    /// The internal endpoint it was forwarded to.
    pub(super) fn forwarded(&self, endpoint: &Endpoint) {
        self.event.borrow_mut().forwarded_to = endpoint.url.to_string();
    }

    /// What policies logged.
    pub(super) fn logged(&self, logs: Vec<serde_json::Value>) {
        let mut event = self.event.borrow_mut();
        let room = LOGS_MAX.saturating_sub(event.policy_logs.len());
        event.policy_logs.extend(logs.into_iter().take(room));
    }

    /// The status it is answered with.
    pub(super) fn answered(&self, status: http::StatusCode) {
        self.event.borrow_mut().status = status.as_u16();
    }

    /// The edge's own error, if the answer carries one.
    pub(super) fn coded(&self, headers: &HeaderMap) {
        let code = headers.get(ERROR_CODE).and_then(|code| code.to_str().ok()?.parse().ok());
        self.event.borrow_mut().error = code;
    }
}

impl<G: Gateway> Drop for Record<G> {
    fn drop(&mut self) {
        let mut event = self.event.take();
        event.duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        event.bytes_in = self.progress.bytes_in.get();
        event.bytes_out = self.progress.bytes_out.get();
        self.gateway.request_done(event);
    }
}
