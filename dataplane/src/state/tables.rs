//! `Tables`: a Program made ready to serve: certificates parsed, policies compiled, names indexed.
//!
//! An object of an account that cannot be served is closed, and said in [`Tables::unserved`]: an endpoint has no policy
//! and answers as offline, a name has no certificate and is refused. All others are served. A generation is refused
//! only for what is broken as a whole, the installation's own certificates; the last good one then stays in force.
//!
//! Pure; `feed` gets Programs and puts Tables in force.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_model::{
    AccountId, AddressSpec, CertificateId, CloudEndpointSpec, CredentialId, CredentialSpec, DomainSpec,
    EndpointId, Host, PolicyHash, Program, Settings, Token,
};
use ebbgate_policy::{Diagnostic, EndpointFacts, Engine, References};
use rustls::sign::CertifiedKey;

use super::challenges::Challenges;
use super::restrictions::Restrictions;
use crate::net::tls::{CertificateError, CertificateTable, parse_certificate};
use crate::net::wildcard::WildcardMap;
use crate::state::endpoint::{Endpoint, Kind};

/// Why a generation cannot be put in force. The message names the object.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The certificate of the agent listener or of random names.
    #[error("the certificate of {object}: {source}")]
    Certificate {
        /// What it is for.
        object: &'static str,
        /// What is wrong with it.
        source: Unusable,
    },
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be parsed.
    #[error("{id}: {source}")]
    Broken {
        /// Which.
        id: CertificateId,
        /// What is wrong with it.
        source: Arc<CertificateError>,
    },
    /// It is not in the Program.
    #[error("{0} is not in the Program")]
    Dangling(CertificateId),
}

/// One generation, ready.
#[derive(Debug, Default)]
pub struct Tables {
    /// What it was made from.
    pub program: Program,
    /// Cloud endpoints, compiled.
    pub cloud: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// Certificates of reserved domains.
    pub certificates: CertificateTable,
    /// The agent listener's names.
    pub connect: ConnectNames,
    /// Answers to certificate authorities.
    pub challenges: Challenges,
    /// What accounts demand of source addresses.
    pub restrictions: Restrictions,
    /// Objects that are closed because they cannot be served, each with the reason.
    pub unserved: BTreeMap<String, String>,
    references: HashMap<AccountId, Arc<References>>,
    parsed: HashMap<CertificateId, Parsed>,
    domains: WildcardMap<DomainSpec>,
}

/// A certificate of the Program, or what is wrong with it.
type Parsed = Result<Arc<CertifiedKey>, Arc<CertificateError>>;

/// The names of the agent listener.
#[derive(Debug, Default)]
pub struct ConnectNames {
    default: Option<Arc<CertifiedKey>>,
    hosts: HashSet<Host>,
    ingresses: HashMap<Host, (AccountId, Option<Arc<CertifiedKey>>)>,
}

/// A name of the agent listener: its certificate, and whose agents may use it.
#[derive(Debug, Clone)]
pub struct ConnectName {
    /// Shown in the handshake.
    pub certificate: Arc<CertifiedKey>,
    /// Only sessions of this account; None: of any.
    pub account: Option<AccountId>,
}

impl ConnectNames {
    /// Whether agents connect to this name, said so by the installation or by an ingress.
    pub fn contains(&self, name: &Host) -> bool {
        self.hosts.contains(name) || self.ingresses.contains_key(name)
    }

    #[cfg(test)]
    pub(crate) fn of(hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|host| host.parse().expect("a test's own name")).collect();
        Self { hosts, ..Self::default() }
    }

    /// The entry for a server name; none asked for is the default. None: the name is not known.
    pub fn find(&self, name: Option<&Host>) -> Option<ConnectName> {
        if let Some((account, certificate)) = name.and_then(|name| self.ingresses.get(name)) {
            return Some(ConnectName { certificate: certificate.clone()?, account: Some(*account) });
        }
        let known = name.is_none_or(|name| self.hosts.is_empty() || self.hosts.contains(name));
        Some(ConnectName { certificate: self.default.clone().filter(|_| known)?, account: None })
    }
}

