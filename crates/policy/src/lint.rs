//! Doubts about a valid document: rules that never run, and ways past every guard to an internal endpoint.
//!
//! Saving does not ask for these: each may be meant. Reads the document only; what an action does at run time is its
//! line in the table of actions.

use std::collections::BTreeSet;

use ebbgate_model::{Action, Binding};
use serde_json::Value;

use crate::action::{self, Ending};
use crate::check::CheckContext;
use crate::code;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, PlacedRule};

/// Actions that refuse strangers.
const GUARDS: [&str; 6] =
    ["basic-auth", "jwt-validation", "oauth", "openid-connect", "restrict-ips", "verify-webhook"];

/// Names of variables by which a condition tells clients apart.
const IDENTITIES: [&str; 6] =
    ["actions.ngrok.", "conn.client_ip", "conn.tls.client", "req.headers", "getReqHeader", "req.cookies"];

/// All doubts about a text, in document order. Empty for a text that [`crate::check()`] refuses.
#[must_use]
pub fn lint(text: &str, cx: &CheckContext) -> Vec<Diagnostic> {
    let document = Document::parse(text, cx.scheme);
    if !document.problems.is_empty() || document.disabled {
        return Vec::new();
    }
    let mut rules: Vec<&PlacedRule> = document.rules.iter().collect();
    rules.sort_by_key(|rule| rule.phase);
    let mut doubts = never_run(&rules);
    if cx.binding == Binding::Public {
        doubts.extend(unguarded(&rules));
    }
    for doubt in &mut doubts {
        let place = document.place_of(&doubt.path);
        *doubt = doubt.clone().at(place);
    }
    doubts.sort_by_key(|doubt| (doubt.line, doubt.column));
    doubts
}

fn ending(action: &Action) -> Ending {
    action::spec(&action.kind).map_or(Ending::Never, |spec| (spec.ending)(&action.config))
}

/// Whether the phase is over whenever the rule's conditions hold.
fn ends(rule: &PlacedRule) -> bool {
    rule.actions.iter().any(|(_, action)| ending(action) == Ending::Always)
}

fn conditions(rule: &PlacedRule) -> BTreeSet<&str> {
    rule.expressions.iter().map(|(_, source)| source.trim()).collect()
}

/// Rules behind one that ends the phase for everything that they would take.
fn never_run(rules: &[&PlacedRule]) -> Vec<Diagnostic> {
    let mut doubts = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let own = conditions(rule);
        let before = rules.iter().take(at).filter(|before| before.phase == rule.phase && ends(before));
        let Some(cover) = before.into_iter().find(|before| conditions(before).is_subset(&own)) else {
            continue;
        };
        let why = if cover.expressions.is_empty() {
            format!("{} ends the phase for everybody", cover.path)
        } else {
            format!("{} ends the phase under conditions that this rule has too", cover.path)
        };
        doubts.push(
            Diagnostic::new(code::ACTION_UNREACHABLE, &rule.path, format!("this rule never runs: {why}"))
                .hint("move it up, or remove it"),
        );
    }
    doubts
}

/// Forwards to internal endpoints that strangers reach: no guard runs before on every way, and no condition tells
/// clients apart.
fn unguarded(rules: &[&PlacedRule]) -> Vec<Diagnostic> {
    let mut doubts = Vec::new();
    let mut is_guarded = false;
    for rule in rules.iter().filter(|rule| !rule.phase.has_response()) {
        let tells_apart =
            rule.expressions.iter().any(|(_, source)| IDENTITIES.iter().any(|name| source.contains(name)));
        let mut guarded_here = is_guarded || tells_apart;
        for (index, action) in &rule.actions {
            guarded_here |= is_guard(action);
            if action.kind == "forward-internal" && !guarded_here {
                let path = format!("{}.actions[{index}]", rule.path);
                let message = "anybody on the internet reaches this internal endpoint: no restrict-ips, jwt-validation, \
                     basic-auth, verify-webhook or mutual TLS stands before it";
                doubts.push(
                    Diagnostic::new(code::VALUE_MISSING, path, message)
                        .hint("put a guard before it, unless the service behind it authenticates by itself"),
                );
            }
        }
        // A rule with conditions may be passed by.
        is_guarded |= rule.expressions.is_empty() && rule.actions.iter().any(|(_, action)| is_guard(action));
    }
    doubts
}

