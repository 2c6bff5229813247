//! One request to a place on the internet, for a key set, to an identity provider or of a policy: its host resolved once, the
//! address checked and pinned, no redirect followed, bounded in size; in time where the caller bounds it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_policy::{JWKS_BYTES_MAX, KeySet, KeySetError};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::guard::is_public;
use crate::net::tls::provider;
use crate::relay::IgnoreUnexpectedEof;

/// Seconds one fetch may take, name resolution included.
pub const FETCH_SECS_MAX: u64 = 5;

/// Why a key set could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not an http or https URL with a host.
    #[error("the URL must be https://host/path or http://host/path")]
    Url,
    /// The name does not resolve.
    #[error("the host does not resolve: {0}")]
    Resolve(#[source] io::Error),
    /// All its addresses are private.
    #[error("the host is at a private address; start the edge with --jwks-allow-private to permit that")]
    Private,
    /// TCP.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// TLS.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// HTTP.
    #[error("the exchange failed: {0}")]
    Http(#[from] hyper::Error),
    /// Any status but 200; redirects are not followed.
    #[error("the answer is {0}, not 200 (redirects are not followed)")]
    Status(StatusCode),
    /// Too long.
    #[error("the answer is longer than {0} bytes")]
    Body(usize),
    /// Broken off.
    #[error("the answer cannot be read")]
    Broken,
    /// No key set in it.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// [`FETCH_SECS_MAX`] passed.
    #[error("no answer within {FETCH_SECS_MAX} s")]
    TimedOut,
}

/// What is sent: a GET, or a POST of a form.
pub struct Call<'c> {
    /// Value of `Accept`.
    pub accept: &'c str,
    /// Value of `Authorization`.
    pub authorization: Option<&'c str>,
    /// `application/x-www-form-urlencoded`.
    pub form: Option<&'c str>,
    /// Longest answer to take.
    pub bytes_max: usize,
}

/// Makes requests to the internet on behalf of policies.
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    allow_private: bool,
}

impl Fetcher {
    /// Trusts the system's authorities and those in `extra`, if given. `allow_private` lifts the guard.
    pub fn new(extra: Option<&Path>, allow_private: bool) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        // A machine without authorities fetches nothing over https, and every fetch says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = extra {
            let invalid = |e: &dyn std::fmt::Display| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()))
            };
            for der in CertificateDer::pem_file_iter(path).map_err(|e| invalid(&e))? {
                roots.add(der.map_err(|e| invalid(&e))?).map_err(|e| invalid(&e))?;
            }
        }
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), allow_private })
    }

    /// The key set at a URL.
    pub async fn key_set(&self, url: &str) -> Result<KeySet, FetchError> {
        let accept = "application/jwk-set+json, application/json";
        let call = Call { accept, authorization: None, form: None, bytes_max: JWKS_BYTES_MAX };
        let (status, body) = self.call(url, &call).await?;
        if status != StatusCode::OK {
            return Err(FetchError::Status(status));
        }
        Ok(KeySet::parse(&body)?)
    }

    /// The answer at a URL, whatever its status.
    pub async fn call(&self, url: &str, call: &Call<'_>) -> Result<(StatusCode, Bytes), FetchError> {
        let url: Uri = url.parse().map_err(|_| FetchError::Url)?;
        let authority = url.authority().map_or("", |a| a.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let mut request = Request::builder()
            .method(if call.form.is_some() { Method::POST } else { Method::GET })
            .uri(url.path_and_query().map_or("/", |p| p.as_str()))
            .header(header::HOST, host)
            .header(header::ACCEPT, call.accept)
            .header(header::USER_AGENT, concat!("ebbgate-edge/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = call.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if call.form.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Bytes::from(call.form.unwrap_or_default().to_owned());
        let request = request.body(body).map_err(|_| FetchError::Url)?;
        let (_, answer) = self.send(&url, request, call.bytes_max).await?;
        Ok((answer.status(), answer.into_body()))
    }

    /// Sends a request as it is to the scheme, host and port of a URL: the address that answered, and its answer of at most
    /// `bytes_max`. The caller bounds the time, and writes Host.
    pub async fn send(
        &self,
        url: &Uri,
        request: Request<Bytes>,
        bytes_max: usize,
    ) -> Result<(IpAddr, Response<Bytes>), FetchError> {
        let host = url.host().ok_or(FetchError::Url)?;
        let (is_tls, default_port) = match url.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(FetchError::Url),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = self.resolve(bare, url.port_u16().unwrap_or(default_port)).await?;
        let stream = TcpStream::connect(address).await.map_err(FetchError::Connect)?;
        let answer = if is_tls {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::Url)?;
            let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
            let stream = IgnoreUnexpectedEof(connecting.await.map_err(FetchError::Tls)?);
            exchange(stream, request, bytes_max).await?
        } else {
            exchange(stream, request, bytes_max).await?
        };
        Ok((address.ip(), answer))
    }

    /// The first allowed address of a host. It is the one connected to: a second resolution could answer otherwise.
    async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, FetchError> {
        let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(FetchError::Resolve)?;
        addresses.find(|a| self.allow_private || is_public(a.ip())).ok_or(FetchError::Private)
    }
}

async fn exchange<IO>(
    io: IO,
    request: Request<Bytes>,
    bytes_max: usize,
) -> Result<Response<Bytes>, FetchError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let _connection = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
    let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::Body(bytes_max)),
        Err(_) => Err(FetchError::Broken),
    }
}

/// A connection's task that ends with its user, also where the user's time ran out.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn answer(response: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(response.as_bytes()).await;
            }
        });
        address
    }

    async fn fetch(response: String, allow_private: bool) -> Result<KeySet, FetchError> {
        let address = answer(response).await;
        Fetcher::new(None, allow_private).unwrap().key_set(&format!("http://{address}/jwks")).await
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn fetches_and_refuses() {
        assert!(fetch(ok("{\"keys\":[]}"), true).await.is_ok());
        assert!(matches!(fetch(ok("{\"keys\":[]}"), false).await, Err(FetchError::Private)));
        assert!(matches!(fetch(ok("[]"), true).await, Err(FetchError::KeySet(_))));
        assert!(matches!(fetch(ok(&" ".repeat(JWKS_BYTES_MAX + 1)), true).await, Err(FetchError::Body(_))));
        let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(fetch(redirect.into(), true).await, Err(FetchError::Status(_))));
    }

    #[tokio::test]
    async fn only_http_urls_and_public_places() {
        let fetcher = Fetcher::new(None, false).unwrap();
        for url in ["ftp://example.com/", "/jwks", "file:///etc/passwd", ""] {
            assert!(matches!(fetcher.key_set(url).await, Err(FetchError::Url)), "{url}");
        }
        for url in
            ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/", "http://169.254.169.254/latest"]
        {
            assert!(matches!(fetcher.key_set(url).await, Err(FetchError::Private)), "{url}");
        }
    }
}
