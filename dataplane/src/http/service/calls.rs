//! Requests that policies make (`http-request`): each goes to an internal endpoint of the policy's account, through that
//! endpoint's own policy, on behalf of the visitor whose request it serves.
//!
//! They are bounded in depth and number by [`Dispatch::aside`], in time by the policy, in size here, and in how many of an
//! account are on their way. One that is given up is dropped with everything behind it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
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
use crate::http::body::{Body, NotBuffered};
use crate::http::upstream::ReplayBody;
use crate::http::{edited, fields};

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
        gateway.returned(Some(account), call.url.scheme(), call.url.host(), call.url.port()).await;
        let pool = gateway.internal(account, &call.url).filter(|pool| !pool.members().is_empty());
        let pool =
            pool.ok_or_else(|| error(ErrorCode::OFFLINE, format!("the endpoint {} is offline", call.url)))?;
        let random = [gateway.rng_seed(), gateway.rng_seed()];
        let operation = operation_id(gateway.now_unix_ms(), random);
        let head = head(call, &operation)?;
        let host = call.host();
        let head = Arc::new(head);
        let inner = outer.aside(Arc::clone(&head), pool).map_err(|why| error(LOOP, why.to_string()))?;
        let log = RequestLog::begin(gateway, &self.conn, &self.limits, &head, &host);
        log.event_mut().operation = operation;
        let body = ReplayBody::new(Body::full(call.body.clone()));
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
        self.taken(response, account, call.answer_bytes_max, &log).await
    }

    /// Reads all of an answer, without its codings.
    async fn taken(
        &self,
        response: Response<Body>,
        account: AccountId,
        bytes_max: usize,
        log: &Rc<RequestLog<G>>,
    ) -> Result<CallAnswer, CallError> {
        let (parts, body) = response.into_parts();
        let values = parts.headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
        let codings = codings_of(values).map_err(|e| error(ErrorCode::UPSTREAM_PROTOCOL, e.to_string()))?;
        let decoded = Edits::of(codings).decoded();
        let keep = |share| log.sink().hold(share);
        let room = self.room(account, &keep);
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
            log.sink().hold(held);
        }
        Ok(CallAnswer { status: parts.status, headers: parts.headers, body })
    }
}

/// The head of a call, with the id of its operation.
fn head(call: &Call, operation: &str) -> Result<http::request::Parts, CallError> {
    let uri = Uri::from(call.path.clone());
    let request = Request::builder().method(call.method.clone()).uri(uri).body(());
    let request = request.map_err(|e| error(ErrorCode::UPSTREAM_PROTOCOL, e.to_string()))?;
    let (mut head, ()) = request.into_parts();
    head.headers.clone_from(&call.headers);
    let host = || HeaderValue::try_from(call.host());
    if !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, host().map_err(|e| error(ErrorCode::UPSTREAM_PROTOCOL, e.to_string()))?);
    }
    head.headers.insert(USER_AGENT, AGENT);
    head.headers.insert(fields::CALL_TYPE, TYPE);
    if let Ok(id) = HeaderValue::try_from(operation) {
        head.headers.insert(fields::CALL_ID, id);
    }
    Ok(head)
}
