//! `plan`: what edges must do, from what is recorded. Pure functions: no store, no clock, no await, no order but the
//! ids'. The unit is one object: [`object`] makes it from its record and what the record refers to, and
//! [`Planner`](planner::Planner) asks for those that a change touches.
//!
//! What is not safe to serve is left out here and nowhere else: credentials of inactive owners, references to
//! certificates that are gone. Where a record cannot be read, what it may have closed is closed: an endpoint stays at its
//! place without a policy, a rule takes the IP policies of its account along, a restriction admits nobody.
//!
//! Credentials and cloud endpoints of suspended accounts are left out too. Their names and addresses stay reserved.
//!
//! Law, checked by a property test: a planner that follows any history holds what one makes that reads its end.

pub mod fit;
pub mod live;
pub mod overlay;
pub mod planner;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebbgate_model::{
    AccountId, AddressSpec, AuthoritySpec, CertificateId, CertificateSpec, CloudEndpointSpec, CredentialId,
    CredentialSpec, DomainId, DomainSpec, EndedSessionSpec, EndpointId, IngressId, IngressSpec, IpPolicyId,
    IpPolicyRule, IpPolicySpec, IpRestrictionId, IpRestrictionKind, IpRestrictionSpec, Object, ObjectKey,
    OwnerId, SecretId, SecretSpec, Settings,
};

use crate::record::{Endpoint, IpPolicy, IpPolicyRule as RuleRecord, IpRestriction, key};
use crate::snapshot::{Issued, Snapshot};

/// One object as edges must have it; None: they must not.
///
/// A policy or certificate is given whenever it is known. Only those that another object names travel, so that a key
/// goes where it is needed: that is the planner's to see to.
pub fn object(snapshot: &Snapshot, key: &ObjectKey) -> Option<Object> {
    Some(match key {
        ObjectKey::Settings => Object::Settings(Arc::new(settings(snapshot))),
        ObjectKey::Policy(hash) => Object::Policy(Arc::clone(&snapshot.policies.get(hash)?.0)),
        ObjectKey::Certificate(id) => Object::Certificate(certificate(snapshot, *id)?),
        // All of them, named or not: policies that agents bring name them too.
        ObjectKey::Authority(id) => {
            let record = snapshot.authorities.get(id)?;
            let spec = AuthoritySpec { account: record.account, ca_pem: record.ca_pem.clone() };
            Object::Authority(Arc::new(spec))
        }
        ObjectKey::IpPolicy(id) => Object::IpPolicy(Arc::new(ip_policy(snapshot, *id)?)),
        ObjectKey::IpRestriction(id) => Object::IpRestriction(Arc::new(ip_restriction(snapshot, *id)?)),
        ObjectKey::Domain(id) => Object::Domain(Arc::new(domain(snapshot, *id)?)),
        ObjectKey::Address(id) => {
            let record = snapshot.addresses.get(id)?;
            let spec = AddressSpec { account: record.account, host: record.host.clone(), port: record.port };
            Object::Address(Arc::new(spec))
        }
        ObjectKey::Ingress(id) => Object::Ingress(Arc::new(ingress(snapshot, *id)?)),
        ObjectKey::Credential(id) => Object::Credential(Arc::new(credential(snapshot, *id)?)),
        ObjectKey::Endpoint(id) => Object::Endpoint(endpoint(snapshot, *id)?),
        ObjectKey::Challenge(host) => Object::Challenge(Arc::clone(snapshot.challenges.get(host)?)),
        ObjectKey::EndedSession(id) => {
            let account = *snapshot.ended_sessions.get(id)?;
            Object::EndedSession(Arc::new(EndedSessionSpec { account }))
        }
        ObjectKey::Secret(id) => Object::Secret(Arc::new(secret(snapshot, *id)?)),
    })
}

fn certificate(snapshot: &Snapshot, id: CertificateId) -> Option<Arc<CertificateSpec>> {
    snapshot.certificates.get(&id).or_else(|| snapshot.issued.get(&id)).cloned()
}

