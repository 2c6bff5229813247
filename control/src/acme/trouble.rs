//! Why the public authority gives no certificate: in the API's words, and when another try makes sense.

use std::time::{Duration, SystemTime};

use instant_acme::{Error, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::client::Heard;
use crate::error_chain::ErrorChain;

/// Bytes of an authority's words that are kept.
const WORDS_BYTES_MAX: usize = 1_000;
/// Longest wait that an authority may ask for, in seconds.
pub(super) const RETRY_AFTER_SECS_MAX: u64 = 86_400;

/// `certificate_management_status.provisioning_job.error_code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CertificateErrorCode)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureCode {
    /// The authority could not prove the name: DNS, the way to the edges, CAA.
    DnsError,
    /// Anything else.
    InternalError,
}

/// How soon to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Soon, on the same order: the network, a nonce, a server that is busy.
    Soon,
    /// At the time that the authority named, in seconds from now.
    After(u64),
    /// Late, with a new order: the authority said no.
    Late,
}

/// Why a step did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Trouble {
    pub(super) code: FailureCode,
    pub(super) message: String,
    pub(super) again: Again,
}

impl Trouble {
    /// Something of ours, or of the way to the authority.
    pub(super) fn soon(message: impl Into<String>) -> Self {
        Self { code: FailureCode::InternalError, message: message.into(), again: Again::Soon }
    }

    /// The authority said no, or said what cannot be.
    pub(super) fn late(message: impl Into<String>) -> Self {
        Self { code: FailureCode::InternalError, message: message.into(), again: Again::Late }
    }

    /// The name could not be proved.
    pub(super) fn unproved(message: impl Into<String>) -> Self {
        Self { code: FailureCode::DnsError, message: message.into(), again: Again::Late }
    }

    /// What an authority said of a name it could not prove.
    pub(super) fn of_problem(problem: &Problem) -> Self {
        let kind =
            problem.r#type.as_deref().and_then(|kind| kind.strip_prefix("urn:ietf:params:acme:error:"));
        let words = words(problem);
        match kind {
            Some("badNonce" | "serverInternal") => Self::soon(words),
            Some("rateLimited") => Self { again: Again::After(3600), ..Self::late(words) },
            Some("caa" | "connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized") => {
                Self::unproved(words)
            }
            _ if problem.status.is_some_and(|status| status >= 500) => Self::soon(words),
            _ => Self::late(words),
        }
    }

    /// What became of a request. `heard`: of its answer.
    pub(super) fn of_error(error: &Error, heard: &Heard, now: SystemTime) -> Self {
        let trouble = match error {
            Error::Api(problem) => Self::of_problem(problem),
            error => Self::soon(short(&format!("the ACME server cannot be used: {}", ErrorChain(error)))),
        };
        let asked = heard.retry_after.and_then(|at| at.duration_since(now).ok()).map(|wait| wait.as_secs());
        match asked {
            Some(secs) if heard.is_refusal && secs > 0 => {
                Self { again: Again::After(secs.min(RETRY_AFTER_SECS_MAX)), ..trouble }
            }
            _ => trouble,
        }
    }
}

fn words(problem: &Problem) -> String {
    let mut all = vec![problem.detail.as_deref().unwrap_or("the ACME server gave no reason").to_owned()];
    all.extend(problem.subproblems.iter().map(ToString::to_string));
    if let Some(kind) = &problem.r#type {
        all.push(format!("({kind})"));
    }
    short(&all.join(" "))
}

/// Words of others: no control characters, not too many.
pub(super) fn short(words: &str) -> String {
    let mut text: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= WORDS_BYTES_MAX).last();
    text.truncate(end.unwrap_or(0));
    text
}

/// When to try again after so many failures in a row. `jitter` is from 0 to 999.
pub(super) fn wait(again: Again, failures: u32, jitter: u32) -> Duration {
    let doubled = |first: u64, most: u64| {
        let secs = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(most);
        // Three quarters to five quarters.
        Duration::from_millis(secs * (750 + u64::from(jitter.min(999)) / 2))
    };
    match again {
        Again::Soon => doubled(5, 3_600),
        Again::Late => doubled(300, 43_200),
        Again::After(secs) => Duration::from_secs(secs) + Duration::from_millis(u64::from(jitter) * 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, status: u16) -> Problem {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        serde_json::from_value(serde_json::json!({ "type": kind, "detail": "no", "status": status })).unwrap()
    }

    #[test]
    fn each_problem_has_its_code_and_its_time() {
        for (kind, status, code, again) in [
            ("badNonce", 400, FailureCode::InternalError, Again::Soon),
            ("serverInternal", 500, FailureCode::InternalError, Again::Soon),
            ("dns", 400, FailureCode::DnsError, Again::Late),
            ("caa", 403, FailureCode::DnsError, Again::Late),
            ("unauthorized", 403, FailureCode::DnsError, Again::Late),
            ("rejectedIdentifier", 400, FailureCode::InternalError, Again::Late),
            ("rateLimited", 429, FailureCode::InternalError, Again::After(3600)),
            ("unheard", 503, FailureCode::InternalError, Again::Soon),
        ] {
            let trouble = Trouble::of_problem(&problem(kind, status));
            assert_eq!((trouble.code, trouble.again), (code, again), "{kind}");
        }
    }

    #[test]
    fn a_time_that_the_authority_names_holds_within_a_day() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let heard = |secs| Heard { retry_after: Some(now + Duration::from_secs(secs)), is_refusal: true };
        let error = Error::Api(problem("rateLimited", 429));
        assert_eq!(Trouble::of_error(&error, &heard(90), now).again, Again::After(90));
        assert_eq!(
            Trouble::of_error(&error, &heard(10_000_000), now).again,
            Again::After(RETRY_AFTER_SECS_MAX)
        );
        assert_eq!(Trouble::of_error(&error, &heard(0), now).again, Again::After(3600));
        let fine = Heard { is_refusal: false, ..heard(90) };
        assert_eq!(Trouble::of_error(&error, &fine, now).again, Again::After(3600), "of another answer");
    }

    #[test]
    fn waits_double_up_to_a_bound_and_vary() {
        let secs = |again, failures, jitter| wait(again, failures, jitter).as_secs();
        assert_eq!((secs(Again::Soon, 1, 500), secs(Again::Soon, 3, 500)), (5, 20));
        assert_eq!((secs(Again::Soon, 1, 0), secs(Again::Soon, 1, 999)), (3, 6));
        assert_eq!(secs(Again::Soon, 4_000_000_000, 500), 3_600);
        assert_eq!((secs(Again::Late, 1, 500), secs(Again::Late, 90, 500)), (300, 43_200));
        assert_eq!((secs(Again::After(90), 9, 0), secs(Again::After(90), 9, 999)), (90, 149));
    }

    #[test]
    fn words_of_others_are_kept_short_and_on_one_line() {
        assert_eq!(short("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(short(&"ä".repeat(2_000)).len(), WORDS_BYTES_MAX);
    }
}
