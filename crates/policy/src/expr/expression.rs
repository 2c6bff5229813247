//! A compiled expression: how it is compiled, run against a context, and what its failure says.

use std::sync::{Arc, LazyLock};

use cel::{Env, ExecutionError, IdedExpr};
use serde_json::Value;

use super::addresses;
use super::budget::{Budget, HELD_BYTES_MAX, Rate};
use super::error::{EvalError, ExprError};
use super::names::{self, Names};
use super::slots::{self, MadeName, Resolver, Slot, Source, Tainted};
use super::{datum::Kind, kind, library, rewrite, syntax, value};
use crate::facts::{Context, Phase};
use crate::secret::{SecretName, SecretValue};
use crate::work::Work;

/// The standard environment, built once: all functions a policy may call.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(library::environment()));

/// A compiled expression. Evaluating it changes nothing and is a function of the context.
#[derive(Debug)]
pub struct Expression {
    ast: IdedExpr,
    slots: Vec<Slot>,
    /// Units of work that one evaluation takes without any loop.
    weight: u64,
}

/// Units of work that an evaluation takes besides its nodes.
const EVALUATION_UNITS: u64 = 10;

impl Expression {
    /// Compiles any expression of a phase.
    pub(crate) fn compile(source: &str, phase: Phase) -> Result<Self, ExprError> {
        Self::compile_given(source, phase, &[])?.of_no_member()
    }

    /// Refuses names that only the members of a pool have.
    fn of_no_member(self) -> Result<Self, ExprError> {
        let mut reads = self.slots.iter().filter_map(|slot| slot.source.path());
        match reads.find(|path| names::is_of_members(path)) {
            Some(path) => Err(names::only_of_members(path)),
            None => Ok(self),
        }
    }

    /// Compiles a condition on the members of a pool, which names nothing but `endpoint`: there is neither connection nor
    /// request when it is judged.
    pub(crate) fn compile_selector(source: &str) -> Result<Self, ExprError> {
        let expression = Self::compile_given(source, Phase::EventStream, &[])?.of_bool()?;
        for slot in &expression.slots {
            match &slot.source {
                Source::Pattern(_) => {}
                source => match source.path() {
                    Some(path) if path == "endpoint" || path.starts_with("endpoint.") => {}
                    _ => {
                        return Err(names::not_of_members(
                            &source.name().unwrap_or_else(|| "secrets".into()),
                        ));
                    }
                },
            }
        }
        Ok(expression)
    }

    /// Compiles; the source may read these names beside the variables of the phase.
    fn compile_given(source: &str, phase: Phase, given: &[&str]) -> Result<Self, ExprError> {
        let rewritten = rewrite::rewrite_given(syntax::parse(source)?, Names::Policy(phase), given)?;
        let weight = EVALUATION_UNITS.saturating_add(syntax::work(&rewritten.ast));
        Ok(Self { ast: rewritten.ast, slots: rewritten.slots, weight })
    }

    /// Compiles an expression that must be true or false, and refuses those that never are.
    pub(crate) fn compile_condition(source: &str, phase: Phase) -> Result<Self, ExprError> {
        Self::compile(source, phase)?.of_bool()
    }

    /// The same; it may read these names beside the variables of the phase.
    pub(crate) fn compile_condition_given(
        source: &str,
        phase: Phase,
        given: &[&str],
    ) -> Result<Self, ExprError> {
        Self::compile_given(source, phase, given)?.of_no_member()?.of_bool()
    }

    fn of_bool(self) -> Result<Self, ExprError> {
        match kind::of(&self.ast, &self.slots).filter(|kind| *kind != Kind::Bool) {
            Some(kind) => Err(ExprError::never_bool(kind.noun())),
            None => Ok(self),
        }
    }

    /// Whether a condition holds.
    pub(crate) fn test(&self, cx: &Context) -> Result<bool, EvalError> {
        self.test_given(cx, &[])
    }

    /// The same, with values of the names that were given to the compiler.
    pub(crate) fn test_given(&self, cx: &Context, given: &[(&str, Value)]) -> Result<bool, EvalError> {
        self.with_value(cx, given, |value| {
            value::as_bool(value).ok_or_else(|| EvalError::NotBool(value::type_name(value)))
        })
    }

    /// The value, as JSON; bytes become base64 and times RFC 3339.
    pub(crate) fn eval(&self, cx: &Context) -> Result<Value, EvalError> {
        self.with_value(cx, &[], |value| {
            // The copy that leaves the evaluator.
            cx.work.spend(Rate::new(2, 2).of(value::extent(value, HELD_BYTES_MAX)))?;
            Ok(value::to_json(value))
        })
    }

    /// What the expression reads of what actions made.
    pub(crate) fn made_names(&self) -> impl Iterator<Item = MadeName> {
        self.slots.iter().filter_map(|slot| slot.source.made())
    }

    /// Secrets it reads, each with the place of its value.
    pub(crate) fn secrets(&mut self) -> impl Iterator<Item = (&SecretName, &mut Option<SecretValue>)> {
        self.slots.iter_mut().filter_map(|slot| match &mut slot.source {
            Source::Secret(name, value) => Some((&*name, value)),
            _ => None,
        })
    }

