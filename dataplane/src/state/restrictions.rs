//! `Restrictions`: what accounts demand of source addresses, compiled once for a Program and asked at every connection,
//! request and session.
//!
//! Pure. The kernel's allowlist may refuse earlier; what is decided here holds in every case.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ebbgate_model::{AccountId, IpRestrictionId, IpRestrictionKind, IpRestrictionSpec, Program};
use ebbgate_policy::IpRestriction;

/// The restrictions an edge enforces: those in force, of agents and of endpoints.
#[derive(Debug, Default)]
pub struct Restrictions(
    HashMap<(AccountId, IpRestrictionKind), BTreeMap<IpRestrictionId, Arc<IpRestriction>>>,
);

impl Restrictions {
    /// Compiles those of `program`; one that means what it meant in `last` is taken over from `compiled`.
    pub fn compile(program: &Program, last: &Program, compiled: &Self) -> Self {
        let mut all = Self::default();
        for (id, spec) in program.ip_restrictions.iter().filter(|(_, spec)| is_ours(spec)) {
            let same = last.ip_restrictions.get(id) == Some(spec)
                && spec.ip_policies.iter().all(|id| program.ip_policies.get(id) == last.ip_policies.get(id));
            let place = (spec.account, spec.kind);
            let kept = compiled.0.get(&place).and_then(|those| those.get(id)).filter(|_| same);
            let restriction = kept.cloned().unwrap_or_else(|| Arc::new(compile(program, spec)));
            all.0.entry(place).or_default().insert(*id, restriction);
        }
        all
    }

    /// Whether the account lets a source in. Every restriction must; without one every source is let in.
    pub fn admit(&self, account: AccountId, kind: IpRestrictionKind, source: IpAddr) -> bool {
        // Most accounts restrict nothing.
        self.0.is_empty()
            || self.0.get(&(account, kind)).is_none_or(|those| those.values().all(|r| r.admits(source)))
    }
}

fn is_ours(spec: &IpRestrictionSpec) -> bool {
    spec.enforced && matches!(spec.kind, IpRestrictionKind::Agent | IpRestrictionKind::Endpoints)
}

/// A policy that is missing, or another account's, could have denied any source: then none is admitted.
fn compile(program: &Program, spec: &IpRestrictionSpec) -> IpRestriction {
    let policies = spec.ip_policies.iter().map(|id| program.ip_policies.get(id));
    let own: Option<Vec<_>> =
        policies.map(|policy| policy.filter(|policy| policy.account == spec.account)).collect();
    own.map_or_else(IpRestriction::default, |policies| {
        IpRestriction::new(policies.iter().flat_map(|policy| &policy.rules))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{IpPolicyId, IpPolicyRule, IpPolicySpec, IpRuleAction, Ksuid};

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000, [n; 16])
    }

    fn account(n: u8) -> AccountId {
        AccountId::new(ksuid(n))
    }

    fn policy(n: u8, allow: &str) -> IpPolicySpec {
        let rule = IpPolicyRule { cidr: allow.parse().unwrap(), action: IpRuleAction::Allow };
        IpPolicySpec { account: account(n), rules: vec![rule] }
    }

    fn restriction(kind: IpRestrictionKind, policies: &[u8]) -> IpRestrictionSpec {
        let ip_policies = policies.iter().map(|n| IpPolicyId::new(ksuid(*n))).collect();
        IpRestrictionSpec { account: account(1), kind, enforced: true, ip_policies }
    }

    /// Policies 1 and 2 of account 1, 3 of account 2; 4 is missing.
    fn program(restriction: IpRestrictionSpec) -> Program {
        let policies = [policy(1, "10.0.0.0/8"), policy(1, "2001:db8::/32"), policy(2, "0.0.0.0/0")];
        Program {
            ip_policies: (1..).map(|n| IpPolicyId::new(ksuid(n))).zip(policies).collect(),
            ip_restrictions: [(IpRestrictionId::new(ksuid(9)), restriction)].into(),
            ..Program::default()
        }
    }

    fn compile_all(program: &Program) -> Restrictions {
        Restrictions::compile(program, &Program::default(), &Restrictions::default())
    }

    #[test]
    fn holds_for_its_kind_and_account_alone() {
        use IpRestrictionKind::{Agent, Api, Endpoints};
        let check = |spec: IpRestrictionSpec, kind, source: &str, expect: bool| {
            let found = compile_all(&program(spec.clone())).admit(account(1), kind, source.parse().unwrap());
            assert_eq!(found, expect, "{spec:?} {kind:?} {source}");
        };
        check(restriction(Endpoints, &[1]), Endpoints, "10.0.0.1", true);
        check(restriction(Endpoints, &[1]), Endpoints, "::ffff:10.0.0.1", true);
        check(restriction(Endpoints, &[1]), Endpoints, "203.0.113.9", false);
        check(restriction(Endpoints, &[1]), Endpoints, "::ffff:203.0.113.9", false);
        check(restriction(Endpoints, &[1, 2]), Endpoints, "2001:db8::1", true);
        check(restriction(Endpoints, &[1]), Agent, "203.0.113.9", true);
        check(restriction(Agent, &[1]), Agent, "203.0.113.9", false);
        check(restriction(Api, &[1]), Api, "203.0.113.9", true);
        check(restriction(Endpoints, &[1, 4]), Endpoints, "10.0.0.1", false);
        check(restriction(Endpoints, &[1, 3]), Endpoints, "10.0.0.1", false);
        check(restriction(Endpoints, &[]), Endpoints, "10.0.0.1", false);
        let off = IpRestrictionSpec { enforced: false, ..restriction(Endpoints, &[4]) };
        check(off, Endpoints, "10.0.0.1", true);
        let restricted = compile_all(&program(restriction(Endpoints, &[1])));
        assert!(restricted.admit(account(2), Endpoints, "203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn is_compiled_anew_when_it_or_a_policy_of_its_changed() {
        let kind = IpRestrictionKind::Endpoints;
        let first = program(restriction(kind, &[1]));
        let one = compile_all(&first);
        let pointer = |all: &Restrictions| Arc::clone(all.0[&(account(1), kind)].values().next().unwrap());
        let mut second = first.clone();
        second.ip_policies.insert(IpPolicyId::new(ksuid(2)), policy(1, "192.0.2.0/24"));
        let two = Restrictions::compile(&second, &first, &one);
        assert!(Arc::ptr_eq(&pointer(&one), &pointer(&two)), "what does not concern it changes nothing");
        let mut third = second.clone();
        third.ip_policies.insert(IpPolicyId::new(ksuid(1)), policy(1, "192.0.2.0/24"));
        let three = Restrictions::compile(&third, &second, &two);
        assert!(three.admit(account(1), kind, "192.0.2.1".parse().unwrap()));
        assert!(!three.admit(account(1), kind, "10.0.0.1".parse().unwrap()));
        let none = Restrictions::compile(&Program::default(), &third, &three);
        assert!(none.admit(account(1), kind, "203.0.113.9".parse().unwrap()));
    }
}
