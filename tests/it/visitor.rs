//! A visitor from outside: TLS with the lab's CA, chosen versions, source addresses and client certificates.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ebbgate_lab::http::{self, Answer, IO_SECS_MAX};
use ebbgate_lab::lab::{Lab, local};
use ebbgate_lab::wait::soon;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};
use socket2::{Domain, Socket, Type};

/// A TLS connection with its handshake done.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Takes any certificate.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client certificate with its key, both PEM.
pub(crate) struct Identity {
    /// Leaf first.
    pub(crate) chain: String,
    /// PKCS#8.
    pub(crate) key: String,
}

/// A visitor of one lab.
#[derive(Clone)]
pub(crate) struct Visitor {
    https: SocketAddr,
    source: Option<IpAddr>,
    config: Arc<ClientConfig>,
}

impl Visitor {
    /// Trusts the lab's CA; offers TLS 1.2 and 1.3, no client certificate and no ALPN.
    pub(crate) fn of(lab: &Lab) -> Result<Self> {
        Self::with(lab, &[&TLS13, &TLS12], None)
    }

    /// Offers one version only.
    pub(crate) fn only(lab: &Lab, version: &'static SupportedProtocolVersion) -> Result<Self> {
        Self::with(lab, &[version], None)
    }

    /// Shows a client certificate when asked.
    pub(crate) fn showing(lab: &Lab, identity: &Identity) -> Result<Self> {
        Self::with(lab, &[&TLS13, &TLS12], Some(identity))
    }

    /// Takes any certificate: for tests of which one is shown.
    pub(crate) fn any(lab: &Lab) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12])?;
        let config =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Any)).with_no_client_auth();
        Ok(Self { https: local(lab.ports().https()), source: None, config: Arc::new(config) })
    }

    /// Trusts this authority alone.
    pub(crate) fn trusting(lab: &Lab, authority_pem: &[u8]) -> Result<Self> {
        Self::made(lab, &[&TLS13, &TLS12], None, authority_pem)
    }

    fn with(
        lab: &Lab,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
    ) -> Result<Self> {
        Self::made(lab, versions, identity, &fs::read(lab.ingress_ca())?)
    }

    fn made(
        lab: &Lab,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
        authority_pem: &[u8],
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority_pem)?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain =
                    CertificateDer::pem_slice_iter(identity.chain.as_bytes()).collect::<Result<_, _>>()?;
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?)?
            }
        };
        Ok(Self { https: local(lab.ports().https()), source: None, config: Arc::new(config) })
    }

    /// Comes to another edge.
    pub(crate) fn at(&self, https: SocketAddr) -> Self {
        Self { https, ..self.clone() }
    }

    /// Comes from another address of the loopback.
    pub(crate) fn from(&self, source: &str) -> Result<Self> {
        Ok(Self { source: Some(source.parse()?), ..self.clone() })
    }

    /// A TCP connection to any of the lab's addresses, from this visitor's own.
    pub(crate) fn tcp(&self, to: SocketAddr) -> Result<TcpStream> {
        let limit = Duration::from_secs(IO_SECS_MAX);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&to.into(), limit).with_context(|| format!("connect to {to}"))?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A TLS connection to `name`, handshake done and certificate checked.
    pub(crate) fn tls(&self, name: &str) -> Result<Tls> {
        self.tls_over(self.tcp(self.https)?, name)
    }

    /// What a TLS client for `name` says first: one record.
    pub(crate) fn hello(&self, name: &str) -> Result<Vec<u8>> {
        let name = ServerName::try_from(name.to_owned())?;
        let mut bytes = Vec::new();
        ClientConnection::new(Arc::clone(&self.config), name)?.write_tls(&mut bytes)?;
        Ok(bytes)
    }

    /// TLS over a connection that exists.
    pub(crate) fn tls_over(&self, mut stream: TcpStream, name: &str) -> Result<Tls> {
        let name = ServerName::try_from(name.to_owned())?;
        let mut tls = ClientConnection::new(Arc::clone(&self.config), name)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        let mut tls = StreamOwned::new(tls, stream);
        tls.flush()?;
        Ok(tls)
    }

    /// One request over a connection of its own.
    pub(crate) fn request(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        http::request(self.tls(host)?, method, host, path, headers, body)
    }

    /// Waits until something other than "no such endpoint" is answered for a name.
    pub(crate) fn wait_https(&self, host: &str) -> Result<()> {
        soon(&format!("https://{host} to be served"), || {
            // Before the edge knows the name there is a TLS alert or a 404.
            Ok(self.get(host, "/", &[]).ok().filter(|answer| answer.status != 404).map(drop))
        })
    }

    /// `GET` without a body.
    pub(crate) fn get(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.request("GET", host, path, headers, b"")
    }
}
