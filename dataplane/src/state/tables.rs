//! `Tables`: what control told this edge, made ready to serve: certificates parsed, policies compiled, names indexed.
//!
//! A clone shares everything, and a change costs what it changes (`tables::apply`): readers of the Tables before go on
//! undisturbed, and what did not change keeps its identity, and with it cached TLS configurations.
//!
//! An object of which a new version cannot be served keeps the version before in use. Where there is none, or what it needs
//! was taken away, it is closed: an endpoint has no policy and answers as offline, a name has no certificate and is
//! refused. [`Tables::unserved`] says so of each. All others are served.
//!
//! Pure; `feed` gets the objects and puts Tables in force.

mod apply;
mod effects;
mod load;
mod names;
mod policies;

use std::sync::{Arc, LazyLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_model::{
    AccountId, AddressSpec, CertificateId, Changes, CredentialId, CredentialSpec, Digests, DomainSpec,
    EndpointId, Host, ObjectKey, Program, Settings, Token,
};
use ebbgate_policy::References;

use super::challenges::Challenges;
use super::objects::Objects;
use super::restrictions::Restrictions;
use crate::net::tls::CertificateTable;
use crate::net::wildcard::WildcardMap;
use crate::persistent::{Index, Map};
use crate::state::endpoint::Endpoint;
use names::{Domain, Parsed, RandomNames};
use policies::Policies;

pub use effects::{Effects, Name};
pub use names::{ConnectName, ConnectNames};
pub use policies::{Policy, is_enforced};

/// One generation, ready.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Which; 0 until control told one.
    pub generation: u64,
    /// What they were made from.
    pub objects: Objects,
    /// The settings in use.
    pub settings: Arc<Settings>,
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
    policies: Policies,
    references: Map<AccountId, Arc<References>>,
    parsed: Map<CertificateId, Parsed>,
    /// Objects that name a certificate.
    certificate_users: Index<CertificateId, ObjectKey>,
    domains: WildcardMap<Domain>,
    random_names: Option<RandomNames>,
    addresses: Map<u16, Arc<Vec<Arc<AddressSpec>>>>,
    /// Endpoints by account.
    owned: Index<AccountId, EndpointId>,
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
    /// Makes a whole Program ready; what did not change since `last` is taken over.
    pub fn compile(program: &Program, last: &Tables) -> (Tables, Effects) {
        let mut told = Program::default().diff(program);
        told.settings = Some(Arc::new(program.settings.clone()));
        last.with(&last.objects.replaced(None, told), program.generation, None)
    }

    /// These Tables after some changes; see [`Tables::apply`].
    pub fn with(
        &self,
        changes: &Changes,
        generation: u64,
        digests: Option<&mut Digests>,
    ) -> (Tables, Effects) {
        let mut next = self.clone();
        let effects = next.apply(changes, digests);
        next.generation = generation;
        (next, effects)
    }

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

#[cfg(test)]
mod tests;
