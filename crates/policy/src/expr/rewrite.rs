//! From what a source says to what may be run: names become slots, macros loops, and every place where work or memory
//! can multiply gets a charge.
//!
//! Where charges go: the range of every loop pays for all turns of its body at once; `+`, `replace`, `join` and their
//! like pay for their result before it exists; everything put into a list, a map or a binding pays for its copy.

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, SelectExpr, operators,
};

use super::ExprError;
use super::library::{self, Pattern};
use super::names::{self, Found, Names, VARIABLES};
use super::slots::{self, BUDGET, Made, Slot};
use super::syntax::{self, COMPREHENSION_NESTING_MAX, RUN_DEPTH_MAX, weight};
use super::tree::{self, boolean, call, ident, int, member, node};
use super::{kind, macros};

/// Most slots of one expression.
const SLOTS_MAX: usize = 256;

/// A tree that may be run, and what it reads.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) ast: IdedExpr,
    pub(super) slots: Vec<Slot>,
}

/// Rewrites a parsed tree.
pub(super) fn rewrite(ast: IdedExpr, names: Names) -> Result<Rewritten, ExprError> {
    let mut rewriter = Rewriter { names, slots: Vec::new(), bound: Vec::new(), nesting: 0, pairs: 0 };
    let ast = rewriter.expr(ast)?;
    syntax::check_depth(&ast, RUN_DEPTH_MAX)?;
    Ok(Rewritten { ast, slots: rewriter.slots })
}

