//! `Step`: what a dispatch asks its caller to do. `Trail`: what it has done, for the log. Plain data.

use std::sync::Arc;

use ebbgate_model::event::{Decisions, NotEnforced};
use ebbgate_model::{AccountId, EndpointUrl, ErrorCode};
use ebbgate_policy::identity::Exchange;
use ebbgate_policy::{Call, LateLog, Reply, TlsSettings};
use http::response;

use super::failure::Failure;
use super::inspect::Asked;
use crate::state::endpoint::Endpoint;

/// What has to be done next.
#[derive(Debug)]
pub enum Step {
    /// Let other tasks run.
    Pause,
    /// Get the key set of an account's policy; tell [`super::Dispatch::resume`].
    Keys {
        /// Owner of the policy that asks.
        account: AccountId,
        /// Where the key set is.
        url: String,
        /// Whether a cached set lacks a token's key.
        fresh: bool,
    },
    /// Ask an identity provider for an account's policy; tell [`super::Dispatch::resume`].
    Exchange {
        /// Owner of the policy that asks.
        account: AccountId,
        /// What is asked.
        exchange: Arc<Exchange>,
    },
    /// Read the body of the request; tell [`super::Dispatch::resume`].
    Body {
        /// Owner of the policy that asks.
        account: AccountId,
        /// Longest body to accept.
        bytes_max: usize,
        /// Whether the request fails if there is no room to hold the body; else it passes, and [`ebbgate_policy::Outcome::NotJudged`]
        /// is told.
        is_enforced: bool,
    },
    /// Run the Core Rule Set over a message; tell [`super::Dispatch::resume`].
    Inspect(Box<Asked>),
    /// Make a request for an account's policy; tell [`super::Dispatch::resume`].
    Call {
        /// Owner of the policy that asks.
        account: AccountId,
        /// The request.
        call: Box<Call>,
    },
    /// Finish the client's handshake with these settings; tell [`super::Dispatch::tls_ended`].
    EndTls(Arc<TlsSettings>),
    /// Look up an internal endpoint of the account; tell [`super::Dispatch::found`].
    Find {
        /// Owner of the endpoint.
        account: AccountId,
        /// Its URL.
        url: EndpointUrl,
    },
    /// Ask the agent whether it still answers; tell [`super::Dispatch::heard`].
    AskAgent(Arc<Endpoint>),
    /// Open a stream to the agent and use it; tell [`super::Dispatch::failed`] or [`super::Dispatch::answered`]. A connection to an http
    /// endpoint is let in instead: its requests come next.
    Open(Arc<Endpoint>),
    /// The policy's reply is the response; tell [`super::Dispatch::answered`].
    Respond(Reply),
    /// The response has passed every policy. The end.
    Answer(response::Parts),
    /// There is no response but this failure. The end.
    Fail(Failure),
    /// Close the connection without a response. The end.
    Close {
        /// Published number.
        code: Option<ErrorCode>,
        /// One sentence for the log.
        detail: String,
    },
}

/// What the log says of a dispatch, since it was last asked.
#[derive(Debug, Default)]
pub struct Trail {
    /// The public endpoint that was reached.
    pub reached: Option<Arc<Endpoint>>,
    /// The internal endpoint that the traffic was forwarded to.
    pub forwarded_to: Option<Arc<Endpoint>>,
    /// What `log` actions of policies wrote.
    pub logs: Vec<serde_json::Value>,
    /// What `log` actions of policies write when the exchange is over.
    pub late_logs: Vec<LateLog>,
    /// Members of a pool that were picked after another one failed.
    pub retries: u64,
    /// What policies decided.
    pub decisions: Decisions,
    /// What policies that are not enforced came to.
    pub not_enforced: Vec<NotEnforced>,
}

impl Trail {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        let Self { reached, forwarded_to, logs, late_logs, retries, decisions, not_enforced } = self;
        let silent =
            logs.is_empty() && late_logs.is_empty() && decisions.is_empty() && not_enforced.is_empty();
        reached.is_none() && forwarded_to.is_none() && silent && *retries == 0
    }
}
