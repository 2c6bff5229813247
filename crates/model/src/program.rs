//! `Program`: everything an edge needs to know, as one value with a generation; and the diff between two of them.
//!
//! Control computes Programs (`plan`), an edge applies them. Law: `apply(diff(a, b), a) == b`, checked by a property test.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::acl::Acl;
use crate::host::Host;
use crate::id::{
    AccountId, AddressId, AuthorityId, CertificateId, CredentialId, DomainId, EndpointId, IngressId,
    IpPolicyId, IpRestrictionId,
};
use crate::policy::TrafficPolicy;
use crate::prefix::Prefix;
use crate::token::TokenHash;
use crate::url::{Binding, EndpointUrl};

/// The whole configuration of an edge at one generation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// Store revision this was planned from; grows.
    pub generation: u64,
    /// What holds for the whole edge.
    pub settings: Settings,
    /// Cloud endpoints.
    pub endpoints: BTreeMap<EndpointId, CloudEndpointSpec>,
    /// Reserved domains.
    pub domains: BTreeMap<DomainId, DomainSpec>,
    /// Reserved TCP addresses.
    pub addresses: BTreeMap<AddressId, AddressSpec>,
    /// Authtokens, as hashes.
    pub credentials: BTreeMap<CredentialId, CredentialSpec>,
    /// Custom connect names.
    pub ingresses: BTreeMap<IngressId, IngressSpec>,
    /// Certificates with keys.
    pub certificates: BTreeMap<CertificateId, CertificateSpec>,
    /// Authorities that policies name.
    pub authorities: BTreeMap<AuthorityId, AuthoritySpec>,
    /// IP policies that policies name.
    pub ip_policies: BTreeMap<IpPolicyId, IpPolicySpec>,
    /// What accounts demand of source addresses, whatever their endpoints' policies say.
    pub ip_restrictions: BTreeMap<IpRestrictionId, IpRestrictionSpec>,
    /// Answers to a certificate authority, by the name it checks.
    pub challenges: BTreeMap<Host, ChallengeSpec>,
}

/// What holds for the whole edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The one region name of this installation.
    pub region: String,
    /// Names the agent listener answers to besides custom connect names; empty server name included.
    pub connect_hosts: Vec<Host>,
    /// Certificate of the agent listener for those names.
    pub connect_certificate: Option<CertificateId>,
    /// Domain under which agents get random names, if any.
    pub default_domain: Option<Host>,
    /// Certificate for the names directly below the default domain.
    #[serde(default)]
    pub default_domain_certificate: Option<CertificateId>,
    /// Host name shown in reserved addresses.
    pub tcp_host: Option<Host>,
    /// Ports from which an edge may serve random addresses of agents, if any.
    pub random_tcp_ports: Option<RangeInclusive<u16>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: "local".into(),
            connect_hosts: Vec::new(),
            connect_certificate: None,
            default_domain: None,
            default_domain_certificate: None,
            tcp_host: None,
            random_tcp_ports: None,
        }
    }
}

/// A cloud endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudEndpointSpec {
    /// Owner.
    pub account: AccountId,
    /// Canonical URL.
    pub url: EndpointUrl,
    /// Who can reach it.
    pub binding: Binding,
    /// Whether it may share its URL with others that also may.
    pub pooling_enabled: bool,
    /// What happens to its traffic. None: no policy saved yet, traffic is answered as offline with an explanation.
    pub policy: Option<TrafficPolicy>,
}

/// A reserved domain, exact or wildcard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainSpec {
    /// Owner.
    pub account: AccountId,
    /// The name.
    pub host: Host,
    /// Certificate to answer with; None: handshakes for the name are refused.
    pub certificate: Option<CertificateId>,
}

/// A reserved TCP address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSpec {
    /// Owner.
    pub account: AccountId,
    /// Host part, shared by all addresses of an installation.
    pub host: Host,
    /// Port the edge listens on.
    pub port: u16,
}

/// An authtoken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSpec {
    /// Owner account.
    pub account: AccountId,
    /// Name of the account, shown by agents.
    pub account_name: String,
    /// SHA-256 of the token.
    pub token: TokenHash,
    /// What sessions may bind.
    pub acl: Acl,
    /// Whether the account lets TLS that its visitors began travel between edge and agent without a second encryption.
    #[serde(default)]
    pub passthrough_links: bool,
}

/// A custom connect name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressSpec {
    /// Only sessions of this account may come in by the name.
    pub account: AccountId,
    /// The name.
    pub host: Host,
    /// Certificate the agent listener answers with.
    pub certificate: Option<CertificateId>,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSpec {
    /// Leaf first.
    pub chain_pem: String,
    /// The private key, unencrypted PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for CertificateSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateSpec").field("chain_pem", &self.chain_pem.len()).finish_non_exhaustive()
    }
}

/// An authority for client certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySpec {
    /// Owner.
    pub account: AccountId,
    /// Exactly one CA certificate.
    pub ca_pem: String,
}

