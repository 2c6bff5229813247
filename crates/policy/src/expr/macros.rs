//! Macros the parser does not expand: bindings, the two-variable loops, `sortBy`, optionals, `math.greatest`.
//!
//! Each is rewritten into loops of one variable and calls, which is all the evaluator knows.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

use super::error::ExprError;
use super::tree::{ACCUMULATOR, Loop, bind, boolean, call, ident, int, list, member, node, substitute};

/// Name of the `[key, value]` element of a two-variable loop. Nested loops do not clash: the inner pair hides the outer
/// one only where the outer's names were already replaced.
fn pair_name(depth: usize) -> String {
    format!("@pair{depth}")
}

/// The expansion of a call, or the call as it was.
pub(super) fn expand(call: CallExpr, depth: usize) -> Result<IdedExpr, ExprError> {
    let namespace = match call.target.as_deref() {
        Some(IdedExpr { expr: Expr::Ident(name), .. }) => Some(name.as_str()),
        _ => None,
    };
    match (namespace, call.func_name.as_str(), call.args.len()) {
        (Some("cel"), "bind", 3) => expand_bind(call),
        (Some("math"), "greatest" | "least", _) => expand_extreme(call),
        (
            _,
            "all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap"
            | "transformMapEntry",
            3,
        )
        | (_, "transformList" | "transformMap" | "transformMapEntry", 4)
            if call.target.is_some() =>
        {
            expand_pairs(call, depth)
        }
        (_, "sortBy", 2) if call.target.is_some() => expand_sort_by(call),
        (_, "optMap" | "optFlatMap", 2) if call.target.is_some() => expand_optional(call),
        _ => Ok(node(Expr::Call(call))),
    }
}

fn variable(expr: Option<&IdedExpr>, macro_name: &str) -> Result<String, ExprError> {
    match expr {
        Some(IdedExpr { expr: Expr::Ident(name), .. }) if !name.starts_with('@') => Ok(name.clone()),
        _ => Err(ExprError::new(format!("{macro_name}: a loop variable must be a simple name"))),
    }
}

fn take<const N: usize>(args: Vec<IdedExpr>, macro_name: &str) -> Result<[IdedExpr; N], ExprError> {
    args.try_into().map_err(|_| ExprError::new(format!("{macro_name}: wrong number of arguments")))
}

fn target(call: &mut CallExpr) -> Result<IdedExpr, ExprError> {
    call.target
        .take()
        .map(|target| *target)
        .ok_or_else(|| ExprError::new(format!("{}: called on nothing", call.func_name)))
}

fn expand_bind(call: CallExpr) -> Result<IdedExpr, ExprError> {
    let [name, value, body] = take(call.args, "cel.bind")?;
    let name = variable(Some(&name), "cel.bind")?;
    Ok(bind(&name, value, body))
}

fn expand_extreme(call: CallExpr) -> Result<IdedExpr, ExprError> {
    let function = if call.func_name == "greatest" { "math.@max" } else { "math.@min" };
    let literal_fits = |arg: &IdedExpr| match &arg.expr {
        Expr::Literal(literal) => {
            matches!(literal, LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_))
        }
        Expr::Map(_) | Expr::Struct(_) => false,
        _ => true,
    };
    let lists = call.args.iter().filter(|arg| matches!(arg.expr, Expr::List(_))).count();
    let inner_fit = call.args.iter().all(|arg| match &arg.expr {
        Expr::List(list) => {
            !list.elements.is_empty()
                && list.elements.iter().all(|e| !matches!(e.expr, Expr::List(_)) && literal_fits(e))
        }
        _ => literal_fits(arg),
    });
    if call.args.is_empty() || !inner_fit || (lists > 0 && call.args.len() > 1) {
        return Err(ExprError::new(format!("math.{} takes numbers, or one list of numbers", call.func_name)));
    }
    let args = if call.args.len() > 2 { vec![list(call.args)] } else { call.args };
    Ok(self::call(function, args))
}

/// `range.f(k, v, ...)` becomes a loop over `[k, v]` pairs, with `k` and `v` replaced by the pair's parts.
fn expand_pairs(mut call: CallExpr, depth: usize) -> Result<IdedExpr, ExprError> {
    let name = call.func_name.clone();
    let range = self::call("@pairs", vec![target(&mut call)?]);
    let (first, second) = (variable(call.args.first(), &name)?, variable(call.args.get(1), &name)?);
    if first == second {
        return Err(ExprError::new(format!("{name}: the two loop variables have the same name")));
    }
    let pair = pair_name(depth);
    let part = |at| self::call(operators::INDEX, vec![ident(pair.clone()), int(at)]);
    let replaced = |expr| substitute(substitute(expr, &first, &part(0)), &second, &part(1));
    let mut bodies: Vec<IdedExpr> = call.args.drain(2..).map(replaced).collect();
    let body = bodies.pop().ok_or_else(|| ExprError::new(format!("{name}: wrong number of arguments")))?;
    let guard = bodies.pop();
    let loop_over = |init, condition, step, result| {
        Loop { range: range.clone(), variable: pair.clone(), init, condition, step, result }.build()
    };
    let accumulator = || ident(ACCUMULATOR);
    let still = |expr| self::call(operators::NOT_STRICTLY_FALSE, vec![expr]);
    Ok(match name.as_str() {
        "all" => loop_over(
            boolean(true),
            still(accumulator()),
            self::call(operators::LOGICAL_AND, vec![accumulator(), body]),
            accumulator(),
        ),
        "exists" => {
            let not = self::call(operators::LOGICAL_NOT, vec![accumulator()]);
            loop_over(
                boolean(false),
                still(not),
                self::call(operators::LOGICAL_OR, vec![accumulator(), body]),
                accumulator(),
            )
        }
        "existsOne" | "exists_one" => {
            let more = self::call(operators::ADD, vec![accumulator(), int(1)]);
            let step = self::call(operators::CONDITIONAL, vec![body, more, accumulator()]);
            loop_over(int(0), boolean(true), step, self::call(operators::EQUALS, vec![accumulator(), int(1)]))
        }
        "transformList" => Loop::collecting(range, pair, guard, body).build(),
        "transformMap" => {
            let entry = list(vec![part(0), body]);
            self::call("@from_pairs", vec![Loop::collecting(range, pair, guard, entry).build()])
        }
        _ => self::call("@merge", vec![Loop::collecting(range, pair, guard, body).build()]),
    })
}

fn expand_sort_by(mut call: CallExpr) -> Result<IdedExpr, ExprError> {
    const INPUT: &str = "@sorted";
    let input = target(&mut call)?;
    let [name, key] = take(call.args, "sortBy")?;
    let name = variable(Some(&name), "sortBy")?;
    let keys = Loop::collecting(ident(INPUT), name, None, key).build();
    Ok(bind(INPUT, input, member(ident(INPUT), "@sortByAssociatedKeys", vec![keys])))
}

fn expand_optional(mut call: CallExpr) -> Result<IdedExpr, ExprError> {
    const INPUT: &str = "@optional";
    let flat = call.func_name == "optFlatMap";
    let input = target(&mut call)?;
    let [name, body] = take(call.args, "optMap")?;
    let name = variable(Some(&name), "optMap")?;
    let mapped = bind(&name, member(ident(INPUT), "value", Vec::new()), body);
    let some = if flat { mapped } else { self::call("optional.of", vec![mapped]) };
    let has = member(ident(INPUT), "hasValue", Vec::new());
    let choice = self::call(operators::CONDITIONAL, vec![has, some, self::call("optional.none", Vec::new())]);
    Ok(bind(INPUT, input, choice))
}
