//! `owasp-crs-request` and `owasp-crs-response`: refuse a message of which the Core Rule Set says that it is an attack
//! (surface.md section 4.2).
//!
//! The rules are the operator's and run elsewhere. With `on_error: continue` nothing is refused, as published: expressions and
//! logs see what would have been.

use std::collections::BTreeSet;
use std::sync::Arc;

use ebbgate_model::ErrorCode;
use http::StatusCode;
use serde_json::{Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::facts::{Context, Phase};
use crate::verdict::{Effect, Inspected, Inspection, OnError, Reply, Verdict};

/// Most rules that an action leaves out.
const EXCLUDED_MAX: usize = 100;
/// The rules that it may leave out: the published bounds.
const RULE_IDS: std::ops::RangeInclusive<u64> = 900_000..=999_999;

#[derive(Debug)]
struct OwaspCrs {
    on_error: OnError,
    inspection: Inspection,
    /// Name of the result.
    result: &'static str,
    /// What a refused message is told.
    refused: ErrorCode,
}

const FIELDS: &[Field] = &[
    Field::list("exclude_rule_ids", "number of a rule, 900000 to 999999", EXCLUDED_MAX),
    Field::choice("on_error", &["halt", "continue"]).note("`continue` refuses nothing"),
    Field::flag("process_body", false).note("the first 4 KB, without content codings"),
];

pub(super) const ABOUT_REQUEST: About = About {
    file: file!(),
    what: "A request in which the operator's OWASP Core Rule Set finds an attack is refused ([waf.md](waf.md)).",
    fields: FIELDS,
    codes: &[3700, 3701],
    example: "on_http_request:
  - actions:
      - type: owasp-crs-request
        config: {on_error: halt, process_body: true, exclude_rule_ids: [942100]}
",
    given: "{waf: {anomaly_score: 10}}",
    all: "",
};

pub(super) const ABOUT_RESPONSE: About = About {
    file: file!(),
    what: "A response in which the operator's OWASP Core Rule Set finds what should not leave is refused ([waf.md](waf.md)).",
    fields: FIELDS,
    codes: &[3701, 3702],
    example: "on_http_response:
  - actions:
      - type: owasp-crs-response
        config: {on_error: halt, process_body: true, exclude_rule_ids: [951230]}
",
    given: "{waf: {anomaly_score: 5, anomaly_score_threshold: 4}}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    config.required("on_error");
    let choices = [("halt", OnError::Halt), ("continue", OnError::Continue)];
    let on_error = config.choice("on_error", OnError::Halt, &choices);
    let process_body = config.flag("process_body", false);
    let exclude_rule_ids = excluded(config);
    config.notes.core_rule_sets.push(config.path());
    config.finish();
    let (result, refused) = if config.phase == Phase::HttpRequest {
        ("owasp_crs_request", code::WAF_REQUEST_REFUSED)
    } else {
        ("owasp_crs_response", code::WAF_RESPONSE_REFUSED)
    };
    let inspection = Inspection { process_body, exclude_rule_ids };
    (config.errors() == before)
        .then(|| Arc::new(OwaspCrs { on_error, inspection, result, refused }) as Arc<dyn Action>)
}

fn excluded(config: &mut Config) -> Arc<[u32]> {
    let mut ids = BTreeSet::new();
    for (path, value) in config.list("exclude_rule_ids", EXCLUDED_MAX) {
        let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let in_range = number.filter(|id| RULE_IDS.contains(id)).and_then(|id| u32::try_from(id).ok());
        if let Some(id) = in_range {
            ids.insert(id);
        } else if value.is_number() || number.is_some() {
            let message = format!("{value} is out of range: {} to {}", RULE_IDS.start(), RULE_IDS.end());
            config.error(code::NUMBER_RANGE, path, message);
        } else {
            config.error(code::VALUE_TYPE, path, "expected the number of a rule");
        }
    }
    ids.into_iter().collect()
}

impl OwaspCrs {
    fn judged(&self, cx: &mut Context, found: &Inspected) -> Flow {
        let denied = found.score >= found.threshold;
        let refuses = denied && found.enforced && self.on_error == OnError::Halt;
        let error = denied.then(|| {
            let (score, threshold) = (found.score, found.threshold);
            error(self.refused, &format!("the anomaly score {score} has reached the threshold {threshold}"))
        });
        let rules = found.matched_rules.iter().map(|rule| {
            json!({ "id": rule.id, "message": rule.message, "severity": rule.severity, "data": rule.data })
        });
        let rules: Vec<Value> = rules.collect();
        cx.set_result(
            self.result,
            json!({
                "decision": if denied { "deny" } else { "allow" },
                "enforced": refuses || !denied,
                "anomaly_score": found.score,
                "anomaly_score_threshold": found.threshold,
                "matched_rules": rules,
                "error": error,
            }),
        );
        if refuses {
            Flow::End(Verdict::Respond(Reply::empty(StatusCode::FORBIDDEN, Some(self.refused))))
        } else {
            Flow::Next
        }
    }
}

fn error(code: ErrorCode, message: &str) -> Value {
    json!({ "code": code.to_string(), "message": message })
}

impl Action for OwaspCrs {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        match gathered.inspected.take() {
            None => Flow::Need(Effect::Inspect(self.inspection.clone())),
            Some(Ok(found)) => self.judged(cx, &found),
            Some(Err(message)) => {
                if self.on_error == OnError::Halt {
                    return Flow::failed(
                        code::WAF_FAILED,
                        format!("{}: {message}", self.result.replace('_', "-")),
                    );
                }
                cx.set_result(
                    self.result,
                    json!({
                        "decision": "allow",
                        "enforced": false,
                        "anomaly_score": 0,
                        "anomaly_score_threshold": 0,
                        "matched_rules": [],
                        "error": error(code::WAF_FAILED, &message),
                    }),
                );
                Flow::Next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{CheckContext, Owner, check};
    use crate::facts::tests::request;
    use crate::testing::{World, engine};
    use crate::verdict::MatchedRule;
    use ebbgate_model::Binding;

    fn policy(config: &Value) -> Value {
        json!({
            "on_http_request": [{ "actions": [
                { "type": "owasp-crs-request", "config": config },
                { "type": "custom-response", "config": { "body": "${actions.ngrok.owasp_crs_request.decision}" } },
            ] }],
            "on_http_response": [{ "actions": [{ "type": "owasp-crs-response", "config": config }] }],
        })
    }

    fn found(score: i64, enforced: bool) -> Inspected {
        let rule =
            MatchedRule { id: 942_100, message: "m".into(), severity: "CRITICAL".into(), data: "d".into() };
        Inspected { score, threshold: 5, enforced, matched_rules: vec![rule] }
    }

    fn run(phase: Phase, config: &Value, world: &mut World) -> (String, Value) {
        let mut cx = request("/", &[]);
        cx.response = (phase == Phase::HttpResponse).then(|| http::Response::new(()).into_parts().0);
        let said = match world.run(&engine(policy(config)), phase, &mut cx) {
            Verdict::Respond(reply) => match reply.code {
                Some(code) => format!("{} {}", reply.status.as_u16(), code.number()),
                None => format!("{} {}", reply.status.as_u16(), String::from_utf8_lossy(&reply.body)),
            },
            Verdict::Failed { code, message } => format!("failed {}: {message}", code.number()),
            other => format!("{other:?}"),
        };
        let name = if phase == Phase::HttpRequest { "owasp_crs_request" } else { "owasp_crs_response" };
        (said, cx.result(name).cloned().unwrap_or_default())
    }

    #[test]
    fn a_message_is_refused_at_the_threshold_where_that_is_enforced() {
        let check = |phase, on_error: &str, score, enforced, expect: &str| {
            let mut world = World { inspected: Some(found(score, enforced)), ..World::default() };
            let (said, result) = run(phase, &json!({ "on_error": on_error }), &mut world);
            assert_eq!(said, expect, "{on_error} {score} {enforced}");
            let denied = score >= 5;
            assert_eq!(result["decision"], if denied { "deny" } else { "allow" });
            assert_eq!(result["enforced"], json!(!denied || (enforced && on_error == "halt")));
            assert_eq!(
                (&result["anomaly_score"], &result["anomaly_score_threshold"]),
                (&json!(score), &json!(5))
            );
            assert_eq!(result["matched_rules"][0]["id"], 942_100);
            assert_eq!(result["error"].is_null(), !denied);
        };
        check(Phase::HttpRequest, "halt", 4, true, "200 allow");
        check(Phase::HttpRequest, "halt", 5, true, "403 3700");
        check(Phase::HttpRequest, "halt", 6, true, "403 3700");
        check(Phase::HttpRequest, "halt", 5, false, "200 deny");
        check(Phase::HttpRequest, "continue", 5, true, "200 deny");
        check(Phase::HttpResponse, "halt", 4, true, "Continue");
        check(Phase::HttpResponse, "halt", 5, true, "403 3702");
        check(Phase::HttpResponse, "continue", 5, true, "Continue");
    }

    #[test]
    fn rules_that_cannot_run_fail_closed_unless_the_policy_goes_on() {
        for phase in [Phase::HttpRequest, Phase::HttpResponse] {
            let (said, _) = run(phase, &json!({ "on_error": "halt" }), &mut World::default());
            assert!(said.starts_with("failed 3701: owasp-crs-re") && said.ends_with(": no rules"), "{said}");
            let (_, result) = run(phase, &json!({ "on_error": "continue" }), &mut World::default());
            assert_eq!(result["error"], json!({ "code": "ERR_NGROK_3701", "message": "no rules" }));
            assert_eq!((&result["decision"], &result["enforced"]), (&json!("allow"), &json!(false)));
        }
    }

    #[test]
    fn the_published_bounds_hold() {
        let cx =
            CheckContext { scheme: "https".parse().unwrap(), binding: Binding::Public, owner: Owner::Cloud };
        let check = |config: Value, code: Option<u32>| {
            let found = match check(&policy(&config).to_string(), &cx) {
                Ok(_) => None,
                Err(errors) => errors.first().map(|error| error.code.number()),
            };
            assert_eq!(found, code, "{config}");
        };
        check(json!({ "on_error": "halt" }), None);
        check(
            json!({ "on_error": "continue", "process_body": true, "exclude_rule_ids": [900_000, 999_999] }),
            None,
        );
        check(json!({}), Some(2234));
        check(json!({ "on_error": "stop" }), Some(2204));
        check(json!({ "on_error": "halt", "process_body": "yes" }), Some(2222));
        check(json!({ "on_error": "halt", "exclude_rule_ids": [899_999] }), Some(2215));
        check(json!({ "on_error": "halt", "exclude_rule_ids": [1_000_000] }), Some(2215));
        check(json!({ "on_error": "halt", "exclude_rule_ids": [-1] }), Some(2215));
        check(json!({ "on_error": "halt", "exclude_rule_ids": ["sqli"] }), Some(2222));
        check(json!({ "on_error": "halt", "exclude_rule_ids": vec![942_100; 101] }), Some(2218));
        check(json!({ "on_error": "halt", "paranoia": 2 }), Some(2203));
        let ids = json!({ "on_error": "continue", "exclude_rule_ids": ["942100", 941_100, 942_100], "process_body": true });
        let mut world = World::default();
        run(Phase::HttpRequest, &ids, &mut world);
        let inspection = Inspection { process_body: true, exclude_rule_ids: [941_100, 942_100].into() };
        assert_eq!(world.inspections, [inspection]);
    }
}
