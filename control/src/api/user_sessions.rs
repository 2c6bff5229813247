//! `/user_sessions`: sessions of people who are signed in to the dashboard for this account. Owners see and end all of them,
//! everybody else the own ones. Ending one takes effect on its next request.

use ebbgate_model::{OwnerId, UserSessionId};
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::failure::ApiError;
use super::given::body;
use super::page::Page;
use super::query::Query;
use super::reply::{Ref, timestamp};
use super::resource::{self, Draft, Listing, Resource};
use super::routes::Routes;
use super::users::Users;
use crate::auth::Means;
use crate::people::{Role, session};
use crate::record::people::UserSession;
use crate::record::{self, Stored, index};
use crate::store::Txn;

/// A person's session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserSession)]
pub(super) struct View {
    id: String,
    uri: String,
    /// Whose it is.
    user: Ref,
    /// How the person signed in: `password` or `oidc`.
    method: String,
    /// Address the sign-in came from.
    source: String,
    /// What the browser said it is.
    user_agent: String,
    /// Whether it is the session this call is made in.
    current: bool,
    created_at: String,
    /// When it was last used, to within five minutes.
    seen_at: String,
    /// When it ends at the latest.
    expires_at: String,
}

body! {
    /// Sessions begin by signing in, and never change.
    Nothing as "UserSessionNothing" {}
}

pub(super) struct UserSessions;

impl Resource for UserSessions {
    const PATH: &'static str = "user_sessions";
    const NOUN: &'static str = "session";
    const ID_PREFIXES: &'static [&'static str] = &[UserSessionId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    type Id = UserSessionId;
    type Record = UserSession;
    type View = View;
    type Create = Nothing;
    type Update = Nothing;

    fn view(call: &Call, record: &UserSession) -> View {
        View {
            id: record.id.to_string(),
            uri: call.reference(Self::PATH, record.id).uri,
            user: call.reference(Users::PATH, record.user),
            method: record.method.clone(),
            source: record.source.clone(),
            user_agent: record.user_agent.clone(),
            current: matches!(call.caller.means, Means::Session(_, id) if id == record.id),
            created_at: timestamp(record.created_at),
            seen_at: timestamp(record.seen_at),
            expires_at: timestamp(record.expires_at),
        }
    }

    /// No route leads here.
    async fn create(_: &Call, _: &Nothing) -> Result<Draft<UserSession>, ApiError> {
        Err(ApiError::bad(215, "a session begins by signing in to the dashboard"))
    }

    /// No route leads here.
    async fn update(_: &Call, _: &Stored<UserSession>, _: &Nothing) -> Result<Draft<UserSession>, ApiError> {
        Err(ApiError::bad(215, "a session never changes"))
    }

    async fn delete(call: &Call, stored: &Stored<UserSession>) -> Result<Txn, ApiError> {
        if !may_see(call, &stored.record) {
            return Err(Self::missing(call, stored.record.id));
        }
        Ok(Txn::new().delete(index::user_session(stored.record.id)))
    }

    async fn find(call: &Call, id: UserSessionId) -> Result<View, ApiError> {
        let stored = resource::load::<Self>(call, id).await?;
        if !is_listed(call, &stored.record) {
            return Err(Self::missing(call, id));
        }
        Ok(Self::view(call, &stored.record))
    }

    async fn page(
        call: &Call,
        _: &Query,
        page: Page<UserSessionId>,
    ) -> Result<Listing<View, UserSessionId>, ApiError> {
        let listed =
            record::list::<UserSession>(&*call.app.store, call.account, page.before, Some(page.limit))
                .await?;
        let seen = listed.items.iter().filter(|stored| is_listed(call, &stored.record));
        let items = seen.map(|stored| Self::view(call, &stored.record)).collect();
        let last = listed.last.as_deref().and_then(record::id_in_key::<UserSession>);
        let next = last.map(|(_, id)| id).filter(|_| listed.more);
        Ok(Listing { items, next, damaged: listed.damaged })
    }
}

fn may_see(call: &Call, session: &UserSession) -> bool {
    call.role() == Role::Owner || call.owner() == Some(OwnerId::User(session.user))
}

/// One that time has ended is gone, also before it is swept.
fn is_listed(call: &Call, session: &UserSession) -> bool {
    may_see(call, session) && !session::has_ended(session, call.app.now())
}

/// List, read and end.
pub(super) fn routes() -> Routes {
    resource::listed::<UserSessions>().merge(resource::removal::<UserSessions>())
}
