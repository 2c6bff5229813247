//! Whether a new policy waits for canary edges. Pure.
//!
//! Only what cannot let anybody in by waiting does: a policy that takes access away is in force everywhere at once.

use ebbgate_model::{Rule, TrafficPolicy};
use serde_json::Value;

/// Actions that may refuse a visitor.
const REFUSING: &[&str] = &[
    "basic-auth",
    "close-connection",
    "deny",
    "jwt-validation",
    "oauth",
    "openid-connect",
    "owasp-crs-request",
    "owasp-crs-response",
    "rate-limit",
    "restrict-ips",
    "saml",
    "terminate-tls",
    "verify-webhook",
];
/// Actions after which no later one may run: what refuses and moves before them refuses more.
const ENDING: &[&str] = &["custom-response", "forward-internal", "redirect"];
/// Statuses by which a `custom-response` refuses.
const REFUSING_STATUS: std::ops::Range<u64> = 400..500;

/// Whether a policy waits for canary edges, where all edges have `before`.
///
/// It does not if something in it refuses visitors that `before` has not: elsewhere in the document, under other
/// conditions, or behind more that ends the processing.
pub fn waits(before: Option<&TrafficPolicy>, after: Option<&TrafficPolicy>) -> bool {
    if before == after {
        return false;
    }
    let Some(after) = after else { return true };
    let new = refusals(after);
    if !after.is_enforced() || new.is_empty() {
        return true;
    }
    let Some(before) = before.filter(|before| before.is_enforced()) else { return false };
    let old = refusals(before);
    new.iter().all(|new| old.iter().any(|old| old.covers(new)))
}

/// An action that may refuse, with what decides whether it runs.
#[derive(PartialEq)]
struct Refusal<'p> {
    phase: usize,
    expressions: &'p [String],
    kind: &'p str,
    config: &'p Value,
    /// Actions before it that may end the processing.
    behind: usize,
}

impl Refusal<'_> {
    /// Whether this one refused all that the new one refuses.
    fn covers(&self, new: &Self) -> bool {
        let is_same = self.phase == new.phase && self.kind == new.kind;
        is_same
            && self.expressions == new.expressions
            && self.config == new.config
            && self.behind <= new.behind
    }
}

fn refusals(policy: &TrafficPolicy) -> Vec<Refusal<'_>> {
    let phases: [&[Rule]; 4] = [
        &policy.on_tcp_connect,
        &policy.on_http_request,
        &policy.on_http_response,
        &policy.on_event_stream_message,
    ];
    let mut refusals = Vec::new();
    for (phase, rules) in phases.into_iter().enumerate() {
        let mut behind = 0;
        for (rule, action) in
            rules.iter().flat_map(|rule| rule.actions.iter().map(move |action| (rule, action)))
        {
            let (kind, config) = (action.kind.as_str(), &action.config);
            let status = config.get("status_code").and_then(Value::as_u64).unwrap_or_default();
            let is_denial = kind == "custom-response" && REFUSING_STATUS.contains(&status);
            if REFUSING.contains(&kind) || is_denial {
                refusals.push(Refusal { phase, expressions: &rule.expressions, kind, config, behind });
            }
            behind += usize::from(ENDING.contains(&kind));
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(value: Value) -> TrafficPolicy {
        serde_json::from_value(value).unwrap()
    }

    fn request(actions: &Value) -> TrafficPolicy {
        policy(json!({ "on_http_request": [{ "actions": actions }] }))
    }

    #[test]
    fn what_refuses_more_does_not_wait() {
        let forward = json!({"type": "forward-internal", "config": {"url": "https://a.internal"}});
        let allow = |ip: &str| json!({"type": "restrict-ips", "config": {"allow": [ip]}});
        let answer = |status: u16| json!({"type": "custom-response", "config": {"status_code": status}});
        let bare = request(&json!([forward]));
        let guarded = request(&json!([allow("192.0.2.1/32"), forward]));
        let late = request(&json!([forward, allow("192.0.2.1/32")]));
        let lax = TrafficPolicy { enforce: Some(false), ..guarded.clone() };
        let narrowed = policy(json!({"on_http_request": [
            {"expressions": ["req.path == '/x'"], "actions": [allow("192.0.2.1/32")]}, {"actions": [forward]},
        ]}));
        for (before, after, expect) in [
            (Some(&bare), Some(&bare), false),
            (Some(&bare), Some(&request(&json!([answer(503)]))), true),
            (Some(&bare), Some(&request(&json!([answer(200), forward]))), true),
            (Some(&bare), Some(&request(&json!([answer(403)]))), false),
            (Some(&bare), Some(&guarded), false),
            (None, Some(&guarded), false),
            (None, Some(&bare), true),
            (Some(&guarded), None, true),
            (Some(&guarded), Some(&bare), true),
            (Some(&guarded), Some(&request(&json!([allow("192.0.2.2/32"), forward]))), false),
            (Some(&guarded), Some(&request(&json!([allow("192.0.2.1/32"), answer(503)]))), true),
            (Some(&guarded), Some(&narrowed), false),
            (Some(&narrowed), Some(&bare), true),
            (Some(&late), Some(&guarded), false),
            (Some(&guarded), Some(&late), true),
            (Some(&lax), Some(&guarded), false),
            (Some(&guarded), Some(&lax), true),
        ] {
            assert_eq!(waits(before, after), expect, "{before:?} {after:?}");
        }
    }

    /// An action that is new in the table of actions belongs into one of the lists.
    #[test]
    fn every_action_that_refuses_is_known_here() {
        const OTHERS: &[&str] = &[
            "add-headers",
            "circuit-breaker",
            "compress-response",
            "http-request",
            "log",
            "remove-headers",
            "request-body-find-replace",
            "response-body-find-replace",
            "set-vars",
            "sse-find-replace",
            "url-rewrite",
        ];
        let kinds: Vec<&str> = ebbgate_policy::action::kinds().collect();
        assert!(kinds.len() > 20);
        for kind in kinds {
            let lists = [REFUSING, ENDING, OTHERS].iter().filter(|list| list.contains(&kind)).count();
            assert_eq!(lists, 1, "{kind}: does it refuse, end, or neither?");
        }
        for kind in REFUSING.iter().filter(|kind| **kind != "saml") {
            let refuses = request(&json!([{"type": kind, "config": {}}]));
            assert!(!waits(None, Some(&refuses)), "{kind}");
        }
    }
}
