//! `POST /endpoints/{id}/drain` and `/undrain`: one member of a pool gets no new work while another can have it.
//!
//! Nothing is stored here: the edge of the agent keeps what the operator said, and tells it on.

use axum::extract::Path;
use ebbgate_model::EndpointId;
use ebbgate_model::feed::{CommandOutcome, DrainWanted, SessionCommand};
use http::StatusCode;
use tokio::time::{Duration, timeout};
use utoipa::openapi::path::HttpMethod;

use super::super::action::{self, ANSWER_SECS_MAX};
use super::super::body::OptionalJsonText;
use super::super::call::{Call, NoQuery};
use super::super::failure::ApiError;
use super::super::given::body;
use super::super::operation::Operation;
use super::super::resource::{self, Resource as _};
use super::super::routes::Routes;
use super::{Endpoints, live};
use crate::presence::CommandError;
use crate::record::{self, Endpoint, RecordError};

/// The endpoint is not of a kind that can be drained.
const CODE_NOT_OF_AN_AGENT: u32 = 248;
/// What feeds or has the endpoint is too old to drain it.
const CODE_TOO_OLD: u32 = 18021;
/// Nobody answered in time.
const CODE_UNHEARD: u32 = 810;

body! {
    /// Body of both: without a field.
    Drain as "EndpointDrain" {}
}

pub(in super::super) fn routes() -> Routes {
    let of = |verb: &str, summary: &str, text: &str| {
        let operation = Operation::new(Endpoints::PATH, verb, summary).description(text);
        action::takes::<Drain>(operation.id(Endpoints::ID_PREFIXES), Endpoints::ID_PREFIXES, "{}")
    };
    let drain = of(
        "drain",
        "Keep new work from one agent endpoint",
        "It gets none while its URL has another member that is not drained, at any edge. What is in flight goes on.",
    );
    let undrain = of("undrain", "Give an agent endpoint work again", "The end of a drain.");
    Routes::new().add(HttpMethod::Post, "/endpoints/{id}/drain", self::drain, drain).add(
        HttpMethod::Post,
        "/endpoints/{id}/undrain",
        self::undrain,
        undrain,
    )
}

async fn drain(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    body: OptionalJsonText,
) -> Result<StatusCode, ApiError> {
    set(&call, &id, &body, true).await
}

async fn undrain(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    body: OptionalJsonText,
) -> Result<StatusCode, ApiError> {
    set(&call, &id, &body, false).await
}

async fn set(call: &Call, id: &str, body: &OptionalJsonText, drain: bool) -> Result<StatusCode, ApiError> {
    let Drain {} = action::read(id, body)?;
    let endpoint: EndpointId = resource::parse_id::<Endpoints>(id)?;
    let Some(online) = live(call).into_iter().find(|online| online.id == endpoint) else {
        return Err(not_of_an_agent(call, endpoint).await);
    };
    if online.report.drain.is_none() {
        let message = format!(
            "{endpoint} cannot be drained: its edge, or the control that feeds it, is of an older release"
        );
        return Err(ApiError::bad(CODE_TOO_OLD, message));
    }
    let unheard = |why: &str| {
        let message = format!("{endpoint} is as it was, as far as is known: {why}");
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, CODE_UNHEARD, message))
    };
    let command = SessionCommand::Drain(DrainWanted { endpoint, drain });
    let answer = match call.app.presence.command(call.account, online.session.id, command) {
        Ok(answer) => timeout(Duration::from_secs(ANSWER_SECS_MAX), answer).await,
        Err(CommandError::Offline) => return Err(offline(endpoint)),
        Err(error) => return unheard(&error.to_string()),
    };
    match answer {
        Ok(Ok(CommandOutcome::Taken)) => Ok(StatusCode::NO_CONTENT),
        // The agent has stopped it, or is gone.
        Ok(Ok(CommandOutcome::Failed { .. })) => Err(offline(endpoint)),
        Ok(Ok(CommandOutcome::Unanswered)) | Err(_) => unheard("its edge did not answer in time"),
        Ok(Err(_)) => unheard("its edge went away before it answered"),
    }
}

fn offline(id: EndpointId) -> ApiError {
    ApiError::not_found(format_args!("endpoint {id} is not online"))
}

/// What is to be said of an id that no agent has online.
async fn not_of_an_agent(call: &Call, id: EndpointId) -> ApiError {
    match record::load::<Endpoint>(&*call.app.store, call.account, id).await {
        Ok(None) => offline(id),
        Ok(Some(_)) | Err(RecordError::Damaged { .. }) => {
            let message =
                format!("{id} is a cloud endpoint; drain the agent endpoints that its policy forwards to");
            ApiError::bad(CODE_NOT_OF_AN_AGENT, message)
        }
        Err(error) => error.into(),
    }
}
