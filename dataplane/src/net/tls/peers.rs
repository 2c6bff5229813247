//! TLS between two edges: both show the certificate that control gave them, and are known by the id that it names.
//!
//! A certificate names no host, and none is looked at: the side that connected compares the id with the one that it wanted,
//! and the other with those that control names.

use std::sync::Arc;

use ebbgate_model::EdgeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::provider;

/// Why there is no TLS between edges.
#[derive(Debug, thiserror::Error)]
pub enum PeerTlsError {
    /// A certificate or a key is no PEM.
    #[error("a certificate or key of this edge cannot be read")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A key does not fit, or nothing is trusted.
    #[error("the certificate of this edge cannot be used towards other edges")]
    Rustls(#[from] rustls::Error),
    /// Nothing is trusted.
    #[error("the authority of edges cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Both ends of TLS between edges.
#[derive(Debug, Clone)]
pub struct PeerTls {
    /// For the one that connects. Whose certificate it is, is to be compared.
    pub client: Arc<ClientConfig>,
    /// For the other. The same holds.
    pub server: Arc<ServerConfig>,
}

impl PeerTls {
    /// With this certificate and key, for those that these authorities signed; all PEM. `alpn`: what both ends speak.
    pub fn new(
        certificate_pem: &str,
        key_pem: &str,
        authorities_pem: &str,
        alpn: &[u8],
    ) -> Result<Self, PeerTlsError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities_pem.as_bytes()) {
            roots.add(authority?)?;
        }
        let roots = Arc::new(roots);
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build()?;
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let mut server =
            builder.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key.clone_key())?;
        // A session that is resumed would be judged by a certificate of before.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![alpn.to_vec()];
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let any_name = Arc::new(AnyName { roots, provider: provider() });
        let builder = builder.dangerous().with_custom_certificate_verifier(any_name);
        let mut client = builder.with_client_auth_cert(chain, key)?;
        client.resumption = rustls::client::Resumption::disabled();
        client.alpn_protocols = vec![alpn.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// The edge that a certificate is of; the chain has been verified.
pub fn edge_of(chain: Option<&[CertificateDer<'_>]>) -> Option<EdgeId> {
    let (_, certificate) = X509Certificate::from_der(chain?.first()?).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()
}

/// Takes a certificate for servers of these authorities, whatever its name.
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        // Whoever it is, it is to be an edge.
        edge_of(Some(std::slice::from_ref(end_entity)))
            .map(|_| ServerCertVerified::assertion())
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
