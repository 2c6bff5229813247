//! What almost every object has: an id, an address, an age, and two free texts with their limits.

use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::failure::ApiError;
use super::given::{Given, body};
use super::reply::timestamp;
use super::resource::{Draft, Resource};
use super::text_limits::{DESCRIPTION_BYTES_MAX, METADATA_BYTES_MAX};
use crate::record::operator::KubernetesOperator;
use crate::record::vault::{SecretVault, VaultSecret};
use crate::record::{
    AgentIngress, ApiKey, CertificateAuthority, Credential, Endpoint, IpPolicy, IpPolicyRule, IpRestriction,
    Record, ReservedAddress, ReservedDomain, Stored, TlsCertificate, UnixSecs,
    events::{EventDestination, EventSubscription},
};

/// A record with the two texts.
pub(super) trait Described: Record {
    /// Unix seconds.
    fn created_at(&self) -> UnixSecs;
    /// Description and metadata.
    fn texts(&self) -> (&str, &str);
    /// Description and metadata, to be changed.
    fn texts_mut(&mut self) -> (&mut String, &mut String);
}

macro_rules! described {
    ($($record:ty),*) => {$(
        impl Described for $record {
            fn created_at(&self) -> UnixSecs {
                self.created_at
            }

            fn texts(&self) -> (&str, &str) {
                (&self.description, &self.metadata)
            }

            fn texts_mut(&mut self) -> (&mut String, &mut String) {
                (&mut self.description, &mut self.metadata)
            }
        }
    )*};
}

described!(
    AgentIngress,
    ApiKey,
    CertificateAuthority,
    Credential,
    Endpoint,
    EventDestination,
    EventSubscription,
    IpPolicy,
    IpPolicyRule,
    IpRestriction,
    KubernetesOperator,
    ReservedAddress,
    ReservedDomain,
    SecretVault,
    TlsCertificate,
    VaultSecret
);

/// The fields every object begins with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Head {
    id: String,
    uri: String,
    created_at: String,
    description: String,
    metadata: String,
}

impl Head {
    pub(super) fn of<R: Resource<Record: Described>>(call: &Call, record: &R::Record) -> Self {
        let (description, metadata) = record.texts();
        Self {
            id: record.id().to_string(),
            uri: call.reference(R::PATH, record.id()).uri,
            created_at: timestamp(record.created_at()),
            description: description.to_owned(),
            metadata: metadata.to_owned(),
        }
    }
}

body! {
    /// A change of the two texts, for objects that change in nothing else.
    TextsUpdate as "TextsUpdate" {
        description: String,
        metadata: String,
    }
}

/// The codes by which a resource refuses texts that are too long.
pub(super) struct TextCodes {
    pub(super) description: u32,
    pub(super) metadata: u32,
}

impl TextCodes {
    /// Judges both texts of a body.
    pub(super) fn check(
        &self,
        description: &Given<String>,
        metadata: &Given<String>,
    ) -> Result<(), ApiError> {
        check_length("description", description, DESCRIPTION_BYTES_MAX, self.description)?;
        check_length("metadata", metadata, METADATA_BYTES_MAX, self.metadata)
    }

    /// The record as it will be with the texts given.
    pub(super) fn change<R: Described>(
        &self,
        stored: &Stored<R>,
        description: &Given<String>,
        metadata: &Given<String>,
    ) -> Result<Draft<R>, ApiError> {
        self.check(description, metadata)?;
        let mut record = stored.record.clone();
        let texts = record.texts_mut();
        description.apply(texts.0);
        metadata.apply(texts.1);
        Ok(Draft::new(record))
    }
}

fn check_length(field: &str, text: &Given<String>, bytes_max: usize, code: u32) -> Result<(), ApiError> {
    let bytes = text.get().map_or(0, String::len);
    if bytes <= bytes_max {
        return Ok(());
    }
    let message = format!("`{field}` has {bytes} bytes; at most {bytes_max} are allowed");
    Err(ApiError::bad(code, message).detail("field", field))
}
