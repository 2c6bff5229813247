//! Records of event destinations and subscriptions.

use ebbgate_model::{AccountId, EventDestinationId, EventSubscriptionId};
use serde::{Deserialize, Serialize};

use super::{Record, UnixSecs};
use crate::secret::Sealed;

records! {
    /// Where events of the account go.
    EventDestination(EventDestinationId) = "event_destinations" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// What kind of place, and where.
        target: Target,
        /// The target's secrets as one JSON object, sealed with the record's key as context.
        secrets: Option<Sealed>,
    }
    /// Which events of the account go where.
    EventSubscription(EventSubscriptionId) = "event_subscriptions" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Types of events, none twice.
        sources: Vec<Source>,
        /// Destinations, none twice.
        destinations: Vec<EventDestinationId>,
    }
}

/// A kind of destination with what is no secret of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// Rotating files of JSON lines below the operator's directory.
    File {
        /// Name of the directory in the account's own.
        directory: String,
        /// MiB after which a file is set aside for a new one.
        rotate_mib: u32,
        /// Files set aside that are kept.
        keep: u32,
    },
    /// HTTPS requests with a batch each, signed as Standard Webhooks.
    Webhook {
        /// Where to.
        url: String,
        /// Authorities to trust instead of the system's, PEM; "" for the system's.
        ca_pem: String,
    },
    /// RFC 5424 messages with octet counting (RFC 6587), over TCP or TLS (RFC 5425).
    Syslog {
        /// `host:port`.
        address: String,
        /// Whether over TLS.
        tls: bool,
        /// Authorities to trust instead of the system's, PEM; "" for the system's.
        ca_pem: String,
    },
    /// OTLP/HTTP log records in protobuf.
    Otlp {
        /// Where to, such as `https://collector.example.com/v1/logs`.
        url: String,
        /// Authorities to trust instead of the system's, PEM; "" for the system's.
        ca_pem: String,
    },
    /// Objects of JSON lines in a bucket.
    S3 {
        /// Address of the service.
        endpoint: String,
        /// Bucket.
        bucket: String,
        /// Region that requests are signed for.
        region: String,
        /// What names of objects begin with.
        prefix: String,
        /// Seconds after which an object is written that is not full.
        flush_secs: u32,
        /// Authorities to trust instead of the system's, PEM; "" for the system's.
        ca_pem: String,
    },
}

impl Target {
    /// Its name in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Webhook { .. } => "webhook",
            Self::Syslog { .. } => "syslog",
            Self::Otlp { .. } => "otlp",
            Self::S3 { .. } => "s3",
        }
    }
}

/// One type of event of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Such as `http_request_complete.v0`.
    pub r#type: String,
    /// Fields of traffic events to deliver; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// CEL over `ev`; "": all events.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
}
