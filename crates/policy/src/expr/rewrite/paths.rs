//! Names: which part of a dotted path is a variable, and which is a field of it.

use cel::IdedExpr;
use cel::common::ast::{Expr, SelectExpr};

use super::rewriter::Rewriter;
use crate::expr::error::ExprError;
use crate::expr::library;
use crate::expr::names::{self, Found, VARIABLES};
use crate::expr::slots::{Made, Source};
use crate::expr::tree::node;

impl Rewriter {
    /// An identifier or a selection: a variable if its dotted name is one, otherwise a field of whatever it is on.
    pub(super) fn path(&mut self, expr: IdedExpr) -> Result<IdedExpr, ExprError> {
        let Some(phase) = self.names.phase() else { return self.plain(expr) };
        if let Expr::Select(SelectExpr { operand, field, test: true }) = &expr.expr {
            return self.presence(operand, field, phase);
        }
        let Some(segments) = segments(&expr) else { return self.plain(expr) };
        let root = segments.first().cloned().unwrap_or_default();
        if self.bound.contains(&root) || root.starts_with('@') {
            return self.plain(expr);
        }
        let borrowed: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (slot, used) = match names::find(&borrowed, phase)? {
            Found::Row { row, used } => match header_entry(row, segments.get(used)) {
                Some(entry) => (entry, used + 1),
                None => (Source::Row(row), used),
            },
            Found::Group(path) => (Source::Group(path), segments.len()),
            Found::Made { map, name: None, used } => (Source::MadeAll(made(map)), used),
            Found::Made { map, name: Some(name), used } => (Source::MadeOne(made(map), name), used),
            Found::Foreign if library::is_type(&borrowed.join(".")) => return Ok(expr),
            Found::Foreign => return Err(names::unknown_root(&root)),
        };
        let mut place = self.slot(slot)?;
        for field in segments.into_iter().skip(used) {
            place = node(Expr::Select(SelectExpr { operand: Box::new(place), field, test: false }));
        }
        Ok(place)
    }

    /// `has(operand.field)`.
    pub(super) fn presence(
        &mut self,
        operand: &IdedExpr,
        field: &str,
        phase: crate::facts::Phase,
    ) -> Result<IdedExpr, ExprError> {
        let rewritten = |place: &mut Self, operand: &IdedExpr| -> Result<IdedExpr, ExprError> {
            let operand = Box::new(place.expr(operand.clone())?);
            Ok(node(Expr::Select(SelectExpr { operand, field: field.to_owned(), test: true })))
        };
        let Some(mut segments) = segments(operand) else { return rewritten(self, operand) };
        if segments.first().is_some_and(|root| self.bound.contains(root) || root.starts_with('@')) {
            return rewritten(self, operand);
        }
        segments.push(field.to_owned());
        let borrowed: Vec<&str> = segments.iter().map(String::as_str).collect();
        let whole = segments.len();
        match names::find(&borrowed, phase)? {
            Found::Row { used, .. } if used == whole => self.slot(Source::Present(borrowed.join("."))),
            Found::Group(path) => self.slot(Source::Present(path)),
            Found::Made { map, name: Some(name), used } if used == whole => {
                self.slot(Source::MadeHas(made(map), name))
            }
            Found::Foreign => Err(names::unknown_root(borrowed.first().copied().unwrap_or_default())),
            Found::Row { .. } | Found::Made { .. } => rewritten(self, operand),
        }
    }

    /// A selection on something that is not a variable; an identifier stays.
    pub(super) fn plain(&mut self, expr: IdedExpr) -> Result<IdedExpr, ExprError> {
        let Expr::Select(select) = expr.expr else { return Ok(expr) };
        if is_plain_path(&select.operand) {
            return Ok(IdedExpr { id: expr.id, expr: Expr::Select(select) });
        }
        let operand = Box::new(self.expr(*select.operand)?);
        Ok(node(Expr::Select(SelectExpr { operand, ..select })))
    }
}

/// One header of a message, which is found without building all of them.
pub(super) fn header_entry(row: usize, name: Option<&String>) -> Option<Source> {
    let response = match VARIABLES.get(row)?.path {
        "req.headers" => false,
        "res.headers" => true,
        _ => return None,
    };
    name.map(|name| Source::HeaderEntry { response, name: name.to_ascii_lowercase() })
}

fn made(map: &str) -> Made {
    if map == "vars" { Made::Vars } else { Made::Results }
}

/// The dotted name an expression spells.
pub(super) fn segments(expr: &IdedExpr) -> Option<Vec<String>> {
    match &expr.expr {
        Expr::Ident(name) => Some(vec![name.clone()]),
        Expr::Select(SelectExpr { operand, field, test: false }) => {
            let mut segments = segments(operand)?;
            segments.push(field.clone());
            Some(segments)
        }
        _ => None,
    }
}

fn is_plain_path(expr: &IdedExpr) -> bool {
    segments(expr).is_some()
}
