//! `plan`: what edges must do, from what is recorded. A pure function: no store, no clock, no await, no order but the
//! ids'.
//!
//! What is not safe to serve is left out here and nowhere else: credentials of inactive owners, references to
//! certificates that are gone. Where a record cannot be read, what it may have closed is closed: an endpoint stays at its
//! place without a policy, a rule takes the IP policies of its account along, a restriction admits nobody.
//!
//! Credentials and cloud endpoints of suspended accounts are left out too. Their names and addresses stay reserved.

pub mod fit;

use std::collections::{BTreeMap, BTreeSet};

use ebbgate_model::{
    AccountId, AddressId, AddressSpec, AuthorityId, AuthoritySpec, CertificateId, CertificateSpec,
    CloudEndpointSpec, CredentialId, CredentialSpec, DomainId, DomainSpec, EndpointId, IngressId,
    IngressSpec, IpPolicyId, IpPolicyRule, IpPolicySpec, IpRestrictionId, IpRestrictionKind,
    IpRestrictionSpec, OwnerId, PolicyHash, Program, Settings, TrafficPolicy,
};

use crate::record::{
    CertificateAuthority, Credential, Endpoint, IpPolicy, IpPolicyRule as RuleRecord, IpRestriction, Record,
    ReservedAddress, key,
};
use crate::snapshot::{Issued, Snapshot};

/// The Program of a snapshot; its generation is the snapshot's revision.
pub fn plan(snapshot: &Snapshot) -> Program {
    let mut certificates = Certificates::default();
    Program {
        generation: snapshot.revision,
        settings: settings(snapshot, &mut certificates),
        policies: policies(snapshot),
        endpoints: endpoints(snapshot),
        domains: domains(snapshot, &mut certificates),
        addresses: addresses(snapshot),
        credentials: credentials(snapshot),
        ingresses: ingresses(snapshot, &mut certificates),
        certificates: certificates.0,
        authorities: authorities(snapshot),
        ip_policies: ip_policies(snapshot),
        ip_restrictions: ip_restrictions(snapshot),
        challenges: snapshot.challenges.clone(),
        ..Program::default()
    }
}

/// Certificates that something refers to; others stay at home, so that a key travels only where it is needed.
#[derive(Default)]
struct Certificates(BTreeMap<CertificateId, CertificateSpec>);

impl Certificates {
    /// None: it is gone. Handshakes are then refused rather than answered with another certificate.
    fn uploaded(&mut self, id: CertificateId, snapshot: &Snapshot) -> Option<CertificateId> {
        self.0.insert(id, snapshot.certificates.get(&id)?.clone());
        Some(id)
    }

    fn issued(&mut self, leaf: Option<&Issued>) -> Option<CertificateId> {
        let leaf = leaf?;
        self.0.insert(leaf.id, leaf.spec.clone());
        Some(leaf.id)
    }
}

fn settings(snapshot: &Snapshot, certificates: &mut Certificates) -> Settings {
    let Some(installation) = &snapshot.installation else { return Settings::default() };
    Settings {
        region: installation.region.clone(),
        connect_hosts: vec![installation.connect_host.clone()],
        connect_certificate: certificates.issued(snapshot.connect_certificate.as_ref()),
        default_domain: installation.default_domain.clone(),
        default_domain_certificate: certificates.issued(snapshot.default_domain_certificate.as_ref()),
        tcp_host: Some(installation.tcp_host.clone()),
        random_tcp_ports: Some(installation.random_port_first..=installation.random_port_last),
    }
}

fn domains(snapshot: &Snapshot, certificates: &mut Certificates) -> BTreeMap<DomainId, DomainSpec> {
    let mut domains = BTreeMap::new();
    for (id, domain) in &snapshot.domains {
        let certificate = match domain.certificate {
            Some(uploaded) => certificates.uploaded(uploaded, snapshot),
            None => certificates.issued(snapshot.domain_leaves.get(id)),
        };
        domains.insert(*id, DomainSpec { account: domain.account, host: domain.host.clone(), certificate });
    }
    domains
}

fn ingresses(snapshot: &Snapshot, certificates: &mut Certificates) -> BTreeMap<IngressId, IngressSpec> {
    let mut ingresses = BTreeMap::new();
    for (id, ingress) in &snapshot.ingresses {
        let certificate = certificates.issued(snapshot.ingress_leaves.get(id));
        ingresses
            .insert(*id, IngressSpec { account: ingress.account, host: ingress.host.clone(), certificate });
    }
    ingresses
}

