//! `target` of an event destination: exactly one kind, its fields judged, its secrets taken out to be sealed.

use std::collections::BTreeMap;

use ebbgate_policy::text::nearest;
use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::failure::ApiError;
use crate::events::{sink, tls_config};
use crate::record::events::Target;

/// Bytes of a webhook's secret (Standard Webhooks).
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Longest URL, name or secret in bytes.
const TEXT_BYTES_MAX: usize = 2048;
/// Longest `ca_pem` in bytes.
const PEM_BYTES_MAX: usize = 64 << 10;
/// Headers of an OTLP destination.
const HEADERS_MAX: usize = 16;
/// MiB of a file that is set aside, when none is given.
const ROTATE_MIB: u32 = 64;
/// Largest of them.
const ROTATE_MIB_MAX: u32 = 4096;
/// Files kept, when none is given.
const KEEP: u32 = 10;
/// Most of them.
const KEEP_MAX: u32 = 1000;
/// Seconds until an object is written, when none are given.
const FLUSH_SECS: u32 = 60;
/// Most of them.
const FLUSH_SECS_MAX: u32 = 3600;

/// Where events go: one of these, the others null. The first five need another company's cloud and are refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventTarget)]
pub(super) struct TargetBody {
    /// Refused.
    firehose: Option<Value>,
    /// Refused.
    kinesis: Option<Value>,
    /// Refused.
    cloudwatch_logs: Option<Value>,
    /// Refused.
    datadog: Option<Value>,
    /// Refused.
    azure_logs_ingestion: Option<Value>,
    /// Rotating files of JSON lines.
    file: Option<FileTarget>,
    /// Signed HTTPS requests.
    webhook: Option<WebhookTarget>,
    /// RFC 5424 messages.
    syslog: Option<SyslogTarget>,
    /// OTLP/HTTP log records.
    otlp: Option<OtlpTarget>,
    /// Objects in a bucket.
    s3: Option<S3Target>,
}

/// Rotating files below the operator's directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventTargetFile)]
struct FileTarget {
    /// Name of the directory in the account's own.
    directory: String,
    /// MiB after which a file is set aside; 64 when absent.
    rotate_mib: Option<u32>,
    /// Files set aside that are kept; 10 when absent.
    keep: Option<u32>,
}

/// HTTPS requests signed as Standard Webhooks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventTargetWebhook)]
struct WebhookTarget {
    /// Where to.
    url: String,
    /// `whsec_` and 24 to 64 bytes in base64; never returned.
    #[serde(skip_serializing)]
    secret: String,
    /// Authorities to trust instead of the system's.
    ca_pem: String,
}

/// RFC 5424 messages with octet counting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventTargetSyslog)]
struct SyslogTarget {
    /// `host:port`.
    address: String,
    /// Whether over TLS.
    tls: bool,
    /// Authorities to trust instead of the system's.
    ca_pem: String,
}

/// OTLP/HTTP log records in protobuf.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventTargetOtlp)]
struct OtlpTarget {
    /// Where to, such as `https://collector.example.com/v1/logs`.
    url: String,
    /// Headers to send, such as one with a key; never returned.
    #[serde(skip_serializing)]
    headers: BTreeMap<String, String>,
    /// Authorities to trust instead of the system's.
    ca_pem: String,
}

/// Objects of JSON lines in a bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventTargetS3)]
struct S3Target {
    /// Address of the service.
    endpoint: String,
    /// Bucket.
    bucket: String,
    /// Region that requests are signed for.
    region: String,
    /// What names of objects begin with.
    prefix: String,
    /// Never returned.
    #[serde(skip_serializing)]
    access_key_id: String,
    /// Never returned.
    #[serde(skip_serializing)]
    secret_access_key: String,
    /// Seconds after which an object is written that is not full; 60 when absent.
    flush_secs: Option<u32>,
    /// Authorities to trust instead of the system's.
    ca_pem: String,
}

/// A target that may be stored, and its secrets by name.
pub(super) type Judged = (Target, BTreeMap<String, String>);

impl TargetBody {
    /// How a stored target is shown: without secrets.
    pub(super) fn of(target: &Target) -> Self {
        let mut body = Self::default();
        match target.clone() {
            Target::File { directory, rotate_mib, keep } => {
                body.file = Some(FileTarget { directory, rotate_mib: Some(rotate_mib), keep: Some(keep) });
            }
            Target::Webhook { url, ca_pem } => {
                body.webhook = Some(WebhookTarget { url, ca_pem, secret: String::new() });
            }
            Target::Syslog { address, tls, ca_pem } => {
                body.syslog = Some(SyslogTarget { address, tls, ca_pem });
            }
            Target::Otlp { url, ca_pem } => {
                body.otlp = Some(OtlpTarget { url, ca_pem, headers: BTreeMap::new() });
            }
            Target::S3 { endpoint, bucket, region, prefix, flush_secs, ca_pem } => {
                body.s3 = Some(S3Target {
                    endpoint,
                    bucket,
                    region,
                    prefix,
                    ca_pem,
                    flush_secs: Some(flush_secs),
                    ..S3Target::default()
                });
            }
        }
        body
    }

