//! `Tables`: a Program made ready to serve: certificates parsed, policies compiled, names indexed. All or nothing: an
//! object that cannot be served refuses its whole generation, and the last good one stays in force.
//!
//! Pure; `program::feed` gets Programs and puts Tables in force.

pub mod feed;
pub mod ports;
pub mod report;
pub mod restrictions;
pub mod saved;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_model::{
    AccountId, AddressSpec, CertificateId, CloudEndpointSpec, CredentialId, CredentialSpec, DomainSpec,
    EndpointId, Host, Program, Token,
};
use ebbgate_policy::{Diagnostic, EndpointFacts, Engine, References};
use rustls::sign::CertifiedKey;

use self::restrictions::Restrictions;
use crate::gateway::{Endpoint, Kind};
use crate::tls::{CertificateError, CertificateTable, parse_certificate};

/// Why a generation cannot be put in force. The message names the object.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A certificate.
    #[error("certificate {id}: {source}")]
    Certificate {
        /// Which.
        id: CertificateId,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// A policy.
    #[error("policy of endpoint {id}: {}", .problems.iter().map(|p| format!("{} at {}", p.message, p.path)).collect::<Vec<_>>().join("; "))]
    Policy {
        /// Which endpoint's.
        id: EndpointId,
        /// All that is wrong with it.
        problems: Vec<Diagnostic>,
    },
    /// An object names a certificate that is not in the Program.
    #[error("{object} names certificate {id}, which the Program does not hold")]
    Dangling {
        /// What names it.
        object: String,
        /// The certificate.
        id: CertificateId,
    },
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
    /// What accounts demand of source addresses.
    pub restrictions: Restrictions,
    references: HashMap<AccountId, Arc<References>>,
    parsed: HashMap<CertificateId, Arc<CertifiedKey>>,
    domains: HashMap<Host, DomainSpec>,
}

/// The names of the agent listener.
#[derive(Debug, Default)]
pub struct ConnectNames {
    default: Option<Arc<CertifiedKey>>,
    hosts: HashSet<Host>,
    ingresses: HashMap<Host, (AccountId, Option<Arc<CertifiedKey>>)>,
}

/// Who may come in by a name of the agent listener, and with which certificate it answers.
#[derive(Debug, Clone)]
pub struct ConnectName {
    /// Shown in the handshake.
    pub certificate: Arc<CertifiedKey>,
    /// Only sessions of this account; None: of any.
    pub account: Option<AccountId>,
}

impl ConnectNames {
    /// The entry for a server name; none asked for is the default. None: nobody answers to it.
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
            parsed: parse_certificates(&program, last)?,
            references: references(&program, last),
            restrictions: Restrictions::compile(&program, &last.program, &last.restrictions),
            domains: program.domains.values().map(|d| (d.host.clone(), d.clone())).collect(),
            ..Tables::default()
        };
        for (id, domain) in &program.domains {
            if let Some(certificate) = tables.certificate(domain.certificate, || format!("domain {id}"))? {
                tables.certificates.insert(domain.host.clone(), certificate);
            }
        }
        let settings = &program.settings;
        tables.connect.default =
            tables.certificate(settings.connect_certificate, || "the settings".into())?;
        if let Some(domain) = &settings.default_domain
            && let Some(certificate) =
                tables.certificate(settings.default_domain_certificate, || "the default domain".into())?
            && let Ok(names) = format!("*.{domain}").parse()
        {
            tables.certificates.insert(names, certificate);
        }
        tables.connect.hosts = settings.connect_hosts.iter().cloned().collect();
        for (id, ingress) in &program.ingresses {
            let certificate = tables.certificate(ingress.certificate, || format!("agent ingress {id}"))?;
            tables.connect.ingresses.insert(ingress.host.clone(), (ingress.account, certificate));
        }
        for (id, spec) in &program.endpoints {
            let endpoint = match last.unchanged(*id, spec, &tables) {
                Some(endpoint) => endpoint,
                None => Arc::new(tables.compile_endpoint(*id, spec)?),
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
        let name = host.wildcard_suffix().unwrap_or(host.as_str());
        let wildcards = std::iter::once(format!("*.{name}"))
            .filter(|_| host.is_wildcard())
            .chain(name.match_indices('.').filter_map(|(dot, _)| Some(format!("*{}", name.get(dot..)?))));
        self.domains
            .get(host)
            .or_else(|| wildcards.filter_map(|w| w.parse().ok()).find_map(|w: Host| self.domains.get(&w)))
    }

    /// The reserved address of this host and port.
    pub fn address(&self, host: &Host, port: u16) -> Option<&AddressSpec> {
        self.program.addresses.values().find(|a| a.port == port && a.host == *host)
    }

    /// The objects an account's policies may name.
    pub fn references(&self, account: AccountId) -> Arc<References> {
        self.references.get(&account).cloned().unwrap_or_default()
    }

    fn certificate(
        &self,
        id: Option<CertificateId>,
        object: impl FnOnce() -> String,
    ) -> Result<Option<Arc<CertifiedKey>>, ProgramError> {
        let Some(id) = id else { return Ok(None) };
        match self.parsed.get(&id) {
            Some(certificate) => Ok(Some(Arc::clone(certificate))),
            None => Err(ProgramError::Dangling { object: object(), id }),
        }
    }

    fn unchanged(&self, id: EndpointId, spec: &CloudEndpointSpec, next: &Tables) -> Option<Arc<Endpoint>> {
        let same_spec = self.program.endpoints.get(&id) == Some(spec);
        let same_references =
            Arc::ptr_eq(self.references.get(&spec.account)?, next.references.get(&spec.account)?);
        self.cloud.get(&id).filter(|_| same_spec && same_references).cloned()
    }

    fn compile_endpoint(&self, id: EndpointId, spec: &CloudEndpointSpec) -> Result<Endpoint, ProgramError> {
        let refs = self.references(spec.account);
        let compile = |policy| Engine::compile(policy, &refs);
        let engine = spec.policy.as_ref().map(compile).transpose();
        let engine = engine.map_err(|problems| ProgramError::Policy { id, problems })?;
        Ok(Endpoint {
            id,
            account: spec.account,
            url: spec.url.clone(),
            binding: spec.binding,
            facts: Arc::new(EndpointFacts { id: id.to_string(), url: spec.url.clone() }),
            engine: engine.map(Arc::new),
            kind: Kind::Cloud,
            upstream_http2: false,
            pooling_enabled: spec.pooling_enabled,
        })
    }
}

fn parse_certificates(
    program: &Program,
    last: &Tables,
) -> Result<HashMap<CertificateId, Arc<CertifiedKey>>, ProgramError> {
    let parse = |(id, spec): (&CertificateId, &ebbgate_model::CertificateSpec)| {
        let kept = last.parsed.get(id).filter(|_| last.program.certificates.get(id) == Some(spec));
        let certificate = match kept {
            Some(certificate) => Arc::clone(certificate),
            None => parse_certificate(&spec.chain_pem, &spec.key_pem)
                .map_err(|source| ProgramError::Certificate { id: *id, source })?,
        };
        Ok((*id, certificate))
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
