//! TLS to an upstream: server name always sent, certificate checked only when the endpoint asks for it, which is how the
//! published surface has it (surface.md section 2.3). An unchecked upstream is inside the private network by design.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::UpstreamError;
use crate::config::{AppProtocol, UpstreamConfig};
use crate::trust;

/// Longest TLS handshake with an upstream, in seconds.
pub const UPSTREAM_HANDSHAKE_SECS_MAX: u64 = 10;

/// A TLS client for one upstream.
pub(super) struct UpstreamTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    http2: bool,
}

impl UpstreamTls {
    pub(super) fn new(upstream: &UpstreamConfig, http: bool) -> Result<Self, UpstreamError> {
        let host = upstream.address.host();
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| UpstreamError::ServerName(host.to_owned()))?;
        let provider = trust::provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|source| UpstreamError::Tls { address: upstream.address.to_string(), source })?;
        let mut config = match &upstream.verify {
            Some(trust) => builder.with_root_certificates(trust.roots()?).with_no_client_auth(),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
        };
        let http2 = http && upstream.protocol == AppProtocol::Http2;
        if http {
            config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        }
        Ok(Self { config: Arc::new(config), name, http2 })
    }

    pub(super) async fn connect(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let connecting = TlsConnector::from(self.config.clone()).connect(self.name.clone(), tcp);
        let limit = Duration::from_secs(UPSTREAM_HANDSHAKE_SECS_MAX);
        let tls = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake did not finish"))??;
        // The edge speaks HTTP/2 to this upstream: an upstream that chose otherwise would take it for garbage.
        let chosen = tls.get_ref().1.alpn_protocol();
        if self.http2 && chosen.is_some_and(|protocol| protocol != b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the upstream does not speak HTTP/2"));
        }
        Ok(tls)
    }
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Believes any certificate, but still that the peer holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
