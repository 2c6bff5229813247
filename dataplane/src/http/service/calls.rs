//! Requests that policies make (`http-request`): each goes to an internal endpoint of the policy's account, through that
//! endpoint's own policy, on behalf of the visitor that sent it; or to a host of the internet.
//!
//! They are bounded in depth and number by [`Dispatch::aside`], in time by the policy, in size here, and in how many of an
//! account are on their way. One that is given up is dropped with everything behind it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ebbgate_body::{Edits, codings_of};
use ebbgate_model::{AccountId, ErrorCode};
use ebbgate_policy::{Call, CallAnswer, CallError, Called};
use http::header::{CONTENT_ENCODING, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, HttpService, Stop};
use crate::dispatch::event::operation_id;
use crate::dispatch::gateway::Gateway;
use crate::dispatch::{Dispatch, Failure};
use crate::http::access_log::RequestLog;
use crate::http::answer::Form;
use crate::http::body::{Body, Direction, NotBuffered};
use crate::http::upstream::ReplayBody;
use crate::http::{edited, fields};
use crate::state::shares::Share;

/// The answer is longer than a policy takes.
const TOO_LONG: ErrorCode = ErrorCode::new(3601);
/// No answer in time.
const LATE: ErrorCode = ErrorCode::new(3602);
/// Policies call each other too deep, or too often.
const LOOP: ErrorCode = ErrorCode::new(3603);

/// What says that a policy asks, and not a visitor.
const TYPE: HeaderValue = HeaderValue::from_static("http-request");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("ebbgate-edge/", env!("CARGO_PKG_VERSION")));

fn error(code: ErrorCode, message: impl Into<String>) -> CallError {
    CallError { code, message: message.into() }
}

impl From<Failure> for CallError {
    /// The operator's policy may know what the operator may.
    fn from(failure: Failure) -> Self {
        error(failure.code.unwrap_or(ErrorCode::UPSTREAM_UNREACHABLE), failure.detail())
    }
}

impl<G: Gateway> HttpService<G> {
    /// Makes a request for a policy of this dispatch.
    pub(super) async fn call(&self, outer: &Dispatch, account: AccountId, call: &Call) -> Called {
        let began = Instant::now();
        let made = async {
            sleep(call.after).await;
            self.called(outer, account, call).await
        };
        let answer = timeout(call.timeout, made).await;
        let answer = answer.unwrap_or_else(|_| Err(error(LATE, "no answer in time")));
        Called { took: began.elapsed(), answer }
    }

    async fn called(
        &self,
        outer: &Dispatch,
        account: AccountId,
        call: &Call,
    ) -> Result<CallAnswer, CallError> {
        let gateway = &self.gateway;
        let Some(_one) = gateway.calls().take(account, 1) else {
            return Err(error(LATE, "policies of this account wait for as many answers as they may"));
        };
        if call.is_external() {
            return self.called_outside(outer, account, call).await;
        }
        gateway.returned(Some(account), call.url.scheme(), call.url.host(), call.url.port()).await;
        let pool = gateway.internal(account, &call.url).filter(|pool| !pool.members().is_empty());
        let pool =
            pool.ok_or_else(|| error(ErrorCode::OFFLINE, format!("the endpoint {} is offline", call.url)))?;
        let operation = self.operation_id();
        let head = self.head(call, &operation)?;
        let host = call.host();
        let head = Arc::new(head);
        let inner = outer.aside(Arc::clone(&head), pool).map_err(|why| error(LOOP, why.to_string()))?;
        let log = RequestLog::begin(gateway, &self.conn, &self.limits, &head, &host);
        log.event_mut().operation = operation;
        let body = ReplayBody::new(Body::full(call.body.clone()));
        log.sink().progress.ended(Direction::In, http::HeaderMap::new());
        // A policy behind it may call on: the future would hold itself.
        let answer: Pin<Box<dyn Future<Output = Result<Answer<G>, Stop>> + '_>> =
            Box::pin(self.carry_out(inner, None, &body, Form::Text, &log));
        let response = match answer.await {
            Ok(Answer::Response(response)) => response,
            Ok(Answer::Switched(..) | Answer::Close) => {
                return Err(error(ErrorCode::UPSTREAM_PROTOCOL, "it left HTTP"));
            }
            Err(Stop::Failure(failure)) => {
                log.event_mut().status = failure.status.as_u16();
                log.coded(failure.code);
                log.failed(failure.detail());
                return Err(failure.into());
            }
            Err(Stop::Close { code, detail }) => {
                log.coded(code);
                log.failed(&detail);
                return Err(error(code.unwrap_or(ErrorCode::UPSTREAM_UNREACHABLE), detail));
            }
        };
        log.answered(response.status(), response.headers());
        let keep = |share| log.sink().hold(share);
        self.taken(response, account, call.answer_bytes_max, &keep).await
    }

