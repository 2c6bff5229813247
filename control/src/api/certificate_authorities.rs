//! `/certificate_authorities`: authorities that client certificates are checked against. Traffic policies name them by id.

use ebbgate_model::AuthorityId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes, TextsUpdate};
use super::failure::ApiError;
use super::given::body;
use super::reply::timestamp;
use super::resource::{Draft, Resource};
use super::{uses, x509};
use crate::record::{CertificateAuthority, Stored};
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 1914, metadata: 1915 };

/// A certificate authority.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CertificateAuthority)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    ca_pem: String,
    subject_common_name: String,
    not_before: String,
    not_after: String,
    key_usages: Vec<String>,
    extended_key_usages: Vec<String>,
}

body! {
    /// Body of `POST /certificate_authorities`.
    Create as "CertificateAuthorityCreate" {
        description: String,
        metadata: String,
        ca_pem: String,
    }
}

pub(super) struct CertificateAuthorities;

impl Resource for CertificateAuthorities {
    const PATH: &'static str = "certificate_authorities";
    const NOUN: &'static str = "certificate authority";
    const ID_PREFIXES: &'static [&'static str] = &[AuthorityId::PREFIX];
    const OWNED_MAX: usize = 500;
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["ca_pem"];
    const EXAMPLE: &'static str = r#"{"description": "clinic 1", "ca_pem": "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n"}"#;
    type Id = AuthorityId;
    type Record = CertificateAuthority;
    type View = View;
    type Create = Create;
    type Update = TextsUpdate;

    fn view(call: &Call, record: &CertificateAuthority) -> View {
        let facts = x509::describe(&record.ca_pem);
        View {
            head: Head::of::<Self>(call, record),
            ca_pem: record.ca_pem.clone(),
            subject_common_name: facts.subject_common_name,
            not_before: timestamp(facts.not_before),
            not_after: timestamp(facts.not_after),
            key_usages: facts.key_usages,
            extended_key_usages: facts.extended_key_usages,
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<CertificateAuthority>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let ca_pem = x509::check_authority(&body.ca_pem.or_default())?;
        Ok(Draft::new(CertificateAuthority {
            id: AuthorityId::new(call.app.ksuid()),
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            ca_pem,
            created_at: call.app.now(),
        }))
    }

    async fn update(
        _: &Call,
        stored: &Stored<CertificateAuthority>,
        body: &TextsUpdate,
    ) -> Result<Draft<CertificateAuthority>, ApiError> {
        TEXTS.change(stored, &body.description, &body.metadata)
    }

    async fn delete(call: &Call, stored: &Stored<CertificateAuthority>) -> Result<Txn, ApiError> {
        Self::delete_damaged(call, stored.record.id).await
    }

    async fn delete_damaged(call: &Call, id: AuthorityId) -> Result<Txn, ApiError> {
        uses::unused(call, &id.to_string(), "certificate authority").await
    }
}
