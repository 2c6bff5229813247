//! Source text to a syntax tree of bounded size. The parser never sees what could exhaust its stack.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr};
use cel::parser::PrattParser;

use super::error::ExprError;

/// Longest source of one expression.
pub const SOURCE_BYTES_MAX: usize = 4096;
/// Deepest syntax tree.
pub const AST_DEPTH_MAX: usize = 64;
/// Deepest tree after rewriting: charges and macros add levels. An optimised evaluation needs about 2 KiB of stack for each.
pub(super) const RUN_DEPTH_MAX: usize = 160;
/// Most nodes of a syntax tree, macros expanded.
pub const AST_NODES_MAX: usize = 2048;
/// Deepest nesting of comprehension bodies.
pub const COMPREHENSION_NESTING_MAX: usize = 2;
/// Units of work of one call, without what its arguments cost.
const CALL_UNITS: u64 = 4;
/// Most question marks outside strings: the parser recurses once for each conditional, whatever its own limit says.
const QUESTION_MARKS_MAX: usize = 64;
/// Deepest recursion of the parser; parentheses count here but leave no node.
const PARSER_DEPTH_MAX: u16 = 72;

/// Parses a source within the limits above.
pub(super) fn parse(source: &str) -> Result<IdedExpr, ExprError> {
    if source.len() > SOURCE_BYTES_MAX {
        let message =
            format!("the expression is {} bytes long; at most {SOURCE_BYTES_MAX} are allowed", source.len());
        return Err(
            ExprError::new(message).with_hint("split it into several expressions: all of a rule's must hold")
        );
    }
    if source.trim().is_empty() {
        return Err(ExprError::new("the expression is empty"));
    }
    if question_marks(source) > QUESTION_MARKS_MAX {
        return Err(ExprError::new(format!(
            "the expression has more than {QUESTION_MARKS_MAX} question marks"
        )));
    }
    let parser = PrattParser::new()
        .max_recursion_depth(PARSER_DEPTH_MAX)
        .error_recovery_limit(1)
        .error_reporting_limit(1)
        .max_expression_node_count(AST_NODES_MAX)
        .enable_optional_syntax(true)
        .enable_ident_escape_syntax(true);
    let ast = parser.parse(source).map_err(|errors| explain(&errors))?;
    check_size(&ast)?;
    Ok(ast)
}

/// Counts `?` outside string literals. A source the lexer would read otherwise has at most more of them counted.
fn question_marks(source: &str) -> usize {
    let mut count = 0;
    let mut rest = source;
    while let Some(at) = rest.find(['?', '\'', '"']) {
        let (before, found) = rest.split_at(at);
        let Some(quote) = found.chars().next().filter(|c| *c != '?') else {
            count += 1;
            rest = found.get(1..).unwrap_or_default();
            continue;
        };
        let raw = before.ends_with(['r', 'R']);
        let triple = quote.to_string().repeat(3);
        let close =
            if found.starts_with(&triple) { triple.as_str() } else { triple.get(..1).unwrap_or_default() };
        rest = after_string(found.get(close.len()..).unwrap_or_default(), close, raw);
    }
    count
}

/// What follows the end of a string literal.
fn after_string<'s>(body: &'s str, close: &str, raw: bool) -> &'s str {
    let mut at = 0;
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some(after) = rest.strip_prefix(close) {
            return after;
        }
        let mut chars = rest.chars();
        let first = chars.next();
        at += first.map_or(1, char::len_utf8);
        if first == Some('\\') && !raw {
            at += chars.next().map_or(1, char::len_utf8);
        }
    }
    ""
}

fn explain(errors: &cel::ParseErrors) -> ExprError {
    let Some(error) = errors.errors.first() else { return ExprError::new("the expression cannot be read") };
    let message = error.msg.trim_start_matches("Syntax error: ");
    let column = error.pos.1.max(1);
    let place = if error.pos.0 <= 1 { String::new() } else { format!("line {}, ", error.pos.0) };
    let explained = ExprError::new(format!("{place}column {column}: {message}"));
    if message.starts_with("mismatched input '='") {
        explained.with_hint("write `==` to compare")
    } else {
        explained
    }
}

