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
/// Actions by which a visitor is answered or led on.
const ANSWERING: &[&str] = &["custom-response", "forward-internal", "redirect"];
/// Actions that change nothing a later condition or refusal reads.
const HARMLESS: &[&str] =
    &["circuit-breaker", "compress-response", "log", "response-body-find-replace", "sse-find-replace"];
/// Statuses by which a `custom-response` refuses.
const REFUSING_STATUS: std::ops::Range<u64> = 400..500;
/// The phase after which a visitor gets no answer, if no action gave one: `on_http_request`.
const LAST_CHANCE: usize = 1;

/// Whether a policy waits for canary edges, where all edges have `before`.
///
/// It does if all that lets visitors in stays as it was, but for refusals that go: the same refusals, answers under
/// the same conditions, in the same order. Answers, and where a visitor is led, may differ.
pub fn waits(before: Option<&TrafficPolicy>, after: Option<&TrafficPolicy>) -> bool {
    if before == after {
        return false;
    }
    let (old, new) = (steps(before), steps(after));
    old.iter().zip(&new).enumerate().all(|(phase, (old, new))| lets_in_as_many(phase, old, new))
}

/// What decides in a phase whether a visitor gets on.
#[derive(Debug, PartialEq)]
enum Step<'p> {
    /// This action may refuse a visitor, or change what later steps read of the visitor, under these conditions.
    Judge { expressions: &'p [String], kind: &'p str, config: &'p Value, refuses: bool },
    /// He is answered or led on, under these conditions.
    Answer { expressions: &'p [String] },
}

/// Whether all that got on by the old steps get on by the new ones.
fn lets_in_as_many(phase: usize, old: &[Step], new: &[Step]) -> bool {
    let mut new = new.iter().peekable();
    for step in old {
        let stays = new.next_if(|new| *new == step).is_some();
        if !stays && !matches!(step, Step::Judge { refuses: true, .. }) {
            return false;
        }
    }
    // Answers beyond are for visitors that had none.
    new.all(|step| phase == LAST_CHANCE && matches!(step, Step::Answer { .. }))
}

/// The steps of each phase. A policy that is not enforced has none.
fn steps(policy: Option<&TrafficPolicy>) -> [Vec<Step<'_>>; 4] {
    let Some(policy) = policy.filter(|policy| policy.is_enforced()) else { return Default::default() };
    let phases: [&[Rule]; 4] = [
        &policy.on_tcp_connect,
        &policy.on_http_request,
        &policy.on_http_response,
        &policy.on_event_stream_message,
    ];
    let mut all = phases.map(steps_of_phase);
    // What is changed matters only where a later step judges by it.
    let mut is_read = false;
    for phase in all.iter_mut().rev() {
        let mut kept = Vec::new();
        for step in std::mem::take(phase).into_iter().rev() {
            match &step {
                Step::Judge { refuses, expressions, .. }
                    if *refuses || (is_read && !expressions.is_empty()) =>
                {
                    is_read = true;
                }
                Step::Judge { .. } if !is_read => continue,
                Step::Judge { .. } => {}
                Step::Answer { expressions } => is_read |= !expressions.is_empty(),
            }
            kept.push(step);
        }
        kept.reverse();
        *phase = kept;
    }
    all
}

fn steps_of_phase(rules: &[Rule]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut is_answered = false;
    let actions = rules.iter().flat_map(|rule| rule.actions.iter().map(move |action| (rule, action)));
    for (rule, action) in actions {
        let (expressions, kind, config) = (rule.expressions.as_slice(), action.kind.as_str(), &action.config);
        let status = config.get("status_code").and_then(Value::as_u64).unwrap_or_default();
        let is_denial = kind == "custom-response" && REFUSING_STATUS.contains(&status);
        if ANSWERING.contains(&kind) && !is_denial {
            // Behind an answer to all no other answer counts.
            if !is_answered {
                steps.push(Step::Answer { expressions });
            }
            is_answered |= expressions.is_empty();
        } else if !HARMLESS.contains(&kind) {
            let refuses = is_denial || REFUSING.contains(&kind);
            steps.push(Step::Judge { expressions, kind, config, refuses });
        }
    }
    steps
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
            (Some(&guarded), None, false),
            (Some(&guarded), Some(&bare), true),
            (Some(&guarded), Some(&request(&json!([allow("192.0.2.2/32"), forward]))), false),
            (Some(&guarded), Some(&request(&json!([allow("192.0.2.1/32"), answer(503)]))), true),
            (Some(&guarded), Some(&narrowed), false),
            (Some(&narrowed), Some(&bare), true),
            (Some(&late), Some(&guarded), false),
            (Some(&guarded), Some(&late), false),
            (Some(&lax), Some(&guarded), false),
            (Some(&guarded), Some(&lax), false),
        ] {
            assert_eq!(waits(before, after), expect, "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_lets_fewer_visitors_on_does_not_wait() {
        let forward = |url: &str| json!({"type": "forward-internal", "config": {"url": url}});
        let rules = |rules: Value| policy(json!({"on_http_request": rules}));
        let only = |ips: &str, url: &str| json!({"expressions": [ips], "actions": [forward(url)]});
        let deny = |condition: &str| json!({"expressions": [condition], "actions": [{"type": "deny"}]});
        let set =
            |value: &str| json!({"actions": [{"type": "set-vars", "config": {"vars": [{"x": value}]}}]});
        let header = json!({"actions": [{"type": "add-headers", "config": {"headers": {"a": "b"}}}]});
        let log = json!({"actions": [{"type": "log", "config": {}}]});
        let (two, one) = ("conn.client_ip in ['a', 'b']", "conn.client_ip in ['a']");
        let all = json!({"actions": [forward("https://a.internal")]});
        let listed = rules(json!([only(two, "https://a.internal")]));
        for (before, after, expect) in [
            (listed.clone(), rules(json!([only(one, "https://a.internal")])), false),
            (listed.clone(), rules(json!([only(two, "https://b.internal")])), true),
            (listed.clone(), rules(json!([only(two, "https://a.internal"), all])), true),
            (listed.clone(), rules(json!([all])), false),
            (
                rules(json!([only(two, "https://a.internal"), deny("true")])),
                rules(json!([only(one, "https://a.internal"), deny("true")])),
                false,
            ),
            (
                rules(json!([set("1"), deny("vars.x != '1'"), all])),
                rules(json!([set("2"), deny("vars.x != '1'"), all])),
                false,
            ),
            (rules(json!([set("1"), all])), rules(json!([set("2"), all])), true),
            (rules(json!([set("1"), only(two, "https://a.internal")])), listed.clone(), false),
            (rules(json!([all])), rules(json!([header, log, all])), true),
            (rules(json!([log, deny("true"), all])), rules(json!([deny("true"), all])), true),
            (
                policy(json!({"on_http_response": [{"expressions": ["true"], "actions": []}]})),
                policy(
                    json!({"on_http_response": [{"actions": [{"type": "custom-response", "config": {}}]}]}),
                ),
                false,
            ),
        ] {
            assert_eq!(waits(Some(&before), Some(&after)), expect, "{before:?} {after:?}");
        }
    }

    /// An action that is new in the table of actions belongs into one of the lists.
    #[test]
    fn every_action_that_refuses_is_known_here() {
        const OTHERS: &[&str] = &[
            "add-headers",
            "http-request",
            "remove-headers",
            "request-body-find-replace",
            "set-vars",
            "url-rewrite",
        ];
        let kinds: Vec<&str> = ebbgate_policy::action::kinds().collect();
        assert!(kinds.len() > 20);
        for kind in kinds {
            let lists =
                [REFUSING, ANSWERING, HARMLESS, OTHERS].iter().filter(|list| list.contains(&kind)).count();
            assert_eq!(lists, 1, "{kind}: does it refuse, answer, or change what others read?");
        }
        for kind in REFUSING.iter().filter(|kind| **kind != "saml") {
            let refuses = request(&json!([{"type": kind, "config": {}}]));
            assert!(!waits(None, Some(&refuses)), "{kind}");
        }
    }
}
