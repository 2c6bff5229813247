//! The places a compiled expression reads from: each is filled when it is first read, and never if it is not.
//!
//! In the rewritten tree a slot is an identifier `@<number>`, so that reading it costs a parse of a small number and no
//! search for a name.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use cel::common::types::{CelBool, CelInt, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use serde_json::Value;

use super::budget::{Budget, Rate};
use super::datum::{Datum, Kind};
use super::groups;
use super::library::Pattern;
use super::names::{self, VARIABLES};
use super::query;
use super::reading::{self, Cost, SEEN_HEADER_BYTES_MAX};
use super::value::{self, Extent, Owned};
use crate::facts::Context;
use crate::secret::{SecretName, SecretValue};

/// Name of the budget in a rewritten tree.
pub(super) const BUDGET: &str = "@budget";

/// One place of an expression.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) source: Source,
    /// What the function pays that is given the value.
    pub(super) rate: Rate,
}

/// What one place holds.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A row of the table of variables.
    Row(usize),
    /// A group of the table as a map.
    Group(String),
    /// Whether a path of the table is present.
    Present(String),
    /// All variables, or all results, made so far.
    MadeAll(Made),
    /// One of them; unresolved when absent.
    MadeOne(Made, String),
    /// Whether it was made.
    MadeHas(Made, String),
    /// The values of one header, by lower-case name.
    Header { response: bool, name: String },
    /// The same; unresolved when the header is absent.
    HeaderEntry { response: bool, name: String },
    /// Whether a header is there.
    HasHeader { response: bool, name: String },
    /// A regular expression, compiled with the expression.
    Pattern(Pattern),
    /// A secret of a vault. Its value is there when the expression is compiled for an edge.
    Secret(SecretName, Option<SecretValue>),
}

/// A variable, or the result of an action, that an expression reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MadeName {
    /// `vars.<name>`; otherwise `actions.ngrok.<name>`.
    pub(crate) is_var: bool,
    pub(crate) name: String,
}

/// What earlier actions made of secrets: names of variables, and of results.
#[derive(Debug, Default)]
pub(crate) struct Tainted {
    pub(crate) vars: BTreeSet<String>,
    pub(crate) results: BTreeSet<String>,
}

/// What is made while a phase runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Vars,
    Results,
}

impl Made {
    fn map(self, cx: &Context) -> &serde_json::Map<String, Value> {
        match self {
            Self::Vars => &cx.vars,
            Self::Results => &cx.results,
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Vars => "vars",
            Self::Results => "actions.ngrok",
        }
    }
}

const fn headers_path(response: bool) -> &'static str {
    if response { "res.headers" } else { "req.headers" }
}

