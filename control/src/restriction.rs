//! Whether an account's IP restrictions admit a source address, from what is stored now.
//!
//! Control itself enforces those of type `api`; the others travel to edges. Reads the store and nothing else.

use std::net::IpAddr;

use ebbgate_model::{AccountId, IpPolicyRule, IpRestrictionKind};

use crate::record::{self, IpPolicy, IpPolicyRule as RuleRecord, IpRestriction, RecordError};
use crate::store::Store;

/// Most IP policies one restriction names (code 1800).
pub const IP_POLICIES_MAX: usize = 50;

/// Whether a source may act for the account. An address that is not known passes only where nothing is restricted.
pub async fn admits(
    store: &dyn Store,
    account: AccountId,
    kind: IpRestrictionKind,
    source: Option<IpAddr>,
) -> Result<bool, RecordError> {
    let restrictions = record::list::<IpRestriction>(store, account, None, None).await?;
    for stored in &restrictions.items {
        if stored.record.kind == kind && stored.record.enforced {
            let compiled = compile(store, &stored.record).await?;
            if !source.is_some_and(|source| compiled.admits(source)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The rules of a restriction's policies, ready to be asked. If one of the policies is gone it admits nobody.
pub async fn compile(
    store: &dyn Store,
    restriction: &IpRestriction,
) -> Result<ebbgate_policy::IpRestriction, RecordError> {
    for id in &restriction.ip_policies {
        if record::load::<IpPolicy>(store, restriction.account, *id).await?.is_none() {
            return Ok(ebbgate_policy::IpRestriction::default());
        }
    }
    let rules = record::list::<RuleRecord>(store, restriction.account, None, None).await?;
    Ok(of_rules(restriction, rules.items.iter().map(|stored| &stored.record)))
}

/// Those rules of an account that belong to a restriction's policies, ready to be asked.
pub fn of_rules<'r>(
    restriction: &IpRestriction,
    rules: impl Iterator<Item = &'r RuleRecord>,
) -> ebbgate_policy::IpRestriction {
    let rules: Vec<_> = rules
        .filter(|rule| restriction.ip_policies.contains(&rule.policy))
        .map(|rule| IpPolicyRule { cidr: rule.cidr, action: rule.action })
        .collect();
    ebbgate_policy::IpRestriction::new(&rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use crate::store::Txn;
    use ebbgate_model::{IpPolicyId, IpPolicyRuleId, IpRestrictionId, IpRuleAction};

    #[tokio::test]
    async fn a_policy_that_is_gone_and_an_unknown_source_admit_nobody() {
        let lab = Lab::new().await;
        let store = &*lab.app.store;
        let policy = IpPolicy {
            id: IpPolicyId::new(lab.app.ksuid()),
            account: lab.account,
            description: String::new(),
            metadata: String::new(),
            created_at: 0,
        };
        let rule = RuleRecord {
            id: IpPolicyRuleId::new(lab.app.ksuid()),
            account: lab.account,
            policy: policy.id,
            cidr: "0.0.0.0/0".parse().unwrap(),
            action: IpRuleAction::Allow,
            description: String::new(),
            metadata: String::new(),
            created_at: 0,
        };
        let restriction = |enforced, ip_policies| IpRestriction {
            id: IpRestrictionId::new(lab.app.ksuid()),
            account: lab.account,
            kind: IpRestrictionKind::Api,
            enforced,
            ip_policies,
            description: String::new(),
            metadata: String::new(),
            created_at: 0,
        };
        let gone = IpPolicyId::new(lab.app.ksuid());
        let txn = record::create(record::create(Txn::new(), &policy), &rule);
        let _ = store.commit(txn).await.unwrap();
        let somebody: IpAddr = "203.0.113.9".parse().unwrap();
        for (enforced, policies, source, expect) in [
            (true, vec![policy.id], Some(somebody), true),
            (true, vec![policy.id], None, false),
            (true, vec![policy.id], Some("2001:db8::1".parse().unwrap()), false),
            (true, vec![policy.id, gone], Some(somebody), false),
            (false, vec![gone], None, true),
        ] {
            let restriction = restriction(enforced, policies);
            let _ = store.commit(record::create(Txn::new(), &restriction)).await.unwrap();
            let admitted = admits(store, lab.account, IpRestrictionKind::Api, source).await.unwrap();
            assert_eq!(admitted, expect, "{restriction:?} {source:?}");
            assert!(admits(store, lab.account, IpRestrictionKind::Agent, None).await.unwrap());
            let key = record::Record::key(&restriction);
            let _ = store.commit(Txn::new().delete(key)).await.unwrap();
        }
    }
}