    /// Whether another target is at the same place, so that secrets of this one may go there.
    pub(super) fn leads_where(&self, other: &Self) -> bool {
        let place = |body: &Self| {
            let webhook = body.webhook.as_ref().map(|webhook| webhook.url.clone());
            let otlp = body.otlp.as_ref().map(|otlp| otlp.url.clone());
            let s3 = body.s3.as_ref().map(|s3| s3.endpoint.clone());
            (webhook, otlp, s3)
        };
        place(self) == place(other)
    }

    /// Judges a target. `kept` gives secrets that are not named again, for a target of the same kind.
    pub(super) fn judge(&self, kept: &BTreeMap<String, String>) -> Result<Judged, ApiError> {
        self.refuse_clouds()?;
        let kinds = [
            self.file.as_ref().map(FileTarget::judge),
            self.webhook.as_ref().map(|webhook| webhook.judge(kept)),
            self.syslog.as_ref().map(SyslogTarget::judge),
            self.otlp.as_ref().map(|otlp| otlp.judge(kept)),
            self.s3.as_ref().map(|s3| s3.judge(kept)),
        ];
        let mut given = kinds.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(judged), None) => judged,
            _ => Err(ApiError::value(
                "target",
                "it must hold exactly one of `file`, `webhook`, `syslog`, `otlp` and `s3`",
            )),
        }
    }

    fn refuse_clouds(&self) -> Result<(), ApiError> {
        let clouds = [
            ("firehose", &self.firehose),
            ("kinesis", &self.kinesis),
            ("cloudwatch_logs", &self.cloudwatch_logs),
            ("datadog", &self.datadog),
            ("azure_logs_ingestion", &self.azure_logs_ingestion),
        ];
        let Some((name, _)) = clouds.into_iter().find(|(_, given)| given.is_some()) else { return Ok(()) };
        let message =
            "this installation does not deliver there; use `file`, `webhook`, `syslog`, `otlp` or `s3`";
        Err(ApiError::value(&format!("target.{name}"), message))
    }
}

impl FileTarget {
    fn judge(&self) -> Result<Judged, ApiError> {
        let name = &self.directory;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
            let message =
                "it must have 1 to 64 characters of a-z, A-Z, 0-9, `-`, `_` and `.`, the first no `.`";
            return Err(ApiError::value("target.file.directory", message));
        }
        let target = Target::File {
            directory: name.clone(),
            rotate_mib: within("target.file.rotate_mib", self.rotate_mib, ROTATE_MIB, ROTATE_MIB_MAX)?,
            keep: within("target.file.keep", self.keep, KEEP, KEEP_MAX)?,
        };
        Ok((target, BTreeMap::new()))
    }
}

impl WebhookTarget {
    fn judge(&self, kept: &BTreeMap<String, String>) -> Result<Judged, ApiError> {
        check_url("target.webhook.url", &self.url)?;
        check_pem("target.webhook.ca_pem", &self.ca_pem)?;
        let secret = given_or_kept(&self.secret, kept, "secret");
        let bytes = sink::secret_bytes(&secret).map(|bytes| bytes.len());
        if !bytes.is_some_and(|bytes| SECRET_BYTES.contains(&bytes)) {
            let message = "it must be `whsec_` and 24 to 64 random bytes in base64, as `openssl rand -base64 32` makes them";
            return Err(ApiError::value("target.webhook.secret", message));
        }
        let target = Target::Webhook { url: self.url.clone(), ca_pem: self.ca_pem.clone() };
        Ok((target, [("secret".to_owned(), secret)].into()))
    }
}

impl SyslogTarget {
    fn judge(&self) -> Result<Judged, ApiError> {
        let parts = self.address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let port = parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port != 0);
        if port.is_none() || self.address.len() > TEXT_BYTES_MAX {
            return Err(ApiError::value("target.syslog.address", "it must be `host:port`"));
        }
        check_pem("target.syslog.ca_pem", &self.ca_pem)?;
        let target =
            Target::Syslog { address: self.address.clone(), tls: self.tls, ca_pem: self.ca_pem.clone() };
        Ok((target, BTreeMap::new()))
    }
}