/// None where it is gone: handshakes are then refused rather than answered with another certificate.
fn known(snapshot: &Snapshot, id: CertificateId) -> Option<CertificateId> {
    certificate(snapshot, id).map(|_| id)
}

fn settings(snapshot: &Snapshot) -> Settings {
    let Some(installation) = &snapshot.installation else { return Settings::default() };
    let id = |leaf: &Option<Issued>| leaf.as_ref().map(|leaf| leaf.id);
    Settings {
        region: installation.region.clone(),
        connect_hosts: vec![installation.connect_host.clone()],
        connect_certificate: id(&snapshot.connect_certificate),
        default_domain: installation.default_domain.clone(),
        default_domain_certificate: id(&snapshot.default_domain_certificate),
        tcp_host: Some(installation.tcp_host.clone()),
        random_tcp_ports: Some(installation.random_port_first..=installation.random_port_last),
        session_keys: snapshot.session_keys.clone(),
    }
}

fn domain(snapshot: &Snapshot, id: DomainId) -> Option<DomainSpec> {
    let domain = snapshot.domains.get(&id)?;
    let certificate = match domain.certificate {
        Some(uploaded) => known(snapshot, uploaded),
        None => snapshot.domain_leaves.get(&id).map(|leaf| leaf.id),
    };
    Some(DomainSpec { account: domain.account, host: domain.host.clone(), certificate })
}

fn ingress(snapshot: &Snapshot, id: IngressId) -> Option<IngressSpec> {
    let ingress = snapshot.ingresses.get(&id)?;
    let certificate = snapshot.ingress_leaves.get(&id).map(|leaf| leaf.id);
    Some(IngressSpec { account: ingress.account, host: ingress.host.clone(), certificate })
}

fn endpoint(snapshot: &Snapshot, id: EndpointId) -> Option<Arc<CloudEndpointSpec>> {
    let standing = snapshot.endpoints.get(&id).map(|standing| Arc::clone(&standing.spec));
    let spec = standing.or_else(|| closed(snapshot, id).map(Arc::new))?;
    is_active(snapshot, spec.account).then_some(spec)
}

/// A secret that a cloud endpoint's policy of its own account names, or that an agent's named; others stay at home.
fn secret(snapshot: &Snapshot, id: SecretId) -> Option<SecretSpec> {
    let spec = snapshot.secrets.spec(id)?;
    let endpoints = snapshot.secrets.named_by(id).filter_map(|endpoint| snapshot.endpoints.get(&endpoint));
    let is_named = endpoints.map(|endpoint| endpoint.spec.account).any(|account| account == spec.account);
    ((is_named || snapshot.secrets.is_named_by_agents(id)) && is_active(snapshot, spec.account))
        .then_some(spec)
}

/// An endpoint that cannot be read, closed where it stands: else a wildcard beside it, or an agent, would take its
/// visitors under rules of its own. Others on the same URL go on: each of them was reachable there by itself.
fn closed(snapshot: &Snapshot, id: EndpointId) -> Option<CloudEndpointSpec> {
    let (account, url) = snapshot.place_of(id)?;
    if !snapshot.damaged.contains_key(&key::<Endpoint>(account, id)) {
        return None;
    }
    let others = snapshot.endpoints_of.of(account).filter_map(|other| snapshot.endpoints.get(&other));
    let is_taken = others.map(|other| &other.spec.url).any(|other| other == url);
    let (url, binding) = (url.clone(), url.implied_binding());
    (!is_taken).then_some(CloudEndpointSpec { account, url, binding, pooling_enabled: false, policy: None })
}

/// Whether the account is there and not suspended.
fn is_active(snapshot: &Snapshot, account: AccountId) -> bool {
    snapshot.accounts.get(&account).is_some_and(|account| account.suspended_at.is_none())
}

