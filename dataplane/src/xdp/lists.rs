//! What a policy says about a source address alone: the `restrict-ips` lists every connection must pass, whatever else
//! it does. Pure; knows policy documents and nothing of kernels.
//!
//! A list is taken only where it certainly runs. Leaving one out costs work in user space; taking one that may be
//! jumped over would refuse traffic the policy lets through.

use std::collections::BTreeMap;

use ebbgate_model::{Action, IpPolicyId, IpPolicyRule, IpRuleAction, Prefix, TrafficPolicy};
use serde_json::Value;

use crate::state::tables::is_enforced;

/// One `restrict-ips` action with every address spelled out. A source passes when an `allow` covers it and no `deny` does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceList {
    /// Networks let in.
    pub allow: Vec<Prefix>,
    /// Networks refused, even inside an allowed one.
    pub deny: Vec<Prefix>,
}

impl SourceList {
    /// The rule of `restrict-ips` (surface.md section 4.2), by linear search: the meaning all faster forms must keep.
    pub fn admits(&self, source: std::net::IpAddr) -> bool {
        let covers = |list: &[Prefix]| list.iter().any(|prefix| prefix.contains(source));
        covers(&self.allow) && !covers(&self.deny)
    }
}

/// Why a policy's allowlist, or the rest of it, stays in user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unlisted {
    /// No `restrict-ips` runs for every connection.
    #[error("no restrict-ips applies to every connection")]
    None,
    /// An address is computed from the connection.
    #[error("an address of restrict-ips is an expression")]
    Expression,
    /// A rule with an expression may forward the connection before the list is reached.
    #[error("a conditional rule may forward the connection before restrict-ips")]
    Jumped,
}

/// The lists that every connection under this policy must pass, in the order they run.
///
/// `ip_policies` are those of the endpoint's account.
pub fn source_lists(
    policy: &TrafficPolicy,
    ip_policies: &BTreeMap<IpPolicyId, Vec<IpPolicyRule>>,
) -> Result<Vec<SourceList>, Unlisted> {
    let mut lists = Vec::new();
    let mut why = Unlisted::None;
    if !policy.is_enforced() {
        return Err(why);
    }
    'rules: for rule in &policy.on_tcp_connect {
        for action in &rule.actions {
            match action.kind.as_str() {
                "forward-internal" if rule.expressions.is_empty() => break 'rules,
                "forward-internal" => {
                    why = Unlisted::Jumped;
                    break 'rules;
                }
                "restrict-ips" if rule.expressions.is_empty() && is_enforced(action) => {
                    match read_list(action, ip_policies) {
                        Some(list) => lists.push(list),
                        None => why = Unlisted::Expression,
                    }
                }
                _ => {}
            }
        }
    }
    if lists.is_empty() { Err(why) } else { Ok(lists) }
}

/// None when an entry cannot be read as a network now: it is interpolated, or names a policy that is not there.
fn read_list(action: &Action, ip_policies: &BTreeMap<IpPolicyId, Vec<IpPolicyRule>>) -> Option<SourceList> {
    let mut list = SourceList { allow: prefixes(action, "allow")?, deny: prefixes(action, "deny")? };
    for id in strings(action, "ip_policies") {
        for rule in ip_policies.get(&id?.parse().ok()?)? {
            match rule.action {
                IpRuleAction::Allow => list.allow.push(rule.cidr),
                IpRuleAction::Deny => list.deny.push(rule.cidr),
            }
        }
    }
    Some(list)
}

fn prefixes(action: &Action, key: &str) -> Option<Vec<Prefix>> {
    strings(action, key).map(|text| Prefix::parse_lenient(text?).ok()).collect()
}

fn strings<'a>(action: &'a Action, key: &str) -> impl Iterator<Item = Option<&'a str>> {
    action.config.get(key).and_then(Value::as_array).into_iter().flatten().map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(policy: &str) -> Result<Vec<SourceList>, Unlisted> {
        source_lists(&serde_json::from_str(policy).unwrap(), &BTreeMap::new())
    }

    fn restrict(config: &str) -> String {
        format!(r#"{{"type":"restrict-ips","config":{config}}}"#)
    }

    const FORWARD: &str = r#"{"type":"forward-internal","config":{"url":"tcp://a.internal:1"}}"#;

    #[test]
    fn takes_what_every_connection_must_pass() {
        let one = restrict(r#"{"allow":["203.0.113.42/32","e680::/16"],"deny":["203.0.113.0/25"]}"#);
        let two = restrict(r#"{"allow":["0.0.0.0/0"]}"#);
        let found =
            lists(&format!(r#"{{"on_tcp_connect":[{{"actions":[{one},{two},{FORWARD},{two}]}}]}}"#)).unwrap();
        assert_eq!(found.len(), 2, "the list behind the forward never runs");
        assert!(!found[0].admits("203.0.113.42".parse().unwrap()));
        assert!(found[0].admits("e680::1".parse().unwrap()));
        assert!(found[1].admits("::ffff:203.0.113.42".parse().unwrap()));
    }

    #[test]
    fn leaves_what_may_not_run() {
        let all = restrict(r#"{"allow":["10.0.0.0/8"]}"#);
        let conditional = |action: &str| format!(r#"{{"expressions":["true"],"actions":[{action}]}}"#);
        let check = |rules: String, expect: Result<usize, Unlisted>| {
            let found = lists(&format!(r#"{{"on_tcp_connect":[{rules}]}}"#)).map(|lists| lists.len());
            assert_eq!(found, expect, "{rules}");
        };
        check(conditional(&all), Err(Unlisted::None));
        check(format!(r#"{},{{"actions":[{all}]}}"#, conditional(FORWARD)), Err(Unlisted::Jumped));
        check(format!(r#"{},{{"actions":[{all}]}}"#, conditional(r#"{"type":"deny"}"#)), Ok(1));
        check(
            format!(r#"{{"actions":[{}]}}"#, restrict(r#"{"enforce":false,"allow":[]}"#)),
            Err(Unlisted::None),
        );
        check(
            format!(r#"{{"actions":[{}]}}"#, restrict(r#"{"allow":["${conn.client_ip}/32"]}"#)),
            Err(Unlisted::Expression),
        );
        check(
            format!(r#"{{"actions":[{},{all}]}}"#, restrict(r#"{"allow":["${conn.client_ip}/32"]}"#)),
            Ok(1),
        );
    }
}
