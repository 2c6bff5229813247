//! Charges: what a rewritten call, loop or binding pays before it does its work.

use cel::IdedExpr;
use cel::common::ast::{ComprehensionExpr, Expr, LiteralValue, operators};

use super::rewriter::Rewriter;
use crate::expr::budget::Rate;
use crate::expr::datum::Kind;
use crate::expr::error::ExprError;
use crate::expr::kind;
use crate::expr::library::{self, PATTERN_BYTES_MAX, Pattern};
use crate::expr::slots::{self, BUDGET, Source};
use crate::expr::syntax::{COMPREHENSION_NESTING_MAX, work};
use crate::expr::tree::{self, call, ident, int, member, node};

/// Literals up to this length are paid for by their node.
const SHORT_LITERAL_BYTES_MAX: usize = 256;

impl Rewriter {
    /// A call of parts already rewritten, with its charges.
    pub(super) fn guarded(
        &mut self,
        function: String,
        target: Option<IdedExpr>,
        mut args: Vec<IdedExpr>,
    ) -> Result<IdedExpr, ExprError> {
        let budget = || ident(BUDGET);
        if target.is_none() && is_operator(&function) {
            self.check_operands(&function, &args)?;
            return Ok(self.operator(function, args));
        }
        if function == "matches" {
            return self.matches(target, args);
        }
        if let ("getMilliseconds", Some(target)) = (function.as_str(), &target) {
            return Ok(call("@milliseconds", vec![target.clone()]));
        }
        let rate = library::rate(&function);
        if let Some(bounded) = library::bounded(&function, target.is_some()) {
            let parts: Vec<IdedExpr> =
                target.into_iter().chain(args).map(|part| self.paid(part, rate)).collect();
            return Ok(call(bounded, std::iter::once(budget()).chain(parts).collect()));
        }
        if function == "format"
            && target.is_some()
            && let Some(arguments) = args.pop()
        {
            args.push(call("@format_arguments", vec![budget(), arguments]));
        }
        let args: Vec<IdedExpr> = args.into_iter().map(|arg| self.paid(arg, rate)).collect();
        let built = match target {
            Some(target) => member(self.paid(target, rate), function.clone(), args),
            None => call(function.clone(), args),
        };
        let scalar = matches!(kind::of(&built, &self.slots), Some(Kind::Bool | Kind::Number | Kind::Time));
        Ok(if scalar || !library::builds(&function) { built } else { keep(built) })
    }

