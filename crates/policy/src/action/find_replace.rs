//! `request-body-find-replace`, `response-body-find-replace` and `sse-find-replace`: patterns over a body or over each event
//! of an event stream, and what takes the place of their matches.
//!
//! Patterns and replacements are made when the phase runs; the replacing is done as the body passes.

use std::sync::Arc;

use ebbgate_body::{Edit, Edits, EventField, EventReplacement, HELD_BYTES_MAX, Pattern, Replacement};
use ebbgate_model::ErrorCode;
use http::header::CONTENT_LENGTH;
use serde_json::{Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered, body};
use crate::code;
use crate::expr::{PATTERN_BYTES_MAX, Pattern as TextPattern, Template};
use crate::facts::Context;

/// Most replacements of one action.
const REPLACEMENTS_MAX: usize = 32;
/// Longest text that takes the place of a match, after interpolation.
const TO_BYTES_MAX: usize = 8192;

/// The pattern `from`.
#[derive(Debug)]
enum From {
    Literal(Arc<Pattern>),
    Computed(Template),
}

/// One entry of `replacements`.
#[derive(Debug)]
struct Entry {
    /// In an event.
    field: Place,
    from: From,
    to: Template,
}

/// The key `field`.
#[derive(Debug)]
enum Place {
    Known(EventField),
    Computed(Template),
}

#[derive(Debug)]
struct FindReplace {
    kind: Kind,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    Events,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "request-body-find-replace",
            Self::Response => "response-body-find-replace",
            Self::Events => "sse-find-replace",
        }
    }
}

const CODES: &[u32] = &[3900, 3901, 3902, 3903, 3904, 3905];
const FROM: Field = Field::text("replacements[].from")
    .required()
    .at_most(ebbgate_body::PATTERN_BYTES_MAX)
    .computed_to(PATTERN_BYTES_MAX)
    .note("RE2; how long a body may be: bodies.md");
const TO: Field = Field::text("replacements[].to")
    .computed_to(TO_BYTES_MAX)
    .note("`$1`, `$name`: a group of the match; empty deletes");
const REPLACEMENTS: Field = Field::list("replacements", "map", REPLACEMENTS_MAX).required();

pub(super) const ABOUT_REQUEST: About = About {
    file: file!(),
    what: "What matches a pattern in the request's body is replaced as the body passes ([bodies.md](bodies.md)).",
    fields: &[REPLACEMENTS, FROM, TO.required()],
    codes: CODES,
    example: "on_http_request:
  - actions:
      - type: request-body-find-replace
        config: {replacements: [{from: '[0-9]{3}-([0-9]{4})', to: '***-$1'}]}
",
    given: "{method: POST, headers: {content-type: text/plain}, body: call 555-0199}",
    all: "",
};

