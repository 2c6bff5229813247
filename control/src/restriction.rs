//! Whether an account's IP restrictions admit a source address, from what is stored now.
//!
//! Control itself enforces those of types `api` and `dashboard`; the others travel to edges. Reads the store and nothing else; what it
//! compiled for an account is kept as long as nothing is written.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ebbgate_model::{AccountId, IpPolicyRule, IpRestrictionKind};

use crate::auth::{Limiter, REQUESTS_MAX};
use crate::listen::source_of;
use crate::record::{self, IpPolicy, IpPolicyRule as RuleRecord, IpRestriction, RecordError};
use crate::store::{Revision, Store};

/// Most IP policies one restriction names (code 1800).
pub const IP_POLICIES_MAX: usize = 50;

/// Accounts with compiled restrictions that are kept; beyond, all are compiled again when they are next asked.
const ACCOUNTS_KEPT_MAX: usize = 1_000;

/// What keeps callers from the API and people from the dashboard by where they come from.
#[derive(Debug)]
pub struct ApiRestrictions {
    kept: Mutex<BTreeMap<(AccountId, IpRestrictionKind), Slot>>,
    refused: Limiter<IpAddr>,
}

/// Whoever compiles one holds its lock; others of the account wait.
type Slot = Arc<tokio::sync::Mutex<Option<Kept>>>;

/// The restriction of a type of an account, if one is enforced.
#[derive(Debug)]
struct Kept {
    revision: Revision,
    restriction: Option<ebbgate_policy::IpRestriction>,
}

impl Default for ApiRestrictions {
    fn default() -> Self {
        Self { kept: Mutex::default(), refused: Limiter::new(Some(REQUESTS_MAX)) }
    }
}

impl ApiRestrictions {
    /// As [`admits`]. Compiles at most once for each revision of the store.
    pub async fn admits(
        &self,
        store: &dyn Store,
        account: AccountId,
        kind: IpRestrictionKind,
        source: Option<IpAddr>,
    ) -> Result<bool, RecordError> {
        let kept = {
            let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= ACCOUNTS_KEPT_MAX && !all.contains_key(&(account, kind)) {
                all.clear();
            }
            Arc::clone(all.entry((account, kind)).or_default())
        };
        let mut kept = kept.lock().await;
        let revision = store.revision();
        if kept.as_ref().is_none_or(|kept| kept.revision != revision) {
            let restriction = enforced(store, account, kind).await?;
            *kept = Some(Kept { revision, restriction });
        }
        let restriction = kept.as_ref().and_then(|kept| kept.restriction.as_ref());
        Ok(restriction.is_none_or(|r| source.is_some_and(|source| r.admits(source))))
    }

    /// Counts a refused call. Err: the source (one IPv4 address, one IPv6 /64) had more than an account may make; carries
    /// the wait.
    pub fn refused(&self, source: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let source = source.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        self.refused.admit(source_of(source), now)
    }
}

/// The restriction of a type that is in force in an account. There is at most one.
async fn enforced(
    store: &dyn Store,
    account: AccountId,
    kind: IpRestrictionKind,
) -> Result<Option<ebbgate_policy::IpRestriction>, RecordError> {
    let restrictions = record::list::<IpRestriction>(store, account, None, None).await?;
    match restrictions.items.iter().map(|stored| &stored.record).find(|r| r.kind == kind) {
        Some(restriction) if restriction.enforced => Ok(Some(compile(store, restriction).await?)),
        // One that cannot be read may be the one of this type.
        None if !restrictions.damaged.is_empty() => Ok(Some(ebbgate_policy::IpRestriction::default())),
        Some(_) | None => Ok(None),
    }
}

/// Whether a source may act for the account. An address that is not known passes only where nothing is restricted.
pub async fn admits(
    store: &dyn Store,
    account: AccountId,
    kind: IpRestrictionKind,
    source: Option<IpAddr>,
) -> Result<bool, RecordError> {
    let restriction = enforced(store, account, kind).await?;
    Ok(restriction.is_none_or(|r| source.is_some_and(|source| r.admits(source))))
}

/// The rules of a restriction's policies, ready to be asked. If one of the policies is gone it admits nobody.
pub async fn compile(
    store: &dyn Store,
    restriction: &IpRestriction,
) -> Result<ebbgate_policy::IpRestriction, RecordError> {
    for id in &restriction.ip_policies {
        match record::load::<IpPolicy>(store, restriction.account, *id).await {
            Ok(Some(_)) => {}
            Ok(None) | Err(RecordError::Damaged { .. }) => {
                return Ok(ebbgate_policy::IpRestriction::default());
            }
            Err(error) => return Err(error),
        }
    }
    let rules = record::list::<RuleRecord>(store, restriction.account, None, None).await?;
    // One that cannot be read may deny.
    if !rules.damaged.is_empty() {
        return Ok(ebbgate_policy::IpRestriction::default());
    }
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

    /// A caller that is refused costs no compiling: only a write does.
    #[tokio::test]
    async fn an_account_is_compiled_once_for_each_revision() {
        let lab = Lab::new().await;
        let store = &*lab.app.store;
        let restrictions = ApiRestrictions::default();
        let source = Some(IpAddr::from([203, 0, 113, 9]));
        let kind = IpRestrictionKind::Api;
        assert!(restrictions.admits(store, lab.account, kind, source).await.unwrap());
        let compiled = || async {
            let kept = restrictions.kept.lock().unwrap().get(&(lab.account, kind)).cloned().unwrap();
            let kept = kept.lock().await;
            kept.as_ref().map(|kept| (kept.revision, kept.restriction.is_some()))
        };
        let before = store.revision();
        assert_eq!(compiled().await, Some((before, false)));
        let restriction = IpRestriction {
            id: IpRestrictionId::new(lab.app.ksuid()),
            account: lab.account,
            kind: IpRestrictionKind::Api,
            enforced: true,
            ip_policies: vec![IpPolicyId::new(lab.app.ksuid())],
            description: String::new(),
            metadata: String::new(),
            created_at: 0,
        };
        let _ = store.commit(record::create(Txn::new(), &restriction)).await.unwrap();
        for _ in 0..3 {
            assert!(!restrictions.admits(store, lab.account, kind, source).await.unwrap());
            assert_eq!(compiled().await, Some((before + 1, true)), "at once, and once");
        }
    }

    #[test]
    fn refused_sources_are_counted_apart() {
        let restrictions = ApiRestrictions::default();
        let now = Instant::now();
        let refused = |source: &str| restrictions.refused(Some(source.parse().unwrap()), now).is_ok();
        for _ in 0..REQUESTS_MAX {
            assert!(refused("203.0.113.9") && refused("2001:db8::1"));
        }
        assert!(!refused("203.0.113.9") && !refused("::ffff:203.0.113.9") && !refused("2001:db8::2"));
        assert!(refused("203.0.113.10") && refused("2001:db8:0:1::1"));
    }
}
