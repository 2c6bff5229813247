//! Doubts about a valid document: rules that never run, conditions that never hold, patterns that never match, data that is
//! never there, and ways past every guard to an internal endpoint.
//!
//! Saving does not ask for these: each may be meant. Reads the document only; what an action does at run time is its
//! line in the table of actions.

mod conditions;
mod outlined;
mod patterns;

use ebbgate_model::{Action, Binding};
use serde_json::Value;

use crate::action::{self, Ending};
use crate::check::CheckContext;
use crate::code;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, PlacedRule};
use crate::facts::Phase;
use outlined::Outlined;

/// Actions that refuse strangers.
const GUARDS: [&str; 6] =
    ["basic-auth", "jwt-validation", "oauth", "openid-connect", "restrict-ips", "verify-webhook"];

/// Actions that change what conditions read.
const CHANGES: [&str; 5] = ["add-headers", "http-request", "remove-headers", "set-vars", "url-rewrite"];

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
    let outlined: Vec<Outlined> = rules.iter().map(|rule| Outlined::new(rule)).collect();
    let mut doubts = never_run(&outlined);
    doubts.extend(conditions::doubts(&outlined, cx.scheme));
    doubts.extend(patterns::doubts(&outlined));
    if cx.binding == Binding::Public {
        doubts.extend(unguarded(&rules, document.is_trial));
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

/// Whether an action between two rules may make conditions hold that did not hold before.
fn changes_between(rules: &[Outlined], first: &PlacedRule, last: &PlacedRule) -> bool {
    let behind = rules.iter().skip_while(|rule| !std::ptr::eq(rule.rule, first)).skip(1);
    let between = behind.take_while(|rule| !std::ptr::eq(rule.rule, last));
    let mut actions = between.flat_map(|rule| &rule.rule.actions);
    actions.any(|(_, action)| CHANGES.contains(&action.kind.as_str()))
}

/// Rules behind one that ends the phase, or the connection, for everything that they would take.
fn never_run(rules: &[Outlined]) -> Vec<Diagnostic> {
    let mut doubts = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let before = rules.iter().take(at).filter(|before| ends(before.rule));
        let covers = before.filter_map(|before| Some((before.rule, before.parts()?)));
        let cover = covers.into_iter().find(|(before, parts)| {
            let ends_connections = before.phase == Phase::TcpConnect && parts.is_empty();
            let is_same = before.phase == rule.rule.phase && rule.implies(parts);
            is_same && (parts.is_empty() || !changes_between(rules, before, rule.rule)) || ends_connections
        });
        let Some((cover, parts)) = cover else { continue };
        let why = if parts.is_empty() {
            format!("{} ends the phase for everybody", cover.path)
        } else {
            format!("{} ends the phase under conditions that this rule has too", cover.path)
        };
        doubts.push(
            Diagnostic::new(
                code::ACTION_UNREACHABLE,
                &rule.rule.path,
                format!("this rule never runs: {why}"),
            )
            .hint("move it up, or remove it"),
        );
    }
    doubts
}

/// Forwards to internal endpoints that strangers reach: no guard runs before on every way, and no condition tells
/// clients apart. On trial no guard refuses anybody.
fn unguarded(rules: &[&PlacedRule], is_trial: bool) -> Vec<Diagnostic> {
    let mut doubts = Vec::new();
    let is_guard = |action: &Action| !is_trial && is_guard(action);
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
mod tests;
