//! What every sink promises: how much it takes at once, and that it delivers a batch whole or says why not; and what an
//! answer over HTTP means for a batch. Knows no kind of sink, no destination and no spool.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use http::header::{HeaderMap, RETRY_AFTER};

use crate::clock::UnixSecs;
use crate::events::http::{Answer, HttpError};
use crate::events::net::NetError;

/// Longest wait that a receiver may ask for, in seconds.
const RETRY_AFTER_SECS_MAX: u64 = 3600;
/// Characters of a receiver's answer that are told.
const REASON_CHARS_MAX: usize = 200;

/// How many events a sink takes at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes.
    pub bytes: usize,
    /// How long events may wait for more.
    pub linger: Duration,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It is too large for the receiver; fewer events may not be.
    #[error("the batch is too large for the receiver: {0}")]
    TooLarge(String),
    /// Now, or until something is changed. The wait is what the receiver asked for.
    #[error("{reason}")]
    Failed {
        /// Why.
        reason: String,
        /// How long it wants to be left alone.
        wait: Option<Duration>,
    },
}

impl SinkError {
    pub(in crate::events) fn new(reason: impl std::fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string(), wait: None }
    }
}

impl From<NetError> for SinkError {
    fn from(error: NetError) -> Self {
        Self::new(error)
    }
}

impl From<HttpError> for SinkError {
    fn from(error: HttpError) -> Self {
        Self::new(error)
    }
}

/// Takes batches. Each event is one JSON object without line ends.
pub trait Sink: Send {
    /// How many it takes at once.
    fn limits(&self) -> Limits {
        Limits { events: 100, bytes: 256 << 10, linger: Duration::ZERO }
    }

    /// Delivers a batch, whole or not at all; gives how many of its events the receiver refused for good. `now` is Unix
    /// time in seconds.
    fn send<'a>(&'a mut self, batch: &'a [Bytes], now: UnixSecs) -> BoxFuture<'a, Result<u64, SinkError>>;
}

/// What a status means. A redirect is no delivery: the events were not meant for another place.
pub(super) fn judge(answer: &Answer, now: UnixSecs) -> Result<(), SinkError> {
    let status = answer.status;
    if status.is_success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&answer.body).chars().take(REASON_CHARS_MAX).collect();
    let reason = format!("the receiver answered {status}: {}", said.escape_debug());
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return Err(SinkError::TooLarge(reason));
    }
    Err(SinkError::Failed { reason, wait: retry_after(&answer.headers, now) })
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: UnixSecs) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let at_date = || {
        let at = httpdate::parse_http_date(value).ok()?;
        let at = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
        Some(at.saturating_sub(u64::try_from(now).unwrap_or(0)))
    };
    let seconds = value.parse::<u64>().ok().or_else(at_date)?;
    Some(Duration::from_secs(seconds.min(RETRY_AFTER_SECS_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_receiver_says_how_long_to_wait() {
        let check = |value: &str, expect: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::try_from(value).unwrap());
            assert_eq!(retry_after(&headers, 1_445_412_480), expect.map(Duration::from_secs), "{value}");
        };
        check("7", Some(7));
        check("99999", Some(RETRY_AFTER_SECS_MAX));
        check("Wed, 21 Oct 2015 07:28:30 GMT", Some(30));
        check("Wed, 21 Oct 2015 07:27:00 GMT", Some(0));
        check("soon", None);
    }
}
