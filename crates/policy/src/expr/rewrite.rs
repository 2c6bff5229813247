//! From what a source says to what may be run: names become slots, macros loops, and every place where work or memory
//! can multiply gets a charge.
//!
//! Where charges go: the range of every loop pays for all turns of its body at once; every argument of a function is paid
//! for at that function's rate; `+`, `replace`, `join` and their like pay for their result before it exists; everything
//! put into a list, a map or a binding pays for its copy.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, SelectExpr, operators};

use super::datum::Kind;
use super::error::ExprError;
use super::library;
use super::names::{self, Found, Names};
use super::slots::{Slot, Source};
use super::syntax::{self, RUN_DEPTH_MAX};
use super::tree::{self, ident, member, node};
use super::{kind, macros};
use crate::secret::SecretName;
use charges::keep;
use paths::{header_entry, segments};
use rewriter::Rewriter;

mod charges;
mod paths;
mod rewriter;

/// A tree that may be run, and what it reads.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) ast: IdedExpr,
    pub(super) slots: Vec<Slot>,
}

/// Rewrites a parsed tree.
#[cfg(test)]
pub(super) fn rewrite(ast: IdedExpr, names: Names) -> Result<Rewritten, ExprError> {
    rewrite_given(ast, names, &[])
}

/// The same; these names are left for the evaluation to find.
pub(super) fn rewrite_given(ast: IdedExpr, names: Names, given: &[&str]) -> Result<Rewritten, ExprError> {
    let bound = given.iter().map(|name| (*name).to_owned()).collect();
    let mut rewriter = Rewriter { names, slots: Vec::new(), bound, nesting: 0, pairs: 0 };
    let ast = rewriter.expr(ast)?;
    syntax::check_depth(&ast, RUN_DEPTH_MAX)?;
    Ok(Rewritten { ast, slots: rewriter.slots })
}

impl Rewriter {
    fn expr(&mut self, expr: IdedExpr) -> Result<IdedExpr, ExprError> {
        let IdedExpr { id, expr } = expr;
        let rewritten = match expr {
            Expr::Literal(_) | Expr::Unspecified => node(expr),
            Expr::Ident(_) | Expr::Select(_) => self.path(node(expr))?,
            Expr::Call(call) => self.call(call)?,
            Expr::List(mut list) => {
                list.elements =
                    list.elements.into_iter().map(|element| self.kept(element)).collect::<Result<_, _>>()?;
                node(Expr::List(list))
            }
            Expr::Map(mut map) => {
                map.entries =
                    map.entries.into_iter().map(|entry| self.entry(entry)).collect::<Result<_, _>>()?;
                node(Expr::Map(map))
            }
            Expr::Struct(mut message) => {
                if self.names.phase().is_some() {
                    let name = message.type_name;
                    return Err(ExprError::new(format!("there is no message type `{name}` here"))
                        .with_hint("write a map with quoted keys"));
                }
                message.entries =
                    message.entries.into_iter().map(|entry| self.entry(entry)).collect::<Result<_, _>>()?;
                node(Expr::Struct(message))
            }
            Expr::Comprehension(comprehension) => self.comprehension(*comprehension)?,
        };
        Ok(IdedExpr { id, expr: rewritten.expr })
    }

    fn exprs(&mut self, exprs: Vec<IdedExpr>) -> Result<Vec<IdedExpr>, ExprError> {
        exprs.into_iter().map(|expr| self.expr(expr)).collect()
    }

    fn entry(&mut self, entry: IdedEntryExpr) -> Result<IdedEntryExpr, ExprError> {
        let expr = match entry.expr {
            EntryExpr::StructField(mut field) => {
                field.value = self.expr(field.value)?;
                EntryExpr::StructField(field)
            }
            EntryExpr::MapEntry(mut entry) => {
                entry.key = self.kept(entry.key)?;
                entry.value = self.kept(entry.value)?;
                EntryExpr::MapEntry(entry)
            }
        };
        Ok(IdedEntryExpr { id: entry.id, expr })
    }

    /// A part that will be copied into a larger value.
    fn kept(&mut self, expr: IdedExpr) -> Result<IdedExpr, ExprError> {
        let expr = self.expr(expr)?;
        let scalar = matches!(expr.expr, Expr::Literal(_) | Expr::List(_) | Expr::Map(_))
            || matches!(kind::of(&expr, &self.slots), Some(Kind::Bool | Kind::Number | Kind::Null));
        let charged = matches!(&expr.expr, Expr::Call(call) if call.func_name == "@keep");
        Ok(if scalar || charged { expr } else { keep(expr) })
    }

    fn call(&mut self, call: CallExpr) -> Result<IdedExpr, ExprError> {
        self.pairs += 1;
        let mut call = match macros::expand(call, self.pairs)? {
            IdedExpr { expr: Expr::Call(call), .. } => call,
            expanded => return self.expr(expanded),
        };
        if call.target.is_none() && self.names_group(&call) {
            return self.path(call_as_path(call));
        }
        if let Some(secret) = self.secret(&call)? {
            return Ok(secret);
        }
        self.join_namespace(&mut call);
        if let Some(read) = self.request_macro(&mut call)? {
            return Ok(read);
        }
        if self.names.phase().is_some() {
            library::check_function(&call.func_name, call.target.is_some())?;
        }
        let target = call.target.take().map(|target| self.expr(*target)).transpose()?;
        let args = self.exprs(call.args)?;
        self.guarded(call.func_name, target, args)
    }