    /// Refuses operands that no run could make fit: a comparison that never holds, an index that is always an error.
    fn check_operands(&self, function: &str, args: &[IdedExpr]) -> Result<(), ExprError> {
        let [a, b] = args else { return Ok(()) };
        if self.names.phase().is_none() {
            return Ok(());
        }
        let (left, right) = (kind::of(a, &self.slots), kind::of(b, &self.slots));
        match function {
            operators::EQUALS
            | operators::NOT_EQUALS
            | operators::GREATER_EQUALS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::LESS => match (left, right) {
                (Some(left), Some(right)) if left != right && left != Kind::Null && right != Kind::Null => {
                    let message = format!("{} and {} cannot be compared", left.noun(), right.noun());
                    Err(ExprError::new(message).with_hint(
                        "compare values of one kind: numbers and true, false are written without quotes, timestamp('...') makes a time of text",
                    ))
                }
                _ => Ok(()),
            },
            operators::IN => match right.filter(|kind| !matches!(kind, Kind::List | Kind::Map)) {
                Some(kind) => {
                    Err(ExprError::new(format!("`in` looks into a list or a map, not into {}", kind.noun()))
                        .with_hint("to look for a part of a text, write `text.contains(part)`"))
                }
                None => Ok(()),
            },
            operators::INDEX => match left {
                Some(kind @ (Kind::Text | Kind::Number | Kind::Bool | Kind::Time)) => {
                    Err(ExprError::new(format!("{} has no elements to choose from by [ ]", kind.noun())))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// An operator. Those that look into their operands pay for them, `+` for its result.
    fn operator(&mut self, function: String, mut args: Vec<IdedExpr>) -> IdedExpr {
        match function.as_str() {
            operators::ADD => {
                if args.iter().any(|arg| is_number(arg) || is_accumulator(arg)) {
                    return call(function, args);
                }
                args.insert(0, ident(BUDGET));
                call("@add", args)
            }
            operators::EQUALS
            | operators::NOT_EQUALS
            | operators::GREATER_EQUALS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::LESS
            | operators::IN => {
                let args = args.into_iter().map(|arg| self.paid(arg, Rate::PLAIN)).collect();
                call(function, args)
            }
            // What an optional holds is a copy.
            operators::OPT_INDEX | operators::OPT_SELECT => keep(call(function, args)),
            _ => call(function, args),
        }
    }

    /// An argument, paid for at a function's rate: by the variable it is, or by a call around it.
    fn paid(&mut self, expr: IdedExpr, rate: Rate) -> IdedExpr {
        let free = match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) => text.inner().len() <= SHORT_LITERAL_BYTES_MAX,
            Expr::Literal(LiteralValue::Bytes(bytes)) => bytes.inner().len() <= SHORT_LITERAL_BYTES_MAX,
            Expr::Literal(_) => true,
            Expr::Ident(name) if name == BUDGET => true,
            Expr::Ident(name) => match slots::index(name).and_then(|at| self.slots.get_mut(at)) {
                Some(slot) => {
                    slot.rate = slot.rate.or(rate);
                    true
                }
                None => false,
            },
            _ => matches!(
                kind::of(&expr, &self.slots),
                Some(Kind::Bool | Kind::Number | Kind::Null | Kind::Time)
            ),
        };
        if free {
            return expr;
        }
        let price = |units| int(i64::try_from(units).unwrap_or(i64::MAX));
        call("@pay", vec![ident(BUDGET), expr, price(rate.bytes), price(rate.nodes)])
    }

    /// A constant pattern is compiled now, so that a bad one is found when the policy is saved.
    fn matches(&mut self, target: Option<IdedExpr>, args: Vec<IdedExpr>) -> Result<IdedExpr, ExprError> {
        let mut args: Vec<IdedExpr> = target.into_iter().chain(args).collect();
        if args.len() == 2
            && let Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(source)), .. }) = args.get(1)
        {
            match Pattern::compile(source.inner(), PATTERN_BYTES_MAX) {
                Ok(pattern) => {
                    args.pop();
                    let slot = self.slot(Source::Pattern(pattern))?;
                    args.push(slot);
                }
                Err(message) if self.names.phase().is_some() => {
                    return Err(ExprError::new(format!("matches: {message}")));
                }
                // The conformance suite has patterns that must fail when they run.
                Err(_) => {}
            }
        }
        args.insert(0, ident(BUDGET));
        Ok(call("@matches", args))
    }

    pub(super) fn comprehension(&mut self, mut c: ComprehensionExpr) -> Result<IdedExpr, ExprError> {
        let binds = tree::is_bind(&c);
        let pays = !binds;
        let range = self.expr(std::mem::take(&mut c.iter_range))?;
        let init = std::mem::take(&mut c.accu_init);
        c.accu_init = if binds { self.expr(init)? } else { self.kept(init)? };
        let nested = usize::from(pays);
        if self.nesting + nested > COMPREHENSION_NESTING_MAX {
            return Err(ExprError::new(format!(
                "loops (map, filter, all, exists, ...) are nested deeper than {COMPREHENSION_NESTING_MAX}"
            ))
            .with_hint("compute the inner list first, in a set-vars action"));
        }
        self.nesting += nested;
        let before = self.bound.len();
        self.bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
        let body = self.body(&mut c);
        self.bound.truncate(before);
        self.nesting -= nested;
        body?;
        let turn =
            if binds { work(&c.result) } else { work(&c.loop_step).saturating_add(work(&c.loop_cond)) };
        let cost = i64::try_from(turn).unwrap_or(i64::MAX);
        if binds {
            let value = std::mem::take(&mut c.accu_init);
            c.accu_init = keep(value);
        }
        let range_name = match &range.expr {
            Expr::Call(pairs) if pairs.func_name == "@pairs" => None,
            _ => Some("@each"),
        };
        c.iter_range = match range_name {
            _ if binds => range,
            Some(each) => call(each, vec![ident(BUDGET), range, int(cost)]),
            None => with_cost(range, cost),
        };
        Ok(node(Expr::Comprehension(Box::new(c))))
    }

    fn body(&mut self, c: &mut ComprehensionExpr) -> Result<(), ExprError> {
        for part in [&mut c.loop_cond, &mut c.loop_step, &mut c.result] {
            let old = std::mem::take(part);
            *part = self.expr(old)?;
        }
        Ok(())
    }
}

pub(super) fn keep(expr: IdedExpr) -> IdedExpr {
    call("@keep", vec![ident(BUDGET), expr])
}

/// `@pairs(range)` with its charge: `@pairs(@budget, range, cost)`.
fn with_cost(range: IdedExpr, cost: i64) -> IdedExpr {
    match range.expr {
        Expr::Call(pairs) => {
            let args = std::iter::once(ident(BUDGET)).chain(pairs.args).chain(std::iter::once(int(cost)));
            call(pairs.func_name, args.collect())
        }
        other => node(other),
    }
}

fn is_operator(function: &str) -> bool {
    matches!(
        function,
        operators::CONDITIONAL
            | operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::SUBSTRACT
            | operators::ADD
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::EQUALS
            | operators::NOT_EQUALS
            | operators::GREATER_EQUALS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::LESS
            | operators::NEGATE
            | operators::INDEX
            | operators::OPT_INDEX
            | operators::OPT_SELECT
            | operators::NOT_STRICTLY_FALSE
            | operators::IN
    )
}

fn is_number(expr: &IdedExpr) -> bool {
    matches!(
        &expr.expr,
        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_))
    )
}

/// The loop's own accumulator: its growth is paid for by what is appended, and the evaluator knows its shape.
fn is_accumulator(expr: &IdedExpr) -> bool {
    matches!(&expr.expr, Expr::Ident(name) if name == tree::ACCUMULATOR)
}
