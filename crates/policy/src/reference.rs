//! The reference of the actions: from their descriptions to Markdown, with what each example comes to in the engine.
//!
//! `docs/traffic-policy.md` is [`page`], and a test fails when it is not.

use std::fmt::Write as _;
use std::sync::Arc;

use ebbgate_model::{Binding, EndpointUrl, Scheme};

use crate::action::{self, About, Ending, Field, Kind, Spec};
use crate::check::{CheckContext, Checked, Owner, check};
use crate::code;
use crate::engine::Engine;
use crate::explain::{CaseText, explain};
use crate::expr::{AST_DEPTH_MAX, AST_NODES_MAX, SOURCE_BYTES_MAX, result_members};
use crate::references::References;
use crate::secret::SecretValue;
use crate::work::{COST_UNITS_MAX, EVALUATION_UNITS_MAX};

/// The endpoint of the examples.
const URL: &str = "https://api.example.com";

/// Cases of the conformance suite that pass, of those that are run; its test compares them with what passes.
pub(crate) const SUITE_CORE: &str = "1,100 of 1,102";
pub(crate) const SUITE_EXTENSIONS: &str = "597 of 597";
/// Cases with an expected value that contradicts their own source: the source has no backslash, the expected bytes do.
pub(crate) const SUITE_WRONG: [&str; 2] = [
    "parse/bytes_literals/triple_single_quoted_unescaped_punctuation",
    "parse/bytes_literals/triple_double_quoted_unescaped_punctuation",
];

const INTRODUCTION: &str = "\
# The actions of a traffic policy

This page is written by a test from the code that judges and runs policies (`crates/policy/src/reference.rs`); the same
comparison holds every type, default and limit below against what the code reads. What phases, rules and expressions are:
[guide.md](guide.md#actions). What a command says of a policy: [policy-tools.md](policy-tools.md).

Texts with `${...}` take expressions. A number may be written as text. Every example is executed: below it stands what
`ebbgate policy explain` says of it, and what the upstream and the client get.
";

/// The name of [`DOCUMENT`] among those of actions.
const DOCUMENT_NAME: &str = "document";
/// What the document itself may say.
const DOCUMENT: &str = "\
## document

What stands at the top of a document:

| key | type | default | |
|---|---|---|---|
| `on_tcp_connect`, `on_http_request`, `on_http_response`, `on_event_stream_message` | list of rules |  | the phases, in the order they run |
| `enforce` | true or false | `true` | `false`: rules are evaluated, counted and told, and nothing of them is done; a cloud endpoint forwards all the same ([policy-tools.md](policy-tools.md#try-rules-without-enforcing-them)) |
| `enabled` | true or false | `true` | `false`: rules are checked, and none of them runs |
| `inbound`, `outbound` | list of rules |  | old names of the phases before and after the upstream |
";

/// The page.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(INTRODUCTION);
    out.push_str(
        "\n| action | phases | ends its phase | required | codes of its own |\n|---|---|---|---|---|\n",
    );
    for (spec, about) in described() {
        let required = about.fields.iter().filter(|field| field.is_required && !field.name.contains('.'));
        let required: Vec<_> = required.map(|field| format!("`{}`", field.name)).collect();
        let codes: Vec<_> = about.codes.iter().map(u32::to_string).collect();
        let kind = spec.kind;
        let (phases, ends) = (phases(spec), ends(spec));
        let (required, codes) = (required.join(", "), codes.join(", "));
        let _ = writeln!(out, "| [`{kind}`](#{kind}) | {phases} | {ends} | {required} | {codes} |");
    }
    let _ = write!(out, "\n{DOCUMENT}");
    for (spec, about) in described() {
        out.push('\n');
        out.push_str(&section(spec, about));
    }
    out.push_str("\n## Codes\n\nThose of 2200 to 2299, and 3604, refuse a policy when it is saved; the others are of connections and requests.\n\n");
    out.push_str("| code | when |\n|---|---|\n");
    for (code, _, meaning) in code::MEANINGS {
        let number = code.number();
        let _ = writeln!(out, "| {number} | {} |", meaning.trim().trim_end_matches('.'));
    }
    out.push_str(&expressions());
    out
}

/// What the page says of expressions.
fn expressions() -> String {
    format!(
        "
## Expressions

CEL. Of the public conformance suite, cases that need protobuf messages or a type checker left out, {SUITE_CORE} of the core and
{SUITE_EXTENSIONS} of the extensions pass. The two others contradict their own source: `{}`, `{}`.

An expression has at most {} bytes and {} parts, {} levels deep. Names, and types as far as they are known, are checked when a policy is
saved. One evaluation may take {} units of work, at most 10 ms on a core of today; all policies on a request's way {}.
",
        SUITE_WRONG[0],
        SUITE_WRONG[1],
        grouped(SOURCE_BYTES_MAX as u64),
        grouped(AST_NODES_MAX as u64),
        AST_DEPTH_MAX,
        grouped(EVALUATION_UNITS_MAX),
        grouped(COST_UNITS_MAX),
    )
}

/// What the page says of one action, or of `document`; None: there is none of this name.
#[must_use]
pub fn of(kind: &str) -> Option<String> {
    if kind == DOCUMENT_NAME {
        return Some(DOCUMENT.to_owned());
    }
    described().find(|(spec, _)| spec.kind == kind).map(|(spec, about)| section(spec, about))
}

/// The names of all actions, and `document`.
pub fn names() -> impl Iterator<Item = &'static str> {
    described().map(|(spec, _)| spec.kind).chain([DOCUMENT_NAME])
}

fn described() -> impl Iterator<Item = (&'static Spec, &'static About)> {
    action::described().filter_map(|(spec, about)| Some((spec, about?)))
}

fn phases(spec: &Spec) -> String {
    spec.phases.iter().map(|phase| format!("`{}`", phase.key())).collect::<Vec<_>>().join(", ")
}

fn ends(spec: &Spec) -> &'static str {
    match (spec.ending)(&serde_json::Value::Null) {
        Ending::Never => "no",
        Ending::Sometimes => "sometimes",
        Ending::Always => "yes",
    }
}

