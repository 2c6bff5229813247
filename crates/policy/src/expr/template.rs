//! `${...}` inside text (surface.md section 5.3). Several per text; a value that is exactly one keeps its type.

use serde_json::{Map, Value};

use super::budget::HELD_BYTES_MAX;
use super::error::{EvalError, ExprError};
use super::expression::Expression;
use super::slots::MadeName;
use crate::facts::Context;
use crate::facts::Phase;

/// Longest text after interpolation.
const RENDERED_BYTES_MAX: usize = 1024 * 1024;
/// Most interpolations in one text.
const PARTS_MAX: usize = 64;

/// A text, part literal, part computed.
#[derive(Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Computed(Expression),
}

impl Template {
    /// Compiles every `${...}` of a text.
    pub(crate) fn compile(text: &str, phase: Phase) -> Result<Self, ExprError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let end = end_of_expression(after).ok_or_else(|| {
                ExprError::new("an interpolation `${` is not closed").with_hint("add the closing `}`")
            })?;
            let (source, tail) = after.split_at(end);
            parts.push(Part::Computed(Expression::compile(source, phase)?));
            rest = tail.strip_prefix('}').unwrap_or(tail);
            if parts.len() > PARTS_MAX {
                return Err(ExprError::new(format!("the text has more than {PARTS_MAX} interpolations")));
            }
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The text, when nothing in it is computed.
    pub(crate) fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with everything computed: text as it is, other values as JSON.
    pub(crate) fn render(&self, cx: &Context) -> Result<String, EvalError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Computed(expression) => match expression.eval(cx)? {
                    Value::String(value) => text.push_str(&value),
                    value => text.push_str(&value.to_string()),
                },
            }
            if text.len() > RENDERED_BYTES_MAX {
                return Err(EvalError::Memory(HELD_BYTES_MAX));
            }
        }
        Ok(text)
    }

    /// What it reads of what actions made.
    pub(crate) fn made_names(&self) -> Vec<MadeName> {
        self.expressions().flat_map(Expression::made_names).collect()
    }

    /// Whether it reads what an event of an event stream says.
    pub(crate) fn reads_event(&self) -> bool {
        self.expressions().any(Expression::reads_event)
    }

    fn mentions_var(&self, name: &str) -> bool {
        self.expressions().any(|expression| expression.mentions_var(name))
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Computed(expression) => Some(expression),
            Part::Text(_) => None,
        })
    }

    /// Its expressions, to be given the values of secrets.
    pub(crate) fn expressions_mut(&mut self) -> impl Iterator<Item = &mut Expression> {
        self.parts.iter_mut().filter_map(|part| match part {
            Part::Computed(expression) => Some(expression),
            Part::Text(_) => None,
        })
    }
}

/// Where the expression ends: at the first `}` that closes no brace of its own and stands in no string.
fn end_of_expression(text: &str) -> Option<usize> {
    let mut braces = 0_usize;
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None => match c {
                '\'' | '"' => quote = Some(c),
                '{' => braces += 1,
                '}' if braces == 0 => return Some(at),
                '}' => braces -= 1,
                _ => {}
            },
        }
    }
    None
}

/// A JSON value whose texts may be templates.
#[derive(Debug)]
pub struct ValueTemplate(Node);

