//! What an endpoint's traffic policy may say: the checks of `ebbgate-policy`, and those that need the account's objects.

use std::collections::BTreeSet;

use ebbgate_model::{Binding, EndpointUrl, IpRuleAction, TrafficPolicy};
use ebbgate_policy::{CheckContext, Checked, Diagnostic, check, text};
use serde_json::Value;

use super::super::call::Call;
use super::super::failure::ApiError;
use crate::record::{self, CertificateAuthority, Endpoint, IpPolicy, IpPolicyRule, Record};
use crate::store::Txn;

/// Most defects listed in one answer.
const DIAGNOSTICS_MAX: usize = 20;

/// Most certificate authorities and IP policies that one policy names, each counted once.
const REFERENCES_MAX: usize = 64;

/// A policy that may be stored.
#[derive(Debug)]
pub(super) struct Judged {
    /// None: the endpoint has no policy yet.
    pub(super) policy: Option<TrafficPolicy>,
    pub(super) warnings: Vec<String>,
}

/// Judges a policy text. Objects it names are held in place by the transaction.
pub(super) async fn judge(
    call: &Call,
    text: &str,
    cx: &CheckContext,
    txn: &mut Txn,
) -> Result<Judged, ApiError> {
    if text.trim().is_empty() {
        return absent(call);
    }
    let checked = check(text, cx).map_err(|defects| refused(&defects))?;
    *txn = hold_references(call, &checked, std::mem::take(txn)).await?;
    let mut warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(allowing_nobody(call, &checked).await?);
    let targets = checked.forward_targets();
    if !targets.is_empty() {
        let known = internal_urls(call).await?;
        warnings.extend(targets.iter().filter_map(|target| near_miss(target, &known)));
    }
    Ok(Judged { policy: Some(checked.policy), warnings })
}

/// An endpoint without a policy answers as offline until it has one. Strict installations refuse it.
fn absent(call: &Call) -> Result<Judged, ApiError> {
    let message = "`traffic_policy`: a cloud endpoint needs a traffic policy that ends all traffic";
    if call.is_strict() {
        return Err(ApiError::bad(18011, message).detail("field", "traffic_policy"));
    }
    Ok(Judged {
        policy: None,
        warnings: vec![format!("{message}; until one is set, visitors get an offline answer")],
    })
}

/// All defects at once: the first in `msg`, every one in `details`.
fn refused(defects: &[Diagnostic]) -> ApiError {
    // A defect of the whole document is often only the consequence of one that has a place.
    let Some(first) = defects.iter().find(|defect| !defect.path.is_empty()).or(defects.first()) else {
        return ApiError::bad(18002, "the traffic policy is invalid").detail("field", "traffic_policy");
    };
    let more = match defects.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more, listed in details)"),
    };
    let error = ApiError::bad(first.code.number(), format!("the traffic policy is invalid: {first}{more}"));
    let error = error.detail("field", "traffic_policy").detail("endpoint_error_code", "ERR_NGROK_18002");
    let error = located(error, first);
    defects
        .iter()
        .take(DIAGNOSTICS_MAX)
        .enumerate()
        .fold(error, |error, (at, defect)| error.detail(format!("defect_{}", at + 1), defect.to_string()))
}

fn located(mut error: ApiError, defect: &Diagnostic) -> ApiError {
    if !defect.path.is_empty() {
        error = error.detail("path", defect.path.clone());
    }
    let numbers = [("line", defect.line), ("column", defect.column)];
    numbers.into_iter().fold(error, |error, (name, number)| match number {
        Some(number) => error.detail(name, number.to_string()),
        None => error,
    })
}

/// Refuses ids the account does not have (228, 229), and keeps those it has until the transaction.
async fn hold_references(call: &Call, checked: &Checked, mut txn: Txn) -> Result<Txn, ApiError> {
    let store = &*call.app.store;
    let authorities: BTreeSet<_> = checked.authorities().iter().collect();
    let ip_policies: BTreeSet<_> = checked.ip_policies().iter().collect();
    let named = authorities.len() + ip_policies.len();
    if named > REFERENCES_MAX {
        let message = format!(
            "the traffic policy names {named} certificate authorities and IP policies; at most {REFERENCES_MAX} are allowed"
        );
        return Err(ApiError::bad(18002, message).detail("field", "traffic_policy"));
    }
    for id in authorities {
        let stored = record::load::<CertificateAuthority>(store, call.account, *id).await?;
        let stored = stored.ok_or_else(|| unknown(228, "certificate authority", id))?;
        txn = txn.if_unchanged(stored.record.key(), stored.modified);
    }
    for id in ip_policies {
        let stored = record::load::<IpPolicy>(store, call.account, *id).await?;
        let stored = stored.ok_or_else(|| unknown(229, "IP policy", id))?;
        txn = txn.if_unchanged(stored.record.key(), stored.modified);
    }
    Ok(txn)
}