fn section(spec: &Spec, about: &About) -> String {
    let mut out = format!("## {}\n\n{}\n\n", spec.kind, about.what);
    let _ = write!(out, "Phases: {}.", phases(spec));
    if !spec.schemes.is_empty() {
        let schemes: Vec<_> = spec.schemes.iter().map(|scheme| scheme.as_str()).collect();
        let _ = write!(out, " Endpoints: {} only.", schemes.join(", "));
    }
    if let Some(members) = result_members(&action::result_name(spec.kind)) {
        let name = action::result_name(spec.kind);
        let members: Vec<_> = members.iter().map(|member| format!("`{member}`")).collect();
        let _ = write!(out, " Leaves `actions.ngrok.{name}` with {}.", members.join(", "));
    }
    out.push_str("\n\n");
    if about.fields.is_empty() {
        out.push_str("It has no fields.\n\n");
    } else {
        out.push_str("| field | type | default | limits |\n|---|---|---|---|\n");
        for field in about.fields {
            let (kind, default, limits) = columns(field);
            let _ = writeln!(out, "| `{}` | {kind} | {default} | {limits} |", field.name);
        }
        out.push('\n');
    }
    if spec.kind == "verify-webhook" {
        out.push_str(&action::webhook_providers());
        out.push('\n');
    }
    let _ = writeln!(out, "```yaml\n{}```\n", about.example);
    let _ = writeln!(out, "Given `{}`:\n\n```text\n{}```", about.given, outcome(about));
    out
}

/// Type, default and limits of a field.
fn columns(field: &Field) -> (String, String, String) {
    let mut limits = Vec::new();
    let (mut kind, default) = match &field.kind {
        Kind::Text { default, bytes_max } => {
            if let Some(bytes) = bytes_max {
                limits.push(format!("at most {} bytes", grouped(*bytes as u64)));
            }
            ("text".to_owned(), default.map(|text| format!("`{text}`")))
        }
        Kind::Flag { default } => ("true or false".to_owned(), Some(format!("`{default}`"))),
        Kind::Number { default, range } => {
            limits.push(format!("{} to {}", grouped(*range.start()), grouped(*range.end())));
            ("number".to_owned(), default.map(|number| number.to_string()))
        }
        Kind::Choice { default, names } => {
            limits.push(names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
            ("word".to_owned(), default.map(|name| format!("`{name}`")))
        }
        Kind::List { of, max } => {
            limits.push(format!("at most {} entries", grouped(*max as u64)));
            (format!("list: {of}"), None)
        }
        Kind::Map { of, max } => {
            limits.push(format!("at most {} entries", grouped(*max as u64)));
            (format!("map: {of}"), None)
        }
        Kind::Members => ("map".to_owned(), None),
        Kind::OneOrMany { max } => {
            limits.push(format!("at most {} entries", grouped(*max as u64)));
            ("map, or a list of them".to_owned(), None)
        }
    };
    if field.is_computed {
        kind.push_str(", `${...}`");
    }
    if let Some(bytes) = field.result_bytes_max {
        limits.push(format!("at most {} bytes after interpolation", grouped(bytes as u64)));
    }
    if !field.note.is_empty() {
        limits.push(field.note.to_owned());
    }
    let default = match default {
        _ if field.is_required => "required".to_owned(),
        Some(default) => default,
        None => "none".to_owned(),
    };
    (kind, default, limits.join("; "))
}

/// `1,048,576`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What the example comes to: the explanation, and what upstream and client get. A defect is told in its place.
fn outcome(about: &About) -> String {
    match executed(about) {
        Ok(text) => text,
        Err(defect) => format!("the example is wrong: {defect}\n"),
    }
}

fn executed(about: &About) -> Result<String, String> {
    let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Agent };
    let checked = check(about.example, &cx)
        .map_err(|defects| defects.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let engine = Engine::compile(&checked.policy, &placeholders(&checked));
    let engine = engine.map_err(|defects| format!("{defects:?}"))?;
    let given = crate::document::plain(about.given).ok_or("`given` cannot be read")?;
    let text: CaseText = serde_json::from_value(given).map_err(|error| error.to_string())?;
    let url: EndpointUrl = URL.parse().map_err(|_| "the URL cannot be read".to_owned())?;
    let case = text.read(&url).map_err(|error| error.to_string())?;
    let explanation = explain(&Arc::new(engine), &case);
    Ok(explanation.text(&checked.policy) + &explanation.changes(&case))
}

/// A text in place of each secret that a policy names.
fn placeholders(checked: &Checked) -> References {
    let values = checked.secrets().into_iter().map(|name| (name.clone(), SecretValue::new("(secret)")));
    References { secrets: values.collect(), ..References::default() }
}

#[cfg(test)]
mod tests;