fn is_guard(action: &Action) -> bool {
    let enforces = action.config.get("enforce").and_then(Value::as_bool) != Some(false);
    if action.kind == "terminate-tls" {
        let verified = action.config.get("mutual_tls_verification_strategy").and_then(Value::as_str);
        let authorities = action.config.get("mutual_tls_certificate_authorities").and_then(Value::as_array);
        return verified.is_none_or(|strategy| strategy == "require-and-verify")
            && authorities.is_some_and(|authorities| !authorities.is_empty());
    }
    GUARDS.contains(&action.kind.as_str()) && enforces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Owner;
    use ebbgate_model::Scheme;

    fn doubts(text: &str) -> Vec<String> {
        let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Cloud };
        crate::check(text, &cx).unwrap();
        lint(text, &cx)
            .iter()
            .map(|doubt| format!("{}:{} {}", doubt.line.unwrap(), doubt.path, doubt.code))
            .collect()
    }

    const FORWARD: &str = "{type: forward-internal, config: {url: 'https://a.internal'}}";

    #[test]
    fn rules_behind_the_end_are_named() {
        let text = "on_http_request:
  - {expressions: [\"req.method == 'GET'\"], actions: [{type: deny}]}
  - {expressions: [\"req.method == 'GET'\", \"req.url.path == '/a'\"], actions: [{type: log, config: {metadata: {a: b}}}]}
  - {expressions: [\"req.method == 'PUT'\"], actions: [{type: deny}]}
  - {actions: [{type: deny}]}
  - {expressions: [\"req.method == 'POST'\"], actions: [{type: deny}]}
";
        assert_eq!(
            doubts(text),
            ["3:on_http_request[1] ERR_NGROK_2207", "6:on_http_request[4] ERR_NGROK_2207"]
        );
    }

    #[test]
    fn a_forward_without_a_guard_is_named() {
        let unguarded = |before: &str, conditions: &str| {
            let text = format!(
                "on_http_request:\n{before}  - {{{conditions}actions: [{FORWARD}]}}\n  - {{actions: [{{type: deny}}]}}\n"
            );
            doubts(&text).iter().filter(|doubt| doubt.contains("2234")).count()
        };
        let guard = "{type: restrict-ips, config: {allow: [10.0.0.0/8]}}";
        let basic = "{type: basic-auth, config: {credentials: ['doctor:long-enough-secret']}}";
        assert_eq!(unguarded("", "expressions: [\"req.method == 'GET'\"], "), 1);
        assert_eq!(unguarded(&format!("  - actions: [{guard}]\n"), ""), 0);
        assert_eq!(unguarded(&format!("  - actions: [{basic}]\n"), ""), 0);
        assert_eq!(
            unguarded(&format!("  - {{expressions: [\"req.method == 'GET'\"], actions: [{guard}]}}\n"), ""),
            1
        );
        let off = guard.replace("allow", "enforce: false, allow");
        assert_eq!(unguarded(&format!("  - actions: [{off}]\n"), ""), 1);
        assert_eq!(unguarded("", "expressions: [\"conn.client_ip == '10.0.0.1'\"], "), 0);
    }

    #[test]
    fn mutual_tls_guards_and_other_bindings_are_not_asked() {
        let tls = "on_tcp_connect:
  - actions: [{type: terminate-tls, config: {mutual_tls_certificate_authorities: [ca_2a4YjQ2Xk9PJhD0PjTtXEBQrgyz]}}]
";
        let text = format!("{tls}on_http_request:\n  - actions: [{FORWARD}]\n");
        assert!(doubts(&text).is_empty());
        let text = format!("on_http_request:\n  - actions: [{FORWARD}]\n");
        assert_eq!(doubts(&text), ["2:on_http_request[0].actions[0] ERR_NGROK_2234"]);
        let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Internal, owner: Owner::Cloud };
        assert!(lint(&text, &cx).is_empty());
    }
}
