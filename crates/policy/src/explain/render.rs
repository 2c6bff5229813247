//! An explanation as text for people and as JSON for programs, both with the policy's own words.

use std::fmt::Write as _;

use ebbgate_model::{Rule, TrafficPolicy};
use serde_json::{Map, Value, json};

use super::{Case, Decision, Explanation};
use crate::facts::Phase;
use crate::trace::{Trace, Traced};
use crate::verdict::Verdict;

/// What is said of an explanation of a policy that is not enforced.
const NOT_ENFORCED: &str =
    "not enforced: with `enforce: false` nothing of it is done, but a cloud endpoint's forward-internal";
/// Most characters of a value in the text; the JSON has it whole.
const VALUE_CHARS_MAX: usize = 120;

fn rules(policy: &TrafficPolicy, phase: Phase) -> &[Rule] {
    match phase {
        Phase::TcpConnect => &policy.on_tcp_connect,
        Phase::HttpRequest => &policy.on_http_request,
        Phase::HttpResponse => &policy.on_http_response,
        Phase::EventStream => &policy.on_event_stream_message,
    }
}

/// What phases did, in lines.
pub(crate) fn steps_text(policy: &TrafficPolicy, phases: &[(Phase, Trace)]) -> String {
    let mut out = String::new();
    for (phase, trace) in phases {
        let _ = writeln!(out, "{}", phase.key());
        let mut last = None;
        for step in &trace.steps {
            let rule = rules(policy, *phase).get(step.rule);
            if last != Some(step.rule) {
                last = Some(step.rule);
                let name = rule.and_then(|rule| rule.name.as_deref());
                let name = name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
                let _ = writeln!(out, "  rule {}{name}", step.rule);
            }
            write_step(&mut out, rule, &step.what);
        }
        if trace.is_cut {
            let _ = writeln!(out, "  ... later steps are left out");
        }
    }
    out
}

/// What phases did, for programs.
pub(crate) fn steps_json(policy: &TrafficPolicy, phases: &[(Phase, Trace)]) -> Value {
    let phases = phases.iter().map(|(phase, trace)| {
        let steps = trace
            .steps
            .iter()
            .map(|step| step_json(rules(policy, *phase).get(step.rule), step.rule, &step.what));
        json!({ "phase": phase.key(), "steps": steps.collect::<Vec<_>>(), "cut": trace.is_cut })
    });
    Value::Array(phases.collect())
}

impl Explanation {
    /// The explanation in lines, with the words of the policy that was compiled.
    #[must_use]
    pub fn text(&self, policy: &TrafficPolicy) -> String {
        let mut out = String::new();
        out.push_str(&steps_text(policy, &self.phases));
        for entry in &self.logs {
            let _ = writeln!(out, "log {entry}");
        }
        let _ = writeln!(out, "{}", self.sentence());
        if !self.is_enforced {
            let _ = writeln!(out, "{NOT_ENFORCED}");
        }
        out
    }

    /// What became of it and which place decided, in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let what = match &self.decision {
            Decision::Upstream => "goes to the endpoint's upstream".to_owned(),
            Decision::Forward(url) => format!("goes to {url}"),
            Decision::Respond(reply) => format!("is answered {}", reply.status.as_u16()),
            Decision::Close(_) => "is closed".to_owned(),
            Decision::Fail { message, .. } => format!("fails: {message}"),
        };
        let code = self.decision.code().map(|code| format!(" ({code})")).unwrap_or_default();
        let place = if self.decided_by.is_empty() {
            "no action ended a phase".to_owned()
        } else {
            format!("by {}", self.decided_by)
        };
        format!("result: it {what}{code}, {place}")
    }

    /// What differs from the case in the request that an upstream gets, and in the response that the client gets, in lines.
    #[must_use]
    pub fn changes(&self, case: &Case) -> String {
        let mut out = String::new();
        if let (Some(before), Some(after)) = (&case.request, &self.request) {
            if (&before.method, &before.uri) != (&after.method, &after.uri) {
                let _ = writeln!(out, "the upstream gets: {} {}", after.method, after.uri);
            }
            write_differences(&mut out, "the upstream", &before.headers, &after.headers);
        }
        let Some(response) = &self.response else { return out };
        match &self.decision {
            Decision::Respond(reply) => {
                write_differences(&mut out, "the client", &http::HeaderMap::new(), &response.headers);
                if !reply.body.is_empty() {
                    let _ = writeln!(out, "the client gets: {}", String::from_utf8_lossy(&reply.body));
                }
            }
            _ => write_differences(&mut out, "the client", &case.response.headers, &response.headers),
        }
        out
    }

    /// The explanation for programs. Holds values of the request.
    #[must_use]
    pub fn json(&self, policy: &TrafficPolicy) -> Value {
        let to = match &self.decision {
            Decision::Forward(url) => Some(url.to_string()),
            _ => None,
        };
        let message = match &self.decision {
            Decision::Fail { message, .. } => Some(message.as_str()),
            _ => None,
        };
        json!({
            "outcome": self.decision.word(),
            "enforced": self.is_enforced,
            "to": to,
            "status": self.response.as_ref().map(|response| response.status.as_u16()),
            "code": self.decision.code().map(|code| code.to_string()),
            "message": message,
            "decided_by": self.decided_by,
            "request_headers": self.request.as_ref().map(|request| headers_json(&request.headers)),
            "response_headers": self.response.as_ref().map(|response| headers_json(&response.headers)),
            "logs": self.logs,
            "phases": steps_json(policy, &self.phases),
        })
    }
}

