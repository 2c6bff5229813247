//! `AccessLog`: the one event of a connection or of a request, written when it is dropped: what is cut off has one too.
//!
//! Does not know where events go: an [`AccessSink`] takes them.

use std::cell::{Ref, RefCell, RefMut};
use std::sync::Arc;

use ebbgate_model::event::{ConnectionEvent, Decisions, NotEnforced, RequestEvent};
use ebbgate_model::{AccountId, EndpointId, ErrorCode, Ksuid, OperationId};
use ebbgate_policy::facts::LATE_LOGS_MAX;
use ebbgate_policy::{LateLog, Received};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::step::Trail;

/// Entries of `log` actions that one event keeps.
const LOGS_MAX: usize = 64;
/// Phases of policies that are not enforced, of which one event tells.
const NOT_ENFORCED_MAX: usize = 16;

/// See the module.
pub struct AccessLog<S: AccessSink> {
    event: RefCell<S::Event>,
    /// Entries of `log` actions that are made when the exchange is over.
    late: RefCell<Vec<LateLog>>,
    started: Instant,
    sink: S,
}

/// Where the event of a connection or a request goes.
pub trait AccessSink {
    /// The event.
    type Event: AccessEvent;

    /// Bytes from the client and to the client.
    fn bytes(&self) -> (u64, u64);

    /// Members of a pool were tried after another one failed.
    fn retried(&self, members: u64);

    /// The ends of the request's and the response's body, where all of it has come.
    fn ends(&self) -> (Option<Arc<Received>>, Option<Arc<Received>>) {
        (None, None)
    }

    /// The event is complete.
    fn write(&self, event: Self::Event);
}

/// What the events of connections and of requests have in common.
pub trait AccessEvent: Default {
    /// These fields.
    fn common(&mut self) -> Common<'_>;
}

/// See [`AccessEvent`]; the fields are documented in `ebbgate_model::event`.
#[expect(missing_docs, reason = "the fields of the events, which document them")]
pub struct Common<'a> {
    pub account: &'a mut Option<AccountId>,
    pub endpoint: &'a mut Option<EndpointId>,
    pub url: &'a mut String,
    pub forwarded_to: &'a mut String,
    pub duration_ms: &'a mut u64,
    pub bytes_in: &'a mut u64,
    pub bytes_out: &'a mut u64,
    pub error: &'a mut Option<ErrorCode>,
    pub policy_logs: &'a mut Vec<Value>,
    pub decisions: &'a mut Decisions,
    pub not_enforced: &'a mut Vec<NotEnforced>,
}

macro_rules! access_event {
    ($($event:ty),*) => {$(
        impl AccessEvent for $event {
            fn common(&mut self) -> Common<'_> {
                let Self { account, endpoint, url, forwarded_to, duration_ms, bytes_in, bytes_out, error, policy_logs, decisions, not_enforced, .. } = self;
                Common { account, endpoint, url, forwarded_to, duration_ms, bytes_in, bytes_out, error, policy_logs, decisions, not_enforced }
            }
        }
    )*};
}

access_event!(ConnectionEvent, RequestEvent);

/// A new operation's id, of the time and two random numbers.
pub fn operation_id(now_unix_ms: i64, [high, low]: [u64; 2]) -> String {
    let unix_secs = u64::try_from(now_unix_ms).unwrap_or_default() / 1_000;
    let entropy = (u128::from(high) << 64) | u128::from(low);
    OperationId::new(Ksuid::new(unix_secs, entropy.to_be_bytes())).to_string()
}

impl<S: AccessSink> AccessLog<S> {
    /// One that began now, with what is known of it.
    pub fn new(event: S::Event, sink: S) -> Self {
        Self { event: RefCell::new(event), late: RefCell::default(), started: Instant::now(), sink }
    }

    /// Where it goes.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// The event so far.
    pub fn event(&self) -> Ref<'_, S::Event> {
        self.event.borrow()
    }

    /// The event so far, to be changed.
    pub fn event_mut(&self) -> RefMut<'_, S::Event> {
        self.event.borrow_mut()
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes over what a dispatch has done.
    pub fn follow(&self, trail: Trail) {
        if trail.is_empty() {
            return;
        }
        let mut event = self.event.borrow_mut();
        let common = event.common();
        if let Some(endpoint) = trail.reached {
            *common.account = Some(endpoint.account);
            *common.endpoint = Some(endpoint.id);
            *common.url = endpoint.url.to_string();
        }
        if let Some(endpoint) = trail.forwarded_to {
            *common.forwarded_to = endpoint.url.to_string();
        }
        common.decisions.merge(trail.decisions);
        let room = LOGS_MAX.saturating_sub(common.policy_logs.len());
        common.policy_logs.extend(trail.logs.into_iter().take(room));
        let mut late = self.late.borrow_mut();
        let room = LATE_LOGS_MAX.saturating_sub(late.len());
        late.extend(trail.late_logs.into_iter().take(room));
        let room = NOT_ENFORCED_MAX.saturating_sub(common.not_enforced.len());
        common.not_enforced.extend(trail.not_enforced.into_iter().take(room));
        if trail.retries > 0 {
            self.sink.retried(trail.retries);
        }
    }

    /// Notes the code it ends with.
    pub fn coded(&self, code: Option<ErrorCode>) {
        *self.event.borrow_mut().common().error = code;
    }
}

impl<S: AccessSink> Drop for AccessLog<S> {
    fn drop(&mut self) {
        let mut event = self.event.take();
        let common = event.common();
        *common.duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        (*common.bytes_in, *common.bytes_out) = self.sink.bytes();
        let late = self.late.take();
        if !late.is_empty() {
            let (request, response) = self.sink.ends();
            let room = LOGS_MAX.saturating_sub(common.policy_logs.len());
            let entries = late.into_iter().map(|late| late.entry(request.clone(), response.clone()));
            common.policy_logs.extend(entries.take(room));
        }
        self.sink.write(event);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::state::endpoint::fixture;

    #[derive(Clone, Default)]
    struct Sink(Rc<RefCell<Vec<RequestEvent>>>);

    impl AccessSink for Sink {
        type Event = RequestEvent;

        fn bytes(&self) -> (u64, u64) {
            (3, 4)
        }

        fn retried(&self, _: u64) {}

        fn write(&self, event: RequestEvent) {
            self.0.borrow_mut().push(event);
        }
    }

    #[test]
    fn what_is_cut_off_has_an_event_with_what_was_known() {
        let sink = Sink::default();
        let log = AccessLog::new(RequestEvent { status: 1, ..RequestEvent::default() }, sink.clone());
        let (public, internal) =
            (fixture::cloud(1, "http://a.example.com"), fixture::cloud(2, "http://b.internal"));
        let logs = vec![Value::from(1); LOGS_MAX];
        log.follow(Trail { reached: Some(public.clone()), logs, ..Trail::default() });
        log.follow(Trail {
            forwarded_to: Some(internal.clone()),
            logs: vec![Value::from(2)],
            ..Trail::default()
        });
        drop(log);
        let event = sink.0.borrow_mut().pop().unwrap();
        assert_eq!((event.account, event.endpoint), (Some(public.account), Some(public.id)));
        assert_eq!((event.url, event.forwarded_to), (public.url.to_string(), internal.url.to_string()));
        assert_eq!((event.bytes_in, event.bytes_out, event.status), (3, 4, 1));
        assert_eq!(event.policy_logs, vec![Value::from(1); LOGS_MAX]);
    }
}