impl Tables {
    /// Makes a Program ready. What did not change since `last` is taken over, so that its identity (and with it cached
    /// TLS configurations) stays.
    pub fn compile(program: Program, last: &Tables) -> Result<Tables, ProgramError> {
        let mut tables = Tables {
            parsed: parse_certificates(&program, last),
            references: references(&program, last),
            restrictions: Restrictions::compile(&program, &last.program, &last.restrictions),
            domains: program.domains.values().map(|d| (d.host.clone(), d.clone())).collect(),
            ..Tables::default()
        };
        tables.set_installation(&program.settings)?;
        (tables.challenges, tables.unserved) = Challenges::compile(&program.challenges);
        for (id, domain) in &program.domains {
            let certificate = tables.certificate(domain.certificate);
            let certificate = tables.served(format!("domain {id} ({})", domain.host), certificate).flatten();
            tables.certificates.insert(domain.host.clone(), certificate);
        }
        for (id, ingress) in &program.ingresses {
            let certificate = tables.certificate(ingress.certificate);
            let object = format!("agent ingress {id} ({})", ingress.host);
            let certificate = tables.served(object, certificate).flatten();
            tables.connect.ingresses.insert(ingress.host.clone(), (ingress.account, certificate));
        }
        for (id, spec) in &program.endpoints {
            let endpoint = match last.unchanged(*id, spec, &tables) {
                Some(endpoint) => endpoint,
                None => Arc::new(tables.compile_endpoint(*id, spec, &program)),
            };
            tables.cloud.insert(*id, endpoint);
        }
        tables.program = program;
        Ok(tables)
    }

    /// The credential a token belongs to.
    pub fn credential(&self, token: &str) -> Option<(CredentialId, &CredentialSpec)> {
        let parsed: Token = token.parse().ok()?;
        let id = CredentialId::new(parsed.ksuid());
        let spec = self.program.credentials.get(&id)?;
        let hash = digest(&SHA256, parsed.expose().as_bytes());
        verify_slices_are_equal(hash.as_ref(), &spec.token.0).ok()?;
        Some((id, spec))
    }

    /// The reserved domain that covers a name, exact before the longest wildcard.
    pub fn domain(&self, host: &Host) -> Option<&DomainSpec> {
        self.domains.find(host)
    }

    /// The reserved address of this host and port.
    pub fn address(&self, host: &Host, port: u16) -> Option<&AddressSpec> {
        self.program.addresses.values().find(|a| a.port == port && a.host == *host)
    }

    /// The objects an account's policies may name.
    pub fn references(&self, account: AccountId) -> Arc<References> {
        self.references.get(&account).cloned().unwrap_or_default()
    }

    /// What belongs to the installation: without it nothing is served.
    fn set_installation(&mut self, settings: &Settings) -> Result<(), ProgramError> {
        let broken = |object| move |source| ProgramError::Certificate { object, source };
        let connect = self.certificate(settings.connect_certificate);
        self.connect.default = connect.map_err(broken("the agent listener"))?;
        self.connect.hosts = settings.connect_hosts.iter().cloned().collect();
        let random = self.certificate(settings.default_domain_certificate);
        if let Some(certificate) = random.map_err(broken("the default domain"))?
            && let Some(Ok(names)) =
                settings.default_domain.as_ref().map(|domain| format!("*.{domain}").parse())
        {
            self.certificates.insert(names, Some(certificate));
        }
        Ok(())
    }

    /// None: none is named.
    fn certificate(&self, id: Option<CertificateId>) -> Result<Option<Arc<CertifiedKey>>, Unusable> {
        let Some(id) = id else { return Ok(None) };
        match self.parsed.get(&id) {
            Some(Ok(certificate)) => Ok(Some(Arc::clone(certificate))),
            Some(Err(source)) => Err(Unusable::Broken { id, source: Arc::clone(source) }),
            None => Err(Unusable::Dangling(id)),
        }
    }

