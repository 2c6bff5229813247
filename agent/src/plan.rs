//! `Plan`: what a session wants next, sans-IO. It remembers the client id and the cookie that the edge gave, every
//! endpoint with its bind id and token, and when to try again. Time is a `Duration` since some start, randomness an
//! argument, so that every path is a unit test.
//!
//! It opens nothing and sends nothing; `session` does as it says.

use std::collections::BTreeMap;
use std::time::Duration;

use ebbgate_model::{EndpointUrl, ErrorCode};
use ebbgate_wire::rpc::{Auth, AuthExtra, AuthReply, Bind, BindReply, Secret, error_code};

use crate::backoff::{Backoff, Reconnect};

/// A session that lasted this long counts as a success: the next reconnect is quick again. In seconds.
pub const STABLE_SECS: u64 = 1;
/// Wait before an endpoint that somebody has to allow first is tried again, in seconds.
pub const REFUSED_RETRY_SECS: u64 = 60;
/// Binds asked for at once; fewer than the edge serves at once.
pub const BINDS_AT_ONCE: usize = 16;

/// An endpoint of this session, by a number of the caller's; never reused.
pub type Key = u64;

/// What to do when the edge refuses an endpoint that was never online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Drop it: somebody is waiting for the answer.
    UntilRefused,
    /// Try again later.
    Forever,
}

/// The edge said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", code.map(|code| format!(" ({code})")).unwrap_or_default())]
pub struct Refusal {
    /// What it said, without the code.
    pub message: String,
    /// The published code, when it gave one.
    pub code: Option<ErrorCode>,
}

impl Refusal {
    /// Reads an error text as the protocol writes it: words, then a line with the code.
    pub fn from_text(text: &str) -> Self {
        let words: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("ERR_NGROK_"))
            .collect();
        Self { message: words.join(" "), code: error_code(text).map(ErrorCode::new) }
    }

    /// Whether nothing but a person can change the answer: tokens, access rules, names, policies.
    pub fn is_permanent(&self) -> bool {
        let Some(code) = self.code else { return false };
        [
            ErrorCode::AUTHTOKEN_MALFORMED,
            ErrorCode::AUTHTOKEN_INVALID,
            ErrorCode::CREDENTIAL_REVOKED,
            ErrorCode::ACL_ADDRESS,
            ErrorCode::ACL_NAME,
            ErrorCode::ACL_RANDOM_ADDRESS,
            ErrorCode::ACL_LABEL,
        ]
        .contains(&code)
            || matches!(code.number(), 100 | 106 | 2200..=2300 | 9028..=9043 | 18_000..=18_023)
    }
}

/// What became of a bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindOutcome {
    /// Served at this URL.
    Online(EndpointUrl),
    /// Refused for now; tried again after the wait.
    Retry(Refusal, Duration),
    /// Refused, and forgotten.
    Dropped(Refusal),
    /// Was removed meanwhile: unbind what the edge just bound.
    Unwanted(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be bound, not before this time.
    Due(Duration),
    /// Asked for.
    Binding,
    /// Served.
    Online,
}

#[derive(Debug)]
struct Endpoint {
    bind: Bind,
    retry: RetryPolicy,
    state: State,
    backoff: Backoff,
    was_online: bool,
}

/// The memory of one agent session over any number of connections.
#[derive(Debug)]
pub struct Plan {
    hello: AuthExtra,
    client_id: String,
    cookie: Secret,
    online_since: Option<Duration>,
    was_online: bool,
    /// Of refused sessions.
    backoff: Backoff,
    reconnect: Reconnect,
    endpoints: BTreeMap<Key, Endpoint>,
}

impl Plan {
    /// A new session that says `hello` (token, metadata, abilities) each time it connects.
    pub fn new(hello: AuthExtra) -> Self {
        Self {
            hello,
            client_id: String::new(),
            cookie: Secret::default(),
            online_since: None,
            was_online: false,
            backoff: Backoff::default(),
            reconnect: Reconnect::default(),
            endpoints: BTreeMap::new(),
        }
    }

