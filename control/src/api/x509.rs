//! What certificates and keys say: judged when they are uploaded, described when they are read. Codes 1900 to 1926.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use ebbgate_model::Host;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::failure::ApiError;
use super::pem::{self, Block};

/// Most certificates of one chain.
const CHAIN_LENGTH_MAX: usize = 10;

/// A chain and its key that may be stored, written anew: as uploaded they need not be what the edge's reader takes.
pub(super) struct Judged {
    /// Leaf first.
    pub(super) chain_pem: String,
    /// One block.
    pub(super) key_pem: String,
}

/// Judges an uploaded chain and its key.
pub(super) fn check_pair(chain_pem: &str, key_pem: &str) -> Result<Judged, ApiError> {
    let chain = chain(chain_pem)?;
    let (key, key_pem) = private_key(key_pem)?;
    check_order(&chain)?;
    let chain_pem = chain.iter().map(Block::text).collect();
    let certificates = chain.into_iter().map(|block| CertificateDer::from(block.der)).collect();
    if CertifiedKey::new(certificates, key).keys_match().is_err() {
        let message = "certificate and private key do not belong together; the leaf must come first in `certificate_pem`";
        return Err(ApiError::bad(1923, message));
    }
    Ok(Judged { chain_pem, key_pem })
}

/// Judges an uploaded authority: exactly one certificate, and a CA. Gives it written anew.
pub(super) fn check_authority(ca_pem: &str) -> Result<String, ApiError> {
    if ca_pem.trim().is_empty() {
        return Err(ApiError::bad(1919, "`ca_pem` is missing; it holds the authority's certificate in PEM"));
    }
    let blocks = certificates("ca_pem", ca_pem)?;
    let [block] = blocks.as_slice() else {
        let names: Vec<_> =
            blocks.iter().filter_map(|b| parse(&b.der).ok().map(|c| common_name(c.subject()))).collect();
        let message = format!(
            "`ca_pem` has {} certificates ({}); upload one authority at a time",
            blocks.len(),
            names.join(", ")
        );
        return Err(ApiError::bad(1912, message));
    };
    let certificate = parse(&block.der)?;
    if certificate.is_ca() {
        return Ok(block.text());
    }
    let message =
        "the certificate is not an authority: its basic constraints do not say CA (RFC 5280 section 4.2.1.9)";
    Err(ApiError::bad(1913, message))
}

fn chain(pem: &str) -> Result<Vec<Block>, ApiError> {
    if pem.trim().is_empty() {
        return Err(ApiError::bad(
            1922,
            "`certificate_pem` is missing; it holds the chain in PEM, leaf first",
        ));
    }
    let chain = certificates("certificate_pem", pem)?;
    if chain.len() > CHAIN_LENGTH_MAX {
        let message = format!(
            "`certificate_pem` has {} certificates; at most {CHAIN_LENGTH_MAX} are allowed",
            chain.len()
        );
        return Err(ApiError::bad(1900, message));
    }
    chain.iter().try_for_each(|block| parse(&block.der).map(drop))?;
    Ok(chain)
}

fn certificates(field: &str, text: &str) -> Result<Vec<Block>, ApiError> {
    let refuse = |code: u32, message: String| Err(ApiError::bad(code, message).detail("field", field));
    let blocks = pem::blocks(field, text)?;
    if blocks.is_empty() {
        return refuse(1920, format!("`{field}` has no `-----BEGIN CERTIFICATE-----`"));
    }
    for block in &blocks {
        if block.label.ends_with("PRIVATE KEY") {
            return refuse(1925, format!("`{field}` holds a private key where a certificate belongs"));
        }
        if block.label != "CERTIFICATE" {
            return refuse(1911, format!("`{field}` holds a `{}`; it must be a `CERTIFICATE`", block.label));
        }
        if block.has_headers {
            return refuse(1910, format!("`{field}` has header lines inside a block; remove them"));
        }
    }
    Ok(blocks)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ApiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(ApiError::bad(1900, "the certificate is followed by other data")),
        Err(e) => Err(ApiError::bad(1900, format!("the certificate cannot be read: {e}"))),
    }
}

