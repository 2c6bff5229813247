//! `Restrictions`: what accounts demand of source addresses, compiled once and asked at every connection, request and session.
//!
//! Pure. The kernel's allowlist may refuse earlier; what is decided here holds in every case.

use std::net::IpAddr;
use std::sync::Arc;

use ebbgate_model::{AccountId, IpPolicyId, IpRestrictionId, IpRestrictionKind, IpRestrictionSpec};
use ebbgate_policy::{IpRestriction, References};

use crate::persistent::Map;

/// The restrictions an edge enforces, by account: those in force, of agents and of endpoints.
#[derive(Debug, Clone, Default)]
pub struct Restrictions(Map<AccountId, Arc<Vec<Enforced>>>);

#[derive(Debug, Clone)]
struct Enforced {
    id: IpRestrictionId,
    spec: Arc<IpRestrictionSpec>,
    restriction: Arc<IpRestriction>,
}

impl Restrictions {
    /// Puts a restriction in force; one that is not enforced here is none.
    pub fn insert(&mut self, id: IpRestrictionId, spec: &Arc<IpRestrictionSpec>, references: &References) {
        self.remove(id, spec.account);
        if is_ours(spec) {
            let restriction = Arc::new(compile(spec, references));
            let mut those = self.0.remove(&spec.account).unwrap_or_default();
            Arc::make_mut(&mut those).push(Enforced { id, spec: Arc::clone(spec), restriction });
            self.0.insert(spec.account, those);
        }
    }

    /// Takes a restriction of an account out of force.
    pub fn remove(&mut self, id: IpRestrictionId, account: AccountId) {
        let Some(those) = self.0.get_mut(&account) else { return };
        Arc::make_mut(those).retain(|one| one.id != id);
        if those.is_empty() {
            self.0.remove(&account);
        }
    }

    /// Compiles those of an account anew that name an IP policy.
    pub fn compile_again(&mut self, account: AccountId, policy: IpPolicyId, references: &References) {
        let names = |one: &Enforced| one.spec.ip_policies.contains(&policy);
        if !self.0.get(&account).is_some_and(|those| those.iter().any(names)) {
            return;
        }
        let Some(those) = self.0.get_mut(&account) else { return };
        for one in Arc::make_mut(those).iter_mut().filter(|one| names(one)) {
            one.restriction = Arc::new(compile(&one.spec, references));
        }
    }

    /// What an account demands of one kind of sources.
    pub fn of(
        &self,
        account: AccountId,
        kind: IpRestrictionKind,
    ) -> impl Iterator<Item = &IpRestrictionSpec> {
        let those = self.0.get(&account).into_iter().flat_map(|those| those.iter());
        those.filter(move |one| one.spec.kind == kind).map(|one| one.spec.as_ref())
    }

    /// Whether the account lets a source in. Every restriction must; without one every source is let in.
    pub fn admit(&self, account: AccountId, kind: IpRestrictionKind, source: IpAddr) -> bool {
        let Some(those) = self.0.get(&account) else { return true };
        those.iter().filter(|one| one.spec.kind == kind).all(|one| one.restriction.admits(source))
    }
}

fn is_ours(spec: &IpRestrictionSpec) -> bool {
    spec.enforced && matches!(spec.kind, IpRestrictionKind::Agent | IpRestrictionKind::Endpoints)
}

/// A policy that is missing, or another account's, could have denied any source: then none is admitted.
fn compile(spec: &IpRestrictionSpec, references: &References) -> IpRestriction {
    let own: Option<Vec<_>> = spec.ip_policies.iter().map(|id| references.ip_policies.get(id)).collect();
    own.map_or_else(IpRestriction::default, |policies| IpRestriction::new(policies.into_iter().flatten()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tables::Tables;
    use ebbgate_model::{IpPolicyRule, IpPolicySpec, IpRuleAction, Ksuid, Program};

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
        Tables::compile(program, &Tables::default()).0.restrictions
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
        let (one, _) = Tables::compile(&first, &Tables::default());
        let pointer =
            |tables: &Tables| Arc::clone(&tables.restrictions.0.get(&account(1)).unwrap()[0].restriction);
        let mut second = first.clone();
        second.ip_policies.insert(IpPolicyId::new(ksuid(2)), policy(1, "192.0.2.0/24"));
        let (two, _) = Tables::compile(&second, &one);
        assert!(Arc::ptr_eq(&pointer(&one), &pointer(&two)), "what does not concern it changes nothing");
        let mut third = second.clone();
        third.ip_policies.insert(IpPolicyId::new(ksuid(1)), policy(1, "192.0.2.0/24"));
        let (three, _) = Tables::compile(&third, &two);
        assert!(three.restrictions.admit(account(1), kind, "192.0.2.1".parse().unwrap()));
        assert!(!three.restrictions.admit(account(1), kind, "10.0.0.1".parse().unwrap()));
        let (none, _) = Tables::compile(&Program::default(), &three);
        assert!(none.restrictions.admit(account(1), kind, "203.0.113.9".parse().unwrap()));
    }
}
