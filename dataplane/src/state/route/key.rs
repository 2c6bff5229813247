//! What the route table is looked up by.

use ebbgate_model::{AccountId, Binding, EndpointUrl, Host, Scheme};
use serde::{Deserialize, Serialize};

use crate::state::endpoint::Endpoint;

/// A namespace and a URL in it. Public names are one namespace; `.internal` names one per account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteKey {
    pub(super) account: Option<AccountId>,
    pub(super) url: EndpointUrl,
}

impl RouteKey {
    /// The key of a name. None: no endpoint can have it.
    pub(super) fn new(account: Option<AccountId>, scheme: Scheme, host: Host, port: u16) -> Option<Self> {
        Some(Self { account, url: EndpointUrl::new(scheme, host, port).ok()? })
    }

    /// The key an endpoint is found by.
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let account = (endpoint.binding != Binding::Public).then_some(endpoint.account);
        Self { account, url: endpoint.url.clone() }
    }
}
