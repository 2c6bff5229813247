//! The `OpenAPI` document: operations and schemas put together, with what all operations share.
//!
//! What the document says of one operation is in `operation`; what it says of a field beyond its Rust type is in `fields`.

mod fields;

use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, Operation, ParameterIn};
use utoipa::openapi::schema::{AllOf, Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, RefOr, Required,
};

use super::failure::ErrorBody;
use super::operation::{KEY, VERSION_PARAMETER, parameter};
use super::refusal::Refusal;

const DESCRIPTION: &str = "Calls carry `Authorization: Bearer <API key>` and `Ngrok-Version: 2`; bodies are JSON in \
    UTF-8 without unknown fields. Lists come in pages, newest first: follow `next_page_uri` until it is null. Every \
    answer that is not a success has the one error body. Besides what each operation names, a method that a path does \
    not take is answered 405 with `Allow`, and a head that is too long 431 without a body. What is doubtful about a call \
    that succeeded stands in `ebbgate-warning` headers.";
const VERSION_TEXT: &str = "Version of the API; there is only `2`. Where the installation is not strict, a call without \
    the header is served as version 2, with a warning.";

/// Puts the document together. Operations stand in the order given, schemas by name.
pub(super) fn document(
    operations: Vec<(String, HttpMethod, Operation)>,
    mut schemas: Vec<(String, RefOr<Schema>)>,
) -> OpenApi {
    ErrorBody::schemas(&mut schemas);
    schemas.push((ErrorBody::name().into_owned(), <ErrorBody as utoipa::PartialSchema>::schema()));
    schemas.sort_by(|(a, _), (b, _)| a.cmp(b));
    schemas.dedup_by(|(a, _), (b, _)| a == b);
    let whole: Vec<_> = schemas
        .iter()
        .map(|(name, schema)| (name.clone(), fields::describe(name, flat(schema, &schemas))))
        .collect();

    let mut tags: Vec<String> = Vec::new();
    let mut paths = PathsBuilder::new();
    for (path, method, operation) in operations {
        for tag in
            operation.tags.iter().flatten().filter(|tag| !tags.contains(tag)).cloned().collect::<Vec<_>>()
        {
            tags.push(tag);
        }
        paths = paths.path(path, PathItem::new(method, operation));
    }
    let responses = Refusal::ALL.into_iter().map(|refusal| (refusal.name(), refusal.response()));
    let version = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["2"]));
    let version = parameter("Ngrok-Version", ParameterIn::Header, version.into(), VERSION_TEXT);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key, shown once when made."));
    let components = ComponentsBuilder::new()
        .schemas_from_iter(whole)
        .responses_from_iter(responses)
        .parameter(VERSION_PARAMETER, version.required(Required::True).build())
        .security_scheme(KEY, SecurityScheme::Http(bearer.build()));
    let info = InfoBuilder::new().title("Ebbgate API").version("2").description(Some(DESCRIPTION));
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(tags.into_iter().map(|tag| TagBuilder::new().name(tag).build())))
        .paths(paths)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new(KEY, Vec::<String>::new())]))
        .build()
}

/// A type that contains another's fields (`serde(flatten)`) as one object, its fields in the order of the text.
fn flat(schema: &RefOr<Schema>, all: &[(String, RefOr<Schema>)]) -> RefOr<Schema> {
    let RefOr::T(Schema::AllOf(parts)) = schema else { return schema.clone() };
    merged(parts, all).map_or_else(|| schema.clone(), |object| RefOr::T(Schema::Object(object)))
}

/// None where a part is no object.
fn merged(parts: &AllOf, all: &[(String, RefOr<Schema>)]) -> Option<Object> {
    let mut whole = Object::new();
    whole.description.clone_from(&parts.description);
    for part in &parts.items {
        let part = match part {
            RefOr::T(part) => part,
            RefOr::Ref(reference) => {
                let name = reference.ref_location.rsplit('/').next()?;
                match all.iter().find(|(other, _)| other == name) {
                    Some((_, RefOr::T(part))) => part,
                    _ => return None,
                }
            }
        };
        let Schema::Object(part) = part else { return None };
        whole.required.extend(part.required.iter().cloned());
        whole.properties.extend(part.properties.iter().map(|(name, schema)| (name.clone(), schema.clone())));
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::super::openapi;
    use serde_json::Value;
    use std::collections::BTreeSet;

    #[test]
    fn operation_ids_are_unique_and_lead_somewhere() {
        let document = serde_json::to_value(openapi()).unwrap();
        let operations: Vec<&Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .collect();
        let ids: BTreeSet<&str> = operations.iter().map(|o| o["operationId"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), operations.len());
        let text = document.to_string();
        for link in text.split("{\"operationId\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(ids.contains(link), "a link leads to {link}");
        }
    }

    #[test]
    fn every_field_and_parameter_has_a_sentence() {
        let document = serde_json::to_value(openapi()).unwrap();
        let mut without = Vec::new();
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            for (field, facts) in schema["properties"].as_object().into_iter().flatten() {
                if facts
                    .to_string()
                    .split("\"description\":\"")
                    .nth(1)
                    .is_none_or(|text| text.starts_with('"'))
                {
                    without.push(format!("{name}.{field}"));
                }
            }
        }
        assert!(without.is_empty(), "no doc comment and no entry in schema/fields.rs: {without:?}");
    }
}