    /// The Auth message of the next connection; the old id and cookie take over a session that lingers at the edge.
    pub fn auth(&self) -> Auth {
        Auth {
            versions: vec!["3".into(), "2".into()],
            client_id: self.client_id.clone(),
            extra: AuthExtra { cookie: self.cookie.clone(), ..self.hello.clone() },
        }
    }

    /// Takes the edge's answer; on success every endpoint is due.
    pub fn authenticated(&mut self, now: Duration, reply: &AuthReply) -> Result<(), Refusal> {
        if !reply.error.is_empty() {
            return Err(Refusal::from_text(&reply.error));
        }
        let stranger = reply.client_id != self.client_id;
        self.client_id.clone_from(&reply.client_id);
        self.cookie = reply.extra.cookie.clone();
        self.online_since = Some(now);
        self.was_online = true;
        for endpoint in self.endpoints.values_mut() {
            endpoint.state = State::Due(now);
            if stranger {
                // The edge forgot us, so ids and tokens of the old session mean nothing; the URL asked for stays.
                endpoint.bind.id.clear();
                endpoint.bind.extra.token = Secret::default();
            }
        }
        Ok(())
    }

    /// The session stays where it is, and the next one is another: it must not take this one over.
    pub fn part(&mut self) {
        self.client_id.clear();
        self.cookie = Secret::default();
    }

    /// Whether any connection ever got past Auth.
    pub fn was_online(&self) -> bool {
        self.was_online
    }

    /// The connection ended, or none came about after `took`: how long to wait before the next.
    pub fn lost(&mut self, now: Duration, took: Duration, random: u32) -> Duration {
        // The time a session lasted is no part of an attempt.
        let took = if self.online_since.is_some() { Duration::ZERO } else { took };
        self.book_end(now);
        self.reconnect.wait(took, random)
    }

    /// No edge took the session now, and one asked for a new try after `retry_after`: how long to wait.
    pub fn asked_to_wait(&mut self, now: Duration, retry_after: Duration, random: u32) -> Duration {
        self.book_end(now);
        Reconnect::asked_to_wait(retry_after, random)
    }

    /// The edge asked for another connection beside this one: there is nothing to wait for.
    pub fn left(&mut self, now: Duration) {
        self.book_end(now);
    }

    /// The edge refused the session: how long to wait before the next try. Trying soon would not change its mind.
    pub fn refused(&mut self, now: Duration, random: u32) -> Duration {
        self.book_end(now);
        self.backoff.wait(random)
    }

    /// The way to the edge is a new one: earlier failures say nothing about it.
    pub fn moved(&mut self) {
        self.reconnect.reset();
    }

    fn book_end(&mut self, now: Duration) {
        if let Some(since) = self.online_since.take() {
            self.backoff.reset();
            if now.saturating_sub(since) >= Duration::from_secs(STABLE_SECS) {
                self.reconnect.reset();
            } else {
                self.reconnect.short_session();
            }
        }
        for endpoint in self.endpoints.values_mut() {
            endpoint.state = State::Due(now);
        }
    }

    /// Adds an endpoint, due at once.
    pub fn add(&mut self, key: Key, bind: Bind, retry: RetryPolicy, now: Duration) {
        let state = State::Due(now);
        let endpoint = Endpoint { bind, retry, state, backoff: Backoff::default(), was_online: false };
        self.endpoints.insert(key, endpoint);
    }

    /// Forgets an endpoint; gives the bind id to unbind when it is served now.
    pub fn remove(&mut self, key: Key) -> Option<String> {
        let endpoint = self.endpoints.remove(&key)?;
        (endpoint.state == State::Online).then_some(endpoint.bind.id)
    }

    /// The endpoint behind a bind id, if it is served.
    pub fn find(&self, bind_id: &str) -> Option<Key> {
        let found = self.endpoints.iter().find(|(_, e)| e.state == State::Online && e.bind.id == bind_id);
        found.map(|(key, _)| *key)
    }