    async fn called_outside(
        &self,
        outer: &Dispatch,
        account: AccountId,
        call: &Call,
    ) -> Result<CallAnswer, CallError> {
        outer.outside().map_err(|why| error(LOOP, why.to_string()))?;
        let url = call.url.to_string().parse::<Uri>();
        let url = url.map_err(|e| error(ErrorCode::UPSTREAM_PROTOCOL, e.to_string()))?;
        let mut head = self.head(call, &self.operation_id())?;
        fields::strip_hop_by_hop(&mut head.headers);
        fields::add_client(&mut head.headers, self.conn.facts.client.ip());
        let request = Request::from_parts(head, call.body.clone());
        let answered = self.gateway.call_external(account, url, request, call.answer_bytes_max).await?;
        let (address, response) = answered;
        // Held until the answer is decoded.
        let kept = RefCell::new(Vec::new());
        let keep = |share| kept.borrow_mut().push(share);
        let answer = self.taken(response.map(Body::full), account, call.answer_bytes_max, &keep).await?;
        Ok(CallAnswer { resolved_ip: Some(address.to_canonical()), ..answer })
    }

    fn operation_id(&self) -> String {
        operation_id(self.gateway.now_unix_ms(), [self.gateway.rng_seed(), self.gateway.rng_seed()])
    }

    /// The head of a call, with the id of its operation.
    fn head(&self, call: &Call, operation: &str) -> Result<http::request::Parts, CallError> {
        let uri = Uri::from(call.path.clone());
        let request = Request::builder().method(call.method.clone()).uri(uri).body(());
        let request = request.map_err(|e| error(ErrorCode::UPSTREAM_PROTOCOL, e.to_string()))?;
        let (mut head, ()) = request.into_parts();
        head.headers.clone_from(&call.headers);
        let host = || HeaderValue::try_from(call.host());
        if !head.headers.contains_key(HOST) {
            head.headers
                .insert(HOST, host().map_err(|e| error(ErrorCode::UPSTREAM_PROTOCOL, e.to_string()))?);
        }
        head.headers.insert(USER_AGENT, AGENT);
        head.headers.insert(fields::CALL_TYPE, TYPE);
        if let Some(url) = self.gateway.report_abuse() {
            head.headers.insert(fields::REPORT_ABUSE, url);
        }
        if let Ok(id) = HeaderValue::try_from(operation) {
            head.headers.insert(fields::CALL_ID, id);
        }
        Ok(head)
    }

    /// Reads all of an answer, without its codings.
    async fn taken(
        &self,
        response: Response<Body>,
        account: AccountId,
        bytes_max: usize,
        keep: &dyn Fn(Share),
    ) -> Result<CallAnswer, CallError> {
        let (parts, body) = response.into_parts();
        let values = parts.headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
        let codings = codings_of(values).map_err(|e| error(ErrorCode::UPSTREAM_PROTOCOL, e.to_string()))?;
        let decoded = Edits::of(codings).decoded();
        let room = self.room(account, keep);
        let mut body = edited::edited(body, &decoded, &room).await.map_err(CallError::from)?;
        let mut held = self.gateway.held().take(account, 0);
        let read =
            body.buffer_within(bytes_max, |more| held.as_mut().is_some_and(|held| held.grow(more))).await;
        let body = read.map_err(|why| match why {
            NotBuffered::TooLong => error(TOO_LONG, format!("the answer is longer than {bytes_max} bytes")),
            NotBuffered::NoRoom => Failure::no_room().into(),
            NotBuffered::Broken(fault) => error(ErrorCode::UPSTREAM_RESET, fault.to_string()),
        })?;
        if let Some(held) = held {
            keep(held);
        }
        Ok(CallAnswer { status: parts.status, headers: parts.headers, body, resolved_ip: None })
    }
}