impl OtlpTarget {
    fn judge(&self, kept: &BTreeMap<String, String>) -> Result<Judged, ApiError> {
        check_url("target.otlp.url", &self.url)?;
        check_pem("target.otlp.ca_pem", &self.ca_pem)?;
        let is_header = |(name, value): (&String, &String)| {
            http::HeaderName::try_from(name).is_ok()
                && http::HeaderValue::try_from(value).is_ok()
                && value.len() <= TEXT_BYTES_MAX
        };
        if self.headers.len() > HEADERS_MAX || !self.headers.iter().all(is_header) {
            let message = format!(
                "it must have at most {HEADERS_MAX} headers, each with a name and a value that HTTP allows"
            );
            return Err(ApiError::value("target.otlp.headers", message));
        }
        let secrets = if self.headers.is_empty() {
            kept.get("headers").map(|headers| ("headers".to_owned(), headers.clone())).into_iter().collect()
        } else {
            let text = serde_json::to_string(&self.headers).unwrap_or_default();
            [("headers".to_owned(), text)].into()
        };
        Ok((Target::Otlp { url: self.url.clone(), ca_pem: self.ca_pem.clone() }, secrets))
    }
}

impl S3Target {
    fn judge(&self, kept: &BTreeMap<String, String>) -> Result<Judged, ApiError> {
        check_url("target.s3.endpoint", &self.endpoint)?;
        check_pem("target.s3.ca_pem", &self.ca_pem)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        for (field, text) in [("target.s3.bucket", &self.bucket), ("target.s3.region", &self.region)] {
            if text.is_empty() || text.len() > 63 || !text.chars().all(plain) {
                return Err(ApiError::value(
                    field,
                    "it must have 1 to 63 characters of a-z, A-Z, 0-9, `-`, `.` and `_`",
                ));
            }
        }
        let in_path = |c: char| plain(c) || c == '/';
        if self.prefix.len() > 255 || !self.prefix.chars().all(in_path) || self.prefix.starts_with('/') {
            let message = "it must have at most 255 characters of a-z, A-Z, 0-9, `-`, `.`, `_` and `/`, the first no `/`";
            return Err(ApiError::value("target.s3.prefix", message));
        }
        let mut secrets = BTreeMap::new();
        for (name, given) in
            [("access_key_id", &self.access_key_id), ("secret_access_key", &self.secret_access_key)]
        {
            let value = given_or_kept(given, kept, name);
            if value.is_empty() || value.len() > TEXT_BYTES_MAX || value.chars().any(char::is_control) {
                return Err(ApiError::value(&format!("target.s3.{name}"), "it is needed to sign requests"));
            }
            secrets.insert(name.to_owned(), value);
        }
        let target = Target::S3 {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            region: self.region.clone(),
            prefix: self.prefix.clone(),
            flush_secs: within("target.s3.flush_secs", self.flush_secs, FLUSH_SECS, FLUSH_SECS_MAX)?,
            ca_pem: self.ca_pem.clone(),
        };
        Ok((target, secrets))
    }
}

fn given_or_kept(given: &str, kept: &BTreeMap<String, String>, name: &str) -> String {
    if given.is_empty() { kept.get(name).cloned().unwrap_or_default() } else { given.to_owned() }
}

fn within(field: &str, given: Option<u32>, default: u32, max: u32) -> Result<u32, ApiError> {
    let value = given.unwrap_or(default);
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::value(field, format_args!("it must be 1 to {max}")))
}

/// `https`, or `http` for a network that the operator allowed, which is judged when the name has resolved.
fn check_url(field: &str, text: &str) -> Result<(), ApiError> {
    let url = text.parse::<Uri>().ok().filter(|_| text.len() <= TEXT_BYTES_MAX);
    let authority = url.as_ref().and_then(Uri::authority);
    let secret_free = authority.is_some_and(|authority| !authority.as_str().contains('@'));
    if secret_free && matches!(url.as_ref().and_then(Uri::scheme_str), Some("https" | "http")) {
        return Ok(());
    }
    Err(ApiError::value(field, "it must be an `https://` URL without a user name or password"))
}

fn check_pem(field: &str, pem: &str) -> Result<(), ApiError> {
    if pem.len() > PEM_BYTES_MAX {
        return Err(ApiError::value(field, format_args!("it has more than {} KiB", PEM_BYTES_MAX >> 10)));
    }
    tls_config(pem).map(drop).map_err(|error| ApiError::value(field, error))
}

/// The known name nearest to one that is none, for a message.
pub(super) fn hint(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "docs/events.md lists them".to_owned(),
    }
}