/// A named list of IP rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpPolicySpec {
    /// Owner.
    pub account: AccountId,
    /// Its rules, unordered: deny wins.
    pub rules: Vec<IpPolicyRule>,
}

/// One rule of an IP policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpPolicyRule {
    /// Network.
    pub cidr: Prefix,
    /// What a match means.
    pub action: IpRuleAction,
}

/// What a match of an IP rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpRuleAction {
    /// Let through, unless denied elsewhere.
    Allow,
    /// Refuse, whatever else allows.
    Deny,
}

/// An account-wide demand on source addresses: only those pass that the named IP policies together allow and do not deny.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpRestrictionSpec {
    /// Owner.
    pub account: AccountId,
    /// Whose source addresses.
    pub kind: IpRestrictionKind,
    /// Whether it is in force; else it is only kept.
    pub enforced: bool,
    /// At least one, of the same account.
    pub ip_policies: BTreeSet<IpPolicyId>,
}

/// Whose source addresses an IP restriction is about. The field `type` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpRestrictionKind {
    /// People at the dashboard.
    Dashboard,
    /// Callers of the API.
    Api,
    /// Agents that start sessions.
    Agent,
    /// Visitors of public endpoints.
    Endpoints,
}

impl IpRestrictionKind {
    /// All of them, in the API's order.
    pub const ALL: [Self; 4] = [Self::Dashboard, Self::Api, Self::Agent, Self::Endpoints];

    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dashboard => "dashboard",
            Self::Api => "api",
            Self::Agent => "agent",
            Self::Endpoints => "endpoints",
        }
    }
}

/// Answers to a certificate authority that checks who holds a name (RFC 8555 section 8, RFC 8737).
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChallengeSpec {
    /// HTTP-01: the key authorization by token.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub http: BTreeMap<String, String>,
    /// TLS-ALPN-01: what a hello that offers `acme-tls/1` alone is answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_alpn: Option<CertificateSpec>,
}

impl std::fmt::Debug for ChallengeSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChallengeSpec").field("http", &self.http.len()).finish_non_exhaustive()
    }
}

/// Changes to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Ord + Serialize, V: Serialize",
    deserialize = "K: Ord + Deserialize<'de>, V: Deserialize<'de>"
))]
pub struct TableDiff<K: Ord, V> {
    /// Rows to insert or replace.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub put: BTreeMap<K, V>,
    /// Rows to remove.
    #[serde(default = "BTreeSet::new", skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<K>,
}