/// Each certificate must be signed by the one after it.
fn check_order(chain: &[Block]) -> Result<(), ApiError> {
    let parsed = chain.iter().map(|block| parse(&block.der)).collect::<Result<Vec<_>, _>>()?;
    for (certificate, issuer) in parsed.iter().zip(parsed.iter().skip(1)) {
        if certificate.verify_signature(Some(issuer.public_key())).is_err() {
            let message = format!(
                "`certificate_pem`: `{}` is not signed by `{}`, which follows it; order the chain leaf first",
                common_name(certificate.subject()),
                common_name(issuer.subject())
            );
            return Err(ApiError::bad(1926, message));
        }
    }
    Ok(())
}

fn private_key(pem: &str) -> Result<(Arc<dyn SigningKey>, String), ApiError> {
    let field = "private_key_pem";
    let refuse = |code: u32, message: &str| Err(ApiError::bad(code, message).detail("field", field));
    let blocks = pem::blocks(field, pem)?;
    // `openssl ecparam -genkey` writes the curve in front of the key.
    let Some(block) = blocks.into_iter().find(|block| block.label != "EC PARAMETERS") else {
        return refuse(1901, "`private_key_pem` has no private key in PEM");
    };
    if block.label == "CERTIFICATE" {
        return refuse(1924, "`private_key_pem` holds a certificate where the private key belongs");
    }
    if block.has_headers || block.label == "ENCRYPTED PRIVATE KEY" {
        return refuse(1902, "the private key is encrypted; decrypt it first, as with `openssl pkey`");
    }
    let text = block.text();
    let der: PrivateKeyDer<'static> = match block.label.as_str() {
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from(block.der).into(),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(block.der).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(block.der).into(),
        _ => {
            return refuse(
                1903,
                "the private key has an unknown form; use PKCS #8, PKCS #1 (RSA) or SEC 1 (EC)",
            );
        }
    };
    any_supported_type(&der).map(|key| (key, text)).or_else(|_| {
        refuse(1903, "the private key is not usable; use RSA of 2048 bits and more, ECDSA P-256, P-384, P-521, or Ed25519")
    })
}

/// Whether the leaf of a chain names a host.
pub(super) fn covers(chain_pem: &str, host: &Host) -> bool {
    let facts = describe(chain_pem);
    let names = facts.dns_names.iter().filter_map(|name| name.parse::<Host>().ok());
    // A certificate's star stands for exactly one label, a reservation's for several: for a wildcard only its like will do.
    names.into_iter().any(|name| match name.wildcard_suffix() {
        Some(suffix) => {
            name == *host || host.as_str().split_once('.').is_some_and(|(_, rest)| rest == suffix)
        }
        None => name == *host,
    })
}

/// What a certificate says, in the API's words. Empty where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) subject_common_name: String,
    pub(super) subject_organization: String,
    pub(super) subject_organizational_unit: String,
    pub(super) subject_locality: String,
    pub(super) subject_province: String,
    pub(super) subject_country: String,
    pub(super) issuer_common_name: String,
    /// Hexadecimal.
    pub(super) serial_number: String,
    pub(super) dns_names: Vec<String>,
    pub(super) ips: Vec<String>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) key_usages: Vec<String>,
    pub(super) extended_key_usages: Vec<String>,
    pub(super) private_key_type: String,
}

/// Describes the first certificate of a chain that was judged before.
pub(super) fn describe(chain_pem: &str) -> Facts {
    let blocks = pem::blocks("certificate_pem", chain_pem).unwrap_or_default();
    let certificate = blocks.first().and_then(|block| parse(&block.der).ok());
    certificate.map_or_else(Facts::default, |certificate| facts(&certificate))
}

fn facts(certificate: &X509Certificate<'_>) -> Facts {
    let subject = certificate.subject();
    let (dns_names, ips) = alternative_names(certificate);
    Facts {
        subject_common_name: common_name(subject),
        subject_organization: first(subject.iter_organization()),
        subject_organizational_unit: first(subject.iter_organizational_unit()),
        subject_locality: first(subject.iter_locality()),
        subject_province: first(subject.iter_state_or_province()),
        subject_country: first(subject.iter_country()),
        issuer_common_name: common_name(certificate.issuer()),
        serial_number: hex(certificate.raw_serial()),
        dns_names,
        ips,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        key_usages: key_usages(certificate),
        extended_key_usages: extended_key_usages(certificate),
        private_key_type: key_type(certificate).to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
        text
    })
}

