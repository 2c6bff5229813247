//! The HTTP client of destinations: one request a connection, to guarded addresses, no redirects, bounded answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::net::{Guard, NetError, tls};

/// Seconds for a request and its answer.
const CALL_SECS_MAX: u64 = 30;
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection.
    #[error(transparent)]
    Net(#[from] NetError),
    /// In clear to where the operator did not say so.
    #[error("`{0}` is not https; in clear events go only to networks that the operator allowed")]
    Clear(String),
    /// The address.
    #[error("`{0}` is no URL with a host")]
    Url(String),
    /// The exchange.
    #[error("the request to `{0}` failed: {1}")]
    Call(String, String),
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Client {
    guard: Guard,
    tls: Arc<ClientConfig>,
}

impl Client {
    /// A client that trusts what `tls` trusts.
    pub(super) fn new(guard: Guard, tls: Arc<ClientConfig>) -> Self {
        Self { guard, tls }
    }

    /// Sends a request with an absolute URI.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Answer, HttpError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        match timeout(Duration::from_secs(CALL_SECS_MAX), self.call(request, &host)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Call(host, format!("no answer within {CALL_SECS_MAX} seconds"))),
        }
    }

    async fn call(&self, request: Request<Bytes>, host: &str) -> Result<Answer, HttpError> {
        let url = || HttpError::Url(request.uri().to_string());
        let authority = request.uri().authority().filter(|_| !host.is_empty()).ok_or_else(url)?.clone();
        let secure = match request.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(url()),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.guard.connect(host, port).await?;
        if secure {
            let stream = tls(stream, host, self.tls.clone()).await?;
            return exchange(stream, request, authority.as_str(), host).await;
        }
        let peer = stream.peer_addr().ok().map(|peer| peer.ip());
        if !peer.is_some_and(|ip| self.guard.is_allowed(ip)) {
            return Err(HttpError::Clear(host.to_owned()));
        }
        exchange(stream, request, authority.as_str(), host).await
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Bytes>,
    authority: &str,
    host: &str,
) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::fmt::Display| HttpError::Call(host.to_owned(), error.to_string());
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let named = authority.rsplit_once('@').map_or(authority, |(_, named)| named);
    let value = HeaderValue::try_from(named).map_err(|error| failed(&error))?;
    parts.headers.insert(HOST, value);
    parts.uri = Uri::try_from(path).map_err(|error| failed(&error))?;
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let connection = Ended(tokio::spawn(connection));
    let answer = send.send_request(Request::from_parts(parts, Full::new(body))).await;
    let (parts, body) = answer.map_err(|error| failed(&error))?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| failed(&error))?;
    drop(connection);
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

/// Ends a connection's task with the exchange, also one that is given up.
struct Ended<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
