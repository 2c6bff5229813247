//! The installation's private certificate authorities and the leaves they issue.
//!
//! Three authorities, so that trust in one says nothing about another: `ingress` for reserved domains, `connect` for the
//! agent listener, `edge` for edges that reach control over a network. Publicly trusted certificates are not made here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebbgate_model::Host;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::clock::UnixSecs;

/// Life of a leaf in days.
pub const LEAF_DAYS: i64 = 90;
/// Life of an authority in days.
pub const AUTHORITY_DAYS: i64 = 3650;
/// Leaves begin this many seconds in the past, for clients with a clock that is behind.
pub const BACKDATE_SECS: i64 = 3600;
/// Longest common name in bytes (RFC 5280, upper bound of X.520).
const COMMON_NAME_BYTES_MAX: usize = 64;
const DAY_SECS: i64 = 86_400;

/// Which authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// Visitors' TLS.
    Ingress,
    /// Agents' TLS.
    Connect,
    /// Edges' TLS towards control.
    Edge,
}

impl Purpose {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Connect, Self::Edge];

    /// Its name in `DIR/ca/<name>.pem`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Connect => "connect",
            Self::Edge => "edge",
        }
    }
}

/// Why no certificate could be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's certificate or key is not readable.
    #[error("the {authority} authority cannot be used: restore DIR/ca from a backup")]
    Damaged {
        /// Which.
        authority: &'static str,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A leaf could not be made.
    #[error("no certificate could be made for {host}")]
    Leaf {
        /// For which name.
        host: String,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A date outside what certificates can hold.
    #[error("the clock shows a time that certificates cannot hold: set the clock")]
    Clock,
}

/// A certificate and its key, both PEM. Seal the key before storing it.
pub struct Pair {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
    /// Unix seconds.
    pub not_before: UnixSecs,
    /// Unix seconds.
    pub not_after: UnixSecs,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Makes a new authority. `name` tells installations apart in certificate viewers.
pub fn new_authority(purpose: Purpose, name: &str, now: UnixSecs) -> Result<Pair, AuthorityError> {
    let failed = |source| AuthorityError::Leaf { host: purpose.name().to_owned(), source };
    let key = KeyPair::generate().map_err(failed)?;
    let (not_before, not_after) = (now - BACKDATE_SECS, now + AUTHORITY_DAYS * DAY_SECS);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = common_name(&format!("Ebbgate {} authority {name}", purpose.name()));
    (params.not_before, params.not_after) = (date(not_before)?, date(not_after)?);
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), not_before, not_after })
}

/// An authority that can sign.
#[derive(Debug)]
pub struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    /// Subject key identifier of its certificate.
    key_id: Vec<u8>,
}

impl Authority {
    /// Reads an authority's key and finds its certificate among those that are trusted. While an authority is rotated
    /// there are two.
    pub fn load(purpose: Purpose, trusted_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let damaged = |source| AuthorityError::Damaged { authority: purpose.name(), source };
        let key = KeyPair::from_pem(key_pem).map_err(damaged)?;
        let own = certificates(trusted_pem).into_iter().find(|certificate| is_of(certificate, &key));
        let own = own.ok_or_else(|| damaged(rcgen::Error::CouldNotParseCertificate))?;
        let key_id = key_ids(&own).0.ok_or_else(|| damaged(rcgen::Error::CouldNotParseCertificate))?;
        let issuer = rcgen::Issuer::from_ca_cert_der(&own, key).map_err(damaged)?;
        Ok(Self { issuer, key_id })
    }

    /// Whether a leaf says that this authority signed it; one that cannot be read does not.
    pub fn has_issued(&self, chain_pem: &str) -> bool {
        certificates(chain_pem).first().is_some_and(|leaf| key_ids(leaf).1.as_ref() == Some(&self.key_id))
    }

    /// A leaf for these names: ECDSA P-256, not a CA, valid for [`LEAF_DAYS`].
    pub fn leaf(
        &self,
        host: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        now: UnixSecs,
    ) -> Result<Pair, AuthorityError> {
        let failed = |source| AuthorityError::Leaf { host: host.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let signed = self.sign(host, names, usages, &key, now)?;
        Ok(Pair { key_pem: key.serialize_pem(), ..signed })
    }

    /// A client certificate for a key that its holder keeps, given as DER of its subject public key info. It is a server's
    /// for no name. The pair's key is empty.
    pub fn client(&self, name: &str, public_key: &[u8], now: UnixSecs) -> Result<Pair, AuthorityError> {
        let failed = |source| AuthorityError::Leaf { host: name.to_owned(), source };
        let key = SubjectPublicKeyInfo::from_der(public_key).map_err(failed)?;
        self.sign(name, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth], &key, now)
    }