fn common_name(name: &X509Name<'_>) -> String {
    first(name.iter_common_name())
}

fn first<'a>(mut values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> String {
    values.next().and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned()
}

fn alternative_names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<String>) {
    let (mut dns_names, mut ips) = (Vec::new(), Vec::new());
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ips.extend(ip(bytes).map(|ip| ip.to_string())),
            _ => {}
        }
    }
    (dns_names, ips)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn key_usages(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Some(usage) = certificate.key_usage().ok().flatten() else { return Vec::new() };
    let usage = usage.value;
    named([
        (usage.digital_signature(), "digital-signature"),
        (usage.non_repudiation(), "content-commitment"),
        (usage.key_encipherment(), "key-encipherment"),
        (usage.data_encipherment(), "data-encipherment"),
        (usage.key_agreement(), "key-agreement"),
        (usage.key_cert_sign(), "cert-sign"),
        (usage.crl_sign(), "crl-sign"),
        (usage.encipher_only(), "encipher-only"),
        (usage.decipher_only(), "decipher-only"),
    ])
}

fn extended_key_usages(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Some(usage) = certificate.extended_key_usage().ok().flatten() else { return Vec::new() };
    let usage = usage.value;
    named([
        (usage.any, "any"),
        (usage.server_auth, "server-auth"),
        (usage.client_auth, "client-auth"),
        (usage.code_signing, "code-signing"),
        (usage.email_protection, "email-protection"),
        (usage.time_stamping, "time-stamping"),
        (usage.ocsp_signing, "ocsp-signing"),
    ])
}

fn named<const N: usize>(usages: [(bool, &str); N]) -> Vec<String> {
    usages.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()).collect()
}

fn key_type(certificate: &X509Certificate<'_>) -> &'static str {
    match certificate.public_key().algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => "rsa",
        "1.2.840.10045.2.1" => "ecdsa",
        "1.3.101.112" => "ed25519",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;

    /// As the edge reads them.
    fn read(judged: &Judged) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(judged.chain_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(judged.key_pem.as_bytes());
        (chain.collect::<Result<_, _>>().unwrap(), key.unwrap())
    }

    #[test]
    fn what_is_accepted_is_stored_as_the_edge_reads_it() {
        let made = rcgen::generate_simple_self_signed(vec!["a.example.com".to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let expect = (vec![made.cert.der().clone()], read_key(&key));
        let indented = |text: &str| text.replace("\r\n", "\n").replace('\n', "\n    ");
        let one_line = |text: &str| {
            let mut lines = text.lines();
            let (first, mut rest) = (lines.next().unwrap(), lines.collect::<Vec<_>>());
            let last = rest.pop().unwrap();
            format!("{first}\n{}\n{last}", rest.concat())
        };
        for spelled in [
            &|text: &str| text.to_owned() as String,
            &|text: &str| format!("  {}", indented(text)),
            &|text: &str| format!("\u{feff}x\n\t{}", indented(text)),
            &|text: &str| text.replace('\n', " \r\n"),
            &|text: &str| one_line(text),
        ] as [&dyn Fn(&str) -> String; 5]
        {
            let (chain, key) = (spelled(&chain), spelled(&key));
            let judged = check_pair(&chain, &key).unwrap_or_else(|e| panic!("{chain:?}: {e:?}"));
            assert_eq!(read(&judged), expect, "{chain:?}");
        }
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        assert_eq!(read(&check_pair(&chain, &format!("{parameters}{key}")).unwrap()), expect);
    }

    fn read_key(pem: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn an_authority_is_stored_as_the_edge_reads_it() {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let stored = check_authority(&made.pem().replace('\n', "\n  ").replacen("---", "  ---", 1)).unwrap();
        assert_eq!(CertificateDer::from_pem_slice(stored.as_bytes()).unwrap(), *made.der());
    }
}
