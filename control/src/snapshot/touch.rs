//! The objects of a Program that a record has to do with, as things stand. Asked before and after each change.

use std::collections::BTreeSet;

use ebbgate_model::{
    AccountId, CertificateId, DomainId, EndpointId, IngressId, IpRestrictionId, ObjectKey, OwnerId,
};

use super::{Issued, Snapshot};
use crate::acme::CHALLENGES;
use crate::record::people::Membership;
use crate::record::rollout::Rollout;
use crate::record::vault::{SecretVault, VaultSecret};
use crate::record::visitor::ENDED_SESSIONS;
use crate::record::{
    ACCOUNTS_PREFIX, AgentIngress, CertificateAuthority, Credential, Endpoint, IpPolicy, IpPolicyRule,
    IpRestriction, Record, ReservedAddress, ReservedDomain, SYSTEM_PREFIX, ServiceUser, TlsCertificate,
    index,
};

type Touched = BTreeSet<ObjectKey>;

impl Snapshot {
    /// Names the objects made from the record under a key, and from records that refer to it.
    pub(super) fn touch(&self, key: &str, touched: &mut Touched) {
        if key.starts_with(SYSTEM_PREFIX) {
            touched.insert(ObjectKey::Settings);
            let both = [&self.connect_certificate, &self.default_domain_certificate];
            for leaf in both {
                touch_leaf(leaf.as_ref(), touched);
            }
        } else if let Some((_, _, id)) = index::endpoint_at(key) {
            touched.insert(ObjectKey::Endpoint(id));
        } else if let Some(path) = key.strip_prefix(ACCOUNTS_PREFIX) {
            let mut parts = path.split('/');
            let (account, collection, id) = (parts.next(), parts.next(), parts.next());
            let Some(account) = account.and_then(|account| account.parse().ok()) else { return };
            self.touch_of_account(account, collection.unwrap_or_default(), id.unwrap_or_default(), touched);
        }
    }

    fn touch_of_account(&self, account: AccountId, collection: &str, id: &str, touched: &mut Touched) {
        let mut named = |key: Option<ObjectKey>| touched.extend(key);
        match collection {
            "account" => {
                touched.extend(self.endpoints_of.of(account).map(ObjectKey::Endpoint));
                touched.extend(self.damaged_of::<Endpoint>(account).map(ObjectKey::Endpoint));
                touched.extend(self.credentials_of.of(account).map(ObjectKey::Credential));
                touched.extend(self.secrets.of_account(account).map(ObjectKey::Secret));
            }
            "issued" => {
                if let Ok(id) = id.parse::<DomainId>() {
                    touched.insert(ObjectKey::Domain(id));
                    touch_leaf(self.domain_leaves.get(&id), touched);
                } else if let Ok(id) = id.parse::<IngressId>() {
                    touched.insert(ObjectKey::Ingress(id));
                    touch_leaf(self.ingress_leaves.get(&id), touched);
                }
            }
            TlsCertificate::COLLECTION => {
                let Ok(id) = id.parse::<CertificateId>() else { return };
                touched.insert(ObjectKey::Certificate(id));
                touched.extend(self.domains_with.of(id).map(ObjectKey::Domain));
            }
            ServiceUser::COLLECTION => {
                let Ok(id) = id.parse() else { return };
                touched
                    .extend(self.credentials_of_user.of(OwnerId::ServiceUser(id)).map(ObjectKey::Credential));
            }
            Membership::COLLECTION => {
                let Ok(id) = id.parse() else { return };
                touched.extend(self.credentials_of_user.of(OwnerId::User(id)).map(ObjectKey::Credential));
            }
            SecretVault::COLLECTION => {
                let Ok(id) = id.parse() else { return };
                touched.extend(self.secrets.of_vault(id).map(ObjectKey::Secret));
            }
            Endpoint::COLLECTION => {
                let Ok(id) = id.parse() else { return };
                touched.extend(self.secrets.named_in(id).map(ObjectKey::Secret));
                self.touch_endpoint(account, id, touched);
            }
            Rollout::COLLECTION => {
                let Ok(id) = id.parse() else { return };
                touched.extend(self.secrets.named_in(id).map(ObjectKey::Secret));
                touched.insert(ObjectKey::Endpoint(id));
                touched.extend(self.rollouts.policy_before(id).map(ObjectKey::Policy));
            }
            IpPolicyRule::COLLECTION => {
                if self.damaged_of::<IpPolicyRule>(account).any(|rule| rule.to_string() == id) {
                    touched.extend(self.ip_policies_of.of(account).map(ObjectKey::IpPolicy));
                } else if let Ok(id) = id.parse() {
                    touched
                        .extend(self.ip_policy_rules.get(&id).map(|rule| ObjectKey::IpPolicy(rule.policy)));
                }
            }
            IpRestriction::COLLECTION => {
                touched.extend(id.parse().ok().map(ObjectKey::IpRestriction));
                for damaged in self.damaged_of::<IpRestriction>(account) {
                    touched.insert(ObjectKey::IpRestriction(damaged));
                    touched.insert(ObjectKey::IpRestriction(IpRestrictionId::new(account.ksuid())));
                }
            }
            // Those that concern one object each.
            ENDED_SESSIONS => named(id.parse().ok().map(ObjectKey::EndedSession)),
            CHALLENGES => named(id.parse().ok().map(ObjectKey::Challenge)),
            Credential::COLLECTION => named(id.parse().ok().map(ObjectKey::Credential)),
            ReservedDomain::COLLECTION => named(id.parse().ok().map(ObjectKey::Domain)),
            ReservedAddress::COLLECTION => named(id.parse().ok().map(ObjectKey::Address)),
            AgentIngress::COLLECTION => named(id.parse().ok().map(ObjectKey::Ingress)),
            CertificateAuthority::COLLECTION => named(id.parse().ok().map(ObjectKey::Authority)),
            VaultSecret::COLLECTION => named(id.parse().ok().map(ObjectKey::Secret)),
            IpPolicy::COLLECTION => named(id.parse().ok().map(ObjectKey::IpPolicy)),
            _ => {}
        }
    }

    /// The endpoint, and those at its place that cannot be read: they are closed there only while nobody else stands there.
    fn touch_endpoint(&self, account: AccountId, id: EndpointId, touched: &mut Touched) {
        touched.insert(ObjectKey::Endpoint(id));
        let Some(standing) = self.endpoints.get(&id) else { return };
        let at = Some((standing.spec.account, &standing.spec.url));
        let closed = self.damaged_of::<Endpoint>(account).filter(|damaged| self.place_of(*damaged) == at);
        touched.extend(closed.map(ObjectKey::Endpoint));
    }
}

fn touch_leaf(leaf: Option<&Issued>, touched: &mut Touched) {
    touched.extend(leaf.map(|leaf| ObjectKey::Certificate(leaf.id)));
}
