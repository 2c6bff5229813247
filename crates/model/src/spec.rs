//! What an edge is told of each object. Plain data; how the objects lie together is `program`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::acl::Acl;
use crate::host::Host;
use crate::id::{AccountId, CertificateId, IpPolicyId};
use crate::policy::PolicyHash;
use crate::prefix::Prefix;
use crate::token::TokenHash;
use crate::url::{Binding, EndpointUrl};

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
    /// Keys that sessions of visitors are sealed with, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub session_keys: Vec<SessionKeySpec>,
}

/// A session of a visitor that was ended before its time: no edge goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedSessionSpec {
    /// Owner of the endpoint.
    pub account: AccountId,
}

/// A key that sessions of visitors are sealed with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKeySpec {
    /// Names it in what it sealed.
    pub id: u32,
    /// Unix seconds from which it seals. It opens from the start.
    pub from_unix_secs: i64,
    /// 32 bytes in base64.
    pub key: String,
}

impl std::fmt::Debug for SessionKeySpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKeySpec").field("id", &self.id).finish_non_exhaustive()
    }
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
            session_keys: Vec::new(),
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
    /// What happens to its traffic, a key of [`Program::policies`](crate::Program::policies). None: no policy saved yet,
    /// traffic is answered as offline with an explanation.
    pub policy: Option<PolicyHash>,
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

/// A secret that policies of its account read as `secrets.get(vault, name)`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSpec {
    /// Owner.
    pub account: AccountId,
    /// Name of its vault, unique in the account.
    pub vault: String,
    /// Its name, unique in the vault.
    pub name: String,
    /// What policies get, in clear.
    pub value: String,
}

impl std::fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretSpec").field("account", &self.account).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_restriction_is_the_same_everywhere() {
        for kind in IpRestrictionKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn secrets_and_keys_are_not_shown() {
        let certificate = CertificateSpec { chain_pem: "chain".into(), key_pem: "hidden-key".into() };
        let challenge = ChallengeSpec {
            http: [("token".into(), "hidden-authorization".into())].into(),
            tls_alpn: Some(certificate.clone()),
        };
        let account = AccountId::new(crate::Ksuid::new(1_700_000_000, [1; 16]));
        let secret =
            SecretSpec { account, vault: "v".into(), name: "n".into(), value: "hidden-value".into() };
        let key = SessionKeySpec { id: 1, from_unix_secs: 0, key: "hidden-key".into() };
        let settings = Settings { session_keys: vec![key], ..Settings::default() };
        let shown = format!("{certificate:?} {challenge:?} {secret:?} {settings:?}");
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