fn endpoints(snapshot: &Snapshot) -> BTreeMap<EndpointId, CloudEndpointSpec> {
    let spec = |endpoint: &Endpoint| CloudEndpointSpec {
        account: endpoint.account,
        url: endpoint.url.clone(),
        binding: endpoint.binding,
        pooling_enabled: endpoint.pooling_enabled,
        policy: endpoint.policy.as_ref().map(TrafficPolicy::hash),
    };
    let readable = snapshot.endpoints.iter().map(|(id, endpoint)| (*id, spec(endpoint)));
    let served = readable.chain(closed(snapshot));
    served.filter(|(_, endpoint)| is_active(snapshot, endpoint.account)).collect()
}

/// The policies of endpoints that are served, each once.
fn policies(snapshot: &Snapshot) -> BTreeMap<PolicyHash, TrafficPolicy> {
    let served = snapshot.endpoints.values().filter(|endpoint| is_active(snapshot, endpoint.account));
    served
        .filter_map(|endpoint| endpoint.policy.as_ref().map(|policy| (policy.hash(), policy.clone())))
        .collect()
}

/// Endpoints that cannot be read, closed where they stand: else a wildcard beside them, or an agent, would take their
/// visitors under rules of its own. Others on the same URL go on: each of them was reachable there by itself.
fn closed(snapshot: &Snapshot) -> BTreeMap<EndpointId, CloudEndpointSpec> {
    let damaged: Vec<_> = snapshot.damaged_ids::<Endpoint>().collect();
    if damaged.is_empty() {
        return BTreeMap::new();
    }
    let taken: BTreeSet<_> = snapshot.endpoints.values().map(|e| (e.account, e.url.to_string())).collect();
    let place = |(account, id): (AccountId, EndpointId)| {
        let (owner, url) = snapshot.places.get(&id).filter(|(owner, _)| *owner == account)?;
        let free = !taken.contains(&(*owner, url.to_string()));
        free.then(|| {
            let (url, binding) = (url.clone(), url.implied_binding());
            (id, CloudEndpointSpec { account, url, binding, pooling_enabled: false, policy: None })
        })
    };
    damaged.into_iter().filter_map(place).collect()
}

fn addresses(snapshot: &Snapshot) -> BTreeMap<AddressId, AddressSpec> {
    let spec = |address: &ReservedAddress| AddressSpec {
        account: address.account,
        host: address.host.clone(),
        port: address.port,
    };
    snapshot.addresses.iter().map(|(id, address)| (*id, spec(address))).collect()
}

/// Whether the account is there and not suspended.
fn is_active(snapshot: &Snapshot, account: AccountId) -> bool {
    snapshot.accounts.get(&account).is_some_and(|account| account.suspended_at.is_none())
}

/// Credentials that work: those of active accounts themselves, those whose service user exists and is active, and those
/// whose person belongs to the account.
fn credentials(snapshot: &Snapshot) -> BTreeMap<CredentialId, CredentialSpec> {
    let works = |credential: &Credential| match credential.owner {
        _ if !is_active(snapshot, credential.account) => false,
        Some(OwnerId::ServiceUser(id)) => snapshot.service_users.get(&id).is_some_and(|user| user.active),
        Some(OwnerId::User(id)) => {
            let membership = snapshot.memberships.get(&(credential.account, id));
            membership.is_some_and(|membership| membership.covers(credential.created_at))
        }
        None => true,
    };
    let spec = |credential: &Credential| {
        let account = snapshot.accounts.get(&credential.account)?;
        Some(CredentialSpec {
            account: account.id,
            account_name: account.name.clone(),
            token: credential.hash,
            acl: credential.acl.clone(),
            passthrough_links: account.passthrough_links,
        })
    };
    let working = snapshot.credentials.iter().filter(|(_, credential)| works(credential));
    working.filter_map(|(id, credential)| Some((*id, spec(credential)?))).collect()
}