    /// A certificate for somebody else's key at both ends of a connection (RFC 5280 section 4.2.1.12). It has no name of a
    /// host, so that it does not pass for control's own.
    pub fn peer(&self, name: &str, public_key: &[u8], now: UnixSecs) -> Result<Pair, AuthorityError> {
        let failed = |source| AuthorityError::Leaf { host: name.to_owned(), source };
        let key = SubjectPublicKeyInfo::from_der(public_key).map_err(failed)?;
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, Vec::new(), usages, &key, now)
    }

    fn sign(
        &self,
        host: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        key: &impl PublicKeyData,
        now: UnixSecs,
    ) -> Result<Pair, AuthorityError> {
        let failed = |source| AuthorityError::Leaf { host: host.to_owned(), source };
        let (not_before, not_after) = (now - BACKDATE_SECS, now + LEAF_DAYS * DAY_SECS);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = common_name(host);
        params.subject_alt_names = names;
        (params.not_before, params.not_after) = (date(not_before)?, date(not_after)?);
        let certificate = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate_pem: certificate.pem(), key_pem: String::new(), not_before, not_after })
    }
}

/// The three authorities of an installation.
#[derive(Debug)]
pub struct Issuer {
    /// For reserved domains.
    pub ingress: Authority,
    /// For the agent listener.
    pub connect: Authority,
    /// For control's own listener towards edges, and edges.
    pub edge: Authority,
}

impl Issuer {
    /// One of the three.
    pub fn of(&self, purpose: Purpose) -> &Authority {
        match purpose {
            Purpose::Ingress => &self.ingress,
            Purpose::Connect => &self.connect,
            Purpose::Edge => &self.edge,
        }
    }

    /// A server certificate for a reserved domain or an agent listener's name.
    ///
    /// Besides the name it holds the loopback addresses, and `localhost` on the agent side: a machine can be tried out
    /// without name service.
    pub fn server(&self, purpose: Purpose, host: &Host, now: UnixSecs) -> Result<Pair, AuthorityError> {
        let failed = |source| AuthorityError::Leaf { host: host.to_string(), source };
        let name = |text: &str| text.try_into().map(SanType::DnsName).map_err(failed);
        let mut names = match host.ip() {
            Some(ip) => vec![SanType::IpAddress(ip)],
            None => vec![name(host.as_str())?],
        };
        if purpose != Purpose::Ingress && host.as_str() != "localhost" {
            names.push(name("localhost")?);
        }
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        names.extend(loopback.into_iter().filter(|ip| host.ip() != Some(*ip)).map(SanType::IpAddress));
        self.of(purpose).leaf(host.as_str(), names, vec![ExtendedKeyUsagePurpose::ServerAuth], now)
    }
}

/// Whether a leaf should be replaced: a third of its life or less is left, or it was issued by a clock that was ahead.
pub fn is_due(not_before: UnixSecs, not_after: UnixSecs, now: UnixSecs) -> bool {
    now < not_before || not_after.saturating_sub(now) <= not_after.saturating_sub(not_before) / 3
}

/// The certificates of a PEM text; what is none is passed over.
pub fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

/// When the leaf of a chain expires; None: there is none that can be read.
pub fn expiry(chain_pem: &str) -> Option<UnixSecs> {
    let chain = certificates(chain_pem);
    let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(leaf.validity().not_after.timestamp())
}

/// Whether a certificate is of this key.
pub fn is_of(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

/// Subject and authority key identifiers of a certificate.
fn key_ids(certificate: &CertificateDer<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return (None, None) };
    let (mut own, mut issuer) = (None, None);
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                issuer = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    (own, issuer)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if name.len() <= COMMON_NAME_BYTES_MAX {
        distinguished.push(DnType::CommonName, name);
    }
    distinguished
}

