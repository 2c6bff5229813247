//! What `Tables` hold, and look-ups in it. Knows nothing of how it is made from objects, nor of what a change of it means.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_model::{
    AccountId, AddressSpec, CertificateId, CredentialId, CredentialSpec, DomainSpec, EndpointId, Host,
    ObjectKey, Settings, Token,
};
use ebbgate_policy::References;
use ebbgate_policy::identity::KeyRing;

use super::hosts::{ConnectNames, Domain, Parsed, RandomNames};
use super::policies::{Policies, Policy};
use crate::net::tls::CertificateTable;
use crate::net::wildcard::WildcardMap;
use crate::persistent::{Index, Map};
use crate::state::challenges::Challenges;
use crate::state::endpoint::Endpoint;
use crate::state::objects::Objects;
use crate::state::restrictions::Restrictions;

/// One generation, ready.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Which; 0 until control told one.
    pub generation: u64,
    /// What they were made from.
    pub objects: Objects,
    /// The settings in use.
    pub settings: Arc<Settings>,
    /// Keys that sessions of visitors are sealed with.
    pub session_keys: Arc<KeyRing>,
    /// Cloud endpoints in use.
    pub cloud: Map<EndpointId, Arc<Endpoint>>,
    /// Certificates of reserved domains.
    pub certificates: CertificateTable,
    /// The agent listener's names.
    pub connect: ConnectNames,
    /// Answers to certificate authorities.
    pub challenges: Challenges,
    /// What accounts demand of source addresses.
    pub restrictions: Restrictions,
    /// Objects of which the newest version cannot be served, each with the reason.
    pub unserved: Map<ObjectKey, Arc<str>>,
    /// Endpoints with a list of source addresses, and their number of changes.
    pub listed: Listed,
    pub(super) policies: Policies,
    pub(super) references: Map<AccountId, Arc<References>>,
    pub(super) parsed: Map<CertificateId, Parsed>,
    /// Objects that name a certificate.
    pub(super) certificate_users: Index<CertificateId, ObjectKey>,
    pub(super) domains: WildcardMap<Domain>,
    pub(super) random_names: Option<RandomNames>,
    pub(super) addresses: Map<u16, Arc<Vec<Arc<AddressSpec>>>>,
    /// Endpoints by account.
    pub(super) owned: Index<AccountId, EndpointId>,
}

/// Endpoints whose policy or account has a list of source addresses that may be enforced before a connection is accepted.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Which.
    pub endpoints: Map<EndpointId, ()>,
    /// Another number after each change of them, or of what they are made from.
    pub version: u64,
}

impl Tables {
    /// The credential a token belongs to.
    pub fn credential(&self, token: &str) -> Option<(CredentialId, &CredentialSpec)> {
        let parsed: Token = token.parse().ok()?;
        let id = CredentialId::new(parsed.ksuid());
        let spec = self.credential_spec(id)?;
        let hash = digest(&SHA256, parsed.expose().as_bytes());
        verify_slices_are_equal(hash.as_ref(), &spec.token.0).ok()?;
        Some((id, spec))
    }

    /// The credential of an id.
    pub fn credential_spec(&self, id: CredentialId) -> Option<&CredentialSpec> {
        self.objects.credentials.get(&id).map(Arc::as_ref)
    }

    /// The reserved domain that covers a name, exact before the longest wildcard.
    pub fn domain(&self, host: &Host) -> Option<&DomainSpec> {
        self.domains.find(host).map(|domain| domain.spec.as_ref())
    }

    /// The reserved address of this host and port.
    pub fn address(&self, host: &Host, port: u16) -> Option<&AddressSpec> {
        self.addresses_at(port).find(|address| address.host == *host)
    }

    /// The reserved addresses of a port.
    pub fn addresses_at(&self, port: u16) -> impl Iterator<Item = &AddressSpec> {
        self.addresses.get(&port).into_iter().flat_map(|those| those.iter().map(Arc::as_ref))
    }

    /// The policy of a cloud endpoint.
    pub fn policy(&self, endpoint: EndpointId) -> Option<&Arc<Policy>> {
        self.policies.get(&self.objects.endpoints.get(&endpoint)?.policy?)
    }

    /// The objects an account's policies may name.
    pub fn references(&self, account: AccountId) -> Arc<References> {
        // One for all accounts that have none, so that a pointer tells whether an account's changed.
        static NONE: LazyLock<Arc<References>> = LazyLock::new(Arc::default);
        Arc::clone(self.references.get(&account).unwrap_or(&NONE))
    }
}
