//! The reference as a page: resources, their operations, what each takes and gives, and how to call it with curl.
//!
//! A pure function of the document. Every text of it is escaped. Knows the parts of `OpenAPI` that our document uses.

#![expect(
    clippy::indexing_slicing,
    reason = "reading a JSON value at a name or a number gives null, not a panic"
)]

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The page's style; its digest stands in the content security policy.
pub(super) const STYLE: &str = include_str!("style.css");

/// Most levels of objects in objects that a table shows.
const LEVELS_MAX: usize = 4;

/// The page.
pub(super) fn render(document: &Value) -> String {
    let mut page = Page { document, html: String::new() };
    page.all();
    page.html
}

struct Page<'a> {
    document: &'a Value,
    html: String,
}

/// An operation at its place.
#[derive(Clone, Copy)]
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    facts: &'a Value,
}

impl<'a> Page<'a> {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.html.write_fmt(text).expect("writing to a string succeeds");
    }

    fn all(&mut self) {
        let title = escape(text(&self.document["info"], "title"));
        self.put(format_args!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n<nav><h2>{title}</h2><ul>\n"
        ));
        let tags: Vec<&str> = list(&self.document["tags"]).map(|tag| text(tag, "name")).collect();
        for tag in &tags {
            self.put(format_args!("<li><a href=\"#{0}\">{0}</a></li>\n", escape(tag)));
        }
        let about = code_spans(text(&self.document["info"], "description"));
        self.put(format_args!(
            "</ul></nav>\n<main>\n<h1>{title}</h1>\n<p>{about}</p>\n<p>This page as data: <a href=\"openapi.json\">openapi.json</a></p>\n"
        ));
        for tag in tags {
            self.put(format_args!("<section id=\"{0}\"><h2>{0}</h2>\n", escape(tag)));
            for operation in self.of_tag(tag) {
                self.operation(operation);
            }
            self.put(format_args!("</section>\n"));
        }
        self.put(format_args!("</main>\n</body>\n</html>\n"));
    }

    fn of_tag(&self, tag: &str) -> Vec<Operation<'a>> {
        let paths = entries(&self.document["paths"]);
        let all = paths.flat_map(|(path, item)| {
            entries(item).map(move |(method, facts)| Operation { method, path, facts })
        });
        all.filter(|operation| list(&operation.facts["tags"]).any(|one| one == tag)).collect()
    }

    fn operation(&mut self, operation: Operation<'a>) {
        let Operation { method, path, facts } = operation;
        self.put(format_args!(
            "<article id=\"{}\"><h3><b class=\"{method}\">{}</b> <code>{}</code></h3>\n<p>{}. {}</p>\n",
            escape(text(facts, "operationId")),
            method.to_uppercase(),
            escape(path),
            code_spans(text(facts, "summary")),
            code_spans(text(facts, "description")),
        ));
        let parameters: Vec<&Value> = list(&facts["parameters"]).map(|one| self.followed(one)).collect();
        if !parameters.is_empty() {
            self.put(format_args!("<h4>Parameters</h4>\n"));
            self.table_start();
            for parameter in parameters {
                let schema = &parameter["schema"];
                let place = text(parameter, "in");
                let need = if parameter["required"] == true { "required" } else { "" };
                let name = format!("{} <i>{place}</i>", escape(text(parameter, "name")));
                self.row(&name, schema, need, text(parameter, "description"));
            }
            self.put(format_args!("</table>\n"));
        }
        let body = &facts["requestBody"]["content"]["application/json"];
        if body.is_object() {
            self.put(format_args!("<h4>Body</h4>\n"));
            self.fields(&body["schema"]);
        }
        self.put(format_args!("<h4>Call</h4>\n<pre>{}</pre>\n", escape(&curl(operation, &body["example"]))));
        self.put(format_args!("<h4>Answers</h4>\n<dl>\n"));
        for (status, answer) in entries(&facts["responses"]) {
            let answer = self.followed(answer);
            self.put(format_args!("<dt>{status}</dt><dd>{}</dd>\n", code_spans(text(answer, "description"))));
        }
        self.put(format_args!("</dl>\n"));
        let success = entries(&facts["responses"]).find(|(status, _)| status.starts_with('2'));
        if let Some((_, answer)) = success
            && answer["content"]["application/json"]["schema"]["$ref"].is_string()
        {
            self.put(format_args!("<details><summary>Fields of the answer</summary>\n"));
            self.fields(&answer["content"]["application/json"]["schema"]);
            self.put(format_args!("</details>\n"));
        }
        self.put(format_args!("</article>\n"));
    }

    fn fields(&mut self, schema: &'a Value) {
        self.table_start();
        self.rows("", schema, 0);
        self.put(format_args!("</table>\n"));
    }

    fn table_start(&mut self) {
        self.put(format_args!("<table><tr><th>name</th><th>type</th><th></th><th></th></tr>\n"));
    }

    /// A row for each field, those of objects in it behind it.
    fn rows(&mut self, above: &str, schema: &'a Value, level: usize) {
        let schema = self.object_of(schema);
        let required: Vec<&str> = list(&schema["required"]).filter_map(Value::as_str).collect();
        for (name, field) in entries(&schema["properties"]) {
            let need = if required.contains(&name.as_str()) { "required" } else { "" };
            let full = format!("{above}{}", escape(name));
            let said = match text(field, "description") {
                "" => text(self.followed(field), "description"),
                said => said,
            };
            self.row(&full, field, need, said);
            let inner = if field["items"].is_object() { &field["items"] } else { field };
            let step = if field["items"].is_object() { "[]." } else { "." };
            if level < LEVELS_MAX && self.object_of(inner)["properties"].is_object() {
                self.rows(&format!("{full}{step}"), inner, level + 1);
            }
        }
    }

    fn row(&mut self, name: &str, schema: &Value, need: &str, said: &str) {
        let kind = kind(schema);
        self.put(format_args!(
            "<tr><td><code>{name}</code></td><td>{}</td><td>{need}</td><td>{}</td></tr>\n",
            escape(&kind),
            code_spans(said)
        ));
    }

    /// What a reference leads to; everything else as it is.
    fn followed(&self, value: &'a Value) -> &'a Value {
        let target = value.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
        target.and_then(|target| self.document.pointer(target)).unwrap_or(value)
    }

    /// The object behind a reference or beside `null`.
    fn object_of(&self, schema: &'a Value) -> &'a Value {
        let choice = list(&schema["oneOf"]).find(|one| one["type"] != "null");
        self.followed(choice.unwrap_or(schema))
    }
}

/// The type in words, with its bounds.
fn kind(schema: &Value) -> String {
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        return target.rsplit('/').next().unwrap_or_default().to_owned();
    }
    if schema["oneOf"].is_array() {
        let kinds: Vec<String> = list(&schema["oneOf"]).map(kind).collect();
        return kinds.join(" or ");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let mut said = kinds.join(" or ");
    if schema["items"].is_object() {
        said = format!("{said} of {}", kind(&schema["items"]));
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(Value::to_string).collect();
        let _ = write!(said, ": {}", words.join(", "));
    }
    for (key, sign) in
        [("minimum", "at least"), ("maximum", "at most"), ("maxLength", "at most"), ("pattern", "like")]
    {
        match &schema[key] {
            Value::String(bound) => {
                let _ = write!(said, ", {sign} {bound}");
            }
            Value::Number(bound) => {
                let unit = if key == "maxLength" { " bytes" } else { "" };
                let _ = write!(said, ", {sign} {bound}{unit}");
            }
            _ => {}
        }
    }
    said
}

/// The call as a command.
fn curl(operation: Operation<'_>, example: &Value) -> String {
    let Operation { method, path, facts } = operation;
    let is_open = facts["security"].as_array().is_some_and(Vec::is_empty);
    let mut call = String::from("curl");
    if method != "get" {
        call = format!("{call} -X {}", method.to_uppercase());
    }
    let path = path.replace("{id}", "$ID");
    call = format!("{call} \"$API{path}\"");
    if !is_open {
        call += " \\\n  -H \"Authorization: Bearer $API_KEY\" -H 'Ngrok-Version: 2'";
    }
    if !example.is_null() {
        let body = example.to_string().replace('\'', "'\\''");
        call = format!("{call} \\\n  -H 'Content-Type: application/json' -d '{body}'");
    }
    call
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escaped, with what stands between backquotes as code.
fn code_spans(text: &str) -> String {
    let parts = text
        .split('`')
        .enumerate()
        .map(|(n, part)| if n % 2 == 1 { format!("<code>{}</code>", escape(part)) } else { escape(part) });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_of_the_document_are_escaped() {
        let document = json!({
            "info": { "title": "<b>\"A&B\"", "description": "say `a<b`" },
            "tags": [{ "name": "things" }],
            "paths": { "/things/{id}": { "patch": {
                "tags": ["things"], "operationId": "things_update", "summary": "<script>",
                "requestBody": { "content": { "application/json": {
                    "schema": { "$ref": "#/components/schemas/Thing" }, "example": { "it's": "<" },
                } } },
                "responses": { "204": { "description": "Done." } },
            } } },
            "components": { "schemas": { "Thing": { "required": ["a"], "properties": {
                "a": { "type": ["string", "null"], "maxLength": 5, "description": "<i>" },
                "b": { "type": "array", "items": { "type": "object", "properties": { "c": { "type": "integer" } } } },
            } } } },
        });
        let html = render(&document);
        for expect in [
            "&lt;b&gt;&quot;A&amp;B&quot;",
            "say <code>a&lt;b</code>",
            "<p>&lt;script&gt;. </p>",
            "<td><code>a</code></td><td>string or null, at most 5 bytes</td><td>required</td><td>&lt;i&gt;</td>",
            "<td><code>b[].c</code></td>",
            "-d '{&quot;it'\\''s&quot;:&quot;&lt;&quot;}'",
        ] {
            assert!(html.contains(expect), "{expect} in {html}");
        }
        assert!(!html.contains("<script"), "{html}");
    }
}
