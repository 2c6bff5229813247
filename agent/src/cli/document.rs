//! The `OpenAPI` document of the API, as far as a command line needs it: resources, their verbs, and what each takes.
//!
//! The document's text is `docs/openapi.json`, which control's tests hold to the code that serves the API. Knows no
//! resource and no flag.

#![expect(
    clippy::indexing_slicing,
    reason = "reading a JSON value at a name or a number gives null, not a panic"
)]

use std::sync::LazyLock;

use http::Method;
use serde_json::{Map, Value};

/// Control's own description of its API.
const TEXT: &str = include_str!("../../../docs/openapi.json");

/// Its operations that need a key, and the greeting; read once, when a command of the API is written.
static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(read);

/// One operation.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) resource: String,
    pub(super) verb: String,
    /// Resource and verb as words of a command line.
    pub(super) words: [String; 2],
    pub(super) method: Method,
    /// With the names of `steps` in braces.
    pub(super) path: String,
    /// A sentence.
    pub(super) about: String,
    pub(super) steps: Vec<Step>,
    pub(super) query: Vec<Field>,
    pub(super) headers: Vec<Field>,
    /// None: it takes no body.
    pub(super) body: Option<Body>,
    /// Key of the array where it is a list.
    pub(super) list_key: Option<String>,
    /// Names of the fields of the answer to a creation.
    pub(super) answer_fields: Vec<String>,
}

/// What a body may have.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) is_required: bool,
    pub(super) fields: Vec<Field>,
}

/// A part of a path that names an object.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: String,
    /// As a command line shows it.
    pub(super) shown: String,
    /// Its identity among arguments: a field of the body may have the same name.
    pub(super) argument: String,
}

/// A parameter, or a field of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// With dots where it stands in an object of the body.
    pub(super) name: String,
    /// The flag that gives it, and the flag that names a file with it.
    pub(super) flags: [String; 2],
    pub(super) kind: Kind,
    /// A sentence.
    pub(super) about: String,
    pub(super) is_required: bool,
    /// Taken for old clients only.
    pub(super) is_deprecated: bool,
}

/// What values of a field are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A text that is usually kept in a file.
    Document,
    /// One of these.
    Words(Vec<String>),
    Number,
    Bool,
    /// Given once for each value.
    List(Box<Kind>),
    /// Anything else, written as JSON.
    Json,
}

impl Field {
    fn new(name: String, kind: Kind, about: &str, is_required: bool) -> Self {
        let flag = dashed(&name);
        Self {
            flags: [flag.clone(), format!("{flag}-file")],
            name,
            kind,
            about: about.to_owned(),
            is_required,
            is_deprecated: false,
        }
    }
}

/// A name of the API as it is written on a command line.
fn dashed(name: &str) -> String {
    name.replace('_', "-").to_lowercase()
}

/// All operations, in the document's order.
pub(super) fn operations() -> &'static [Operation] {
    &OPERATIONS
}

fn read() -> Vec<Operation> {
    // A test reads the same text.
    let document: Value = serde_json::from_str(TEXT).unwrap_or_default();
    let mut operations = Vec::new();
    for (path, item) in entries(&document["paths"]) {
        for (method, facts) in entries(item) {
            let wanted = operation(&document, path, method, facts);
            operations
                .extend(wanted.filter(|operation| operation.verb != "openapi" && operation.verb != "docs"));
        }
    }
    operations
}

fn operation(document: &Value, path: &str, method: &str, facts: &Value) -> Option<Operation> {
    let resource = facts["tags"][0].as_str()?.to_owned();
    let verb = facts["operationId"].as_str()?.strip_prefix(&resource)?.strip_prefix('_')?.to_owned();
    let parameters: Vec<&Value> =
        facts["parameters"].as_array().into_iter().flatten().map(|one| followed(document, one)).collect();
    let of = |place: &str| -> Vec<Field> {
        let here = parameters.iter().filter(|one| one["in"] == place && one["deprecated"] != true);
        here.filter(|one| one["name"] != "Ngrok-Version")
            .map(|one| {
                let kind = kind(document, &one["schema"]);
                let name = text(one, "name").to_owned();
                Field::new(name, kind, text(one, "description"), one["required"] == true)
            })
            .collect()
    };
    let body = &facts["requestBody"];
    let schema = followed(document, &body["content"]["application/json"]["schema"]);
    let body = body
        .is_object()
        .then(|| Body { is_required: body["required"] == true, fields: fields(document, "", schema) });
    let answer = &facts["responses"]["200"]["content"]["application/json"]["schema"];
    let made = followed(document, &facts["responses"]["201"]["content"]["application/json"]["schema"]);
    let answer_fields = entries(&made["properties"]).map(|(name, _)| name.clone()).collect();
    let listed = followed(document, answer);
    let list_key = listed["properties"].get("next_page_uri").and_then(|_| {
        entries(&listed["properties"]).find(|(_, field)| field["type"] == "array").map(|(key, _)| key.clone())
    });
    let steps = path.split('/').filter_map(|step| step.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        Step { name: name.to_owned(), shown: name.to_uppercase(), argument: format!("path {name}") }
    });
    let about = [text(facts, "summary"), text(facts, "description")].map(|part| part.trim_end_matches('.'));
    Some(Operation {
        method: method.to_uppercase().parse().ok()?,
        path: path.to_owned(),
        about: about.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(". "),
        steps: steps.collect(),
        words: [dashed(&resource), dashed(&verb)],
        query: of("query"),
        headers: of("header"),
        resource,
        verb,
        body,
        list_key,
        answer_fields,
    })
}

