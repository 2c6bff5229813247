//! What is doubtful about a stored policy beside what else the account has now: targets that nearly name an endpoint, and
//! lists that allow nobody. Judged anew whenever an endpoint is read, because agents and rules come and go.

use std::collections::BTreeSet;

use ebbgate_model::{Action, Binding, EndpointUrl, IpRuleAction, TrafficPolicy};
use ebbgate_policy::text;
use serde_json::Value;

use super::super::call::Call;
use super::super::failure::ApiError;
use crate::record::{self, Endpoint, IpPolicyRule, index};
use crate::store::Range;

/// Newest endpoints: a target that nobody serves is compared with their names.
const NAMES_COMPARED_MAX: usize = 1_000;

/// What an account has now, read when it is first needed and kept for the rest of a list.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    internal_urls: Option<Vec<EndpointUrl>>,
    allowing: Option<BTreeSet<String>>,
}

impl Surroundings {
    /// What to say of an endpoint's policy.
    pub(super) async fn warnings(
        &mut self,
        call: &Call,
        endpoint: &Endpoint,
    ) -> Result<Vec<String>, ApiError> {
        let mut warnings = Vec::new();
        if endpoint.binding == Binding::Kubernetes {
            warnings.push("kubernetes endpoints are stored, but not served yet".to_owned());
        }
        let Some(policy) = &endpoint.policy else { return Ok(warnings) };
        let lists = lists_of_policies(policy);
        if !lists.is_empty() {
            if self.allowing.is_none() {
                self.allowing = Some(allowing_policies(call).await?);
            }
            let allowing = self.allowing.as_ref();
            let empty = |ids: &Vec<&str>| !ids.iter().any(|id| allowing.is_some_and(|all| all.contains(*id)));
            warnings.extend(lists.iter().filter(|(_, ids)| empty(ids)).map(|(place, _)| {
                format!("{place}: none of these IP policies has a rule that allows anything, so nobody is allowed until one has")
            }));
        }
        let mut unserved = Vec::new();
        for target in targets(policy) {
            if !is_served(call, &target).await? {
                unserved.push(target);
            }
        }
        if !unserved.is_empty() {
            if self.internal_urls.is_none() {
                self.internal_urls = Some(internal_urls(call).await?);
            }
            let known = self.internal_urls.as_deref().unwrap_or_default();
            warnings.extend(unserved.iter().filter_map(|target| near_miss(target, known)));
        }
        Ok(warnings)
    }
}

/// Every action of a policy, with its place.
fn actions(policy: &TrafficPolicy) -> impl Iterator<Item = (String, &Action)> {
    let phases = [
        ("on_tcp_connect", &policy.on_tcp_connect),
        ("on_http_request", &policy.on_http_request),
        ("on_http_response", &policy.on_http_response),
        ("on_event_stream_message", &policy.on_event_stream_message),
    ];
    phases.into_iter().flat_map(|(phase, rules)| {
        rules.iter().enumerate().flat_map(move |(at, rule)| {
            let place = move |index| format!("{phase}[{at}].actions[{index}]");
            rule.actions.iter().enumerate().map(move |(index, action)| (place(index), action))
        })
    })
}

/// URLs that `forward-internal` names literally, each once; interpolated ones are known only at run time.
fn targets(policy: &TrafficPolicy) -> Vec<EndpointUrl> {
    let mut targets: Vec<EndpointUrl> = Vec::new();
    for (_, action) in actions(policy).filter(|(_, action)| action.kind == "forward-internal") {
        let url = action.config.get("url").and_then(Value::as_str).filter(|url| !url.contains("${"));
        if let Some(url) = url.and_then(|url| url.parse().ok()).filter(|url| !targets.contains(url)) {
            targets.push(url);
        }
    }
    targets
}

/// Lists of `restrict-ips` that are made of IP policies alone: their places, and the ids they name.
fn lists_of_policies(policy: &TrafficPolicy) -> Vec<(String, Vec<&str>)> {
    let restricting = actions(policy).filter(|(_, action)| action.kind == "restrict-ips");
    let lists = restricting.filter_map(|(place, action)| {
        let list = |key| action.config.get(key).and_then(Value::as_array).filter(|l| !l.is_empty());
        let policies = list("ip_policies").filter(|_| list("allow").is_none())?;
        let ids = policies.iter().filter_map(Value::as_str).collect();
        Some((format!("{place}.config.ip_policies"), ids))
    });
    lists.collect()
}

/// Ids of the account's IP policies that allow anything.
async fn allowing_policies(call: &Call) -> Result<BTreeSet<String>, ApiError> {
    let rules = record::list::<IpPolicyRule>(&*call.app.store, call.account, None, None).await?;
    let rules = rules.items.iter().map(|stored| &stored.record);
    Ok(rules.filter(|rule| rule.action == IpRuleAction::Allow).map(|rule| rule.policy.to_string()).collect())
}

/// Whether an endpoint of the account stands at the target, or at a wildcard above it.
async fn is_served(call: &Call, target: &EndpointUrl) -> Result<bool, ApiError> {
    let covers = |url: &EndpointUrl| {
        url.scheme() == target.scheme() && url.port() == target.port() && url.host().covers(target.host())
    };
    if call.app.presence.endpoints(call.account).iter().any(|agent| covers(&agent.report.url)) {
        return Ok(true);
    }
    let name = target.host().as_str();
    let above = name.match_indices('.').filter_map(|(at, _)| Some(format!("*.{}", name.get(at + 1..)?)));
    for host in std::iter::once(name.to_owned()).chain(above) {
        let Ok(host) = host.parse() else { continue };
        let Ok(url) = EndpointUrl::new(target.scheme(), host, target.port()) else { continue };
        let standing = Range { limit: Some(1), ..Range::all(index::url(call.account, &url)) };
        if !call.app.store.range(standing).await?.items.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// URLs of the account's newest internal endpoints, cloud and agent.
async fn internal_urls(call: &Call) -> Result<Vec<EndpointUrl>, ApiError> {
    let newest = Some(NAMES_COMPARED_MAX);
    let stored = record::list::<Endpoint>(&*call.app.store, call.account, None, newest).await?;
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
        let names = known.iter().take(NAMES_COMPARED_MAX).map(|url| url.host().as_str());
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