struct Rewriter {
    names: Names,
    slots: Vec<Slot>,
    /// Names bound by the macros around the place being rewritten.
    bound: Vec<String>,
    /// Loop bodies around it.
    nesting: usize,
    /// Two-variable loops seen so far.
    pairs: usize,
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
            || matches!(
                kind::of(&expr, &self.slots),
                Some(kind::Kind::Bool | kind::Kind::Number | kind::Kind::Null)
            );
        let charged = matches!(&expr.expr, Expr::Call(call) if call.func_name == "@keep");
        Ok(if scalar || charged { expr } else { keep(expr) })
    }

    fn slot(&mut self, slot: Slot) -> Result<IdedExpr, ExprError> {
        if self.slots.len() >= SLOTS_MAX {
            return Err(ExprError::new(format!("the expression reads more than {SLOTS_MAX} things")));
        }
        self.slots.push(slot);
        Ok(ident(slots::identifier(self.slots.len() - 1)))
    }

    /// An identifier or a selection: a variable if its dotted name is one, otherwise a field of whatever it is on.
    fn path(&mut self, expr: IdedExpr) -> Result<IdedExpr, ExprError> {
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
                None => (Slot::Row(row), used),
            },
            Found::Group(path) => (Slot::Group(path), segments.len()),
            Found::Made { map, name: None, used } => (Slot::MadeAll(made(map)), used),
            Found::Made { map, name: Some(name), used } => (Slot::MadeOne(made(map), name), used),
            Found::Empty => return Ok(node(Expr::Literal(LiteralValue::String(String::new().into())))),
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
    fn presence(
        &mut self,
        operand: &IdedExpr,
        field: &str,
        phase: crate::verdict::Phase,
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
            Found::Row { used, .. } if used == whole => self.slot(Slot::Present(borrowed.join("."))),
            Found::Group(path) => self.slot(Slot::Present(path)),
            Found::Made { map, name: Some(name), used } if used == whole => {
                self.slot(Slot::MadeHas(made(map), name))
            }
            Found::Empty => Ok(boolean(false)),
            Found::Foreign => Err(names::unknown_root(borrowed.first().copied().unwrap_or_default())),
            Found::Row { .. } | Found::Made { .. } => rewritten(self, operand),
        }
    }

    /// A selection on something that is not a variable; an identifier stays.
    fn plain(&mut self, expr: IdedExpr) -> Result<IdedExpr, ExprError> {
        let Expr::Select(select) = expr.expr else { return Ok(expr) };
        if is_plain_path(&select.operand) {
            return Ok(IdedExpr { id: expr.id, expr: Expr::Select(select) });
        }
        let operand = Box::new(self.expr(*select.operand)?);
        Ok(node(Expr::Select(SelectExpr { operand, ..select })))
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
            Ok(Found::Group(_) | Found::Empty) => true,
            Ok(_) => false,
            Err(_) => is_group,
        }
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
                .slot(if asks { Slot::HasHeader { response, name } } else { Slot::Header { response, name } })
                .map(Some);
        }
        let key = self.expr(key)?;
        let key = if function == "header" { member(key, "lowerAscii", Vec::new()) } else { key };
        Ok(Some(match (asks, function) {
            (true, _) => tree::call(operators::IN, vec![key, map]),
            (false, "cookie") => tree::call("@first_at", vec![map, key]),
            (false, _) => tree::call("@list_at", vec![map, key]),
        }))
    }

    /// A call of parts already rewritten, with its charges.
    fn guarded(
        &mut self,
        function: String,
        target: Option<IdedExpr>,
        mut args: Vec<IdedExpr>,
    ) -> Result<IdedExpr, ExprError> {
        let budget = || ident(BUDGET);
        if target.is_none() && is_operator(&function) {
            let plain =
                function != operators::ADD || args.iter().any(|arg| is_number(arg) || is_accumulator(arg));
            return Ok(if plain {
                call(function, args)
            } else {
                args.insert(0, budget());
                call("@add", args)
            });
        }
        if function == "matches" {
            return self.matches(target, args);
        }
        if let ("getMilliseconds", Some(target)) = (function.as_str(), &target) {
            return Ok(call("@milliseconds", vec![target.clone()]));
        }
        if let Some(bounded) = library::bounded(&function, target.is_some()) {
            args.splice(0..0, std::iter::once(budget()).chain(target));
            return Ok(call(bounded, args));
        }
        if function == "format"
            && target.is_some()
            && let Some(arguments) = args.pop()
        {
            args.push(call("@format_arguments", vec![budget(), arguments]));
        }
        let built = match target {
            Some(target) => member(target, function.clone(), args),
            None => call(function.clone(), args),
        };
        let scalar = matches!(
            kind::of(&built, &self.slots),
            Some(kind::Kind::Bool | kind::Kind::Number | kind::Kind::Time)
        );
        Ok(if scalar || function.starts_with('@') || !library::builds(&function) {
            built
        } else {
            keep(built)
        })
    }

    /// A constant pattern is compiled now, so that a bad one is found when the policy is saved.
    fn matches(&mut self, target: Option<IdedExpr>, args: Vec<IdedExpr>) -> Result<IdedExpr, ExprError> {
        let mut args: Vec<IdedExpr> = target.into_iter().chain(args).collect();
        if args.len() == 2
            && let Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(source)), .. }) = args.get(1)
        {
            let pattern = Pattern::compile(source.inner());
            match (pattern, self.names) {
                (Ok(pattern), _) => {
                    args.pop();
                    let slot = self.slot(Slot::Pattern(pattern))?;
                    args.push(slot);
                }
                (Err(message), Names::Policy(_)) => {
                    return Err(ExprError::new(format!("matches: {message}")));
                }
                #[cfg(test)]
                (Err(_), Names::Open) => {}
            }
        }
        args.insert(0, ident(BUDGET));
        Ok(call("@matches", args))
    }

    fn comprehension(&mut self, mut c: ComprehensionExpr) -> Result<IdedExpr, ExprError> {
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
            if binds { weight(&c.result) } else { weight(&c.loop_step).saturating_add(weight(&c.loop_cond)) };
        let cost = i64::try_from(turn).unwrap_or(i64::MAX);
        if binds {
            let value = std::mem::take(&mut c.accu_init);
            c.accu_init = call("@bound", vec![ident(BUDGET), value, int(cost)]);
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

/// One header of a message, which is found without building all of them.
fn header_entry(row: usize, name: Option<&String>) -> Option<Slot> {
    let response = match VARIABLES.get(row)?.path {
        "req.headers" => false,
        "res.headers" => true,
        _ => return None,
    };
    name.map(|name| Slot::HeaderEntry { response, name: name.to_ascii_lowercase() })
}

fn made(map: &str) -> Made {
    if map == "vars" { Made::Vars } else { Made::Results }
}

fn keep(expr: IdedExpr) -> IdedExpr {
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

/// The dotted name an expression spells.
fn segments(expr: &IdedExpr) -> Option<Vec<String>> {
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
