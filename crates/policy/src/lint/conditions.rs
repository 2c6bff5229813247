//! Doubts about conditions: those that never hold, those that contradict each other, and those on data that is never there.

use std::collections::BTreeMap;

use ebbgate_model::Scheme;
use serde_json::Value;

use super::outlined::Outlined;
use crate::code;
use crate::diagnostic::Diagnostic;
use crate::expr::Outline;
use crate::facts::Phase;

/// What a handshake leaves, and what it leaves of the client's certificate.
const TLS: &str = "conn.tls";
const CLIENT: &str = "conn.tls.client";

/// All doubts about the conditions of these rules, which are in the order they run.
pub(super) fn doubts(rules: &[Outlined], scheme: Scheme) -> Vec<Diagnostic> {
    let mut doubts = Vec::new();
    let mut tls = Tls { scheme, is_over: false, asks_clients: asks_clients(rules) };
    for rule in rules {
        let doubts_before = doubts.len();
        for (index, outline) in &rule.conditions {
            let path = format!("{}.expressions[{index}]", rule.rule.path);
            doubts.extend(never(outline, &path));
            doubts.extend(
                tls.absent(outline, rule.rule.phase)
                    .map(|(message, hint)| Diagnostic::new(code::EXPRESSION_BAD, &path, message).hint(hint)),
            );
        }
        // One doubt about a rule that never runs is enough.
        if doubts.len() == doubts_before {
            doubts.extend(contradiction(rule));
        }
        tls.is_over |= rule.rule.actions.iter().any(|(_, action)| action.kind == "terminate-tls");
    }
    doubts
}

fn never(outline: &Outline, path: &str) -> Vec<Diagnostic> {
    let compared = outline.never.iter().map(|(message, hint)| {
        Diagnostic::new(code::EXPRESSION_BAD, path, format!("a comparison never holds: {message}"))
            .hint(*hint)
    });
    let constant = outline.parts.iter().any(|part| part.always == Some(false)).then(|| {
        Diagnostic::new(code::EXPRESSION_BAD, path, "this never holds: a part of it is always false")
            .hint("remove the rule, or correct the condition")
    });
    compared.chain(constant).collect()
}

/// Two conditions of a rule that never hold together.
fn contradiction(rule: &Outlined) -> Option<Diagnostic> {
    let mut equal: BTreeMap<&str, &str> = BTreeMap::new();
    let parts =
        || rule.conditions.iter().flat_map(|(index, outline)| outline.parts.iter().map(move |p| (index, p)));
    for (index, part) in parts() {
        let two_values =
            part.equals.as_ref().is_some_and(|(name, value)| *equal.entry(name).or_insert(value) != value);
        let negated = part
            .negates
            .as_ref()
            .is_some_and(|negated| parts().any(|(_, other)| other.text.as_ref() == Some(negated)));
        if two_values || negated {
            let path = format!("{}.expressions[{index}]", rule.rule.path);
            let message = "this rule never runs: another of its conditions says the opposite, and all of them must hold";
            let hint = "to have either, join them with `||` in one expression, or write two rules";
            return Some(Diagnostic::new(code::ACTION_UNREACHABLE, path, message).hint(hint));
        }
    }
    None
}

/// Whether some action asks clients for certificates.
fn asks_clients(rules: &[Outlined]) -> bool {
    let actions = rules.iter().flat_map(|rule| &rule.rule.actions);
    actions.into_iter().any(|(_, action)| {
        let authorities = action.config.get("mutual_tls_certificate_authorities").and_then(Value::as_array);
        action.kind == "terminate-tls" && authorities.is_some_and(|list| !list.is_empty())
    })
}

/// What is known of TLS at a place of the document.
struct Tls {
    scheme: Scheme,
    /// A `terminate-tls` stands before the place.
    is_over: bool,
    asks_clients: bool,
}

impl Tls {
    /// Why something that a condition reads is never there. A condition that asks with `has` knows that it may be absent.
    fn absent(&self, outline: &Outline, phase: Phase) -> Option<(String, &'static str)> {
        let is_below = |name: &str, group: &str| {
            name.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if outline.asks.iter().any(|name| is_below(name, TLS)) {
            return None;
        }
        let name = outline.reads.iter().find(|name| is_below(name, TLS))?;
        if matches!(self.scheme, Scheme::Http | Scheme::Tcp) {
            let message = format!("`{name}` is never there: TLS does not end at an {} endpoint", self.scheme);
            return Some((message, "remove the condition"));
        }
        if phase == Phase::TcpConnect && !self.is_over {
            let message = format!("`{name}` is not there yet: no terminate-tls stands before this rule");
            return Some((
                message,
                "put `terminate-tls` into a rule before it, or move the rule to on_http_request",
            ));
        }
        let name = outline.reads.iter().find(|name| is_below(name, CLIENT)).filter(|_| !self.asks_clients)?;
        let message = format!("`{name}` is never there: nothing asks clients for certificates");
        Some((message, "give `terminate-tls` its `mutual_tls_certificate_authorities`"))
    }
}