impl<K: Ord, V> Default for TableDiff<K, V> {
    fn default() -> Self {
        Self { put: BTreeMap::new(), remove: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> TableDiff<K, V> {
    fn between(from: &BTreeMap<K, V>, to: &BTreeMap<K, V>) -> Self {
        let changed = to.iter().filter(|(k, v)| from.get(*k) != Some(*v));
        Self {
            put: changed.map(|(k, v)| (k.clone(), v.clone())).collect(),
            remove: from.keys().filter(|k| !to.contains_key(*k)).cloned().collect(),
        }
    }

    fn apply(&self, table: &mut BTreeMap<K, V>) {
        table.retain(|k, _| !self.remove.contains(k));
        table.extend(self.put.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}

/// The difference between two Programs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgramDiff {
    /// Generation this applies to.
    pub from: u64,
    /// Generation it leads to.
    pub to: u64,
    /// New settings, when they changed.
    pub settings: Option<Settings>,
    /// See [`Program::endpoints`].
    pub endpoints: TableDiff<EndpointId, CloudEndpointSpec>,
    /// See [`Program::domains`].
    pub domains: TableDiff<DomainId, DomainSpec>,
    /// See [`Program::addresses`].
    pub addresses: TableDiff<AddressId, AddressSpec>,
    /// See [`Program::credentials`].
    pub credentials: TableDiff<CredentialId, CredentialSpec>,
    /// See [`Program::ingresses`].
    pub ingresses: TableDiff<IngressId, IngressSpec>,
    /// See [`Program::certificates`].
    pub certificates: TableDiff<CertificateId, CertificateSpec>,
    /// See [`Program::authorities`].
    pub authorities: TableDiff<AuthorityId, AuthoritySpec>,
    /// See [`Program::ip_policies`].
    pub ip_policies: TableDiff<IpPolicyId, IpPolicySpec>,
    /// See [`Program::ip_restrictions`].
    pub ip_restrictions: TableDiff<IpRestrictionId, IpRestrictionSpec>,
    /// See [`Program::challenges`].
    pub challenges: TableDiff<Host, ChallengeSpec>,
}

/// A diff that does not fit the Program it is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the diff starts at generation {from}, this Program is at {at}; ask for a whole Program")]
pub struct DiffError {
    /// Where the diff starts.
    pub from: u64,
    /// Where the Program is.
    pub at: u64,
}

impl Program {
    /// What changes from `self` to `to`.
    pub fn diff(&self, to: &Self) -> ProgramDiff {
        ProgramDiff {
            from: self.generation,
            to: to.generation,
            settings: (self.settings != to.settings).then(|| to.settings.clone()),
            endpoints: TableDiff::between(&self.endpoints, &to.endpoints),
            domains: TableDiff::between(&self.domains, &to.domains),
            addresses: TableDiff::between(&self.addresses, &to.addresses),
            credentials: TableDiff::between(&self.credentials, &to.credentials),
            ingresses: TableDiff::between(&self.ingresses, &to.ingresses),
            certificates: TableDiff::between(&self.certificates, &to.certificates),
            authorities: TableDiff::between(&self.authorities, &to.authorities),
            ip_policies: TableDiff::between(&self.ip_policies, &to.ip_policies),
            ip_restrictions: TableDiff::between(&self.ip_restrictions, &to.ip_restrictions),
            challenges: TableDiff::between(&self.challenges, &to.challenges),
        }
    }

    /// The Program after the diff. Nothing is changed when the diff does not fit.
    pub fn apply(&mut self, diff: &ProgramDiff) -> Result<(), DiffError> {
        if diff.from != self.generation {
            return Err(DiffError { from: diff.from, at: self.generation });
        }
        self.generation = diff.to;
        if let Some(settings) = &diff.settings {
            self.settings.clone_from(settings);
        }
        diff.endpoints.apply(&mut self.endpoints);
        diff.domains.apply(&mut self.domains);
        diff.addresses.apply(&mut self.addresses);
        diff.credentials.apply(&mut self.credentials);
        diff.ingresses.apply(&mut self.ingresses);
        diff.certificates.apply(&mut self.certificates);
        diff.authorities.apply(&mut self.authorities);
        diff.ip_policies.apply(&mut self.ip_policies);
        diff.ip_restrictions.apply(&mut self.ip_restrictions);
        diff.challenges.apply(&mut self.challenges);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Ksuid;
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000 + u64::from(n), [n; 16])
    }

    fn endpoint() -> impl Strategy<Value = CloudEndpointSpec> {
        (0u8..3, 1u16..4, any::<bool>(), any::<bool>()).prop_map(
            |(account, port, pooling_enabled, policy)| CloudEndpointSpec {
                account: AccountId::new(ksuid(account)),
                url: format!("tcp://host:{port}").parse().unwrap(),
                binding: Binding::Public,
                pooling_enabled,
                policy: policy.then(TrafficPolicy::default),
            },
        )
    }

    fn restriction() -> impl Strategy<Value = IpRestrictionSpec> {
        let policies = btree_set((0u8..3).prop_map(|n| IpPolicyId::new(ksuid(n))), 1..3);
        (0u8..2, 0usize..4, any::<bool>(), policies).prop_map(|(account, kind, enforced, ip_policies)| {
            IpRestrictionSpec {
                account: AccountId::new(ksuid(account)),
                kind: IpRestrictionKind::ALL[kind],
                enforced,
                ip_policies,
            }
        })
    }

    fn program() -> impl Strategy<Value = Program> {
        let endpoints = btree_map((0u8..8).prop_map(|n| EndpointId::new(ksuid(n))), endpoint(), 0..8);
        let certificates = btree_map(
            (0u8..4).prop_map(|n| CertificateId::new(ksuid(n))),
            "[ab]".prop_map(|pem| CertificateSpec { chain_pem: pem.clone(), key_pem: pem }),
            0..4,
        );
        let restrictions =
            btree_map((0u8..4).prop_map(|n| IpRestrictionId::new(ksuid(n))), restriction(), 0..4);
        (0u64..3, "[xy]", endpoints, certificates, restrictions).prop_map(
            |(generation, region, endpoints, certificates, ip_restrictions)| Program {
                generation,
                settings: Settings { region, ..Settings::default() },
                endpoints,
                certificates,
                ip_restrictions,
                ..Program::default()
            },
        )
    }

    #[test]
    fn the_word_of_a_restriction_is_the_same_everywhere() {
        for kind in IpRestrictionKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    proptest! {
        #[test]
        fn applying_a_diff_gives_the_target(a in program(), b in program()) {
            let diff = a.diff(&b);
            let sent: ProgramDiff = serde_json::from_str(&serde_json::to_string(&diff).unwrap()).unwrap();
            prop_assert_eq!(&sent, &diff);
            let mut applied = a.clone();
            applied.apply(&sent).unwrap();
            prop_assert_eq!(applied, b);
        }

        #[test]
        fn a_diff_for_another_generation_changes_nothing(a in program(), b in program()) {
            let mut diff = a.diff(&b);
            diff.from += 1;
            let mut applied = a.clone();
            prop_assert!(applied.apply(&diff).is_err());
            prop_assert_eq!(applied, a);
        }
    }
}
