//! Client certificates of agent-terminated TLS: a path to an authority, or the certificate of an authority itself.

use std::sync::Arc;

use ebbgate_policy::may_be_a_client;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::trust;

/// The usual verifier, which also takes a certificate that is itself a trust anchor.
///
/// `openssl req -x509` makes one certificate that is self-signed, CA:TRUE and a client's at once. A trust anchor is not
/// part of a path (RFC 5280 section 6.1); its dates and key usage still count.
#[derive(Debug)]
pub(super) struct AnchorOrPath {
    path: Arc<dyn ClientCertVerifier>,
    anchors: Vec<CertificateDer<'static>>,
}

impl AnchorOrPath {
    /// From PEM text with at least one certificate.
    pub(super) fn new(authorities: &[u8]) -> Result<Self, String> {
        let anchors = trust::certificates(authorities)?;
        let mut roots = RootCertStore::empty();
        for anchor in &anchors {
            roots.add(anchor.clone()).map_err(|error| error.to_string())?;
        }
        let path = WebPkiClientVerifier::builder_with_provider(roots.into(), trust::provider());
        Ok(Self { path: path.build().map_err(|error| error.to_string())?, anchors })
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
