//! Small constructors for syntax trees, and the substitution that two-variable macros need.

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, ListExpr, LiteralValue, MapEntryExpr,
    operators,
};

/// Name of every accumulator; no source can spell it.
pub(super) const ACCUMULATOR: &str = "@result";

pub(super) fn node(expr: Expr) -> IdedExpr {
    IdedExpr { id: 0, expr }
}

pub(super) fn ident(name: impl Into<String>) -> IdedExpr {
    node(Expr::Ident(name.into()))
}

pub(super) fn int(number: i64) -> IdedExpr {
    node(Expr::Literal(LiteralValue::Int(number.into())))
}

pub(super) fn boolean(b: bool) -> IdedExpr {
    node(Expr::Literal(LiteralValue::Boolean(b.into())))
}

pub(super) fn list(elements: Vec<IdedExpr>) -> IdedExpr {
    node(Expr::List(ListExpr::new(elements)))
}

pub(super) fn call(function: impl Into<String>, args: Vec<IdedExpr>) -> IdedExpr {
    node(Expr::Call(CallExpr { func_name: function.into(), target: None, args }))
}

pub(super) fn member(target: IdedExpr, function: impl Into<String>, args: Vec<IdedExpr>) -> IdedExpr {
    node(Expr::Call(CallExpr { func_name: function.into(), target: Some(Box::new(target)), args }))
}

/// A loop over one variable.
pub(super) struct Loop {
    pub(super) range: IdedExpr,
    pub(super) variable: String,
    pub(super) init: IdedExpr,
    pub(super) condition: IdedExpr,
    pub(super) step: IdedExpr,
    pub(super) result: IdedExpr,
}

impl Loop {
    pub(super) fn build(self) -> IdedExpr {
        node(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range: self.range,
            iter_var: self.variable,
            iter_var2: None,
            accu_var: ACCUMULATOR.to_owned(),
            accu_init: self.init,
            loop_cond: self.condition,
            loop_step: self.step,
            result: self.result,
        })))
    }

    /// Appends `item` for every turn, or for those where `guard` holds.
    pub(super) fn collecting(
        range: IdedExpr,
        variable: String,
        guard: Option<IdedExpr>,
        item: IdedExpr,
    ) -> Self {
        let append = call(operators::ADD, vec![ident(ACCUMULATOR), list(vec![item])]);
        let step = match guard {
            Some(guard) => call(operators::CONDITIONAL, vec![guard, append, ident(ACCUMULATOR)]),
            None => append,
        };
        Self {
            range,
            variable,
            init: list(Vec::new()),
            condition: boolean(true),
            step,
            result: ident(ACCUMULATOR),
        }
    }
}

/// `name` bound to `value` in `body`: a comprehension that never turns, with `name` as its accumulator.
pub(super) fn bind(name: &str, value: IdedExpr, body: IdedExpr) -> IdedExpr {
    node(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: list(Vec::new()),
        iter_var: "#unused".to_owned(),
        iter_var2: None,
        accu_var: name.to_owned(),
        accu_init: value,
        loop_cond: boolean(false),
        loop_step: ident(name),
        result: body,
    })))
}

/// Whether a comprehension is a [`bind`] and never turns.
pub(super) fn is_bind(comprehension: &ComprehensionExpr) -> bool {
    matches!(&comprehension.iter_range.expr, Expr::List(list) if list.elements.is_empty())
        && comprehension.loop_cond.expr == boolean(false).expr
}

/// `expr` with the free identifier `name` replaced; loops that bind `name` themselves hide it.
pub(super) fn substitute(expr: IdedExpr, name: &str, with: &IdedExpr) -> IdedExpr {
    let each = |parts: Vec<IdedExpr>| parts.into_iter().map(|part| substitute(part, name, with)).collect();
    let one = |part: Box<IdedExpr>| Box::new(substitute(*part, name, with));
    let expr_kind = match expr.expr {
        Expr::Ident(ident) if ident == name => return with.clone(),
        Expr::Call(call) => {
            Expr::Call(CallExpr { target: call.target.map(one), args: each(call.args), ..call })
        }
        Expr::List(list) => Expr::List(ListExpr { elements: each(list.elements), ..list }),
        Expr::Select(mut select) => {
            select.operand = one(select.operand);
            Expr::Select(select)
        }
        Expr::Map(mut map) => {
            map.entries = map.entries.into_iter().map(|entry| substitute_entry(entry, name, with)).collect();
            Expr::Map(map)
        }
        Expr::Struct(mut message) => {
            message.entries =
                message.entries.into_iter().map(|entry| substitute_entry(entry, name, with)).collect();
            Expr::Struct(message)
        }
        Expr::Comprehension(c) => Expr::Comprehension(Box::new(substitute_loop(*c, name, with))),
        other => other,
    };
    IdedExpr { id: expr.id, expr: expr_kind }
}

fn substitute_entry(entry: IdedEntryExpr, name: &str, with: &IdedExpr) -> IdedEntryExpr {
    let expr = match entry.expr {
        EntryExpr::StructField(mut field) => {
            field.value = substitute(field.value, name, with);
            EntryExpr::StructField(field)
        }
        EntryExpr::MapEntry(entry) => EntryExpr::MapEntry(MapEntryExpr {
            key: substitute(entry.key, name, with),
            value: substitute(entry.value, name, with),
            ..entry
        }),
    };
    IdedEntryExpr { id: entry.id, expr }
}

fn substitute_loop(mut c: ComprehensionExpr, name: &str, with: &IdedExpr) -> ComprehensionExpr {
    c.iter_range = substitute(c.iter_range, name, with);
    c.accu_init = substitute(c.accu_init, name, with);
    if c.iter_var != name && c.accu_var != name {
        c.loop_cond = substitute(c.loop_cond, name, with);
        c.loop_step = substitute(c.loop_step, name, with);
    }
    if c.accu_var != name {
        c.result = substitute(c.result, name, with);
    }
    c
}