/// A credential that works: of an active account itself, of a service user that exists and is active, or of a person who
/// belongs to the account.
fn credential(snapshot: &Snapshot, id: CredentialId) -> Option<CredentialSpec> {
    let credential = snapshot.credentials.get(&id)?;
    let account = snapshot.accounts.get(&credential.account)?;
    let owner_works = |owner| match owner {
        OwnerId::ServiceUser(id) => snapshot.service_users.get(&id).is_some_and(|user| user.active),
        OwnerId::User(id) => {
            let membership = snapshot.memberships.get(&(credential.account, id));
            membership.is_some_and(|membership| membership.covers(credential.created_at))
        }
    };
    let works = account.suspended_at.is_none() && credential.owner.is_none_or(owner_works);
    works.then(|| CredentialSpec {
        account: account.id,
        account_name: account.name.clone(),
        token: credential.hash,
        acl: credential.acl.clone(),
        passthrough_links: account.passthrough_links,
    })
}

/// Named or not, for the reason of authorities. A rule counts only in a policy of its own account.
///
/// A rule that cannot be read may deny, in whichever policy: all of its account are left out, and what names one closes.
fn ip_policy(snapshot: &Snapshot, id: IpPolicyId) -> Option<IpPolicySpec> {
    let policy = snapshot.ip_policies.get(&id)?;
    if is_doubtful(snapshot, policy) {
        return None;
    }
    let rules = snapshot.rules_of.of(id).filter_map(|rule| snapshot.ip_policy_rules.get(&rule));
    let own = rules.filter(|rule| rule.account == policy.account);
    let rules = own.map(|rule| IpPolicyRule { cidr: rule.cidr, action: rule.action }).collect();
    Some(IpPolicySpec { account: policy.account, rules })
}

fn is_doubtful(snapshot: &Snapshot, policy: &IpPolicy) -> bool {
    snapshot.damaged_of::<RuleRecord>(policy.account).next().is_some()
}

/// A policy that is gone stays named: the edge then refuses every source, also those that the rest allows.
fn ip_restriction(snapshot: &Snapshot, id: IpRestrictionId) -> Option<IpRestrictionSpec> {
    let Some(restriction) = snapshot.ip_restrictions.get(&id) else { return stand_in(snapshot, id) };
    Some(IpRestrictionSpec {
        account: restriction.account,
        kind: restriction.kind,
        enforced: restriction.enforced,
        ip_policies: restriction.ip_policies.iter().copied().collect(),
    })
}

/// An account has one restriction of a kind. So one that cannot be read is of a kind that no other is of, and of each
/// such kind that edges enforce one stands that admits nobody: under its own id, and under the account's.
fn stand_in(snapshot: &Snapshot, id: IpRestrictionId) -> Option<IpRestrictionSpec> {
    if snapshot.damaged.is_empty() {
        return None;
    }
    let of_account = AccountId::new(id.ksuid());
    let (account, kind) = match snapshot.damaged_ids::<IpRestriction>().find(|(_, damaged)| *damaged == id) {
        Some((account, _)) => (account, IpRestrictionKind::Endpoints),
        None if snapshot.damaged_of::<IpRestriction>(of_account).next().is_some() => {
            (of_account, IpRestrictionKind::Agent)
        }
        None => return None,
    };
    let mut others = snapshot.ip_restrictions_of.of(account);
    let stands =
        others.any(|other| snapshot.ip_restrictions.get(&other).is_some_and(|other| other.kind == kind));
    let nobody = BTreeSet::from([IpPolicyId::new(id.ksuid())]);
    (!stands).then_some(IpRestrictionSpec { account, kind, enforced: true, ip_policies: nobody })
}

/// What edges do not get, by the key of its record, each with the reason: what cannot be read, and what closes with it.
pub fn left_out(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut all = snapshot.damaged.clone();
    let doubtful: BTreeSet<_> = snapshot.damaged_ids::<RuleRecord>().map(|(account, _)| account).collect();
    for account in doubtful {
        for id in snapshot.ip_policies_of.of(account) {
            let reason =
                "a rule of an IP policy of this account cannot be read, and it may be one of this policy";
            all.insert(key::<IpPolicy>(account, id), reason.to_owned());
        }
    }
    all
}

#[cfg(test)]
mod tests;
