//! `ExternalCalls`: requests of policies (`http-request`) to hosts of the internet, where the operator allows them.
//!
//! A request goes where requests for key sets go: to public addresses only, over https, and no redirect is followed here.
//! The caller bounds the time.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_model::{AccountId, ErrorCode};
use ebbgate_policy::CallError;
use http::{HeaderValue, Request, Response, Uri};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::jwks::{FetchError, Fetcher};
use super::metrics::Metrics;
use super::shares::Shares;

/// Requests of all accounts that may be on their way at a time, and those of one account.
pub const EXTERNAL_CALLS_MAX: usize = 1_024;
/// See [`EXTERNAL_CALLS_MAX`].
pub const EXTERNAL_CALLS_OF_ACCOUNT_MAX: usize = 64;

/// The policy asks for what is not done.
const REFUSED: ErrorCode = ErrorCode::new(2300);
/// The answer is longer than a policy takes.
const TOO_LONG: ErrorCode = ErrorCode::new(3601);
/// No answer in time.
const LATE: ErrorCode = ErrorCode::new(3602);

/// See the module.
pub struct ExternalCalls {
    fetcher: Arc<Fetcher>,
    /// Where requests run.
    background: Handle,
    report_abuse: HeaderValue,
    under_way: Shares,
}

impl ExternalCalls {
    /// None yet. They run on `background`; those of an account that has too many count in `metrics`. `report_abuse`: the URL that
    /// each request names.
    pub fn new(
        fetcher: Arc<Fetcher>,
        background: Handle,
        report_abuse: HeaderValue,
        metrics: &Metrics,
    ) -> Self {
        let under_way =
            Shares::new(EXTERNAL_CALLS_MAX, EXTERNAL_CALLS_OF_ACCOUNT_MAX, &metrics.calls_refused);
        Self { fetcher, background, report_abuse, under_way }
    }

    /// Where abuse is reported.
    pub fn report_abuse(&self) -> &HeaderValue {
        &self.report_abuse
    }

    /// Makes a request of an account's policy: its answer of at most `bytes_max` as it came, and the address that gave it. Dropped,
    /// the request is given up.
    pub async fn call(
        &self,
        account: AccountId,
        url: Uri,
        request: Request<Bytes>,
        bytes_max: usize,
    ) -> Result<(IpAddr, Response<Bytes>), CallError> {
        let Some(_one) = self.under_way.take(account, 1) else {
            let message = "policies of this account wait for as many hosts as they may";
            return Err(CallError { code: LATE, message: message.into() });
        };
        let fetcher = Arc::clone(&self.fetcher);
        let mut task = JoinSet::new();
        task.spawn_on(async move { fetcher.send(&url, request, bytes_max).await }, &self.background);
        match task.join_next().await {
            Some(Ok(answered)) => answered.map_err(|why| told(&why)),
            _ => Err(CallError {
                code: ErrorCode::UPSTREAM_UNREACHABLE,
                message: "the request was given up".into(),
            }),
        }
    }
}

fn told(why: &FetchError) -> CallError {
    let code = match why {
        FetchError::Url | FetchError::Private => REFUSED,
        FetchError::Body(_) => TOO_LONG,
        _ => ErrorCode::UPSTREAM_UNREACHABLE,
    };
    CallError { code, message: why.to_string() }
}

#[cfg(test)]
mod tests;