impl Source {
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Row(row) => VARIABLES.get(*row).and_then(|variable| variable.kind),
            Self::Group(_) | Self::MadeAll(_) => Some(Kind::Map),
            Self::Present(_) | Self::MadeHas(..) | Self::HasHeader { .. } => Some(Kind::Bool),
            Self::Header { .. } | Self::HeaderEntry { .. } => Some(Kind::List),
            Self::Secret(..) => Some(Kind::Text),
            Self::MadeOne(..) | Self::Pattern(_) => None,
        }
    }

    /// How a policy writes it. None: it is no variable.
    pub(super) fn name(&self) -> Option<String> {
        Some(match self {
            Self::Row(row) => VARIABLES.get(*row)?.path.to_owned(),
            Self::Group(path) => path.clone(),
            Self::Present(path) => format!("has({path})"),
            Self::MadeAll(made) => made.prefix().to_owned(),
            Self::MadeOne(made, name) => format!("{}.{name}", made.prefix()),
            Self::MadeHas(made, name) => format!("has({}.{name})", made.prefix()),
            Self::Header { response, name } | Self::HeaderEntry { response, name } => {
                format!("{}['{name}']", headers_path(*response))
            }
            Self::HasHeader { response, name } => format!("'{name}' in {}", headers_path(*response)),
            Self::Pattern(_) | Self::Secret(..) => return None,
        })
    }

    /// The path of the table that it reads, or whose presence it is. None: it reads none.
    pub(super) fn path(&self) -> Option<&str> {
        match self {
            Self::Row(row) => VARIABLES.get(*row).map(|variable| variable.path),
            Self::Group(path) | Self::Present(path) => Some(path),
            _ => None,
        }
    }

    /// Why it could not be filled.
    pub(super) fn absence(&self) -> String {
        match self {
            Self::HeaderEntry { response, name } => {
                format!("the {} has no header `{name}`", if *response { "response" } else { "request" })
            }
            Self::MadeOne(Made::Vars, name) => format!("`vars.{name}` is not set"),
            Self::MadeOne(Made::Results, name) => {
                format!("`actions.ngrok.{name}` is not set: that action did not run")
            }
            Self::Secret(name, _) => format!("there is no {name} here"),
            _ => "a variable is not set".to_owned(),
        }
    }

    /// What it reads of what actions made.
    pub(super) fn made(&self) -> Option<MadeName> {
        match self {
            Self::MadeOne(made, name) | Self::MadeHas(made, name) => {
                Some(MadeName { is_var: *made == Made::Vars, name: name.clone() })
            }
            _ => None,
        }
    }

    /// Whether it holds a secret, or what earlier actions made of one.
    pub(super) fn may_show_a_secret(&self, tainted: &Tainted) -> bool {
        match self {
            Self::Secret(..) => true,
            Self::MadeAll(Made::Vars) => !tainted.vars.is_empty(),
            Self::MadeAll(Made::Results) => !tainted.results.is_empty(),
            Self::MadeOne(Made::Vars, name) => tainted.vars.contains(name),
            Self::MadeOne(Made::Results, name) => tainted.results.contains(name),
            _ => false,
        }
    }

    pub(super) fn mentions_var(&self, name: &str) -> bool {
        match self {
            Self::MadeAll(Made::Vars) => true,
            Self::MadeOne(Made::Vars, var) | Self::MadeHas(Made::Vars, var) => var == name,
            _ => false,
        }
    }
}

/// The identifier of a slot.
pub(super) fn identifier(index: usize) -> String {
    format!("@{index}")
}

/// The slot of an identifier.
pub(super) fn index(identifier: &str) -> Option<usize> {
    identifier.strip_prefix('@')?.parse().ok()
}

/// Fills slots from a context, and keeps what it filled for the rest of the evaluation.
pub(super) struct Resolver<'c> {
    slots: &'c [Slot],
    filled: Vec<OnceLock<Option<(Owned<'c>, Extent)>>>,
    cx: &'c Context,
    budget: &'c Budget,
    /// Values of names that are no variables.
    given: Vec<(&'c str, Owned<'c>)>,
}

impl<'c> Resolver<'c> {
    pub(super) fn new(slots: &'c [Slot], cx: &'c Context, budget: &'c Budget) -> Self {
        let filled = slots.iter().map(|_| OnceLock::new()).collect();
        Self { slots, filled, cx, budget, given: Vec::new() }
    }

