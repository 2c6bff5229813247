//! `?filter=`: the part of CEL by which lists are filtered (surface.md section 1.1). One object at a time, as clients
//! read it, under the name `obj`.
//!
//! A language of its own and small on purpose: no loops, no functions that build values, so an evaluation costs no more
//! than its text is long. Traffic policies have the whole of CEL (`ebbgate_policy::expr`).

mod expr;
mod parse;

use std::cell::Cell;
use std::cmp::Ordering;

use ebbgate_policy::text;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::expr::{Comparison, Expr, TextTest, Val, refused};
use super::failure::ApiError;
use crate::record::UnixSecs;

/// Bytes that the evaluations of one request may look at (code 250).
const BYTES_MAX: usize = 16 << 20;

/// What is left of [`BYTES_MAX`] for one request.
#[derive(Debug)]
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// All of it.
    pub(crate) fn new() -> Self {
        Self(Cell::new(BYTES_MAX))
    }

    fn spend(&self, bytes: usize) -> Result<(), ApiError> {
        let left = self.0.get().checked_sub(bytes).ok_or_else(|| {
            refused("it costs too much on the objects of this account; ask for fewer terms or shorter texts")
        })?;
        self.0.set(left);
        Ok(())
    }
}

/// A filter that can be asked about objects.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter {
    expr: Expr,
    /// What the object is called in it.
    root: &'static str,
}

impl Filter {
    /// Reads a filter (code 250 when it is none).
    pub(crate) fn parse(source: &str) -> Result<Self, ApiError> {
        Self::parse_over(source, "obj")
    }

    /// The same for objects of another name.
    pub(crate) fn parse_over(source: &str, root: &'static str) -> Result<Self, ApiError> {
        Ok(Self { expr: parse::parse(source, root)?, root })
    }

    /// Whether an object passes.
    pub(crate) fn keeps(&self, object: &Value, now: UnixSecs, budget: &mut Budget) -> Result<bool, ApiError> {
        match (Evaluation { object, root: self.root, now, budget }).eval(&self.expr)? {
            Val::Bool(kept) => Ok(kept),
            other => Err(refused(format_args!("it gives {}, not true or false", noun(&other)))),
        }
    }
}

struct Evaluation<'o> {
    object: &'o Value,
    root: &'static str,
    now: UnixSecs,
    budget: &'o Budget,
}

impl Evaluation<'_> {
    fn eval(&self, expr: &Expr) -> Result<Val, ApiError> {
        self.budget.spend(1)?;
        let value = self.eval_free(expr)?;
        self.budget.spend(value.bytes())?;
        Ok(value)
    }

    fn eval_free(&self, expr: &Expr) -> Result<Val, ApiError> {
        Ok(match expr {
            Expr::Literal(value) => value.clone(),
            Expr::Now => {
                Val::Time(OffsetDateTime::from_unix_timestamp(self.now).unwrap_or(OffsetDateTime::UNIX_EPOCH))
            }
            Expr::Field(steps) => field(self.object, self.root, steps)?,
            Expr::List(items) => {
                Val::List(items.iter().map(|item| self.eval(item)).collect::<Result<_, _>>()?)
            }
            Expr::Not(inner) => Val::Bool(!self.test(inner)?),
            Expr::And(a, b) => Val::Bool(self.test(a)? && self.test(b)?),
            Expr::Or(a, b) => Val::Bool(self.test(a)? || self.test(b)?),
            Expr::Compare(how, a, b) => Val::Bool(compare(*how, self.eval(a)?, self.eval(b)?)?),
            Expr::In(item, list) => Val::Bool(contains(&self.eval(item)?, self.eval(list)?)?),
            Expr::Size(inner) => size(&self.eval(inner)?)?,
            Expr::Timestamp(inner) => Val::Time(as_time(&self.eval(inner)?)?),
            Expr::Shift(inner, seconds) => shift(&self.eval(inner)?, *seconds)?,
            Expr::Text(test, a, b) => match (self.eval(a)?, self.eval(b)?) {
                (Val::Text(whole), Val::Text(part)) => Val::Bool(match test {
                    TextTest::StartsWith => whole.starts_with(&part),
                    TextTest::EndsWith => whole.ends_with(&part),
                    TextTest::Contains => whole.contains(&part),
                }),
                (a, b) => {
                    return Err(refused(format_args!(
                        "text was expected, not {} and {}",
                        noun(&a),
                        noun(&b)
                    )));
                }
            },
        })
    }

    fn test(&self, expr: &Expr) -> Result<bool, ApiError> {
        match self.eval(expr)? {
            Val::Bool(value) => Ok(value),
            other => Err(refused(format_args!("{} stands where true or false is expected", noun(&other)))),
        }
    }
}

