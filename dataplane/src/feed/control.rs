//! How control is reached: a socket of this machine, or HTTP/2 over mutual TLS.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_model::feed::{FLEET_BYTES_MAX, FleetRefusal};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::address::{Control, IdentityError};
use super::error::FeedError;
use crate::net::tls::provider;
use crate::state::identity::Identity;

/// TLS with what is trusted, and with the certificate if there is one.
pub(super) fn tls(authorities_pem: &str, own: Option<&Identity>) -> Result<Arc<ClientConfig>, IdentityError> {
    let damaged = |error: &dyn fmt::Display| IdentityError::Damaged(error.to_string());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities_pem.as_bytes()) {
        roots.add(authority.map_err(|e| damaged(&e))?).map_err(|e| damaged(&e))?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let builder = builder.map_err(|e| damaged(&e))?.with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate_pem, key_pem, .. }) => {
            let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<_, _>>();
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| damaged(&e))?;
            builder.with_client_auth_cert(chain.map_err(|e| damaged(&e))?, key).map_err(|e| damaged(&e))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A stream to a control.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects. `tls`: for a control of another machine.
pub(super) async fn connect(
    control: &Control,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Box<dyn Io>, FeedError> {
    let failed = |source| FeedError::Connect { control: control.clone(), source };
    let address = match control {
        Control::Socket(path) => return Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        Control::Remote(address) => address,
    };
    let (host, _) = address.rsplit_once(':').ok_or_else(|| IdentityError::Address(address.clone()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| IdentityError::Address(address.clone()))?;
    let tls = tls.ok_or(FeedError::NoIdentity)?;
    let stream = TcpStream::connect(address.as_str()).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
    Ok(Box::new(secured.map_err(|source| {
        if is_of_another_time(&source) {
            FeedError::Clock { control: control.clone(), source }
        } else {
            failed(source)
        }
    })?))
}

/// Whether a certificate was refused because it has ended, or has not begun.
fn is_of_another_time(error: &std::io::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let refused = error.get_ref().and_then(|error| error.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(refused)) = refused else { return false };
    matches!(refused, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

/// Sends one request on a stream of its own. The task drives it and must be kept until the answer is read.
pub(super) async fn send<B>(
    io: Box<dyn Io>,
    request: http::Request<B>,
) -> Result<(Incoming, JoinHandle<()>), FeedError>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to control ended");
        }
    });
    let response = sender.send_request(request).await?;
    let status = response.status();
    if status == http::StatusCode::OK {
        return Ok((response.into_body(), task));
    }
    if !status.is_client_error() {
        // Another control may be better off.
        return Err(FeedError::Status(status));
    }
    let told = Limited::new(response.into_body(), FLEET_BYTES_MAX).collect().await;
    let refusal = told.ok().and_then(|told| serde_json::from_slice::<FleetRefusal>(&told.to_bytes()).ok());
    Err(match refusal {
        Some(FleetRefusal { error }) => FeedError::Refused(error),
        None => FeedError::Status(status),
    })
}
