//! What handlers of the dashboard get: the process, the request's surroundings, and who is signed in.

use std::net::IpAddr;

use http::Method;
use serde_json::Value;

use crate::api::{ApiError, Local};
use crate::app::App;
use crate::people::origin::Site;
use crate::people::session::SignedIn;

/// Called by programs and not by browsers: it takes no cookie.
pub(super) const PROGRAMS_PATH: &str = "/dashboard/cli/token";

/// What every page needs.
#[derive(Clone)]
pub(super) struct Dashboard {
    pub(super) app: App,
    pub(super) api: Local,
}

/// What is known of every request.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) site: Site,
    pub(super) source: Option<IpAddr>,
    pub(super) user_agent: String,
}

/// What is known of a request by somebody who is signed in.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    pub(super) who: SignedIn,
    pub(super) visit: Visit,
    /// What the forms of this session's pages bring along.
    pub(super) csrf: String,
}

impl Dashboard {
    /// A call of the API as the person who is signed in.
    pub(super) async fn call(
        &self,
        signed: &Signed,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let caller = signed.who.caller();
        let visit = &signed.visit;
        self.api.call(&caller, visit.source, &visit.site.base, (method, path), body).await
    }

    pub(super) async fn read(&self, signed: &Signed, path: &str) -> Result<Value, ApiError> {
        self.call(signed, Method::GET, path, None).await
    }
}