    /// What an object needs, or None and a note of why it is closed.
    fn served<T>(&mut self, object: String, needed: Result<T, impl Display>) -> Option<T> {
        needed.map_err(|reason| self.unserved.insert(object, reason.to_string())).ok()
    }

    fn unchanged(&self, id: EndpointId, spec: &CloudEndpointSpec, next: &Tables) -> Option<Arc<Endpoint>> {
        let same_spec = self.program.endpoints.get(&id) == Some(spec);
        let same_references =
            Arc::ptr_eq(self.references.get(&spec.account)?, next.references.get(&spec.account)?);
        // One that did not compile is compiled again, so that its reason is reported again.
        let compiled = |endpoint: &&Arc<Endpoint>| endpoint.engine.is_some() || spec.policy.is_none();
        self.cloud.get(&id).filter(|_| same_spec && same_references).filter(compiled).cloned()
    }

    /// One whose policy does not compile has none: it answers as offline, and forwards nothing.
    fn compile_endpoint(&mut self, id: EndpointId, spec: &CloudEndpointSpec, program: &Program) -> Endpoint {
        let refs = self.references(spec.account);
        let compiled = spec.policy.map(|hash| compile_policy(program, hash, &refs)).transpose();
        let engine = self.served(format!("endpoint {id} ({})", spec.url), compiled).flatten();
        Endpoint {
            id,
            account: spec.account,
            url: spec.url.clone(),
            binding: spec.binding,
            facts: Arc::new(EndpointFacts { id: id.to_string(), url: spec.url.clone() }),
            engine: engine.map(Arc::new),
            kind: Kind::Cloud,
            upstream_http2: false,
            pooling_enabled: spec.pooling_enabled,
        }
    }
}

fn compile_policy(program: &Program, hash: PolicyHash, refs: &References) -> Result<Engine, String> {
    let policy = program.policies.get(&hash).ok_or("its policy is not in the Program")?;
    Engine::compile(policy, refs).map_err(|problems| told(&problems))
}

/// All that is wrong with a policy.
fn told(problems: &[Diagnostic]) -> String {
    problems.iter().map(|p| format!("{} at {}", p.message, p.path)).collect::<Vec<_>>().join("; ")
}

fn parse_certificates(program: &Program, last: &Tables) -> HashMap<CertificateId, Parsed> {
    let parse = |(id, spec): (&CertificateId, &ebbgate_model::CertificateSpec)| {
        let kept = last.parsed.get(id).filter(|_| last.program.certificates.get(id) == Some(spec));
        let fresh = || parse_certificate(&spec.chain_pem, &spec.key_pem).map_err(Arc::new);
        (*id, kept.cloned().unwrap_or_else(fresh))
    };
    program.certificates.iter().map(parse).collect()
}

/// Per account; taken over from `last` where nothing changed, so that a pointer tells.
fn references(program: &Program, last: &Tables) -> HashMap<AccountId, Arc<References>> {
    let mut all: HashMap<AccountId, References> = HashMap::new();
    let owners = program.endpoints.values().map(|e| e.account);
    for account in owners.chain(program.credentials.values().map(|c| c.account)) {
        all.entry(account).or_default();
    }
    for (id, authority) in &program.authorities {
        all.entry(authority.account).or_default().authorities.insert(*id, authority.ca_pem.clone());
    }
    for (id, policy) in &program.ip_policies {
        all.entry(policy.account).or_default().ip_policies.insert(*id, policy.rules.clone());
    }
    let keep = |(account, refs): (AccountId, References)| {
        let same = last
            .references
            .get(&account)
            .filter(|old| old.authorities == refs.authorities && old.ip_policies == refs.ip_policies);
        (account, same.cloned().unwrap_or_else(|| Arc::new(refs)))
    };
    all.into_iter().map(keep).collect()
}

#[cfg(test)]
mod tests;