#[derive(Debug)]
enum Node {
    Plain(Value),
    Text(Template),
    /// A text that is exactly one `${...}`: the value keeps its type.
    Typed(Expression),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl ValueTemplate {
    /// Compiles every text inside a value. Map keys are not interpolated.
    pub(crate) fn compile(value: &Value, phase: Phase) -> Result<Self, ExprError> {
        compile_node(value, phase).map(Self)
    }

    /// The value with everything computed.
    pub(crate) fn render(&self, cx: &Context) -> Result<Value, EvalError> {
        render_node(&self.0, cx)
    }

    /// What it reads of what actions made.
    pub(crate) fn made_names(&self) -> Vec<MadeName> {
        let mut names = Vec::new();
        node_made(&self.0, &mut names);
        names
    }

    /// Its expressions, to be given the values of secrets.
    pub(crate) fn expressions_mut(&mut self) -> Vec<&mut Expression> {
        let mut expressions = Vec::new();
        node_expressions(&mut self.0, &mut expressions);
        expressions
    }

    /// Whether any part reads one of these variables, or asks whether it is there.
    pub(crate) fn reads_any(&mut self, paths: &[&str]) -> bool {
        self.expressions_mut().iter().any(|expression| expression.reads_any(paths))
    }

    /// Whether any part reads `vars.<name>`.
    pub(crate) fn mentions_var(&self, name: &str) -> bool {
        node_mentions(&self.0, name)
    }
}

/// The names that `${...}` in any text of a value reads. A text that does not compile has none.
pub(crate) fn text_reads(value: &Value, phase: Phase) -> Vec<String> {
    let mut compiled = ValueTemplate::compile(value, phase).ok();
    let expressions = compiled.as_mut().map(ValueTemplate::expressions_mut).unwrap_or_default();
    expressions.iter().flat_map(|expression| expression.names()).collect()
}

fn compile_node(value: &Value, phase: Phase) -> Result<Node, ExprError> {
    Ok(match value {
        Value::String(text) => {
            let mut template = Template::compile(text, phase)?;
            match (template.parts.len(), template.parts.pop()) {
                (1, Some(Part::Computed(expression))) => Node::Typed(expression),
                (_, last) => {
                    template.parts.extend(last);
                    Node::Text(template)
                }
            }
        }
        Value::Array(items) => {
            Node::List(items.iter().map(|item| compile_node(item, phase)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| Ok((key.clone(), compile_node(value, phase)?)));
            Node::Map(entries.collect::<Result<_, ExprError>>()?)
        }
        plain => Node::Plain(plain.clone()),
    })
}

fn render_node(node: &Node, cx: &Context) -> Result<Value, EvalError> {
    Ok(match node {
        Node::Plain(value) => value.clone(),
        Node::Text(template) => Value::String(template.render(cx)?),
        Node::Typed(expression) => expression.eval(cx)?,
        Node::List(items) => {
            Value::Array(items.iter().map(|item| render_node(item, cx)).collect::<Result<_, _>>()?)
        }
        Node::Map(entries) => {
            let entries = entries.iter().map(|(key, node)| Ok((key.clone(), render_node(node, cx)?)));
            Value::Object(entries.collect::<Result<Map<_, _>, EvalError>>()?)
        }
    })
}

fn node_made(node: &Node, names: &mut Vec<MadeName>) {
    match node {
        Node::Plain(_) => {}
        Node::Text(template) => names.extend(template.made_names()),
        Node::Typed(expression) => names.extend(expression.made_names()),
        Node::List(items) => items.iter().for_each(|item| node_made(item, names)),
        Node::Map(entries) => entries.iter().for_each(|(_, item)| node_made(item, names)),
    }
}

fn node_expressions<'n>(node: &'n mut Node, expressions: &mut Vec<&'n mut Expression>) {
    match node {
        Node::Plain(_) => {}
        Node::Text(template) => expressions.extend(template.expressions_mut()),
        Node::Typed(expression) => expressions.push(expression),
        Node::List(items) => items.iter_mut().for_each(|item| node_expressions(item, expressions)),
        Node::Map(entries) => entries.iter_mut().for_each(|(_, item)| node_expressions(item, expressions)),
    }
}

fn node_mentions(node: &Node, name: &str) -> bool {
    match node {
        Node::Plain(_) => false,
        Node::Text(template) => template.mentions_var(name),
        Node::Typed(expression) => expression.mentions_var(name),
        Node::List(items) => items.iter().any(|item| node_mentions(item, name)),
        Node::Map(entries) => entries.iter().any(|(_, node)| node_mentions(node, name)),
    }
}