    /// Whether the call is `group["member"]`, which is `group.member`.
    fn names_group(&self, call: &CallExpr) -> bool {
        let Some(phase) = self.names.phase() else { return false };
        if call.func_name != operators::INDEX {
            return false;
        }
        let [container, key] = call.args.as_slice() else { return false };
        let (Some(segments), Expr::Literal(LiteralValue::String(key))) = (segments(container), &key.expr)
        else {
            return false;
        };
        let mut path: Vec<&str> = segments.iter().map(String::as_str).collect();
        if path.first().is_some_and(|root| self.bound.iter().any(|name| name == root)) {
            return false;
        }
        let is_group = matches!(names::find(&path, phase), Ok(Found::Group(_)));
        path.push(key.inner());
        match names::find(&path, phase) {
            Ok(Found::Row { row, used }) => {
                used == path.len() || header_entry(row, Some(&String::new())).is_some()
            }
            Ok(Found::Made { name: Some(_), used, .. }) => used == path.len(),
            Ok(Found::Group(_)) => true,
            Ok(_) => false,
            Err(_) => is_group,
        }
    }

    /// `secrets.get('vault', 'name')`. The names are literal: control sends an edge the secrets that policies name.
    fn secret(&mut self, call: &CallExpr) -> Result<Option<IdedExpr>, ExprError> {
        let on_secrets = call.target.as_deref().and_then(segments).is_some_and(|path| path == ["secrets"]);
        if !on_secrets || self.names.phase().is_none() || self.bound.iter().any(|name| name == "secrets") {
            return Ok(None);
        }
        let text = |expr: &IdedExpr| match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
            _ => None,
        };
        let names = match call.args.as_slice() {
            [vault, name] if call.func_name == "get" => text(vault).zip(text(name)),
            _ => None,
        };
        let Some((vault, name)) = names else {
            let message =
                "secrets.get takes the name of a vault and the name of a secret, both as text in quotes";
            return Err(ExprError::new(message).with_hint("write secrets.get('vault', 'name')"));
        };
        self.slot(Source::Secret(SecretName { vault, name }, None)).map(Some)
    }

    /// `base64.encode(x)` is parsed as a member call on `base64`.
    fn join_namespace(&self, call: &mut CallExpr) {
        let Some(segments) = call.target.as_deref().and_then(segments) else { return };
        if segments.first().is_some_and(|root| self.bound.contains(root)) {
            return;
        }
        let full = format!("{}.{}", segments.join("."), call.func_name);
        if library::is_global(&full) {
            call.target = None;
            call.func_name = full;
        }
    }

    /// Macros that read headers, cookies and query parameters.
    fn request_macro(&mut self, call: &mut CallExpr) -> Result<Option<IdedExpr>, ExprError> {
        let (Some(_), None, [_]) = (self.names.phase(), &call.target, call.args.as_slice()) else {
            return Ok(None);
        };
        let root = |path: &[&str]| {
            let mut segments = path.iter();
            let first = ident(*segments.next().unwrap_or(&"req"));
            segments.fold(first, |operand, field| {
                node(Expr::Select(SelectExpr {
                    operand: Box::new(operand),
                    field: (*field).to_owned(),
                    test: false,
                }))
            })
        };
        let (function, path): (&str, &[&str]) = match call.func_name.as_str() {
            "getReqHeader" | "hasReqHeader" => ("header", &["req", "headers"]),
            "getResHeader" | "hasResHeader" => ("header", &["res", "headers"]),
            "getReqCookie" | "hasReqCookie" => ("cookie", &["req", "cookies"]),
            "getResCookie" | "hasResCookie" => ("cookie", &["res", "cookies"]),
            "getQueryParam" | "hasQueryParam" => ("parameter", &["req", "url", "query_params"]),
            _ => return Ok(None),
        };
        // Also refuses the macro in a phase that lacks the request or response.
        let map = self.path(root(path))?;
        let asks = call.func_name.starts_with("has");
        let Some(key) = call.args.pop() else { return Ok(None) };
        if let ("header", Expr::Literal(LiteralValue::String(name))) = (function, &key.expr) {
            self.slots.pop();
            let (response, name) = (path.first() == Some(&"res"), name.inner().to_ascii_lowercase());
            return self
                .slot(if asks {
                    Source::HasHeader { response, name }
                } else {
                    Source::Header { response, name }
                })
                .map(Some);
        }
        let key = self.expr(key)?;
        let key = if function == "header" { member(key, "lowerAscii", Vec::new()) } else { key };
        Ok(Some(match (asks, function) {
            (true, _) => tree::call(operators::IN, vec![key, map]),
            (false, "cookie") => keep(tree::call("@first_at", vec![map, key])),
            (false, _) => keep(tree::call("@list_at", vec![map, key])),
        }))
    }
}

fn call_as_path(call: CallExpr) -> IdedExpr {
    let mut args = call.args.into_iter();
    match (args.next(), args.next().map(|key| key.expr)) {
        (Some(operand), Some(Expr::Literal(LiteralValue::String(field)))) => node(Expr::Select(SelectExpr {
            operand: Box::new(operand),
            field: field.inner().to_owned(),
            test: false,
        })),
        (operand, _) => operand.unwrap_or_default(),
    }
}
