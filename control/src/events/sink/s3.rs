//! An object store that speaks S3: batches as objects of JSON lines, by time and size, over our guarded HTTP client.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::path::Path;
use object_store::{ObjectStoreExt, RetryConfig};
use time::OffsetDateTime;

use super::contract::{Limits, Sink, SinkError};
use crate::clock::UnixSecs;
use crate::events::http::Client;
use crate::events::net::{Guard, tls_config};
use crate::secret::hash_hex;

/// Bytes of events after which an object is written before its time.
const OBJECT_BYTES: usize = 4 << 20;
/// Events after which an object is written before its time.
const OBJECT_EVENTS: usize = 20_000;
/// Characters of the content's hash in an object's name.
const NAME_CHARS: usize = 16;

/// Where objects go.
pub(super) struct Place<'a> {
    pub(super) endpoint: &'a str,
    pub(super) bucket: &'a str,
    pub(super) region: &'a str,
    pub(super) prefix: &'a str,
    pub(super) flush_secs: u32,
}

pub(super) struct Bucket {
    store: AmazonS3,
    prefix: String,
    linger: Duration,
}

impl Bucket {
    pub(super) fn new(
        place: &Place<'_>,
        access_key_id: &str,
        secret_access_key: &str,
        ca_pem: &str,
        guard: Guard,
    ) -> Result<Self, SinkError> {
        let client = Connector(Client::new(guard, tls_config(ca_pem)?));
        // The spool retries; a batch is sent once at a time.
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store = AmazonS3Builder::new()
            .with_endpoint(place.endpoint)
            .with_bucket_name(place.bucket)
            .with_region(place.region)
            .with_access_key_id(access_key_id)
            .with_secret_access_key(secret_access_key)
            .with_allow_http(true)
            .with_virtual_hosted_style_request(false)
            .with_retry(once)
            .with_http_connector(client)
            .build()
            .map_err(SinkError::new)?;
        let linger = Duration::from_secs(place.flush_secs.into());
        Ok(Self { store, prefix: place.prefix.to_owned(), linger })
    }
}

/// `<prefix>2026/01/31/120000-<hash>.jsonl`: the time is that of writing; the same batch ends in the same hash.
fn name(prefix: &str, now: UnixSecs, content: &[u8]) -> String {
    let at = OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let hash: String = hash_hex(content).chars().take(NAME_CHARS).collect();
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.time().as_hms();
    format!("{prefix}{year:04}/{month:02}/{day:02}/{hour:02}{minute:02}{second:02}-{hash}.jsonl")
}

impl Sink for Bucket {
    fn limits(&self) -> Limits {
        Limits { events: OBJECT_EVENTS, bytes: OBJECT_BYTES, linger: self.linger }
    }

    fn send<'a>(&'a mut self, batch: &'a [Bytes], now: UnixSecs) -> BoxFuture<'a, Result<u64, SinkError>> {
        async move {
            let content = [batch.join(&b"\n"[..]), b"\n".to_vec()].concat();
            let name = Path::from(name(&self.prefix, now, &content));
            self.store.put(&name, content.into()).await.map_err(|error| SinkError::new(reason(&error)))?;
            Ok(0)
        }
        .boxed()
    }
}

/// The whole chain of reasons: the outermost says only that a request failed.
fn reason(error: &object_store::Error) -> String {
    crate::error_chain::ErrorChain(error).to_string()
}

/// Our client in the place of `reqwest`, for the sake of its guard.
#[derive(Debug, Clone)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Connector {
    fn call<'s, 'f>(&'s self, request: HttpRequest) -> BoxFuture<'f, Result<HttpResponse, HttpError>>
    where
        's: 'f,
        Self: 'f,
    {
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let answer = self.0.send(http::Request::from_parts(parts, body)).await;
            let answer = answer.map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
            let mut response = HttpResponse::new(HttpResponseBody::from(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(response)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_by_day_and_content() {
        assert_eq!(name("audit/", 1_767_225_600, b"x"), "audit/2026/01/01/000000-2d711642b726b044.jsonl");
    }
}