    /// Whether its value may be a secret or made of one.
    pub(crate) fn may_show_a_secret(&self, tainted: &Tainted) -> bool {
        self.slots.iter().any(|slot| slot.source.may_show_a_secret(tainted))
    }

    /// What the expression reads and the values of it in this context, each once. Charged to nobody's work.
    pub(crate) fn reads(&self, cx: &Context) -> Vec<(String, Option<Value>)> {
        let budget = Budget::new(Work::default(), cx.rng_seed);
        let resolver = Resolver::new(&self.slots, cx, &budget);
        let mut reads: Vec<(String, Option<Value>)> = Vec::new();
        for source in self.slots.iter().map(|slot| &slot.source) {
            let Some(name) = source.name().filter(|name| reads.iter().all(|(seen, _)| seen != name)) else {
                continue;
            };
            reads.push((name, resolver.json(source)));
        }
        reads
    }

    /// The names that it reads.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.slots.iter().filter_map(|slot| slot.source.name())
    }

    /// Whether it reads one of these variables, or asks whether it is there.
    pub(crate) fn reads_any(&self, paths: &[&str]) -> bool {
        self.slots.iter().filter_map(|slot| slot.source.path()).any(|path| paths.contains(&path))
    }

    /// Whether it reads what an event of an event stream says.
    pub(crate) fn reads_event(&self) -> bool {
        self.slots.iter().filter_map(|slot| slot.source.path()).any(names::is_of_event)
    }

    /// What it reads of databases of addresses: the path as the table has it, and the names.
    pub(crate) fn address_names(&self) -> impl Iterator<Item = (&str, Vec<&'static str>)> {
        let paths = self.slots.iter().filter_map(|slot| slot.source.path());
        let of = |path: &'_ str| addresses::below(path).collect::<Vec<_>>();
        let is_inside =
            |path: &&str| *path != "conn" && !matches!(*path, "conn.client_ip" | "conn.server_ip");
        paths.filter(is_inside).map(move |path| (path, of(path))).filter(|(_, names)| !names.is_empty())
    }

    /// Whether the expression reads `vars.<name>` or all of `vars`.
    pub(crate) fn mentions_var(&self, name: &str) -> bool {
        self.slots.iter().any(|slot| slot.source.mentions_var(name))
    }

    fn with_value<T>(
        &self,
        cx: &Context,
        given: &[(&str, Value)],
        f: impl FnOnce(value::Ref) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        cx.work.spend(self.weight)?;
        let budget = Budget::new(cx.work.clone(), cx.rng_seed);
        let resolver = Resolver::new(&self.slots, cx, &budget).giving(given);
        let mut scope = cel::Context::with_env(Arc::clone(&ENVIRONMENT));
        scope.set_variable_resolver(&resolver);
        let result = cel::Value::resolve_val(&self.ast, &scope);
        budget.verdict()?;
        match result {
            Ok(value) => f(value.as_ref()),
            // The sentence may quote a key or a text.
            Err(_) if self.slots.iter().any(|slot| matches!(slot.source, Source::Secret(_, Some(_)))) => Err(
                EvalError::Failed("the evaluation failed; it reads a secret, so no more is said".to_owned()),
            ),
            Err(error) => Err(EvalError::Failed(explain(&error, &self.slots))),
        }
    }
}

/// An evaluator's error in one short sentence. Values are named by their type: they may be a whole request, with its
/// credentials, and end in a log.
fn explain(error: &ExecutionError, slots: &[Slot]) -> String {
    use ExecutionError as E;
    const CHARS_MAX: usize = 200;
    let kind = |value: &cel::Value| value.type_of().to_string();
    let text = match error {
        E::FunctionError { function, message } => format!("{}: {message}", function.trim_start_matches('@')),
        E::NoSuchKey(key) => format!("there is no key `{key}`"),
        E::UndeclaredReference(name) => match slots::index(name).and_then(|at| slots.get(at)) {
            Some(slot) => slot.source.absence(),
            None => format!("there is no `{name}`"),
        },
        E::IndexOutOfBounds(_) => "an index is out of bounds".to_owned(),
        E::NoSuchOverload(overload) => overload.to_string(),
        E::UnsupportedBinaryOperator(operator, a, b) => {
            format!("`{operator}` does not take {} and {}", kind(a), kind(b))
        }
        E::ValuesNotComparable(a, b) => format!("{} and {} cannot be compared", kind(a), kind(b)),
        E::UnsupportedIndex(index, value) => {
            format!("{} cannot be indexed with {}", kind(value), kind(index))
        }
        E::UnsupportedKeyType(key) => format!("{} cannot be a key", kind(key)),
        E::DuplicateKey(_) => "a map has a key twice".to_owned(),
        E::DivisionByZero(_) | E::RemainderByZero(_) => "a division by zero".to_owned(),
        E::Overflow(operator, ..) => format!("`{operator}` overflows"),
        E::UnexpectedType { want, .. } => format!("a value is not of the type {want}"),
        E::InvalidArgumentCount { expected, actual } => {
            format!("{actual} arguments where {expected} are wanted")
        }
        _ => "the evaluation failed".to_owned(),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}