/// The fields of a body; those of an object in it with its name and a dot in front.
fn fields(document: &Value, above: &str, schema: &Value) -> Vec<Field> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields = Vec::new();
    for (name, facts) in entries(&schema["properties"]) {
        // The path has it.
        if above.is_empty() && name == "id" {
            continue;
        }
        let inner = value_of(document, facts);
        let is_required = required.contains(&name.as_str());
        let about = text(facts, "description");
        let name = format!("{above}{name}");
        if above.is_empty() && inner["properties"].is_object() {
            fields.extend(self::fields(document, &format!("{name}."), inner));
        } else {
            let field = Field::new(name, kind(document, facts), about, is_required);
            fields.push(Field { is_deprecated: facts["deprecated"] == true, ..field });
        }
    }
    fields
}

fn kind(document: &Value, schema: &Value) -> Kind {
    let schema = value_of(document, schema);
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect()
        }
        kind => kind.as_str().into_iter().collect(),
    };
    let words = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
    match kinds.as_slice() {
        ["string"] if !words.is_empty() => Kind::Words(words),
        ["string"] if schema["contentMediaType"].is_string() => Kind::Document,
        ["string"] => Kind::Text,
        ["integer" | "number"] => Kind::Number,
        ["boolean"] => Kind::Bool,
        ["array"] => Kind::List(Box::new(kind(document, &schema["items"]))),
        _ => Kind::Json,
    }
}

/// The schema behind a reference, or beside `null`.
fn value_of<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    let choice = schema["oneOf"].as_array().into_iter().flatten().find(|one| one["type"] != "null");
    followed(document, choice.unwrap_or(schema))
}

fn followed<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let target = value.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|target| document.pointer(target)).unwrap_or(value)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(resource: &str, verb: &str) -> &'static Operation {
        operations().iter().find(|o| o.resource == resource && o.verb == verb).unwrap()
    }

    #[test]
    fn the_document_gives_every_verb_with_its_fields() {
        let create = find("endpoints", "create");
        assert_eq!((create.method.as_str(), create.path.as_str()), ("POST", "/endpoints"));
        let body = create.body.as_ref().unwrap();
        let kind =
            |name: &str| body.fields.iter().find(|field| field.name == name).map(|field| field.kind.clone());
        assert_eq!(kind("url"), Some(Kind::Text));
        assert_eq!(kind("traffic_policy"), Some(Kind::Document));
        assert_eq!(kind("bindings"), Some(Kind::List(Box::new(Kind::Text))));
        assert_eq!(kind("pooling_enabled"), Some(Kind::Bool));
        assert_eq!(kind("type"), Some(Kind::Words(vec!["cloud".into()])));
        let domain = find("reserved_domains", "create").body.as_ref().unwrap();
        assert!(domain.fields.iter().any(|field| field.name == "certificate_management_policy.authority"));
        let list = find("api_keys", "list");
        assert_eq!(list.list_key.as_deref(), Some("keys"));
        assert!(list.query.iter().any(|field| field.name == "limit" && field.kind == Kind::Number));
        assert!(list.query.iter().all(|field| field.name != "beforeId"));
        assert_eq!(find("tunnel_sessions", "stop").steps[0].shown, "ID");
        assert_eq!(find("root", "self").path, "/self");
        for operation in operations() {
            let fields = operation.body.iter().flat_map(|body| &body.fields);
            for field in fields.chain(&operation.query).filter(|field| !field.name.contains('.')) {
                assert!(!field.about.is_empty(), "{} {} {}", operation.resource, operation.verb, field.name);
            }
        }
    }
}
