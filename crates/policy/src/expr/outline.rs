//! What a condition says at first sight, without values: the parts that must all hold, what it reads, and what it can never
//! find. For lints; the engine does not ask.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};

use super::syntax;
use crate::pattern;

/// Values that have no capital letter.
const LOWER: [&str; 6] = [
    "endpoint.host",
    "endpoint.protocol",
    "endpoint.url",
    "req.content_type",
    "req.url.scheme",
    "res.content_type",
];
/// Values that have no small letter.
const UPPER: [&str; 1] = ["req.method"];
/// Maps with keys without capital letters.
const LOWER_KEYS: [&str; 4] = ["req.headers", "req.trailers", "res.headers", "res.trailers"];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    /// Parts that are joined by `&&`.
    pub(crate) parts: Vec<Part>,
    /// Dotted names that are read, `has(...)` left out.
    pub(crate) reads: BTreeSet<String>,
    /// Dotted names in `has(...)`.
    pub(crate) asks: BTreeSet<String>,
    /// Patterns of `matches`, as written.
    pub(crate) patterns: Vec<String>,
    /// Comparisons that never hold, each with the way out.
    pub(crate) never: Vec<(String, &'static str)>,
}

/// One of the parts that must all hold.
#[derive(Debug)]
pub(crate) struct Part {
    /// The part written in one way, so that equal parts have equal texts; None: it is too involved.
    pub(crate) text: Option<String>,
    /// What it always is.
    pub(crate) always: Option<bool>,
    /// A name and the only value that it may have.
    pub(crate) equals: Option<(String, String)>,
    /// What it negates, written in one way.
    pub(crate) negates: Option<String>,
}

/// The outline of a source; None: it cannot be read.
pub(crate) fn outline(source: &str) -> Option<Outline> {
    let ast = syntax::parse(source).ok()?;
    let mut outline = Outline::default();
    split(&ast, &mut outline.parts);
    outline.walk(&ast, &mut Vec::new());
    Some(outline)
}

fn split(expr: &IdedExpr, parts: &mut Vec<Part>) {
    match &expr.expr {
        Expr::Call(call) if call.func_name == operators::LOGICAL_AND => {
            call.args.iter().for_each(|part| split(part, parts));
        }
        _ => parts.push(Part {
            text: written(expr),
            always: always(expr),
            equals: equals(expr),
            negates: call_of(expr, operators::LOGICAL_NOT).and_then(|args| written(args.first()?)),
        }),
    }
}

fn call_of<'e>(expr: &'e IdedExpr, function: &str) -> Option<&'e [IdedExpr]> {
    match &expr.expr {
        Expr::Call(call) if call.func_name == function && call.target.is_none() => Some(&call.args),
        _ => None,
    }
}

fn literal(expr: &IdedExpr) -> Option<&LiteralValue> {
    match &expr.expr {
        Expr::Literal(value) => Some(value),
        _ => None,
    }
}

fn text(expr: &IdedExpr) -> Option<&str> {
    match literal(expr)? {
        LiteralValue::String(text) => Some(text.inner()),
        _ => None,
    }
}

/// `a.b.c`.
fn dotted(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", dotted(&select.operand)?, select.field))
        }
        _ => None,
    }
}

/// The value of what has no variable in it, as far as it is told from its form.
fn always(expr: &IdedExpr) -> Option<bool> {
    if let Some(LiteralValue::Boolean(value)) = literal(expr) {
        return Some(*value.inner());
    }
    let Expr::Call(call) = &expr.expr else { return None };
    let values = || call.args.iter().map(always);
    match call.func_name.as_str() {
        operators::LOGICAL_NOT => always(call.args.first()?).map(|value| !value),
        operators::LOGICAL_AND if values().any(|value| value == Some(false)) => Some(false),
        operators::LOGICAL_AND => values().all(|value| value == Some(true)).then_some(true),
        operators::LOGICAL_OR if values().any(|value| value == Some(true)) => Some(true),
        operators::LOGICAL_OR => values().all(|value| value == Some(false)).then_some(false),
        operators::EQUALS | operators::NOT_EQUALS => {
            let (a, b) = (literal(call.args.first()?)?, literal(call.args.get(1)?)?);
            let is_same_kind = std::mem::discriminant(a) == std::mem::discriminant(b);
            is_same_kind.then_some((a == b) == (call.func_name == operators::EQUALS))
        }
        _ => None,
    }
}

/// `name == 'value'`, either way round.
fn equals(expr: &IdedExpr) -> Option<(String, String)> {
    let [a, b] = call_of(expr, operators::EQUALS)? else { return None };
    let pair = |name: &IdedExpr, value: &IdedExpr| Some((written(name)?, format!("{:?}", literal(value)?)));
    if literal(a).is_some() { pair(b, a) } else { pair(a, b) }
}

