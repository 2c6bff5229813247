//! `Call`: one authenticated request, as handlers see it. Everything a handler reads or writes goes through the account
//! in here, so no handler can reach another tenant's objects by mistake.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, RawQuery};
use ebbgate_model::{AccountId, OwnerId};
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

use super::failure::ApiError;
use super::query::Query;
use super::reply::Ref;
use crate::app::App;
use crate::auth::Caller;
use crate::people::Role;
use crate::record::Limits;
use crate::store::Revision;

/// An authenticated request.
#[derive(Clone)]
pub(super) struct Call {
    /// The process.
    pub(super) app: App,
    /// The tenant that calls. The call may touch the objects of this account only.
    pub(super) account: AccountId,
    /// Revision of the account's own record; a write of this call needs it unchanged.
    pub(super) account_modified: Revision,
    /// Most the account may have.
    pub(super) limits: Limits,
    /// Who calls, and by which key or session.
    pub(super) caller: Caller,
    /// Id of the caller: a person, a service user or the key.
    pub(super) principal: String,
    /// Address the call came from; None where the listener gave none.
    pub(super) source: Option<IpAddr>,
    /// What `uri` fields begin with: the API's own address as the client named it.
    pub(super) base: String,
}

impl Call {
    /// The absolute URL of a path below the root.
    pub(super) fn uri(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// A reference to an object of a collection.
    pub(super) fn reference(&self, collection: &str, id: impl std::fmt::Display) -> Ref {
        let id = id.to_string();
        Ref { uri: self.uri(&format!("{collection}/{id}")), id }
    }

    /// The person or service user that calls; None: the account itself.
    pub(super) fn owner(&self) -> Option<OwnerId> {
        self.caller.owner()
    }

    /// What the caller may do.
    pub(super) fn role(&self) -> Role {
        self.caller.role
    }

    /// Whether what the original refuses is refused here too.
    pub(super) fn is_strict(&self) -> bool {
        self.app.settings.strict
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let call = parts.extensions.get::<Self>().cloned();
        call.ok_or_else(|| ApiError::internal(&"a route stands outside the guard"))
    }
}

/// What URLs in answers begin with. Clients follow `next_page_uri` as it is, so it must be an address they can reach: the
/// one the operator gave (`--api-url`), else the one they just used. A `Host` that is no authority falls back to the
/// address of the listener.
pub(super) fn base(parts: &Parts, configured: &str, is_given: bool) -> String {
    if is_given {
        return configured.to_owned();
    }
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok());
    let authority =
        host.and_then(|text| text.parse::<Authority>().ok()).filter(|a| !a.as_str().contains('@'));
    let scheme = configured.split_once("://").map_or("http", |(scheme, _)| scheme);
    authority.map_or_else(|| configured.to_owned(), |authority| format!("{scheme}://{authority}"))
}

/// Refuses query parameters on calls that take none.
#[derive(Debug)]
pub(super) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let RawQuery(query) = RawQuery::from_request_parts(parts, state).await.unwrap_or(RawQuery(None));
        Query::parse(query.as_deref().unwrap_or(""), &[], &[]).map(|_| Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn the_base_is_what_the_client_named() {
        let check = |host: Option<&str>, expect: &str| {
            let mut request = Request::builder();
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(base(&parts, "https://api.example.com", false), expect, "{host:?}");
            // Behind a proxy the name and the path are the proxy's, and only the operator knows them.
            assert_eq!(base(&parts, "https://example.com/gate", true), "https://example.com/gate");
        };
        check(Some("127.0.0.1:4480"), "https://127.0.0.1:4480");
        check(Some("[::1]:4480"), "https://[::1]:4480");
        check(None, "https://api.example.com");
        check(Some("a b"), "https://api.example.com");
        check(Some("user@host"), "https://api.example.com");
        check(Some("host/path"), "https://api.example.com");
    }
}
