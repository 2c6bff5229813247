//! `Failure`: why a connection or request has no upstream: a number and a sentence for the client, a detail for the log.
//!
//! Does not know how a client is told: `http` answers with it, `l4` closes and logs it.

use std::borrow::Cow;
use std::net::IpAddr;

use ebbgate_model::{EndpointUrl, ErrorCode, canonical_ip};
use http::StatusCode;

use super::hops::TooFar;
use crate::state::endpoint::Endpoint;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Status of the HTTP response.
    pub status: StatusCode,
    /// Published number.
    pub code: Option<ErrorCode>,
    /// One sentence for the client. Never a secret, never a name that is not public.
    pub message: Cow<'static, str>,
    /// What only the operator may know, for the log; "" if that is the message.
    detail: String,
}

impl Failure {
    /// A failure with a published number.
    pub fn coded(status: StatusCode, code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code: Some(code), message: message.into(), detail: String::new() }
    }

    /// A failure without one.
    pub fn plain(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code: None, message: message.into(), detail: String::new() }
    }

    /// The same failure with a detail for the log.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// What the operator may know.
    pub fn detail(&self) -> &str {
        if self.detail.is_empty() { &self.message } else { &self.detail }
    }

    /// No stream to an agent: `detail` says why.
    pub fn agent_stream(detail: impl Into<String>) -> Self {
        let message = "The agent of this endpoint could not take the request.";
        Self::coded(StatusCode::BAD_GATEWAY, ErrorCode::AGENT_STREAM, message).because(detail)
    }

    /// The agent does not answer.
    pub fn agent_silent() -> Self {
        Self::agent_stream("nothing is heard from the agent")
    }

    /// Nothing came from behind the agent.
    pub fn upstream_unreachable() -> Self {
        let message = "The agent could not reach its upstream, or the upstream closed without an answer.";
        Self::coded(StatusCode::BAD_GATEWAY, ErrorCode::UPSTREAM_UNREACHABLE, message)
    }

    /// Nothing came from the upstream for as long as an exchange may rest.
    pub fn upstream_late() -> Self {
        let message = "The upstream did not answer in time.";
        Self::coded(StatusCode::GATEWAY_TIMEOUT, ErrorCode::UPSTREAM_LATE, message)
    }

    /// Whether a member was waited for in vain.
    pub(super) fn is_late(&self) -> bool {
        *self == Self::upstream_late() || *self == Self::agent_silent()
    }

    /// Whether it says that what stands behind an endpoint does not serve: not that a policy or a visitor is at fault.
    pub fn is_upstreams(&self) -> bool {
        let fails = matches!(self.status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
        self.code == Some(ErrorCode::OFFLINE) || fails && self.code != Some(ErrorCode::TOO_MANY_HOPS)
    }

    /// Several members of a pool were waited for in vain.
    pub(super) fn pool_late() -> Self {
        let message = "No agent of this endpoint answered in time.";
        Self::coded(StatusCode::GATEWAY_TIMEOUT, ErrorCode::POOL_LATE, message)
    }

    /// No member of a pool can take more work.
    pub(super) fn pool_full() -> Self {
        let message = "No agent of this endpoint can take another request just now.";
        Self::coded(StatusCode::BAD_GATEWAY, ErrorCode::AGENT_STREAM, message)
            .because("no member of the pool can take more work")
    }

    /// A pool has no member.
    pub(super) fn pool_empty() -> Self {
        Self::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, "This endpoint is offline.")
    }

    /// The target of forward-internal is offline.
    pub(super) fn target_offline(url: &EndpointUrl) -> Self {
        let message = "What this endpoint forwards to is offline.";
        let detail = format!("the endpoint {url} is offline");
        Self::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message).because(detail)
    }

    /// No member of the target's pool is selected.
    pub(super) fn none_selected(url: &EndpointUrl) -> Self {
        let message = "What this endpoint forwards to is offline.";
        let detail = format!(
            "no endpoint at {url} is one that endpoint_selectors and endpoint_weights let have traffic"
        );
        Self::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message).because(detail)
    }

    /// The target of forward-internal is not internal, or of another class of schemes.
    pub(super) fn target_not_allowed(from: &Endpoint, url: &EndpointUrl) -> Self {
        let message = "What this endpoint forwards to is offline.";
        let detail = format!("{} may not forward to {url}", from.url);
        Self::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message).because(detail)
    }

    /// A limit of [`super::hops`] is reached.
    pub(super) fn too_far(why: TooFar) -> Self {
        let message = format!("The request was passed on too far: {why}.");
        Self::coded(StatusCode::BAD_GATEWAY, ErrorCode::TOO_MANY_HOPS, message).because(why.to_string())
    }

    /// The policy of a cloud endpoint neither forwarded nor answered.
    pub(super) fn unanswered(endpoint: &Endpoint) -> Self {
        let (message, what) = match endpoint.engine {
            None => (
                "This endpoint has no traffic policy in force: give it one that forwards or answers.",
                "has no traffic policy in force",
            ),
            Some(_) => (
                "The traffic policy of this endpoint neither forwarded nor answered this request.",
                "did not end in any action",
            ),
        };
        let detail = format!("the policy of {} {what}; forward-internal would serve it", endpoint.url);
        Self::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message).because(detail)
    }

    /// A policy failed. Its message may quote configuration, so the client does not see it.
    pub(super) fn policy(endpoint: &Endpoint, code: ErrorCode, message: &str) -> Self {
        let detail = format!("the traffic policy of {} failed: {message}", endpoint.url);
        let message = "The traffic policy of this endpoint failed.";
        Self::coded(StatusCode::INTERNAL_SERVER_ERROR, code, message).because(detail)
    }

    /// As many bodies as may be are held for policies.
    pub fn no_room() -> Self {
        let message = "This endpoint holds as many bodies as it may just now; try again later.";
        Self::coded(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::new(3902), message)
    }

    /// The IP restriction of the account refuses the client.
    pub(super) fn restricted(source: IpAddr) -> Self {
        let message = format!("{} may not reach this account's endpoints.", canonical_ip(source));
        Self::coded(StatusCode::FORBIDDEN, ErrorCode::ENDPOINTS_RESTRICTED, message)
            .because("the account's IP restriction refuses this address")
    }
}
