//! The HTTP client towards the authority: HTTPS only, every wait and every answer bounded, and `Retry-After` remembered.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http::header::RETRY_AFTER;
use http::response::Parts;
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::settings::AcmeError;
use crate::authority::certificates;

/// Seconds for one request and its answer.
const REQUEST_SECS_MAX: u64 = 20;
/// Bytes of an answer: twice a chain's, which is the largest.
const ANSWER_BYTES_MAX: usize = 128 * 1024;

/// What the last answer said beyond its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// When the authority wants to be asked again.
    pub(super) retry_after: Option<SystemTime>,
    /// Whether the answer was an error.
    pub(super) is_refusal: bool,
}

/// A client for one job. Clones share what was heard.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    heard: Arc<Mutex<Heard>>,
}

impl Http {
    /// A client that believes these roots; None: those of the system.
    pub(super) fn new(root_pem: Option<&str>) -> Result<Self, AcmeError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = HttpsConnectorBuilder::new();
        let with_tls = match root_pem {
            None => builder.with_provider_and_platform_verifier(provider),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(pem));
                let versions =
                    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                versions.map_err(io::Error::other).map(|config| {
                    builder.with_tls_config(config.with_root_certificates(roots).with_no_client_auth())
                })
            }
        };
        let with_tls =
            with_tls.map_err(|error| AcmeError(format!("no TLS towards the ACME server: {error}")))?;
        let connector = with_tls.https_only().enable_http1().enable_http2().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), heard: Arc::default() })
    }

    /// What the last answer said.
    pub(super) fn heard(&self) -> Heard {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, heard: Heard) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            this.hear(Heard::default());
            let answered = async {
                let (parts, body) = this.client.request(request).await.map_err(other)?.into_parts();
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Error::Other)?;
                Ok::<_, Error>((parts, body.to_bytes()))
            };
            let late = || other(io::Error::new(io::ErrorKind::TimedOut, "no answer within 20 s"));
            let (parts, body) =
                timeout(Duration::from_secs(REQUEST_SECS_MAX), answered).await.map_err(|_| late())??;
            this.hear(heard(&parts, SystemTime::now()));
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

fn heard(parts: &Parts, now: SystemTime) -> Heard {
    let value = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let at = value.and_then(|value| match u64::from_str(value) {
        Ok(secs) => now.checked_add(Duration::from_secs(secs)),
        Err(_) => httpdate::parse_http_date(value).ok(),
    });
    Heard { retry_after: at, is_refusal: parts.status.is_client_error() || parts.status.is_server_error() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_heard() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let of = |status: u16, value: &str| {
            let response =
                http::Response::builder().status(status).header(RETRY_AFTER, value).body(()).unwrap();
            heard(&response.into_parts().0, now)
        };
        let after = |secs| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(of(429, "90"), Heard { retry_after: after(1_090), is_refusal: true });
        assert_eq!(
            of(200, "Thu, 01 Jan 1970 01:00:00 GMT"),
            Heard { retry_after: after(3_600), is_refusal: false }
        );
        for bad in ["", "soon", "-1", "99999999999999999999"] {
            assert_eq!(of(503, bad).retry_after, None, "{bad}");
        }
    }
}
