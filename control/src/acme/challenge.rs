//! `Challenge`: what edges answer for a name while it is being proved.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_model::{AccountId, CertificateSpec, ChallengeSpec, Host};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use serde::{Deserialize, Serialize};

use super::trouble::Trouble;
use crate::record::ACCOUNTS_PREFIX;
use crate::secret::{OpenError, Sealed, Vault};

/// Collection of challenges in keys.
pub const CHALLENGES: &str = "acme_challenges";

/// What edges answer for a name. Stored under `/a/<account>/acme_challenges/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// The name.
    pub host: Host,
    /// What is answered.
    pub proof: Proof,
}

/// A proof that the name is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Proof {
    /// On the port for HTTP in clear (RFC 8555 section 8.3).
    Http {
        /// Last segment of the path asked for.
        token: String,
        /// The body answered.
        key_authorization: String,
    },
    /// On the port for TLS (RFC 8737).
    TlsAlpn {
        /// A certificate of its own for the name.
        certificate_pem: String,
        /// Its key, sealed with the challenge's key as context.
        key: Sealed,
    },
}

impl Challenge {
    /// Key of the challenge of a name.
    pub fn key(account: AccountId, host: &Host) -> String {
        format!("{ACCOUNTS_PREFIX}{account}/{CHALLENGES}/{host}")
    }

    /// What edges get; `key`: where it is stored.
    pub fn spec(self, key: &str, vault: &Vault) -> Result<ChallengeSpec, OpenError> {
        Ok(match self.proof {
            Proof::Http { token, key_authorization } => {
                ChallengeSpec { http: [(token, key_authorization)].into(), tls_alpn: None }
            }
            Proof::TlsAlpn { certificate_pem, key: sealed } => {
                let key_pem = vault.open(key, &sealed)?;
                let certificate = CertificateSpec { chain_pem: certificate_pem, key_pem };
                ChallengeSpec { http: BTreeMap::new(), tls_alpn: Some(certificate) }
            }
        })
    }
}

impl Proof {
    /// For HTTP-01. An authority's token may be anything: only one that is a path segment is taken (RFC 8555 section 8.3).
    pub(super) fn http(token: &str, key_authorization: &str) -> Result<Self, Trouble> {
        let is_token = (1..=256).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_token {
            return Err(Trouble::late("the ACME server gave a token that is none (RFC 8555 section 8.3)"));
        }
        Ok(Self::Http { token: token.to_owned(), key_authorization: key_authorization.to_owned() })
    }

    /// For TLS-ALPN-01: a certificate of its own signature with the digest in an extension (RFC 8737 section 3).
    pub(super) fn tls_alpn(
        key: &str,
        host: &Host,
        key_authorization: &str,
        vault: &Vault,
    ) -> Result<Self, Trouble> {
        let failed =
            |error: rcgen::Error| Trouble::soon(format!("no challenge certificate could be made: {error}"));
        let pair = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![host.to_string()]).map_err(failed)?;
        let proof = digest(&SHA256, key_authorization.as_bytes());
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(proof.as_ref())];
        let certificate = params.self_signed(&pair).map_err(failed)?;
        Ok(Self::TlsAlpn { certificate_pem: certificate.pem(), key: vault.seal(key, &pair.serialize_pem()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    #[test]
    fn a_token_that_is_no_path_segment_is_refused() {
        assert!(Proof::http("LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0", "x").is_ok());
        for bad in ["", "a/b", "..", "a b", "a\r\nb", "ä", &"a".repeat(257)] {
            assert!(Proof::http(bad, "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tls_challenge_names_the_host_and_holds_the_digest_in_a_critical_extension() {
        let vault = Vault::new(&[7; crate::secret::SEAL_KEY_BYTES]);
        let host: Host = "a.example.com".parse().unwrap();
        let Proof::TlsAlpn { certificate_pem, key } = Proof::tls_alpn("/k", &host, "t.k", &vault).unwrap()
        else {
            panic!("another proof")
        };
        assert!(vault.open("/k", &key).unwrap().contains("PRIVATE KEY"));
        let der = crate::authority::certificates(&certificate_pem);
        let (_, parsed) = X509Certificate::from_der(&der[0]).unwrap();
        let extension =
            parsed.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value, [&[4, 32], digest(&SHA256, b"t.k").as_ref()].concat());
    }
}