fn check_size(ast: &IdedExpr) -> Result<(), ExprError> {
    check_depth(ast, AST_DEPTH_MAX)?;
    if weight(ast) > AST_NODES_MAX as u64 {
        return Err(ExprError::new(format!("the expression has more than {AST_NODES_MAX} parts")));
    }
    Ok(())
}

/// Walks with a stack of its own: the tree may be as deep as its source is long.
pub(super) fn check_depth(ast: &IdedExpr, depth_max: usize) -> Result<(), ExprError> {
    let mut stack = vec![(ast, 1)];
    while let Some((expr, depth)) = stack.pop() {
        if depth > depth_max {
            return Err(ExprError::new("the expression is nested too deeply")
                .with_hint("split it, or compute a part of it in a set-vars action"));
        }
        stack.extend(children(&expr.expr).into_iter().map(|child| (child, depth + 1)));
    }
    Ok(())
}

/// A node's direct parts.
pub(super) fn children(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
        Expr::Comprehension(c) => vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Struct(message) => {
            message.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect()
        }
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// Units of work that one evaluation of a rewritten tree takes besides what its values cost: a call looks its function up.
pub(super) fn work(ast: &IdedExpr) -> u64 {
    let mut stack = vec![ast];
    let mut units = 0_u64;
    while let Some(expr) = stack.pop() {
        let calls = matches!(&expr.expr, Expr::Call(call) if !call.func_name.contains('_') || call.func_name.starts_with('@'));
        units += if calls { CALL_UNITS } else { 1 };
        stack.extend(children(&expr.expr));
    }
    units
}

/// Nodes of a tree.
pub(super) fn weight(ast: &IdedExpr) -> u64 {
    let mut stack = vec![ast];
    let mut nodes = 0;
    while let Some(expr) = stack.pop() {
        nodes += 1;
        stack.extend(children(&expr.expr));
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_sources_are_refused_not_fatal() {
        let refused = |source: &str, expect: &str| {
            let message = parse(source).unwrap_err().to_string();
            assert!(message.contains(expect), "{}: {message}", source.get(..20).unwrap_or(source));
        };
        refused(&vec!["1"; 2000].join("+"), "");
        refused(&vec!["1"; 65].join("+"), "nested too deeply");
        refused(&vec!["1"; 20_000].join("+"), "bytes long");
        // Parentheses around parentheses leave nothing behind, and the parser counts them without recursion.
        assert!(parse(&format!("{}1{}", "(".repeat(2000), ")".repeat(2000))).is_ok());
        for (open, close) in
            [("(1+", ")"), ("[", "]"), ("{1:", "}"), ("!-", ""), ("size(", ")"), ("a?b:", "")]
        {
            let deep = format!("{}1{}", open.repeat(500), close.repeat(500));
            refused(&deep, "");
        }
        // An even number of the same sign is none: the parser folds them while it reads.
        assert!(parse(&format!("{}true", "!".repeat(4000))).is_ok());
        refused(&"(".repeat(4000), "");
        refused(&"a.".repeat(2000), "");
        refused(&format!("a{}", "[0]".repeat(1000)), "");
        refused("", "empty");
        refused("req.", "column");
        refused("1 +", "column");
        refused("'unclosed", "column");
    }

    #[test]
    fn question_marks_are_counted_outside_strings() {
        let check = |source: &str, expect: usize| assert_eq!(question_marks(source), expect, "{source}");
        check("a ? b : c", 1);
        check("'?' + \"?\" + '''?'?''' + r'\\?' + '\\'?'", 0);
        check("r'\\' ? 1 : 2", 1);
        check("'é?' ? 1 : '\\", 1);
        check("'unclosed ? ?", 0);
    }

    #[test]
    fn long_flat_sources_are_fine() {
        assert!(parse(&vec!["true"; 500].join(" && ")).is_ok());
        assert!(parse(&format!("x in [{}]", vec!["1"; 900].join(","))).is_ok());
        assert!(parse(&format!("{}true{}", "(".repeat(30), ")".repeat(30))).is_ok());
    }
}