pub(super) const ABOUT_RESPONSE: About = About {
    file: file!(),
    what: "What matches a pattern in the response's body is replaced as the body passes ([bodies.md](bodies.md)).",
    fields: &[REPLACEMENTS, FROM, TO.required()],
    codes: CODES,
    example: "on_http_response:
  - expressions: [\"res.content_type.startsWith('text/')\"]
    actions:
      - type: response-body-find-replace
        config: {replacements: [{from: tide, to: 'tide of ${req.url.path}'}]}
",
    given: "{response: {headers: {content-type: text/plain, content-length: '21', etag: '\"a\"'}}}",
    all: "",
};

pub(super) const ABOUT_EVENTS: About = About {
    file: file!(),
    what: "What matches a pattern in each event of an event stream is replaced ([bodies.md](bodies.md)).",
    fields: &[
        REPLACEMENTS,
        Field::text_or("replacements[].field", "data").computed().note("`data` or `retry`"),
        FROM,
        TO,
    ],
    codes: CODES,
    example: "on_event_stream_message:
  - actions:
      - type: sse-find-replace
        config: {replacements: [{field: retry, from: '^[0-9]+$', to: '5000'}]}
",
    given: "{response: {headers: {content-type: text/event-stream}}}",
    all: "",
};

pub(super) fn compile_request(config: &mut Config) -> Compiled {
    compile(config, Kind::Request)
}

pub(super) fn compile_response(config: &mut Config) -> Compiled {
    compile(config, Kind::Response)
}

pub(super) fn compile_events(config: &mut Config) -> Compiled {
    compile(config, Kind::Events)
}

fn compile(config: &mut Config, kind: Kind) -> Compiled {
    let before = config.errors();
    let items = config.required_list("replacements", REPLACEMENTS_MAX);
    let mut entries = Vec::new();
    for (path, item) in items {
        entries.extend(config.child_of(item, path, |config| entry(config, kind)).flatten());
    }
    config.finish();
    (config.errors() == before).then(|| Arc::new(FindReplace { kind, entries }) as Arc<dyn Action>)
}

fn entry(config: &mut Config, kind: Kind) -> Option<Entry> {
    let field = if kind == Kind::Events { field(config) } else { Some(Place::Known(EventField::Data)) };
    let from = config.required_text("from").and_then(|text| from(config, &text, kind));
    let to = to(config, kind);
    Some(Entry { field: field?, from: from?, to: to? })
}

fn field(config: &mut Config) -> Option<Place> {
    let Some(text) = config.text("field") else { return Some(Place::Known(EventField::Data)) };
    let path = config.at("field");
    let template = config.template(&text, &path)?;
    let Some(name) = template.literal() else { return Some(Place::Computed(template)) };
    let known = event_field(name);
    if known.is_none() {
        config.error(code::VALUE_BAD, path, format!("`{name}` is not a field that is replaced in")).hint =
            Some("the fields are data, retry".into());
    }
    known.map(Place::Known)
}

fn event_field(name: &str) -> Option<EventField> {
    match name {
        "data" => Some(EventField::Data),
        "retry" => Some(EventField::Retry),
        _ => None,
    }
}

fn from(config: &mut Config, text: &str, kind: Kind) -> Option<From> {
    let path = config.at("from");
    let template = config.template(text, &path)?;
    let Some(literal) = template.literal() else { return Some(From::Computed(template)) };
    match Pattern::new(literal) {
        Ok(pattern) => {
            if pattern.longest_bytes().is_none() && kind != Kind::Events {
                let message = format!(
                    "the whole body is held for this pattern, because its matches have no longest length or may be empty; \
                     a body of more than {HELD_BYTES_MAX} bytes fails with {}",
                    code::BODY_TOO_LONG
                );
                config.warn(code::VALUE_BAD, path, &message, "bound its repetitions, as in `[0-9]{1,9}`");
            }
            Some(From::Literal(Arc::new(pattern)))
        }
        Err(message) => {
            config.error(code::VALUE_BAD, path, message);
            None
        }
    }
}

/// What takes the place of a match; nothing deletes it.
fn to(config: &mut Config, kind: Kind) -> Option<Template> {
    let value = if kind == Kind::Events { config.raw("to") } else { config.required("to") };
    let path = config.at("to");
    match value {
        None if kind == Kind::Events => config.template("", &path),
        None => None,
        Some(Value::String(text)) => config.template(&text, &path),
        Some(other) => config.text_of(other, path).and(None),
    }
}

/// One replacement as it is for a message: where, what, and what expressions are told of it.
type Rendered = (EventField, Replacement, Value);

impl FindReplace {
    /// The replacements as they are for this message.
    fn render(&self, cx: &Context) -> Result<Vec<Rendered>, (ErrorCode, String)> {
        let failed = |message: String| (code::INTERPOLATION_FAILED, message);
        let one = |entry: &Entry| {
            let field = match &entry.field {
                Place::Known(field) => *field,
                Place::Computed(template) => {
                    let name = template.render(cx).map_err(|error| failed(error.to_string()))?;
                    let unknown = || failed(format!("`{name}` is not a field that is replaced in"));
                    event_field(&name).ok_or_else(unknown)?
                }
            };
            let (pattern, source) = match &entry.from {
                From::Literal(pattern) => (Arc::clone(pattern), None),
                From::Computed(template) => {
                    let source = template.render(cx).map_err(|error| failed(error.to_string()))?;
                    if source.len() > PATTERN_BYTES_MAX {
                        let message = format!("a computed pattern is longer than {PATTERN_BYTES_MAX} bytes");
                        return Err((code::PATTERN_BAD, message));
                    }
                    cx.work.spend(TextPattern::compile_units(&source)).map_err(|e| failed(e.to_string()))?;
                    let pattern = Pattern::new(&source).map_err(|message| (code::PATTERN_BAD, message))?;
                    (Arc::new(pattern), Some(source))
                }
            };
            let to = entry.to.render(cx).map_err(|error| failed(error.to_string()))?;
            if to.len() > TO_BYTES_MAX {
                return Err(failed(format!("a replacement is longer than {TO_BYTES_MAX} bytes")));
            }
            let source = source.unwrap_or_else(|| pattern.source().to_owned());
            let told = json!({ "from": source, "to": to });
            Ok((field, Replacement::new(pattern, &to), told))
        };
        self.entries.iter().map(one).collect()
    }

    /// Adds the replacements to a message's edits.
    fn add(&self, edits: &mut Edits, rendered: Vec<(EventField, Replacement)>) {
        if self.kind == Kind::Events {
            let each = |(field, replacement)| EventReplacement { field, replacement };
            edits.push(Edit::ReplaceInEvents(rendered.into_iter().map(each).collect()));
        } else {
            for (_, replacement) in rendered {
                edits.push(Edit::Replace(Arc::new(replacement)));
            }
        }
    }
}

impl Action for FindReplace {
    fn reads_event(&self) -> bool {
        self.entries.iter().any(|entry| {
            let field = matches!(&entry.field, Place::Computed(template) if template.reads_event());
            let from = matches!(&entry.from, From::Computed(template) if template.reads_event());
            field || from || entry.to.reads_event()
        })
    }

    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let name = self.kind.name();
        let is_whole = match &cx.response {
            Some(response) => body::is_whole(cx, response),
            None => has_request_body(cx),
        };
        let mut told = Vec::new();
        if is_whole {
            let rendered = match self.render(cx) {
                Ok(rendered) => rendered,
                Err((code, message)) => return Flow::failed(code, format!("{name}: {message}")),
            };
            let (rendered, all): (Vec<_>, _) =
                rendered.into_iter().map(|(f, r, told)| ((f, r), told)).unzip();
            told = all;
            if cx.event.is_some() {
                let each =
                    rendered.into_iter().map(|(field, replacement)| EventReplacement { field, replacement });
                cx.replaced_in_event.extend(each);
                cx.set_result(&name.replace('-', "_"), json!({ "replacements": told }));
                return Flow::Next;
            }
            let (headers, extensions) = match (&mut cx.response, &mut cx.request) {
                (Some(response), _) => (&mut response.headers, &mut response.extensions),
                (None, Some(request)) => (&mut request.headers, &mut request.extensions),
                (None, None) => return Flow::Next,
            };
            match body::edits(headers, extensions) {
                Ok(edits) => self.add(edits, rendered),
                Err((code, message)) => return Flow::failed(code, format!("{name}: {message}")),
            }
            body::forget_content(headers);
        }
        cx.set_result(&name.replace('-', "_"), json!({ "replacements": told }));
        Flow::Next
    }
}

/// Whether the request may have a body: its head does not say that there is none.
fn has_request_body(cx: &Context) -> bool {
    cx.request
        .as_ref()
        .is_some_and(|request| request.headers.get(CONTENT_LENGTH).is_none_or(|length| length != "0"))
}
