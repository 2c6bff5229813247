//! OTLP/HTTP: a batch as log records in protobuf, to a collector's `/v1/logs`.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Kind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::contract::{Sink, SinkError, judge};
use crate::clock::UnixSecs;
use crate::events::http::Client;
use crate::events::net::{Guard, tls_config};

pub(super) struct Otlp {
    url: Uri,
    headers: HeaderMap,
    client: Client,
}

impl Otlp {
    /// `headers` is a JSON object of names and values, or "".
    pub(super) fn new(url: &str, headers: &str, ca_pem: &str, guard: Guard) -> Result<Self, SinkError> {
        let url = url.parse().map_err(|_| SinkError::new(format_args!("`{url}` is no URL")))?;
        let given: BTreeMap<String, String> = serde_json::from_str(headers).unwrap_or_default();
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let damaged = || SinkError::new(format_args!("the header `{name}` cannot be sent"));
            let value = HeaderValue::try_from(value).map_err(|_| damaged())?;
            headers.insert(HeaderName::try_from(&name).map_err(|_| damaged())?, value);
        }
        Ok(Self { url, headers, client: Client::new(guard, tls_config(ca_pem)?) })
    }
}

fn text(value: impl Into<String>) -> AnyValue {
    AnyValue { value: Some(Kind::StringValue(value.into())) }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(text(value)), ..KeyValue::default() }
}

/// An event as a log record: its JSON as body, its type, id and account as attributes.
fn record(event: &[u8], now: UnixSecs) -> LogRecord {
    let parsed: Value = serde_json::from_slice(event).unwrap_or_default();
    let field = |name: &str| parsed.get(name).and_then(Value::as_str);
    let at = field("event_timestamp").and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    let nanos = |at: OffsetDateTime| u64::try_from(at.unix_timestamp_nanos()).unwrap_or(0);
    let observed = OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let names = [("event.id", "event_id"), ("ebbgate.account_id", "account_id")];
    let attributes = names.iter().filter_map(|(key, name)| Some(attribute(key, field(name)?)));
    LogRecord {
        time_unix_nano: at.map_or(0, nanos),
        observed_time_unix_nano: nanos(observed),
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".into(),
        body: Some(text(String::from_utf8_lossy(event))),
        attributes: attributes.collect(),
        event_name: field("event_type").unwrap_or_default().to_owned(),
        ..LogRecord::default()
    }
}

fn request(batch: &[Bytes], now: UnixSecs) -> ExportLogsServiceRequest {
    let scope = InstrumentationScope {
        name: "ebbgate.events".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let records = batch.iter().map(|event| record(event, now)).collect();
    let resource =
        Resource { attributes: vec![attribute("service.name", "ebbgate-control")], ..Resource::default() };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![ScopeLogs { scope: Some(scope), log_records: records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        }],
    }
}

impl Sink for Otlp {
    fn send<'a>(&'a mut self, batch: &'a [Bytes], now: UnixSecs) -> BoxFuture<'a, Result<u64, SinkError>> {
        async move {
            let body = Bytes::from(request(batch, now).encode_to_vec());
            let post = Request::builder().method(Method::POST).uri(self.url.clone()).body(body);
            let mut post = post.map_err(SinkError::new)?;
            post.headers_mut().extend(self.headers.clone());
            post.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            let answer = self.client.send(post).await?;
            judge(&answer, now)?;
            // Refused in part: the receiver must not be sent these again (OTLP, "Partial Success").
            let taken = ExportLogsServiceResponse::decode(answer.body).unwrap_or_default();
            let refused = taken.partial_success.map_or(0, |partial| partial.rejected_log_records);
            Ok(u64::try_from(refused).unwrap_or(0))
        }
        .boxed()
    }
}
