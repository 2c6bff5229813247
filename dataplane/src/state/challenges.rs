//! What is answered to a certificate authority that checks who holds a name, by that name (RFC 8555 section 8, RFC 8737).
//!
//! A name has an entry only while it is being proved, so nothing here ever stands in an endpoint's way for long.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::{ChallengeSpec, Host};
use rustls::sign::CertifiedKey;

use crate::net::tls::{CertificateError, parse_challenge};
use crate::persistent::Map;

/// Challenges by name, exact: a wildcard answers for none.
#[derive(Debug, Clone, Default)]
pub struct Challenges(Map<Host, Arc<Challenge>>);

#[derive(Debug)]
struct Challenge {
    http: BTreeMap<String, String>,
    tls_alpn: Option<Arc<CertifiedKey>>,
}

impl Challenges {
    /// Makes the challenge of a name ready.
    ///
    /// # Errors
    /// Its certificate is not usable. By HTTP the name is answered for all the same.
    pub fn insert(&mut self, host: &Host, spec: &ChallengeSpec) -> Result<(), CertificateError> {
        let parsed = spec.tls_alpn.as_ref().map(|own| parse_challenge(&own.chain_pem, &own.key_pem));
        let (tls_alpn, failed) = match parsed.transpose() {
            Ok(certificate) => (certificate, Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.0.insert(host.clone(), Arc::new(Challenge { http: spec.http.clone(), tls_alpn }));
        failed
    }

    /// Removes the challenge of a name.
    pub fn remove(&mut self, host: &Host) {
        self.0.remove(host);
    }

    /// The key authorization of a token that is asked for at a name.
    pub fn http(&self, host: &Host, token: &str) -> Option<&str> {
        self.0.get(host)?.http.get(token).map(String::as_str)
    }

    /// The certificate that proves a name.
    pub fn tls_alpn(&self, host: &Host) -> Option<&Arc<CertifiedKey>> {
        self.0.get(host)?.tls_alpn.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::tests::Authority;
    use ebbgate_model::CertificateSpec;

    #[test]
    fn a_challenge_is_its_names_and_its_tokens_alone() {
        let (chain_pem, key_pem) = Authority::new("challenge").leaf(&["a.example.com"]);
        let good = CertificateSpec { chain_pem, key_pem };
        let broken = CertificateSpec { key_pem: String::new(), ..good.clone() };
        let spec = |tls_alpn| ChallengeSpec { http: [("t".into(), "t.k".into())].into(), tls_alpn };
        let host = |name: &str| name.parse::<Host>().unwrap();
        let mut all = Challenges::default();
        all.insert(&host("a.example.com"), &spec(Some(good))).unwrap();
        all.insert(&host("b.example.com"), &spec(Some(broken))).unwrap_err();
        assert_eq!(all.http(&host("a.example.com"), "t"), Some("t.k"));
        for (name, token) in [("a.example.com", "u"), ("c.example.com", "t"), ("x.a.example.com", "t")] {
            assert_eq!(all.http(&host(name), token), None, "{name} {token}");
        }
        assert!(all.tls_alpn(&host("a.example.com")).is_some());
        assert!(
            all.tls_alpn(&host("b.example.com")).is_none() && all.tls_alpn(&host("c.example.com")).is_none()
        );
        assert_eq!(all.http(&host("b.example.com"), "t"), Some("t.k"));
        all.remove(&host("a.example.com"));
        assert_eq!(all.http(&host("a.example.com"), "t"), None);
    }
}