fn unknown(code: u32, noun: &str, id: &dyn std::fmt::Display) -> ApiError {
    let message = format!("the traffic policy names the {noun} {id}, which this account does not have");
    ApiError::bad(code, message).detail("field", "traffic_policy")
}

/// What to say about lists that are made of IP policies alone, none of which allows anything.
async fn allowing_nobody(call: &Call, checked: &Checked) -> Result<Vec<String>, ApiError> {
    if checked.ip_policies().is_empty() {
        return Ok(Vec::new());
    }
    let rules = record::list::<IpPolicyRule>(&*call.app.store, call.account, None, None).await?;
    let rules = rules.items.iter().map(|stored| &stored.record);
    let allowing: BTreeSet<String> =
        rules.filter(|rule| rule.action == IpRuleAction::Allow).map(|rule| rule.policy.to_string()).collect();
    let policy = &checked.policy;
    let phases = [("on_tcp_connect", &policy.on_tcp_connect), ("on_http_request", &policy.on_http_request)];
    let mut warnings = Vec::new();
    for (phase, rules) in phases {
        for (at, rule) in rules.iter().enumerate() {
            for (index, action) in rule.actions.iter().enumerate().filter(|(_, a)| a.kind == "restrict-ips") {
                let list = |key| action.config.get(key).and_then(Value::as_array).filter(|l| !l.is_empty());
                let Some(policies) = list("ip_policies").filter(|_| list("allow").is_none()) else {
                    continue;
                };
                if !policies.iter().filter_map(Value::as_str).any(|id| allowing.contains(id)) {
                    warnings.push(format!(
                        "{phase}[{at}].actions[{index}].config.ip_policies: none of these IP policies has a rule that allows anything, so nobody is allowed until one has"
                    ));
                }
            }
        }
    }
    Ok(warnings)
}

/// URLs of the account's internal endpoints, cloud and agent.
async fn internal_urls(call: &Call) -> Result<Vec<EndpointUrl>, ApiError> {
    let stored = record::list::<Endpoint>(&*call.app.store, call.account, None, None).await?;
    let cloud = stored.items.into_iter().map(|stored| (stored.record.binding, stored.record.url));
    let live =
        call.app.presence.endpoints(call.account).into_iter().map(|e| (e.report.binding, e.report.url));
    let internal = cloud.chain(live).filter(|(binding, _)| *binding == Binding::Internal);
    Ok(internal.map(|(_, url)| url).collect())
}

/// What to say about a target that no endpoint serves but one nearly does. A target that is like nothing known is left
/// alone: its agent may come later.
fn near_miss(target: &EndpointUrl, known: &[EndpointUrl]) -> Option<String> {
    let serves = |url: &EndpointUrl| {
        url.scheme() == target.scheme() && url.port() == target.port() && url.host().covers(target.host())
    };
    if known.iter().any(serves) {
        return None;
    }
    let same_host = known.iter().find(|url| url.is_near_miss_of(target));
    let spelled_alike = || {
        let names = known.iter().map(|url| url.host().as_str());
        let name = text::nearest(target.host().as_str(), names)?;
        known.iter().find(|url| url.host().as_str() == name)
    };
    let near = same_host.or_else(spelled_alike)?;
    Some(format!(
        "forward-internal names {target}, which no endpoint of this account serves; did you mean {near}?"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_told_and_strangers_left_alone() {
        let known: Vec<EndpointUrl> = [
            "tcp://operations-database.clinic1.internal:433",
            "https://rest-api.clinic1.internal",
            "tls://*.db.clinic1.internal",
        ]
        .iter()
        .map(|url| url.parse().unwrap())
        .collect();
        let check = |target: &str, expect: Option<&str>| {
            let found = near_miss(&target.parse().unwrap(), &known);
            assert_eq!(found.is_some(), expect.is_some(), "{target}: {found:?}");
            assert!(
                expect.is_none_or(|near| found.unwrap().ends_with(&format!("did you mean {near}?"))),
                "{target}"
            );
        };
        check("https://rest-api.clinic1.internal", None);
        check("tls://patient.db.clinic1.internal", None);
        check(
            "tcp://operations-database.clinic1.internal:443",
            Some("tcp://operations-database.clinic1.internal:433"),
        );
        check("https://restapi.clinic1.internal", Some("https://rest-api.clinic1.internal"));
        check("https://rest-apj.clinic1.internal", Some("https://rest-api.clinic1.internal"));
        check("http://rest-api.clinic1.internal", Some("https://rest-api.clinic1.internal"));
        check("https://billing.clinic2.internal", None);
    }
}
