//! `/app/sessions`: sessions of people who signed in at endpoints. Deleting a session ends it at every edge.

use ebbgate_model::AppSessionId;
use serde::Serialize;
use utoipa::ToSchema;

use super::app_users::AppUsers;
use super::call::Call;
use super::failure::ApiError;
use super::given::body;
use super::reply::{Ref, timestamp};
use super::resource::{self, Draft, Resource};
use super::routes::Routes;
use crate::record::Stored;
use crate::record::visitor::AppSession;
use crate::store::Txn;
use crate::visitors;

/// A visitor's session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppSession)]
pub(super) struct View {
    id: String,
    uri: String,
    /// URL of the endpoint that the visitor signed in at.
    public_url: String,
    /// The browser.
    browser_session: Browser,
    /// The person that it belongs to.
    application_user: Ref,
    created_at: String,
    /// When it ends at the latest.
    expires_at: String,
}

/// Where a visitor came from.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppSessionBrowser)]
pub(super) struct Browser {
    /// What the browser said it is.
    user_agent: UserAgent,
    /// Address of the visitor as the edge saw it.
    ip_address: String,
}

/// What a browser said it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppSessionUserAgent)]
pub(super) struct UserAgent {
    /// The header, shortened.
    raw: String,
}

body! {
    /// Sessions begin by signing in at an endpoint, and never change.
    Nothing as "AppSessionNothing" {}
}

pub(super) struct AppSessions;

impl Resource for AppSessions {
    const PATH: &'static str = "app/sessions";
    const LIST_KEY: &'static str = "application_sessions";
    const NOUN: &'static str = "application session";
    const ID_PREFIXES: &'static [&'static str] = &[AppSessionId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    type Id = AppSessionId;
    type Record = AppSession;
    type View = View;
    type Create = Nothing;
    type Update = Nothing;

    fn view(call: &Call, record: &AppSession) -> View {
        View {
            id: record.id.to_string(),
            uri: call.reference(Self::PATH, record.id).uri,
            public_url: record.url.clone(),
            browser_session: Browser {
                user_agent: UserAgent { raw: record.user_agent.clone() },
                ip_address: record.source.clone(),
            },
            application_user: call.reference(AppUsers::PATH, record.user),
            created_at: timestamp(record.created_at),
            expires_at: timestamp(record.expires_at),
        }
    }

    /// No route leads here.
    async fn create(_: &Call, _: &Nothing) -> Result<Draft<AppSession>, ApiError> {
        Err(ApiError::bad(215, "a session begins by signing in at an endpoint"))
    }

    /// No route leads here.
    async fn update(_: &Call, _: &Stored<AppSession>, _: &Nothing) -> Result<Draft<AppSession>, ApiError> {
        Err(ApiError::bad(215, "a session never changes"))
    }

    async fn delete(_: &Call, stored: &Stored<AppSession>) -> Result<Txn, ApiError> {
        let AppSession { account, id, expires_at, .. } = stored.record;
        Ok(visitors::end(Txn::new(), account, id, expires_at))
    }
}

/// List, read and end.
pub(super) fn routes() -> Routes {
    resource::listed::<AppSessions>().merge(resource::removal::<AppSessions>())
}
