//! Changes as people read them: a line for each field, texts of several lines as a unified difference, secrets as `(secret)`.

use std::fmt::Write as _;

use serde_json::Value;

use super::kind::{Kind, Shown};

/// Most lines of a text that is compared line by line.
const LINES_MAX: usize = 2_000;
/// Most characters of a value of one line.
const VALUE_CHARS_MAX: usize = 120;
/// Lines around a change.
const AROUND: usize = 2;
/// Names of members that are not shown.
const SECRETS: [&str; 6] = ["secret", "password", "token", "private_key", "api_key", "creds"];

/// One field's change; None for `before`: the object is new.
pub(super) fn field(kind: &Kind, name: &str, before: Option<&Value>, after: &Value) -> String {
    if kind.field(name).is_none_or(|field| field.shown == Shown::Never) || is_secret(name) {
        return format!("    {name}: (secret)\n");
    }
    let old = before.and_then(Value::as_str);
    if let (Some(new), true) = (after.as_str(), after.as_str().is_some_and(|new| new.contains('\n'))) {
        return format!("    {name}:\n{}", unified(old.unwrap_or_default(), new));
    }
    match before {
        None => format!("    {name}: {}\n", one_line(after)),
        Some(before) => format!("    {name}: {} -> {}\n", one_line(before), one_line(after)),
    }
}

fn is_secret(name: &str) -> bool {
    SECRETS.iter().any(|secret| name.contains(secret))
}

fn masked(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Object(fields) => {
            let shown = fields.iter().map(|(name, value)| {
                (name.clone(), if is_secret(name) { "(secret)".into() } else { masked(value) })
            });
            Value::Object(shown.collect())
        }
        other => other.clone(),
    }
}

fn one_line(value: &Value) -> String {
    let text = masked(value).to_string();
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    text.chars().take(VALUE_CHARS_MAX).chain(['…']).collect()
}

/// Lines of both texts with `-`, `+` or a blank in front, and what does not change only around a change.
fn unified(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if old.len() > LINES_MAX || new.len() > LINES_MAX {
        return format!("      ({} lines become {})\n", old.len(), new.len());
    }
    let lines = edits(&old, &new);
    let is_near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        lines.iter().skip(from).take(at - from + AROUND + 1).any(|(sign, _)| *sign != ' ')
    };
    let mut text = String::new();
    for (at, (sign, line)) in lines.iter().enumerate() {
        if is_near(at) {
            let _ = writeln!(text, "      {sign}{line}");
        }
    }
    text
}

/// The shortest list of kept, removed and added lines (longest common subsequence).
fn edits<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(char, &'t str)> {
    // Row `a`, column `b`: length of the longest common subsequence of old[a..] and new[b..].
    let width = new.len() + 1;
    let mut longest = vec![0_u16; (old.len() + 1) * width];
    let at = |table: &[u16], a: usize, b: usize| table.get(a * width + b).copied().unwrap_or_default();
    for (a, line) in old.iter().enumerate().rev() {
        for (b, other) in new.iter().enumerate().rev() {
            let best = if line == other {
                at(&longest, a + 1, b + 1) + 1
            } else {
                at(&longest, a + 1, b).max(at(&longest, a, b + 1))
            };
            if let Some(cell) = longest.get_mut(a * width + b) {
                *cell = best;
            }
        }
    }
    let (mut a, mut b, mut lines) = (0, 0, Vec::new());
    loop {
        match (old.get(a), new.get(b)) {
            (Some(line), Some(other)) if line == other => {
                lines.push((' ', *line));
                (a, b) = (a + 1, b + 1);
            }
            (Some(line), other) if other.is_none() || at(&longest, a + 1, b) >= at(&longest, a, b + 1) => {
                lines.push(('-', *line));
                a += 1;
            }
            (_, Some(other)) => {
                lines.push(('+', *other));
                b += 1;
            }
            _ => return lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::find;
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_differ_by_lines_and_secrets_are_not_shown() {
        let endpoint = find("Endpoint").unwrap();
        let (before, after) = (json!("a\nb\nc\nd\ne\nf\n"), json!("a\nb\nc\nd\nE\nf\ng\n"));
        let shown = field(endpoint, "traffic_policy", Some(&before), &after);
        assert_eq!(
            shown,
            "    traffic_policy:\n       c\n       d\n      -e\n      +E\n       f\n      +g\n"
        );
        assert_eq!(
            field(endpoint, "description", Some(&json!("x")), &json!("y")),
            "    description: \"x\" -> \"y\"\n"
        );
        assert_eq!(field(endpoint, "bindings", None, &json!(["public"])), "    bindings: [\"public\"]\n");
        let certificate = find("TlsCertificate").unwrap();
        assert_eq!(
            field(certificate, "private_key_pem", None, &json!("KEY")),
            "    private_key_pem: (secret)\n"
        );
        let nested = one_line(&json!({ "target": { "client_secret": "s", "region": "r" } }));
        assert_eq!(nested, r#"{"target":{"client_secret":"(secret)","region":"r"}}"#);
    }
}
