//! `/invitations`: people who may become part of the account. The token is shown once, to whoever invites, and kept as a
//! hash; who has it and is the one invited comes in by the dashboard.

use ebbgate_model::InvitationId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::failure::ApiError;
use super::given::body;
use super::reply::timestamp;
use super::resource::{self, Draft, Resource};
use super::routes::Routes;
use super::users::parse_role;
use crate::people::{Email, members};
use crate::record::people::{Invitation, Membership};
use crate::record::{self, Stored, index};
use crate::store::Txn;

/// An open invitation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invitation)]
pub(super) struct View {
    id: String,
    uri: String,
    /// Whom it invites.
    email: String,
    /// What the person will be: `owner`, `admin` or `viewer`.
    role: String,
    /// The token for `/dashboard/invitations/TOKEN`, only in the answer to its creation.
    token: Option<String>,
    /// Who invites: a person, a key, or `operator`.
    invited_by: String,
    created_at: String,
    /// When it is too late to accept.
    expires_at: String,
}

body! {
    /// Body of `POST /invitations`.
    Create as "InvitationCreate" {
        /// Address of the person.
        email: String,
        /// `owner`, `admin` or `viewer`.
        role: String,
    }
}

body! {
    /// Invitations never change: withdraw one and invite anew.
    Update as "InvitationUpdate" {}
}

pub(super) struct Invitations;

impl Resource for Invitations {
    const PATH: &'static str = "invitations";
    const NOUN: &'static str = "invitation";
    const ID_PREFIXES: &'static [&'static str] = &[InvitationId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["email", "role"];
    const EXAMPLE: &'static str = r#"{"email": "bob@example.com", "role": "viewer"}"#;
    type Id = InvitationId;
    type Record = Invitation;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &Invitation) -> View {
        View {
            id: record.id.to_string(),
            uri: call.reference(Self::PATH, record.id).uri,
            email: record.email.to_string(),
            role: record.role.to_string(),
            token: None,
            invited_by: record.invited_by.clone(),
            created_at: timestamp(record.created_at),
            expires_at: timestamp(record.expires_at),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<Invitation>, ApiError> {
        let email: Email =
            body.email.or_default().parse().map_err(|reason| ApiError::value("email", reason))?;
        let role = parse_role(&body.role.or_default())?;
        // Whether the person is known in the installation is not said: only whether here.
        if let Some(user) = members::user_by_email(&*call.app.store, &email).await?
            && record::load::<Membership>(&*call.app.store, call.account, user.record.id).await?.is_some()
        {
            let message = format!("`email`: {email} belongs to this account already, as {}", user.record.id);
            return Err(ApiError::in_use(message).detail("field", "email"));
        }
        let (invitation, token) = members::invitation(&call.app, call.account, &email, role, &call.principal);
        let txn = members::take_invitation(Txn::new(), &invitation);
        Ok(Draft { txn, token: Some(token), ..Draft::new(invitation) })
    }

    /// No route leads here.
    async fn update(_: &Call, _: &Stored<Invitation>, _: &Update) -> Result<Draft<Invitation>, ApiError> {
        Err(ApiError::bad(215, "an invitation never changes: delete it and invite anew"))
    }

    async fn delete(_: &Call, stored: &Stored<Invitation>) -> Result<Txn, ApiError> {
        Ok(Txn::new().delete(index::invitation(stored.record.id)))
    }
}

/// List, read, invite and withdraw.
pub(super) fn routes() -> Routes {
    resource::listed::<Invitations>()
        .merge(resource::creation_that_leads_to::<Invitations>(&["get", "delete"]))
        .merge(resource::removal::<Invitations>())
}
