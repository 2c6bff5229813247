//! `Operation`: what the `OpenAPI` document says of one method of one path: parameters, body, answers, refusals.
//!
//! Knows the habits all operations share (keys, the version header, pages, the error body) and no resource.

use std::collections::BTreeSet;

use serde_json::Value;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{ResponseBuilder, ResponsesBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, Deprecated, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use super::page::LIMIT_MAX;
use super::refusal::Refusal;

/// Name of the security scheme.
pub(super) const KEY: &str = "key";
/// Name of the parameter with the API's version.
pub(super) const VERSION_PARAMETER: &str = "Version";

/// One operation's document.
pub(super) struct Operation {
    builder: OperationBuilder,
    tag: String,
    schemas: Vec<(String, RefOr<Schema>)>,
    answer: (&'static str, ResponseBuilder),
    also: Vec<(&'static str, ResponseBuilder)>,
    refusals: BTreeSet<Refusal>,
    is_open: bool,
}

impl Operation {
    /// An operation that is answered 204. `tag` is the resource, `verb` what is done with it: both make the operation's id.
    pub(super) fn new(tag: &str, verb: &str, summary: &str) -> Self {
        // A path of several segments: names of schemas and operations have no slash.
        let tag = &tag.replace('/', "_");
        Self {
            builder: OperationBuilder::new()
                .tag(tag.as_str())
                .summary(Some(summary))
                .operation_id(Some(format!("{tag}_{verb}"))),
            tag: tag.to_owned(),
            schemas: Vec::new(),
            answer: ("204", ResponseBuilder::new().description("Done; without a body.")),
            also: Vec::new(),
            refusals: Refusal::COMMON.into_iter().collect(),
            is_open: false,
        }
    }

    /// A sentence or two beyond the summary.
    pub(super) fn description(mut self, text: &str) -> Self {
        self.builder = self.builder.description(Some(text));
        self
    }

    /// Needs no key.
    pub(super) fn open(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// May be refused in these ways too.
    pub(super) fn refuses(mut self, refusals: &[Refusal]) -> Self {
        self.refusals.extend(refusals);
        self
    }

    /// May be answered with a status that is neither what it is for nor a refusal, and has no body.
    pub(super) fn may_answer(mut self, status: &'static str, what: &str) -> Self {
        self.also.push((status, ResponseBuilder::new().description(what)));
        self
    }

    /// Takes a parameter.
    pub(super) fn parameter(mut self, parameter: Parameter) -> Self {
        self.builder = self.builder.parameter(parameter);
        self
    }

    /// Takes the id of an object in its path.
    pub(super) fn id(self, prefixes: &[&str]) -> Self {
        let id = parameter("id", ParameterIn::Path, id_schema(prefixes), "Identifier of the object.");
        self.parameter(id.required(Required::True).build()).refuses(&[Refusal::NotFound])
    }

    /// Is answered with an object.
    pub(super) fn answers<V: ToSchema>(mut self, status: &'static str, what: &str) -> Self {
        let schema = self.schema::<V>();
        self.answer = (status, json_answer(what, schema));
        self
    }

    /// Is answered with a page of objects, and takes what chooses the page.
    pub(super) fn lists<V: ToSchema>(mut self, key: &str, prefixes: &[&str], filters: &[&str]) -> Self {
        let items = ArrayBuilder::new()
            .items(self.schema::<V>())
            .description(Some("The objects, newest first."))
            .max_items(Some(LIMIT_MAX));
        let next = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("The next page's address; null on the last one."));
        let list = ObjectBuilder::new()
            .property(key, items)
            .required(key)
            .property("uri", String::schema())
            .required("uri")
            .property("next_page_uri", next)
            .required("next_page_uri");
        let name = page_name(&self.tag);
        self.schemas.push((name.clone(), list.build().into()));
        self.answer = ("200", json_answer("One page.", RefOr::Ref(Ref::from_schema_name(name))));
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(LIMIT_MAX))
            .default(Some(LIMIT_MAX.into()));
        let query = |name: &str, schema: RefOr<Schema>, text: &str| {
            parameter(name, ParameterIn::Query, schema, text).required(Required::False)
        };
        let before = "Only objects older than this one, which need not exist.";
        let filter = "CEL over `obj`, one object as the list shows it: `obj.description == \"x\"`.";
        let all = [
            query("limit", limit.into(), "Most objects of the page.").build(),
            query("before_id", maybe_id(prefixes), before).build(),
            query("beforeId", maybe_id(prefixes), "Old spelling of `before_id`.")
                .deprecated(Some(Deprecated::True))
                .build(),
            query("filter", String::schema(), filter).build(),
        ];
        let listed = all.into_iter().fold(self, Self::parameter);
        filters.iter().fold(listed, |listed, name| {
            let values = ArrayBuilder::new().items(String::schema());
            let text = format!("Only objects with this `{}`; may be repeated.", name.trim_end_matches('s'));
            listed.parameter(query(name, values.into(), &text).build())
        })
    }

    /// Takes a JSON body of the schema given; the example is JSON.
    pub(super) fn takes(
        mut self,
        name: String,
        schema: RefOr<Schema>,
        required: Required,
        example: &str,
    ) -> Self {
        self.schemas.push((name.clone(), schema));
        let content = ContentBuilder::new()
            .schema(Some(RefOr::Ref(Ref::from_schema_name(name))))
            .example(serde_json::from_str::<Value>(example).ok());
        let body =
            RequestBodyBuilder::new().content("application/json", content.build()).required(Some(required));
        self.builder = self.builder.request_body(Some(body.build()));
        self.refuses(&[Refusal::TooLarge])
    }

    /// What an object that was made leads to: operations of the same resource that take its `id`.
    pub(super) fn leads_to(mut self, verbs: &[&str]) -> Self {
        for verb in verbs {
            let operation = format!("{}_{verb}", self.tag);
            let link =
                LinkBuilder::new().operation_id(operation.clone()).parameter("id", "$response.body#/id");
            self.answer.1 = self.answer.1.link(operation, link.build());
        }
        self
    }

    /// Is answered with something other than JSON.
    pub(super) fn answers_text(mut self, media_type: &str, what: &str) -> Self {
        self.answer = (
            "200",
            ResponseBuilder::new().description(what).content(media_type, ContentBuilder::new().build()),
        );
        self
    }

    /// Registers a type and everything it contains, and gives a reference to it.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let name = T::name().into_owned();
        T::schemas(&mut self.schemas);
        self.schemas.push((name.clone(), T::schema()));
        RefOr::Ref(Ref::from_schema_name(name))
    }

    /// The operation and the schemas it names.
    pub(super) fn finish(self) -> (utoipa::openapi::path::Operation, Vec<(String, RefOr<Schema>)>) {
        let (status, answer) = self.answer;
        let name = HeaderBuilder::new()
            .description(Some("Identifier of this call, for the operator's log."))
            .schema(Some(String::schema()));
        let mut responses =
            ResponsesBuilder::new().response(status, answer.header("ngrok-operation-id", name.build()));
        for (status, answer) in self.also {
            responses = responses.response(status, answer);
        }
        for refusal in self.refusals.iter().filter(|refusal| !self.is_open || !refusal.needs_key()) {
            responses = responses.response(refusal.status(), Ref::from_response_name(refusal.name()));
        }
        let mut builder = self.builder.responses(responses.build());
        builder = if self.is_open {
            builder.securities(Some(Vec::<SecurityRequirement>::new()))
        } else {
            builder.parameter_ref(Ref::new(format!("#/components/parameters/{VERSION_PARAMETER}")))
        };
        (builder.build(), self.schemas)
    }
}

/// A parameter with its sentence.
pub(super) fn parameter(
    name: &str,
    place: ParameterIn,
    schema: RefOr<Schema>,
    text: &str,
) -> ParameterBuilder {
    ParameterBuilder::new().name(name).parameter_in(place).schema(Some(schema)).description(Some(text))
}

/// Text of an id. The first character of its time stays below `a` until the year 2146.
pub(super) fn id_schema(prefixes: &[&str]) -> RefOr<Schema> {
    text_like(format!("^{}$", id_pattern(prefixes)))
}

/// Text of an id, or nothing, which means the same as leaving the parameter out.
fn maybe_id(prefixes: &[&str]) -> RefOr<Schema> {
    text_like(format!("^({})?$", id_pattern(prefixes)))
}

fn id_pattern(prefixes: &[&str]) -> String {
    let prefixes = match prefixes {
        [one] => (*one).to_owned(),
        several => format!("({})", several.join("|")),
    };
    format!("{prefixes}_[0-9A-Z][0-9A-Za-z]{{26}}")
}

fn text_like(pattern: String) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).into()
}

/// Name of a page's schema: two resources may show the same objects under different keys.
fn page_name(tag: &str) -> String {
    let words = tag.split('_').map(|word| {
        let mut letters = word.chars();
        let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
        first + letters.as_str()
    });
    words.collect::<String>() + "Page"
}

fn json_answer(what: &str, schema: RefOr<Schema>) -> ResponseBuilder {
    let content = ContentBuilder::new().schema(Some(schema));
    ResponseBuilder::new().description(what).content("application/json", content.build())
}