/// A text that equal expressions share.
fn written(expr: &IdedExpr) -> Option<String> {
    let all = |exprs: &[IdedExpr]| exprs.iter().map(written).collect::<Option<Vec<_>>>();
    Some(match &expr.expr {
        // Twice the same call gives two values.
        Expr::Ident(name) if name == "rand" => return None,
        Expr::Ident(name) => name.clone(),
        Expr::Literal(value) => format!("{value:?}"),
        Expr::Select(select) => {
            let dot = if select.test { ".?" } else { "." };
            format!("{}{dot}{}", written(&select.operand)?, select.field)
        }
        Expr::List(list) if list.optional_indices.is_empty() => {
            format!("[{}]", all(&list.elements)?.join(", "))
        }
        Expr::Call(call) => {
            let mut args = all(&call.args)?;
            if [operators::EQUALS, operators::NOT_EQUALS].contains(&call.func_name.as_str()) {
                args.sort();
            }
            let target = match &call.target {
                Some(target) => format!("{}.", written(target)?),
                None => String::new(),
            };
            format!("{target}{}({})", call.func_name, args.join(", "))
        }
        _ => return None,
    })
}

/// Letters that a value never has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Never {
    Capitals,
    Small,
}

impl Never {
    fn is_in(self, text: &str) -> bool {
        match self {
            Self::Capitals => text.bytes().any(|b| b.is_ascii_uppercase()),
            Self::Small => text.bytes().any(|b| b.is_ascii_lowercase()),
        }
    }

    fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Capitals => ("has small letters only", "write it in small letters"),
            Self::Small => ("has capital letters only", "write it in capital letters"),
        }
    }
}

impl Outline {
    /// `keys`: variables of loops over the keys of headers.
    fn walk(&mut self, expr: &IdedExpr, keys: &mut Vec<String>) {
        match &expr.expr {
            Expr::Select(select) if select.test => match dotted(&select.operand) {
                Some(operand) => drop(self.asks.insert(format!("{operand}.{}", select.field))),
                None => self.walk(&select.operand, keys),
            },
            Expr::Ident(_) | Expr::Select(_) => match (dotted(expr), &expr.expr) {
                (Some(name), _) => drop(self.reads.insert(name)),
                (None, Expr::Select(select)) => self.walk(&select.operand, keys),
                (None, _) => {}
            },
            Expr::Call(call) => {
                self.compare(&call.func_name, call.target.as_deref(), &call.args, keys);
                call.target.iter().for_each(|target| self.walk(target, keys));
                call.args.iter().for_each(|arg| self.walk(arg, keys));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.walk(element, keys)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.walk(&entry.key, keys);
                        self.walk(&entry.value, keys);
                    }
                }
            }
            Expr::Comprehension(turn) => {
                self.walk(&turn.iter_range, keys);
                let is_keys =
                    dotted(&turn.iter_range).is_some_and(|name| LOWER_KEYS.contains(&name.as_str()));
                if is_keys {
                    keys.push(turn.iter_var.clone());
                }
                for part in [&turn.accu_init, &turn.loop_cond, &turn.loop_step, &turn.result] {
                    self.walk(part, keys);
                }
                if is_keys {
                    keys.pop();
                }
            }
            Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
        }
    }

    fn compare(&mut self, function: &str, target: Option<&IdedExpr>, args: &[IdedExpr], keys: &[String]) {
        match (function, target, args) {
            (operators::EQUALS, None, [a, b]) => {
                self.judge(a, text(b), function, keys);
                self.judge(b, text(a), function, keys);
            }
            (operators::IN, None, [value, list]) => {
                if let Expr::List(list) = &list.expr {
                    list.elements.iter().for_each(|element| self.judge(value, text(element), function, keys));
                }
            }
            ("startsWith" | "endsWith" | "contains", Some(value), [part]) => {
                self.judge(value, text(part), function, keys);
            }
            ("matches", Some(value), [source]) | ("matches", None, [value, source]) => {
                if let Some(source) = text(source) {
                    self.patterns.push(source.to_owned());
                    self.judge(value, Some(pattern::needs(source).as_str()), function, keys);
                }
            }
            _ => {}
        }
    }

    /// Notes that a value never has the letters of a text.
    fn judge(&mut self, value: &IdedExpr, wanted: Option<&str>, function: &str, keys: &[String]) {
        let (Some(wanted), Some((name, never))) = (wanted, letters(value, keys)) else { return };
        if never.is_in(wanted) {
            let (has, hint) = never.told();
            let what = if function == "matches" { "the pattern needs" } else { "it is compared with" };
            self.never.push((format!("`{name}` {has}, and {what} `{wanted}`"), hint));
        }
    }
}

/// What an expression is called, and the letters that it never has.
fn letters(value: &IdedExpr, keys: &[String]) -> Option<(String, Never)> {
    if let Expr::Call(call) = &value.expr {
        let never = match call.func_name.as_str() {
            "lower" | "lowerAscii" => Never::Capitals,
            "upper" | "upperAscii" => Never::Small,
            _ => return None,
        };
        return call.target.is_some().then(|| (format!("{}()", call.func_name), never));
    }
    let name = dotted(value)?;
    if keys.contains(&name) {
        return Some(("the name of a header".to_owned(), Never::Capitals));
    }
    let never = if LOWER.contains(&name.as_str()) {
        Never::Capitals
    } else if UPPER.contains(&name.as_str()) {
        Never::Small
    } else {
        return None;
    };
    Some((name, never))
}