fn write_differences(out: &mut String, who: &str, before: &http::HeaderMap, after: &http::HeaderMap) {
    let text = |headers: &http::HeaderMap, name| {
        let values = headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort_by_key(|name| name.as_str());
    names.dedup();
    for name in names {
        if !after.contains_key(name) {
            let _ = writeln!(out, "{who} does not get: {name}");
        } else if text(before, name) != text(after, name) {
            let _ = writeln!(out, "{who} gets: {name}: {}", text(after, name));
        }
    }
}

fn write_step(out: &mut String, rule: Option<&Rule>, what: &Traced) {
    match what {
        Traced::Condition { index, result, reads } => {
            let result = match result {
                Ok(true) => "true".to_owned(),
                Ok(false) => "false".to_owned(),
                Err(error) => format!("cannot be judged: {error}"),
            };
            let _ = writeln!(out, "    {result:<5}  {}", source(rule, *index));
            for (name, value) in reads {
                let value = value.as_ref().map_or_else(|| "(absent)".to_owned(), short);
                let _ = writeln!(out, "             {name} = {value}");
            }
        }
        Traced::Untold { index, is_condition: true, why } => {
            let _ = writeln!(out, "    not told  {}", source(rule, *index));
            let _ = writeln!(out, "             {why}");
        }
        Traced::Untold { index, is_condition: false, why } => {
            let _ = writeln!(out, "    {}: not told: {why}", kind(rule, *index));
        }
        Traced::Action { index, verdict } => {
            let kind = kind(rule, *index);
            let came = match verdict {
                None | Some(Verdict::Continue) => "done".to_owned(),
                Some(Verdict::Forward { url, .. }) => format!("forwards to {url}"),
                Some(Verdict::Respond(reply)) => format!("answers {}", reply.status.as_u16()),
                Some(Verdict::Close { .. }) => "closes the connection".to_owned(),
                Some(Verdict::Failed { code, message }) => format!("fails: {message} ({code})"),
            };
            let _ = writeln!(out, "    {kind}: {came}");
        }
    }
}

fn step_json(rule: Option<&Rule>, index_of_rule: usize, what: &Traced) -> Value {
    let name = rule.and_then(|rule| rule.name.as_deref());
    match what {
        Traced::Condition { index, result, reads } => {
            let reads: Map<String, Value> =
                reads.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
            json!({
                "rule": index_of_rule,
                "name": name,
                "expression": source(rule, *index),
                "holds": result.as_ref().ok(),
                "error": result.as_ref().err(),
                "reads": reads,
            })
        }
        Traced::Untold { index, is_condition, why } => json!({
            "rule": index_of_rule,
            "name": name,
            "expression": is_condition.then(|| source(rule, *index)),
            "action": (!is_condition).then(|| kind(rule, *index)),
            "not_told": why,
        }),
        Traced::Action { index, verdict } => json!({
            "rule": index_of_rule,
            "name": name,
            "action": kind(rule, *index),
            "ends_phase": verdict.is_some(),
        }),
    }
}

fn source(rule: Option<&Rule>, index: usize) -> &str {
    rule.and_then(|rule| rule.expressions.get(index)).map_or("", String::as_str)
}

fn kind(rule: Option<&Rule>, index: usize) -> &str {
    rule.and_then(|rule| rule.actions.get(index)).map_or("", |action| action.kind.as_str())
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

fn headers_json(headers: &http::HeaderMap) -> Map<String, Value> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let values = |name| headers.get_all(name).iter().map(text).collect::<Vec<_>>();
    headers.keys().map(|name| (name.to_string(), values(name).into())).collect()
}
