//! Doubts about regular expressions: those that match nothing.

use serde_json::Value;

use super::outlined::Outlined;
use crate::code;
use crate::diagnostic::Diagnostic;
use crate::pattern;

/// All doubts about patterns of conditions and of actions.
pub(super) fn doubts(rules: &[Outlined]) -> Vec<Diagnostic> {
    let mut doubts = Vec::new();
    for rule in rules {
        let path = &rule.rule.path;
        for (index, outline) in &rule.conditions {
            let all = outline.patterns.iter().filter(|source| !pattern::may_match(source));
            doubts.extend(all.map(|source| empty(source, &format!("{path}.expressions[{index}]"))));
        }
        for (index, action) in &rule.rule.actions {
            let path = format!("{path}.actions[{index}].config");
            let of_urls = ["redirect", "url-rewrite"].contains(&action.kind.as_str());
            for (source, path) in written(&action.config, &path) {
                if !pattern::may_match(source) {
                    doubts.push(empty(source, &path));
                } else if of_urls && !pattern::may_begin_a_url(source) {
                    let message = format!(
                        "`{source}` matches nothing: it stands for a whole URL, which begins with its scheme"
                    );
                    doubts.push(
                        Diagnostic::new(code::VALUE_BAD, path, message)
                            .hint("leave the `^` out, or begin with `^https?://[^/]+`"),
                    );
                }
            }
        }
    }
    doubts
}

fn empty(source: &str, path: &str) -> Diagnostic {
    let message =
        format!("`{source}` matches nothing: its anchors contradict each other, or a class in it is empty");
    Diagnostic::new(code::VALUE_BAD, path, message)
        .hint("`^` stands first and `$` last; `(?m)` lets them match at lines")
}

/// The patterns of an action that are written out, each with its path.
fn written<'c>(config: &'c Value, path: &str) -> Vec<(&'c str, String)> {
    let literal = |value: &'c Value| value.as_str().filter(|text| !text.contains("${"));
    let whole = config.get("from").and_then(literal).map(|text| (text, format!("{path}.from")));
    let entries = config.get("replacements").and_then(Value::as_array).into_iter().flatten().enumerate();
    let entries = entries.filter_map(|(index, entry)| {
        Some((literal(entry.get("from")?)?, format!("{path}.replacements[{index}].from")))
    });
    whole.into_iter().chain(entries).collect()
}