fn date(unix: UnixSecs) -> Result<OffsetDateTime, AuthorityError> {
    OffsetDateTime::from_unix_timestamp(unix).map_err(|_| AuthorityError::Clock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::sync::Arc;
    use std::time::Duration;

    const NOW: UnixSecs = 1_767_225_600;

    fn issuer() -> (Issuer, [Pair; 3]) {
        let pairs = Purpose::ALL.map(|purpose| new_authority(purpose, "test", NOW).unwrap());
        let [ingress, connect, edge] = &pairs;
        let load =
            |purpose, pair: &Pair| Authority::load(purpose, &pair.certificate_pem, &pair.key_pem).unwrap();
        let issuer = Issuer {
            ingress: load(Purpose::Ingress, ingress),
            connect: load(Purpose::Connect, connect),
            edge: load(Purpose::Edge, edge),
        };
        (issuer, pairs)
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    /// What a strict client says of the leaf.
    fn accepts(authority: &Pair, leaf: &Pair, name: &str, at: UnixSecs) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(der(&authority.certificate_pem)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at).unwrap()));
        verifier.verify_server_cert(&der(&leaf.certificate_pem), &[], &name, &[], at).is_ok()
    }

    #[test]
    fn an_edge_is_at_both_ends_and_no_host() {
        use rustls::client::verify_server_cert_signed_by_trust_anchor;
        use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
        let (issuer, [_, _, edge]) = issuer();
        let key = KeyPair::generate().unwrap();
        let leaf = issuer.edge.peer("edge_1", &key.subject_public_key_info(), NOW).unwrap();
        let leaf_der = der(&leaf.certificate_pem);
        let mut roots = RootCertStore::empty();
        roots.add(der(&edge.certificate_pem)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(NOW).unwrap()));
        let parsed = ParsedCertificate::try_from(&leaf_der).unwrap();
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], at, algorithms).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        clients.verify_client_cert(&leaf_der, &[], at).unwrap();
        for name in ["edge-1", "localhost", "control.test", "127.0.0.1"] {
            assert!(!accepts(&edge, &leaf, name, NOW), "{name}");
        }
    }

    #[test]
    fn strict_clients_accept_leaves_for_their_names_from_their_authority_in_their_time() {
        let (issuer, [ingress, connect, _]) = issuer();
        let leaf = issuer.server(Purpose::Ingress, &"*.clinic1.example.com".parse().unwrap(), NOW).unwrap();
        for (name, expect) in [
            ("api.clinic1.example.com", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("clinic1.example.com", false),
            ("a.b.clinic1.example.com", false),
            ("localhost", false),
            ("127.0.0.2", false),
        ] {
            assert_eq!(accepts(&ingress, &leaf, name, NOW), expect, "{name}");
        }
        let name = "api.clinic1.example.com";
        assert!(!accepts(&connect, &leaf, name, NOW), "another authority's trust is not ours");
        assert!(accepts(&ingress, &leaf, name, NOW - BACKDATE_SECS));
        assert!(!accepts(&ingress, &leaf, name, NOW - BACKDATE_SECS - 1));
        assert!(!accepts(&ingress, &leaf, name, NOW + (LEAF_DAYS + 1) * DAY_SECS));
        let agent = issuer.server(Purpose::Connect, &"connect.example.com".parse().unwrap(), NOW).unwrap();
        for name in ["connect.example.com", "localhost", "127.0.0.1"] {
            assert!(accepts(&connect, &agent, name, NOW), "{name}");
        }
        issuer.server(Purpose::Connect, &"localhost".parse().unwrap(), NOW).unwrap();
        issuer.server(Purpose::Ingress, &"127.0.0.1".parse().unwrap(), NOW).unwrap();
    }

    #[test]
    fn leaves_sign_nothing_and_authorities_sign_leaves_only() {
        let (issuer, [ingress, ..]) = issuer();
        let leaf = issuer.server(Purpose::Ingress, &"a.example.com".parse().unwrap(), NOW).unwrap();
        let (leaf, authority) = (der(&leaf.certificate_pem), der(&ingress.certificate_pem));
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let (_, authority) = X509Certificate::from_der(&authority).unwrap();
        let constraints = leaf.basic_constraints().unwrap().expect("says that it is none");
        assert!(!constraints.value.ca);
        let constraints = authority.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        let long = format!("{}.example.com", "a".repeat(63));
        issuer
            .server(Purpose::Ingress, &long.parse().unwrap(), NOW)
            .expect("names too long for a common name");
    }

    #[test]
    fn due_when_a_third_is_left() {
        assert!(!is_due(0, 90, 59));
        assert!(is_due(0, 90, 60));
        assert!(is_due(0, 90, 1000));
        assert!(is_due(0, 90, i64::MAX));
        assert!(!is_due(0, 90, 0));
        assert!(is_due(0, 90, -1), "not valid yet: the clock was set back since");
        assert!(is_due(0, 90, i64::MIN));
    }
}
