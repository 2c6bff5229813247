//! `IpRestriction`: what an account demands of source addresses, whatever its policies say, ready to be asked.
//!
//! Means what `restrict-ips` means with the same IP policies; knows neither accounts nor whose addresses it judges.

use std::net::IpAddr;

use ebbgate_model::{IpPolicyRule, IpRuleAction};

use crate::prefix_set::PrefixSet;

/// The rules of an IP restriction's policies together. Without rules it admits nobody.
#[derive(Debug, Clone, Default)]
pub struct IpRestriction {
    allow: PrefixSet,
    deny: PrefixSet,
}

impl IpRestriction {
    /// All rules of all its policies; their order does not matter.
    pub fn new<'r>(rules: impl IntoIterator<Item = &'r IpPolicyRule>) -> Self {
        let (allow, deny): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| rule.action == IpRuleAction::Allow);
        let networks = |rules: Vec<&IpPolicyRule>| rules.into_iter().map(|rule| rule.cidr).collect();
        Self { allow: networks(allow), deny: networks(deny) }
    }

    /// Whether a source passes: some rule allows it and none denies it. IPv4-mapped addresses are their IPv4 selves.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        self.allow.find(source).is_some() && self.deny.find(source).is_none()
    }

    /// Whether nothing is allowed at all. A restriction may also deny all it allows; that is not looked for.
    #[must_use]
    pub fn admits_nobody(&self) -> bool {
        self.allow.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn rule(action: IpRuleAction, cidr: &str) -> IpPolicyRule {
        IpPolicyRule { cidr: cidr.parse().unwrap(), action }
    }

    #[test]
    fn an_allow_without_a_deny() {
        let rules = [
            rule(IpRuleAction::Allow, "10.0.0.0/8"),
            rule(IpRuleAction::Deny, "10.6.0.0/16"),
            rule(IpRuleAction::Allow, "10.6.6.6/32"),
            rule(IpRuleAction::Allow, "2001:db8::/32"),
        ];
        let restriction = IpRestriction::new(&rules);
        let check = |ip: &str, expect: bool| {
            assert_eq!(restriction.admits(ip.parse().unwrap()), expect, "{ip}");
        };
        check("10.0.0.1", true);
        check("::ffff:10.0.0.1", true);
        check("10.6.6.6", false);
        check("::ffff:10.6.6.6", false);
        check("11.0.0.1", false);
        check("2001:db8::1", true);
        check("2001:db9::1", false);
        assert!(!IpRestriction::default().admits("10.0.0.1".parse().unwrap()));
        assert!(IpRestriction::default().admits_nobody() && !restriction.admits_nobody());
        let deny_only = [rule(IpRuleAction::Deny, "10.0.0.0/8")];
        assert!(!IpRestriction::new(&deny_only).admits("11.0.0.1".parse().unwrap()));
        let all = [rule(IpRuleAction::Allow, "0.0.0.0/0")];
        assert!(IpRestriction::new(&all).admits("11.0.0.1".parse().unwrap()));
        assert!(!IpRestriction::new(&all).admits("2001:db8::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_every_rule(
            rules in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u8..16, 0u8..=128), 0..60),
            source in (0u8..3, 0u8..16),
        ) {
            let v4 = |n: u8| Ipv4Addr::new(10, n, 0, 1);
            let v6 = |n: u8| Ipv6Addr::new(0x2001, 0xdb8, u16::from(n), 0, 0, 0, 0, 1);
            let rules: Vec<IpPolicyRule> = rules
                .into_iter()
                .map(|(allow, four, n, length)| IpPolicyRule {
                    cidr: ebbgate_model::Prefix::parse_lenient(&if four {
                        format!("{}/{}", v4(n), length % 33)
                    } else {
                        format!("{}/{length}", v6(n))
                    })
                    .unwrap(),
                    action: if allow { IpRuleAction::Allow } else { IpRuleAction::Deny },
                })
                .collect();
            let source: IpAddr = match source {
                (0, n) => v4(n).into(),
                (1, n) => v4(n).to_ipv6_mapped().into(),
                (_, n) => v6(n).into(),
            };
            let some = |action| rules.iter().any(|rule| rule.action == action && rule.cidr.contains(source));
            let expect = some(IpRuleAction::Allow) && !some(IpRuleAction::Deny);
            prop_assert_eq!(IpRestriction::new(&rules).admits(source), expect);
        }
    }
}