    /// The same, with values of names that are no variables. They are paid for here; what an exhausted budget cannot pay
    /// for is not there.
    pub(super) fn giving(mut self, given: &'c [(&'c str, Value)]) -> Self {
        for (name, json) in given {
            if self.budget.spend(value::json_nodes(json)).is_err() {
                continue;
            }
            let value = value::from_json(json);
            let extent = value::extent(value.as_ref(), u64::MAX);
            if self.budget.spend(Rate::new(1, 2).of(extent)).is_ok() {
                self.given.push((name, value));
            }
        }
        self
    }

    /// The value, paid for before it is built. What an exhausted budget cannot pay for is not there.
    fn fill(&self, source: &Source) -> Option<(Owned<'c>, Extent)> {
        let Cost { units, header_bytes } = self.cost(source);
        if header_bytes > SEEN_HEADER_BYTES_MAX {
            self.budget.refuse_headers();
            return None;
        }
        self.budget.spend(units).ok()?;
        let value = self.read(source)?;
        let extent = value::extent(value.as_ref(), u64::MAX);
        self.budget.spend(Rate::new(1, 2).of(extent)).ok()?;
        Some((value, extent))
    }

    /// The value as JSON; None where there is none.
    pub(super) fn json(&self, source: &Source) -> Option<Value> {
        self.fill(source).map(|(value, _)| value::to_json(value.as_ref()))
    }

    fn cost(&self, source: &Source) -> Cost {
        let cx = self.cx;
        match source {
            Source::Row(row) => VARIABLES.get(*row).map_or(Cost::default(), |row| reading::row(row.path, cx)),
            Source::Group(path) => reading::group(path, cx),
            Source::Header { response, name } | Source::HeaderEntry { response, name } => {
                reading::header(headers(cx, *response), name)
            }
            Source::MadeAll(made) => {
                let units = made.map(cx).values().map(|value| 2 + value::json_nodes(value)).sum();
                Cost { units, header_bytes: 0 }
            }
            Source::MadeOne(made, name) => {
                let units = made.map(cx).get(name).map_or(0, value::json_nodes);
                Cost { units, header_bytes: 0 }
            }
            Source::Present(path) => reading::presence(path),
            Source::MadeHas(..) | Source::HasHeader { .. } | Source::Pattern(_) | Source::Secret(..) => {
                Cost::default()
            }
        }
    }

    fn read(&self, source: &Source) -> Option<Owned<'c>> {
        let cx = self.cx;
        Some(match source {
            Source::Row(row) => datum(VARIABLES.get(*row)?.value(cx)),
            Source::Group(path) => value::from_json(&groups::group(path, cx)),
            Source::Present(path) => boolean(names::is_present(path, cx)),
            Source::MadeAll(made) => value::from_json(&Value::Object(made.map(cx).clone())),
            Source::MadeOne(made, name) => value::from_json(made.map(cx).get(name)?),
            Source::MadeHas(made, name) => boolean(made.map(cx).contains_key(name)),
            Source::Header { response, name } | Source::HeaderEntry { response, name } => {
                let values = query::header_values(headers(cx, *response), name);
                if values.is_empty() && matches!(source, Source::HeaderEntry { .. }) {
                    return None;
                }
                value::list(values.into_iter().map(value::text).collect())
            }
            Source::HasHeader { response, name } => {
                boolean(headers(cx, *response).is_some_and(|headers| headers.contains_key(name.as_str())))
            }
            Source::Pattern(pattern) => Box::new(pattern.clone()),
            Source::Secret(_, value) => value::text(value.as_ref()?.expose().to_owned()),
        })
    }
}

fn headers(cx: &Context, response: bool) -> Option<&http::HeaderMap> {
    if response {
        cx.response.as_ref().map(|response| &response.headers)
    } else {
        cx.request.as_ref().map(|request| &request.headers)
    }
}

fn boolean<'v>(b: bool) -> Owned<'v> {
    Box::new(CelBool::from(b))
}

fn datum(datum: Datum<'_>) -> Owned<'_> {
    match datum {
        Datum::Text(text) => Box::new(CelString::from(text)),
        Datum::Int(number) => Box::new(CelInt::from(number)),
        Datum::Bool(b) => boolean(b),
        Datum::Json(json) => value::from_json(&json),
    }
}

impl VariableResolver for Resolver<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if name == BUDGET {
            return Some(CowVal::Borrowed(self.budget));
        }
        if let Some((_, value)) = self.given.iter().find(|(given, _)| *given == name) {
            return Some(CowVal::Borrowed(value.as_ref()));
        }
        let at = index(name)?;
        let slot = self.slots.get(at)?;
        let (value, extent) = self.filled.get(at)?.get_or_init(|| self.fill(&slot.source)).as_ref()?;
        self.budget.spend(slot.rate.of(*extent)).ok()?;
        Some(CowVal::Borrowed(value.as_ref()))
    }
}
