//! A source of an event subscription as clients write and read it, and what is judged about it. Knows no routes and no
//! subscription but by its id.

use ebbgate_model::EventSubscriptionId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::call::Call;
use super::event_target::hint;
use super::failure::ApiError;
use super::filter::{Budget, Filter};
use crate::events::{traffic, types};
use crate::record::events::Source;

/// Types of one subscription.
const SOURCES_MAX: usize = 128;
/// Fields of one source.
const FIELDS_MAX: usize = 64;

/// A type of event that a subscription delivers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventSource)]
pub(super) struct View {
    /// Type of event, such as `endpoint_created.v0`.
    r#type: String,
    /// Fields delivered; none: all there are. Only of traffic events.
    fields: Vec<String>,
    /// CEL over `ev`; "": every event. Only of traffic events.
    filter: String,
    uri: String,
}

/// A source in a body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventSourceWrite)]
pub(super) struct SourceBody {
    /// Type of event, such as `endpoint_created.v0`.
    pub(super) r#type: String,
    /// Fields to deliver; none: all there are. Only of traffic events.
    pub(super) fields: Vec<String>,
    /// CEL over `ev`; "": every event. Only of traffic events.
    pub(super) filter: String,
    /// Clients send back what they read; it is not looked at.
    pub(super) uri: Option<String>,
}

impl From<Source> for SourceBody {
    fn from(source: Source) -> Self {
        Self { r#type: source.r#type, fields: source.fields, filter: source.filter, uri: None }
    }
}

pub(super) fn view(call: &Call, subscription: EventSubscriptionId, source: &Source) -> View {
    View {
        r#type: source.r#type.clone(),
        fields: source.fields.clone(),
        filter: source.filter.clone(),
        uri: call.uri(&format!("event_subscriptions/{subscription}/sources/{}", source.r#type)),
    }
}

/// Judges all sources of a subscription. What is doubtful is told.
pub(super) fn judge_all(given: &[SourceBody], warnings: &mut Vec<String>) -> Result<Vec<Source>, ApiError> {
    if given.len() > SOURCES_MAX {
        return Err(ApiError::value(
            "sources",
            format_args!("an event subscription has at most {SOURCES_MAX}"),
        ));
    }
    let mut sources: Vec<Source> = Vec::new();
    for (at, source) in given.iter().enumerate() {
        let field = format!("sources[{at}]");
        let judged = judge(source, &field, warnings)?;
        if sources.iter().any(|other| other.r#type == judged.r#type) {
            let message = format!("the type `{}` is there already; each type once", judged.r#type);
            return Err(ApiError::value(&format!("{field}.type"), message));
        }
        sources.push(judged);
    }
    Ok(sources)
}

fn judge(given: &SourceBody, at: &str, warnings: &mut Vec<String>) -> Result<Source, ApiError> {
    let kind = &given.r#type;
    if !types::is_known(kind) {
        let known: Vec<_> = types::all().collect();
        let known: Vec<_> = known.iter().map(String::as_str).collect();
        let message = format!("there is no event type `{kind}`; {}", hint(kind, &known));
        return Err(ApiError::value(&format!("{at}.type"), message));
    }
    if types::is_absent(kind) {
        warnings.push(format!("events of the type `{kind}` never happen here"));
    }
    let selects = !given.fields.is_empty() || !given.filter.is_empty();
    if selects && !types::is_traffic(kind) {
        let message = format!(
            "only `{}` and `{}` take `fields` and `filter`, `{kind}` is always delivered whole",
            types::HTTP,
            types::TCP
        );
        return Err(ApiError::value(at, message));
    }
    check_fields(kind, &given.fields, at, warnings)?;
    check_filter(&given.filter)?;
    Ok(Source { r#type: kind.clone(), fields: given.fields.clone(), filter: given.filter.clone() })
}

fn check_fields(kind: &str, fields: &[String], at: &str, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    if fields.len() > FIELDS_MAX {
        return Err(ApiError::value(&format!("{at}.fields"), format_args!("there are at most {FIELDS_MAX}")));
    }
    let known = traffic::fields(kind);
    for field in fields {
        match known.iter().find(|(name, _)| name == field) {
            Some((_, true)) => {}
            Some((_, false)) => {
                warnings.push(format!("the field `{field}` is null: edges do not tell it yet"));
            }
            None => {
                let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                let message = format!("`{kind}` has no field `{field}`; {}", hint(field, &names));
                return Err(ApiError::value(&format!("{at}.fields"), message));
            }
        }
    }
    Ok(())
}

/// A filter is tried on an event with every field it may look at.
fn check_filter(text: &str) -> Result<(), ApiError> {
    if text.is_empty() {
        return Ok(());
    }
    let filter = Filter::parse_over(text, "ev")?;
    filter.keeps(&traffic::example(), 0, &mut Budget::new()).map(drop)
}
