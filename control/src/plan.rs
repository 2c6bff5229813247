//! `plan`: what edges must do, from what is recorded. A pure function: no store, no clock, no await, no order but the
//! ids'.
//!
//! What is not safe to serve is left out here and nowhere else: credentials of inactive service users, references to
//! certificates that are gone.

use std::collections::BTreeMap;

use ebbgate_model::{
    AddressId, AddressSpec, AuthorityId, AuthoritySpec, CertificateId, CertificateSpec, CloudEndpointSpec,
    CredentialId, CredentialSpec, DomainId, DomainSpec, EndpointId, IngressId, IngressSpec, IpPolicyId,
    IpPolicyRule, IpPolicySpec, IpRestrictionId, IpRestrictionSpec, Program, Settings,
};

use crate::record::{CertificateAuthority, Credential, Endpoint, IpPolicy, IpRestriction, ReservedAddress};
use crate::snapshot::{Issued, Snapshot};

/// The Program of a snapshot; its generation is the snapshot's revision.
pub fn plan(snapshot: &Snapshot) -> Program {
    let mut certificates = Certificates::default();
    Program {
        generation: snapshot.revision,
        settings: settings(snapshot, &mut certificates),
        endpoints: endpoints(snapshot),
        domains: domains(snapshot, &mut certificates),
        addresses: addresses(snapshot),
        credentials: credentials(snapshot),
        ingresses: ingresses(snapshot, &mut certificates),
        certificates: certificates.0,
        authorities: authorities(snapshot),
        ip_policies: ip_policies(snapshot),
        ip_restrictions: ip_restrictions(snapshot),
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
        policy: endpoint.policy.clone(),
    };
    snapshot.endpoints.iter().map(|(id, endpoint)| (*id, spec(endpoint))).collect()
}

fn addresses(snapshot: &Snapshot) -> BTreeMap<AddressId, AddressSpec> {
    let spec = |address: &ReservedAddress| AddressSpec {
        account: address.account,
        host: address.host.clone(),
        port: address.port,
    };
    snapshot.addresses.iter().map(|(id, address)| (*id, spec(address))).collect()
}

/// Credentials that work: those of the account itself, and those whose service user exists and is active.
fn credentials(snapshot: &Snapshot) -> BTreeMap<CredentialId, CredentialSpec> {
    let works = |credential: &Credential| match credential.owner {
        Some(owner) => snapshot.service_users.get(&owner).is_some_and(|user| user.active),
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
fn ip_policies(snapshot: &Snapshot) -> BTreeMap<IpPolicyId, IpPolicySpec> {
    let empty = |policy: &IpPolicy| IpPolicySpec { account: policy.account, rules: Vec::new() };
    let mut policies: BTreeMap<_, _> = snapshot.ip_policies.iter().map(|(id, p)| (*id, empty(p))).collect();
    for rule in snapshot.ip_policy_rules.values() {
        if let Some(policy) = policies.get_mut(&rule.policy).filter(|policy| policy.account == rule.account) {
            policy.rules.push(IpPolicyRule { cidr: rule.cidr, action: rule.action });
        }
    }
    policies
}

/// All of them. A policy that is gone stays named: whoever enforces then admits nobody, rather than whom the rest allows.
fn ip_restrictions(snapshot: &Snapshot) -> BTreeMap<IpRestrictionId, IpRestrictionSpec> {
    let spec = |restriction: &IpRestriction| IpRestrictionSpec {
        account: restriction.account,
        kind: restriction.kind,
        enforced: restriction.enforced,
        ip_policies: restriction.ip_policies.iter().copied().collect(),
    };
    snapshot.ip_restrictions.iter().map(|(id, restriction)| (*id, spec(restriction))).collect()
}

#[cfg(test)]
mod tests;
