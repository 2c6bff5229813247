//! Client certificates that are asked for but not verified against authorities (`require-any`, `request`): possession
//! of the key is still proven, whom it names is for expressions to judge.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::provider;

/// Most authorities of one endpoint.
const AUTHORITIES_MAX: usize = 100;

/// The authorities as trust anchors; every PEM must hold at least one certificate.
pub(super) fn roots(authorities: &[String]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        let before = roots.len();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let der = der.map_err(|e| format!("not readable PEM: {e}"))?;
            roots.add(der).map_err(|e| e.to_string())?;
        }
        if roots.len() == before {
            return Err("an authority holds no certificate".into());
        }
        if roots.len() > AUTHORITIES_MAX {
            return Err(format!("more than {AUTHORITIES_MAX} authorities"));
        }
    }
    Ok(roots)
}

/// Whether a client may come without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    Required,
    Optional,
}

/// Takes any certificate whose key the client has.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    hints: Vec<DistinguishedName>,
    demand: Demand,
    provider: Arc<CryptoProvider>,
}

impl AnyCertificate {
    pub(super) fn new(roots: &RootCertStore, demand: Demand) -> Self {
        Self { hints: roots.subjects(), demand, provider: provider() }
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.demand == Demand::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