/// All of them, referred to or not: policies that agents bring name them too.
fn authorities(snapshot: &Snapshot) -> BTreeMap<AuthorityId, AuthoritySpec> {
    let spec = |authority: &CertificateAuthority| AuthoritySpec {
        account: authority.account,
        ca_pem: authority.ca_pem.clone(),
    };
    snapshot.authorities.iter().map(|(id, authority)| (*id, spec(authority))).collect()
}

/// All of them, for the same reason. A rule counts only in a policy of its own account.
///
/// A rule that cannot be read may deny, in whichever policy: all of its account are left out, and what names one closes.
fn ip_policies(snapshot: &Snapshot) -> BTreeMap<IpPolicyId, IpPolicySpec> {
    let doubtful = accounts_of_damaged_rules(snapshot);
    let known = snapshot.ip_policies.iter().filter(|(_, policy)| !doubtful.contains(&policy.account));
    let empty = |policy: &IpPolicy| IpPolicySpec { account: policy.account, rules: Vec::new() };
    let mut policies: BTreeMap<_, _> = known.map(|(id, policy)| (*id, empty(policy))).collect();
    for rule in snapshot.ip_policy_rules.values() {
        if let Some(policy) = policies.get_mut(&rule.policy).filter(|policy| policy.account == rule.account) {
            policy.rules.push(IpPolicyRule { cidr: rule.cidr, action: rule.action });
        }
    }
    policies
}

fn accounts_of_damaged_rules(snapshot: &Snapshot) -> BTreeSet<AccountId> {
    snapshot.damaged_ids::<RuleRecord>().map(|(account, _)| account).collect()
}

/// All of them. A policy that is gone stays named: the edge then refuses every source, also those that the rest allows.
///
/// An account has one of a kind. So one that cannot be read is of a kind that no other is of, and of each such kind one
/// stands that admits nobody.
fn ip_restrictions(snapshot: &Snapshot) -> BTreeMap<IpRestrictionId, IpRestrictionSpec> {
    let spec = |restriction: &IpRestriction| IpRestrictionSpec {
        account: restriction.account,
        kind: restriction.kind,
        enforced: restriction.enforced,
        ip_policies: restriction.ip_policies.iter().copied().collect(),
    };
    let readable = snapshot.ip_restrictions.iter().map(|(id, restriction)| (*id, spec(restriction)));
    let mut all: BTreeMap<_, _> = readable.collect();
    let damaged: Vec<_> = snapshot.damaged_ids::<IpRestriction>().collect();
    for (account, id) in damaged {
        // Two ids that nobody else has, for the two kinds that edges enforce.
        let stand_ins = [
            (IpRestrictionKind::Endpoints, id),
            (IpRestrictionKind::Agent, IpRestrictionId::new(account.ksuid())),
        ];
        for (kind, stand_in) in stand_ins {
            if !snapshot.ip_restrictions.values().any(|r| r.account == account && r.kind == kind) {
                let nobody = BTreeSet::from([IpPolicyId::new(stand_in.ksuid())]);
                all.insert(
                    stand_in,
                    IpRestrictionSpec { account, kind, enforced: true, ip_policies: nobody },
                );
            }
        }
    }
    all
}

/// Bytes that records would add to the Program which are not in it for the moment: certificates that nothing refers to,
/// credentials of inactive service users. In round figures, rather too many.
pub fn unsent_bytes(snapshot: &Snapshot, program: &Program) -> usize {
    let unsent = snapshot.certificates.iter().filter(|(id, _)| !program.certificates.contains_key(id));
    let certificates: usize = unsent.map(|(_, spec)| spec.chain_pem.len() + spec.key_pem.len()).sum();
    let silent = snapshot.credentials.iter().filter(|(id, _)| !program.credentials.contains_key(id));
    certificates + silent.map(|(_, credential)| credential.sent_bytes()).sum::<usize>()
}

/// What edges do not get, by the key of its record, each with the reason: what cannot be read, and what closes with it.
pub fn left_out(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut all = snapshot.damaged.clone();
    let doubtful = accounts_of_damaged_rules(snapshot);
    for (id, policy) in snapshot.ip_policies.iter().filter(|(_, policy)| doubtful.contains(&policy.account)) {
        let reason =
            "a rule of an IP policy of this account cannot be read, and it may be one of this policy";
        all.insert(key::<IpPolicy>(policy.account, *id), reason.to_owned());
    }
    all
}

#[cfg(test)]
mod tests;
