//! Certificate signing requests (RFC 2986). One is hostile input: of what it says only the public key is taken, after the
//! request has shown by its signature that its sender holds the private key.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Longest request in bytes of DER.
pub const CSR_BYTES_MAX: usize = 16 * 1024;
/// Bits that an RSA key may have.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is longer than [`CSR_BYTES_MAX`].
    #[error("it is longer than {CSR_BYTES_MAX} bytes")]
    TooLong,
    /// It is no request, or other data follows it.
    #[error("it is not a certificate signing request (RFC 2986)")]
    Unreadable,
    /// Its signature is not of its own key.
    #[error("its signature is not by its own key: whoever sent it does not hold that key")]
    Signature,
    /// Its key is weak or of a kind that nothing here takes.
    #[error("its key must be ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")]
    Key,
}

/// The subject public key info of a request, DER.
pub fn public_key(der: &[u8]) -> Result<Vec<u8>, CsrError> {
    if der.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLong);
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else { return Err(CsrError::Unreadable) };
    let key = &request.certification_request_info.subject_pki;
    if !is_strong(key) {
        return Err(CsrError::Key);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(key.raw.to_vec())
}

fn is_strong(key: &SubjectPublicKeyInfo<'_>) -> bool {
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return true;
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => RSA_BITS.contains(&rsa.key_size()),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData, SanType};

    /// A request that asks for more than it will get.
    fn request(key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::new(["victim.example.com".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::DnsName("connect.example.com".try_into().unwrap()));
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn the_key_alone_is_taken() {
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(public_key(&request(&key)), Ok(key.subject_public_key_info()));
        }
    }

    #[test]
    fn whatever_is_no_sound_request_is_refused() {
        let key = KeyPair::generate().unwrap();
        let sound = request(&key);
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= 1;
            }
            // Outside the key and the signature a bit may mean nothing: then the key is still the one that signed.
            let taken = public_key(&damaged).ok();
            assert!(taken.is_none_or(|taken| taken == key.subject_public_key_info()), "one bit at {at}");
            assert!(public_key(sound.get(..at).unwrap()).is_err(), "cut at {at}");
        }
        let mut longer = sound.clone();
        longer.push(0);
        assert_eq!(public_key(&longer), Err(CsrError::Unreadable));
        assert_eq!(public_key(&vec![0x30; CSR_BYTES_MAX + 1]), Err(CsrError::TooLong));
        let odd = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        assert_eq!(public_key(&request(&odd)), Err(CsrError::Key));
    }
}