/// A field of the object. Below a field that is null everything is null.
fn field(object: &Value, root: &str, steps: &[String]) -> Result<Val, ApiError> {
    let mut here = object;
    for step in steps {
        here = match here {
            Value::Null => return Ok(Val::Null),
            Value::Object(fields) => fields.get(step).ok_or_else(|| {
                let advice = match text::nearest(step, fields.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "there are {}",
                        fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
                    ),
                };
                refused(format_args!("`{root}` has no field `{}`; {advice}", steps.join(".")))
            })?,
            _ => return Err(refused(format_args!("`{root}.{}` goes below a plain value", steps.join(".")))),
        };
    }
    Ok(value(here))
}

fn value(json: &Value) -> Val {
    match json {
        Value::Null => Val::Null,
        Value::Bool(b) => Val::Bool(*b),
        Value::Number(n) => Val::Number(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Val::Text(text.clone()),
        Value::Array(items) => Val::List(items.iter().map(value).collect()),
        Value::Object(_) => Val::Object,
    }
}

/// Times are text in objects: text beside a time is read as one.
fn aligned(a: Val, b: Val) -> Result<(Val, Val), ApiError> {
    Ok(match (&a, &b) {
        (Val::Time(_), Val::Text(_)) => (a, Val::Time(as_time(&b)?)),
        (Val::Text(_), Val::Time(_)) => (Val::Time(as_time(&a)?), b),
        _ => (a, b),
    })
}

fn compare(how: Comparison, a: Val, b: Val) -> Result<bool, ApiError> {
    let (a, b) = aligned(a, b)?;
    let order = match (&a, &b) {
        _ if how == Comparison::Equal => return Ok(a == b),
        _ if how == Comparison::NotEqual => return Ok(a != b),
        (Val::Number(a), Val::Number(b)) => a.partial_cmp(b),
        (Val::Text(a), Val::Text(b)) => Some(a.cmp(b)),
        (Val::Time(a), Val::Time(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let order = order.ok_or_else(|| refused(format_args!("{} and {} have no order", noun(&a), noun(&b))))?;
    Ok(match how {
        Comparison::Less => order == Ordering::Less,
        Comparison::LessOrEqual => order != Ordering::Greater,
        Comparison::Greater => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

fn contains(item: &Val, list: Val) -> Result<bool, ApiError> {
    match list {
        Val::List(items) => Ok(items.contains(item)),
        other => Err(refused(format_args!("`in` needs a list on its right, not {}", noun(&other)))),
    }
}

fn size(of: &Val) -> Result<Val, ApiError> {
    let size = match of {
        Val::Text(text) => text.chars().count(),
        Val::List(items) => items.len(),
        Val::Null => 0,
        other => return Err(refused(format_args!("{} has no size", noun(other)))),
    };
    Ok(Val::Number(f64::from(u32::try_from(size).unwrap_or(u32::MAX))))
}

fn as_time(of: &Val) -> Result<OffsetDateTime, ApiError> {
    match of {
        Val::Time(time) => Ok(*time),
        Val::Text(text) => OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| refused(format_args!("`{text}` is not a time like 2026-01-31T12:00:00Z"))),
        other => Err(refused(format_args!("{} is not a time", noun(other)))),
    }
}

fn shift(of: &Val, seconds: i64) -> Result<Val, ApiError> {
    let moved = as_time(of)?.checked_add(time::Duration::seconds(seconds));
    moved.map(Val::Time).ok_or_else(|| refused("a time lies too far away"))
}

fn noun(value: &Val) -> &'static str {
    match value {
        Val::Null => "null",
        Val::Bool(_) => "true or false",
        Val::Number(_) => "a number",
        Val::Text(_) => "text",
        Val::Time(_) => "a time",
        Val::List(_) => "a list",
        Val::Object => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// 2026-11-23T11:54:08Z.
    const NOW: UnixSecs = 1_795_434_848;

    fn object() -> Value {
        json!({
            "id": "ep_1", "created_at": "2026-11-20T00:00:00Z", "description": "REST API", "metadata": "", "port": 443,
            "pooling_enabled": true, "bindings": ["public"], "type": "cloud", "domain": {"id": "rd_1"}, "tcp_addr": null,
        })
    }

    fn keeps(source: &str) -> Result<bool, ApiError> {
        Filter::parse(source)?.keeps(&object(), NOW, &mut Budget::new())
    }

    #[test]
    fn the_documented_language() {
        let check = |source: &str, expect: bool| assert_eq!(keeps(source), Ok(expect), "{source}");
        check("obj.id == 'ep_1'", true);
        check("obj.id != \"ep_1\"", false);
        check("!(obj.id == 'ep_2') && obj.pooling_enabled", true);
        check("obj.id == 'x' || obj.port == 443 && obj.type in ['cloud', 'agent']", true);
        check("(obj.id == 'x' || obj.port == 443) && obj.type in []", false);
        check("obj.metadata == \"\"", true);
        check("obj.tcp_addr == null && obj.tcp_addr.id == null", true);
        check("obj.domain != null && obj.domain.id == 'rd_1'", true);
        check("'public' in obj.bindings", true);
        check("size(obj.bindings) >= 1 && size(obj.metadata) == 0", true);
        check("obj.port > 80 && obj.port <= 443 && obj.port < 443.5 && obj.port >= -1", true);
        check("obj.created_at > timestamp(\"2026-11-19T00:00:00Z\")", true);
        check("timestamp(obj.created_at) < timestamp(time.now).subtract(\"24h\")", true);
        check("obj.created_at > timestamp(time.now).subtract('7d')", true);
        check("obj.created_at > timestamp(time.now).subtract('1d12h30m')", false);
        check("timestamp(time.now).add('1h') > time.now", true);
        check("obj.description.startsWith('REST') && obj.description.endsWith('API')", true);
        check("obj.description.contains('ST A')", true);
        check("true", true);
        check("obj.description == 'a\\'b\\\\'", false);
        check("  obj.id\n==\t'ep_1'  ", true);
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        let check = |source: &str, expect: &str| {
            let error = keeps(source).unwrap_err();
            assert_eq!(error.code(), Some(ebbgate_model::ErrorCode::new(250)), "{source}");
            assert!(error.message().contains(expect), "{source}: {error}");
        };
        check("", "ends");
        check("obj.id ==", "ends");
        check("obj.id = 'x'", "column 8");
        check("obj.id == 'x", "not closed");
        check("obj.idd == 'x'", "did you mean `id`?");
        check("obj.id.length == 1", "below a plain value");
        check("other.id == 'x'", "`other`");
        check("obj.id", "gives text");
        check("obj.port && true", "a number stands");
        check("obj.id < 3", "have no order");
        check("obj.id in 'x'", "needs a list");
        check("size(obj.port) == 1", "has no size");
        check("timestamp('yesterday') < time.now", "is not a time");
        check("timestamp(time.now).add('1y') < time.now", "duration");
        check("timestamp(time.now).add(obj.id) < time.now", "duration");
        check("obj.port + 1 == 2", "column 10");
        check("obj.bindings[0] == 'public'", "column 13");
        check("obj.id == 'x' ? true : false", "column 15");
        check("obj.id.matches('x')", "`matches`");
        check("type(obj.id) == 'x'", "`type`");
        check("obj.id == 'x' extra", "column 15");
        check(&"(".repeat(1000), "nested");
        check(&"!".repeat(1000), "nested");
        check(&format!("'{}' == ''", "x".repeat(5000)), "longer than");
    }

    #[test]
    fn many_terms_over_long_texts_come_to_an_end() {
        let long = json!({"policy": "x".repeat(256 * 1024)});
        let terms = |n: usize| vec!["obj.policy.contains('y')"; n].join(" || ");
        let mut budget = Budget::new();
        assert_eq!(Filter::parse(&terms(1)).unwrap().keeps(&long, NOW, &mut budget), Ok(false));
        let many = Filter::parse(&terms(32)).unwrap();
        let kept: Vec<_> = (0..10).map(|_| many.keeps(&long, NOW, &mut budget)).collect();
        let refused = kept.iter().find_map(|kept| kept.as_ref().err()).expect("the budget ends");
        assert!(refused.message().contains("costs too much"), "{refused}");
    }

    proptest! {
        #[test]
        fn never_panics(source in "(obj|\\.|id|port|==|<|&&|\\|\\||!|in|\\(|\\)|\\[|\\]|,|'[a-z]*'|\"|[0-9.-]{1,4}|size|timestamp|time|now|add| ){0,24}|\\PC{0,30}") {
            let _ = keeps(&source);
        }
    }
}
