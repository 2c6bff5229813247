//! Client certificates by strategy. Verified: a path to an authority, or the certificate of an authority itself. Asked for
//! but not verified (`require-any`, `request`): possession of the key is still proven, expressions judge the rest.

use std::sync::Arc;

use ebbgate_policy::may_be_a_client;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::provider::provider;

/// Most authorities of one endpoint.
const AUTHORITIES_MAX: usize = 100;

/// Certificates that an endpoint trusts.
pub(super) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
}

impl Authorities {
    /// Reads them; every PEM must hold at least one certificate, all together at most [`AUTHORITIES_MAX`].
    pub(super) fn parse(pems: &[String]) -> Result<Self, String> {
        let mut all = Self { certificates: Vec::new(), roots: RootCertStore::empty() };
        for pem in pems {
            let before = all.certificates.len();
            for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let der = der.map_err(|e| format!("not readable PEM: {e}"))?;
                all.roots.add(der.clone()).map_err(|e| e.to_string())?;
                all.certificates.push(der);
            }
            if all.certificates.len() == before {
                return Err("an authority holds no certificate".into());
            }
            if all.certificates.len() > AUTHORITIES_MAX {
                return Err(format!("more than {AUTHORITIES_MAX} authorities"));
            }
        }
        Ok(all)
    }
}

/// Takes a certificate with a path to an authority, and the certificate of an authority itself.
///
/// The second is what `openssl req -x509` makes: self-signed and CA:TRUE. rustls refuses it as a leaf, but a trust anchor
/// is not part of a path (RFC 5280 section 6.1). Its dates and key usage still count.
#[derive(Debug)]
pub(super) struct AnchorOrPath {
    path: Arc<dyn ClientCertVerifier>,
    anchors: Vec<CertificateDer<'static>>,
}

impl AnchorOrPath {
    pub(super) fn new(authorities: Authorities) -> Result<Self, String> {
        let Authorities { certificates: anchors, roots } = authorities;
        let path = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        Ok(Self { path: path.map_err(|e| e.to_string())?, anchors })
    }
}

impl ClientCertVerifier for AnchorOrPath {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.path.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.path.verify_client_cert(end_entity, intermediates, now) {
            Err(_) if self.anchors.contains(end_entity) && may_be_a_client(end_entity, now.as_secs()) => {
                Ok(ClientCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.path.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.path.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.path.supported_verify_schemes()
    }
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
    pub(super) fn new(authorities: &Authorities, demand: Demand) -> Self {
        Self { hints: authorities.roots.subjects(), demand, provider: provider() }
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
