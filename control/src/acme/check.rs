//! Whether a certificate may replace the one in use: what an authority sends is believed as little as anybody's bytes.

use rcgen::KeyPair;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use ebbgate_model::Host;

use crate::authority::{certificates, is_of};
use crate::clock::UnixSecs;

/// Bytes of a chain in PEM.
pub(super) const CHAIN_BYTES_MAX: usize = 64 * 1024;
/// Certificates of a chain.
const CHAIN_LENGTH_MAX: usize = 10;
/// How far a certificate may begin in the future, in seconds: clocks differ.
const AHEAD_SECS_MAX: i64 = 300;

/// Why a certificate is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadChain {
    #[error("the chain has {0} bytes; at most {CHAIN_BYTES_MAX} are taken")]
    TooLarge(usize),
    #[error("the chain is no PEM with 1 to {CHAIN_LENGTH_MAX} certificates")]
    NoChain,
    #[error("certificate {0} of the chain cannot be read")]
    Unreadable(usize),
    #[error("certificate {0} of the chain is not signed by the one after it")]
    Unsigned(usize),
    #[error("the certificate is for `{0}`, not for `{1}`")]
    OtherNames(String, Host),
    #[error("the certificate is not of the key that was sent")]
    OtherKey,
    #[error("the certificate is an authority's")]
    Authority,
    #[error("the certificate has expired")]
    Expired,
    #[error("the certificate begins in the future: set the clock, if it is wrong")]
    Future,
}

/// When a good chain begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) not_before: UnixSecs,
    pub(super) not_after: UnixSecs,
}

/// Checks a chain for a name and a key. Who signed it in the end is for clients to judge.
pub(super) fn check(chain_pem: &str, key: &KeyPair, host: &Host, now: UnixSecs) -> Result<Life, BadChain> {
    if chain_pem.len() > CHAIN_BYTES_MAX {
        return Err(BadChain::TooLarge(chain_pem.len()));
    }
    let chain = certificates(chain_pem);
    if chain.is_empty()
        || chain.len() > CHAIN_LENGTH_MAX
        || chain_pem.matches("-----BEGIN ").count() != chain.len()
    {
        return Err(BadChain::NoChain);
    }
    let parse = |(at, der)| match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(BadChain::Unreadable(at + 1)),
    };
    let parsed = chain.iter().map(AsRef::as_ref).enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let (Some(leaf), Some(leaf_der)) = (parsed.first(), chain.first()) else { return Err(BadChain::NoChain) };
    for (at, (certificate, issuer)) in parsed.iter().zip(parsed.iter().skip(1)).enumerate() {
        if certificate.verify_signature(Some(issuer.public_key())).is_err() {
            return Err(BadChain::Unsigned(at + 1));
        }
    }
    let names = names(leaf);
    if !names.iter().any(|name| name.eq_ignore_ascii_case(host.as_str())) {
        return Err(BadChain::OtherNames(super::trouble::short(&names.join(", ")), host.clone()));
    }
    if !is_of(leaf_der, key) {
        return Err(BadChain::OtherKey);
    }
    if leaf.is_ca() {
        return Err(BadChain::Authority);
    }
    let validity = leaf.validity();
    let life =
        Life { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() };
    if life.not_after <= now {
        return Err(BadChain::Expired);
    }
    if life.not_before > now.saturating_add(AHEAD_SECS_MAX) {
        return Err(BadChain::Future);
    }
    Ok(life)
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(dns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa};
    use time::OffsetDateTime;

    const NOW: UnixSecs = 1_767_225_600;
    const DAY: i64 = 86_400;

    struct Ca {
        pem: String,
        issuer: rcgen::Issuer<'static, KeyPair>,
    }

    fn params(names: &[&str], from: i64, to: i64) -> CertificateParams {
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = OffsetDateTime::from_unix_timestamp(NOW + from).unwrap();
        params.not_after = OffsetDateTime::from_unix_timestamp(NOW + to).unwrap();
        params
    }

    fn ca() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[], -DAY, 900 * DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { pem, issuer: rcgen::Issuer::new(params, key) }
    }

    impl Ca {
        fn leaf(&self, params: &CertificateParams, key: &KeyPair) -> String {
            format!("{}{}", params.signed_by(key, &self.issuer).unwrap().pem(), self.pem)
        }
    }

    #[test]
    fn a_good_chain_tells_its_life() {
        let (ca, key) = (ca(), KeyPair::generate().unwrap());
        for host in ["a.example.com", "*.example.com"] {
            let chain = ca.leaf(&params(&[host], -DAY, 89 * DAY), &key);
            let life = check(&chain, &key, &host.parse().unwrap(), NOW).unwrap();
            assert_eq!(life, Life { not_before: NOW - DAY, not_after: NOW + 89 * DAY });
        }
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let (ca, other, key) = (ca(), ca(), KeyPair::generate().unwrap());
        let host: Host = "a.example.com".parse().unwrap();
        let good = ca.leaf(&params(&["a.example.com"], -DAY, DAY), &key);
        let leaf = good.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
        let mut authority = params(&["a.example.com"], -DAY, DAY);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let damaged = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        for (chain, expect) in [
            (String::new(), BadChain::NoChain),
            ("garbage".into(), BadChain::NoChain),
            (leaf.repeat(11), BadChain::NoChain),
            (format!("{leaf}-----BEGIN X-----\nMAA=\n-----END X-----\n"), BadChain::NoChain),
            ("x".repeat(CHAIN_BYTES_MAX + 1), BadChain::TooLarge(CHAIN_BYTES_MAX + 1)),
            (damaged.to_owned(), BadChain::Unreadable(1)),
            (format!("{leaf}{}", other.pem), BadChain::Unsigned(1)),
            (
                ca.leaf(&params(&["b.example.com"], -DAY, DAY), &key),
                BadChain::OtherNames("b.example.com".into(), host.clone()),
            ),
            (
                ca.leaf(&params(&["*.example.com"], -DAY, DAY), &key),
                BadChain::OtherNames("*.example.com".into(), host.clone()),
            ),
            (
                ca.leaf(&params(&["a.example.com"], -DAY, DAY), &KeyPair::generate().unwrap()),
                BadChain::OtherKey,
            ),
            (ca.leaf(&authority, &key), BadChain::Authority),
            (ca.leaf(&params(&["a.example.com"], -2 * DAY, -DAY), &key), BadChain::Expired),
            (ca.leaf(&params(&["a.example.com"], DAY, 2 * DAY), &key), BadChain::Future),
        ] {
            assert_eq!(check(&chain, &key, &host, NOW), Err(expect));
        }
        assert!(check(&good, &key, &host, NOW).is_ok());
    }
}