    /// The bind id of an endpoint that is served.
    pub fn bind_id(&self, key: Key) -> Option<&str> {
        let endpoint = self.endpoints.get(&key).filter(|e| e.state == State::Online)?;
        Some(&endpoint.bind.id)
    }

    /// Gives up every endpoint whose answer is under way.
    pub fn forget_binding(&mut self) {
        self.endpoints.retain(|_, e| e.state != State::Binding);
    }

    /// The bind ids served now.
    pub fn served(&self) -> Vec<String> {
        let online = self.endpoints.values().filter(|e| e.state == State::Online);
        online.map(|e| e.bind.id.clone()).collect()
    }

    /// The next bind to ask for, if one is due and few enough are under way.
    pub fn next_bind(&mut self, now: Duration) -> Option<(Key, Bind)> {
        if !self.may_bind() {
            return None;
        }
        let due = |e: &Endpoint| matches!(e.state, State::Due(at) if at <= now);
        let (key, endpoint) = self.endpoints.iter_mut().find(|(_, e)| due(e))?;
        endpoint.state = State::Binding;
        Some((*key, endpoint.bind.clone()))
    }

    fn may_bind(&self) -> bool {
        let under_way = self.endpoints.values().filter(|e| e.state == State::Binding).count();
        self.online_since.is_some() && under_way < BINDS_AT_ONCE
    }

    /// When `next_bind` is worth calling again, answers under way aside.
    pub fn next_due(&self) -> Option<Duration> {
        if !self.may_bind() {
            return None;
        }
        let due = self.endpoints.values().filter_map(|e| match e.state {
            State::Due(at) => Some(at),
            State::Binding | State::Online => None,
        });
        due.min()
    }

    /// Takes the answer to a bind. `reply` is an error text when there was no answer at all.
    pub fn bound(
        &mut self,
        key: Key,
        reply: Result<BindReply, String>,
        now: Duration,
        random: u32,
    ) -> BindOutcome {
        let answer = reply.map_err(|message| Refusal { message, code: None }).and_then(|reply| {
            if !reply.error.is_empty() {
                return Err(Refusal::from_text(&reply.error));
            }
            match reply.url.parse::<EndpointUrl>() {
                Ok(url) => Ok((url, reply)),
                Err(error) => Err(Refusal { message: format!("bad URL in the answer: {error}"), code: None }),
            }
        });
        let Some(endpoint) = self.endpoints.get_mut(&key) else {
            return match answer {
                Ok((_, reply)) => BindOutcome::Unwanted(reply.id),
                Err(refusal) => BindOutcome::Dropped(refusal),
            };
        };
        match answer {
            Ok((url, reply)) => {
                endpoint.state = State::Online;
                endpoint.was_online = true;
                endpoint.backoff.reset();
                endpoint.bind.id = reply.id;
                endpoint.bind.extra.token = reply.extra.token;
                // A name the edge chose is asked for by name from now on.
                endpoint.bind.opts.set_url(url.to_string());
                BindOutcome::Online(url)
            }
            // Only a spoken refusal counts as one; a lost answer is worth another try to anybody.
            Err(refusal)
                if endpoint.retry == RetryPolicy::UntilRefused
                    && !endpoint.was_online
                    && refusal.was_spoken() =>
            {
                self.endpoints.remove(&key);
                BindOutcome::Dropped(refusal)
            }
            Err(refusal) => {
                let wait = if refusal.is_permanent() {
                    Duration::from_secs(REFUSED_RETRY_SECS)
                } else {
                    endpoint.backoff.wait(random)
                };
                endpoint.state = State::Due(now + wait);
                BindOutcome::Retry(refusal, wait)
            }
        }
    }
}

impl Refusal {
    /// Whether the edge gave a code, rather than no answer.
    fn was_spoken(&self) -> bool {
        self.code.is_some()
    }
}

#[cfg(test)]
mod tests;
