//! `/tls_certificates`: uploaded certificates. The private key goes in and never comes out again.

use ebbgate_model::CertificateId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes, TextsUpdate};
use super::failure::ApiError;
use super::given::body;
use super::reply::timestamp;
use super::resource::{Draft, Resource};
use super::x509;
use crate::record::{self, ReservedDomain, Stored, TlsCertificate};
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 1916, metadata: 1917 };

/// An uploaded certificate.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TLSCertificate)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// The chain, leaf first.
    certificate_pem: String,
    subject_common_name: String,
    subject_alternative_names: AlternativeNames,
    /// When this installation issued it; null: it was uploaded.
    issued_at: Option<String>,
    not_before: String,
    not_after: String,
    key_usages: Vec<String>,
    extended_key_usages: Vec<String>,
    private_key_type: String,
    issuer_common_name: String,
    serial_number: String,
    subject_organization: String,
    subject_organizational_unit: String,
    subject_locality: String,
    subject_province: String,
    subject_country: String,
}

/// The names a certificate is for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AlternativeNames {
    dns_names: Vec<String>,
    ips: Vec<String>,
}

body! {
    /// Body of `POST /tls_certificates`.
    Create as "TLSCertificateCreate" {
        description: String,
        metadata: String,
        certificate_pem: String,
        private_key_pem: String,
    }
}

pub(super) struct TlsCertificates;

impl Resource for TlsCertificates {
    const PATH: &'static str = "tls_certificates";
    const NOUN: &'static str = "TLS certificate";
    const ID_PREFIXES: &'static [&'static str] = &[CertificateId::PREFIX];
    const OWNED_MAX: usize = 500;
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["certificate_pem", "private_key_pem"];
    const EXAMPLE: &'static str = r#"{"certificate_pem": "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n", "private_key_pem": "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n"}"#;
    type Id = CertificateId;
    type Record = TlsCertificate;
    type View = View;
    type Create = Create;
    type Update = TextsUpdate;

    fn view(call: &Call, record: &TlsCertificate) -> View {
        let facts = x509::describe(&record.chain_pem);
        View {
            head: Head::of::<Self>(call, record),
            certificate_pem: record.chain_pem.clone(),
            subject_common_name: facts.subject_common_name,
            subject_alternative_names: AlternativeNames { dns_names: facts.dns_names, ips: facts.ips },
            issued_at: None,
            not_before: timestamp(facts.not_before),
            not_after: timestamp(facts.not_after),
            key_usages: facts.key_usages,
            extended_key_usages: facts.extended_key_usages,
            private_key_type: facts.private_key_type,
            issuer_common_name: facts.issuer_common_name,
            serial_number: facts.serial_number,
            subject_organization: facts.subject_organization,
            subject_organizational_unit: facts.subject_organizational_unit,
            subject_locality: facts.subject_locality,
            subject_province: facts.subject_province,
            subject_country: facts.subject_country,
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<TlsCertificate>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let x509::Judged { chain_pem, key_pem } =
            x509::check_pair(&body.certificate_pem.or_default(), &body.private_key_pem.or_default())?;
        let id = CertificateId::new(call.app.ksuid());
        let sealed = call.app.vault.seal(&record::key::<TlsCertificate>(call.account, id), &key_pem);
        let mut draft = Draft::new(TlsCertificate {
            id,
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            chain_pem,
            key: sealed,
            created_at: call.app.now(),
        });
        if x509::describe(&draft.record.chain_pem).not_after < call.app.now() {
            draft.warnings.push("the certificate has expired; clients will refuse it".to_owned());
        }
        Ok(draft)
    }

    async fn update(
        _: &Call,
        stored: &Stored<TlsCertificate>,
        body: &TextsUpdate,
    ) -> Result<Draft<TlsCertificate>, ApiError> {
        TEXTS.change(stored, &body.description, &body.metadata)
    }

    async fn delete(call: &Call, stored: &Stored<TlsCertificate>) -> Result<Txn, ApiError> {
        Self::delete_damaged(call, stored.record.id).await
    }

    async fn delete_damaged(call: &Call, id: CertificateId) -> Result<Txn, ApiError> {
        let domains = record::list::<ReservedDomain>(&*call.app.store, call.account, None, None).await?;
        if let Some(user) = domains.items.iter().find(|d| d.record.certificate == Some(id)) {
            let (host, domain) = (&user.record.host, user.record.id);
            let message = format!(
                "the certificate {id} is in use by the reserved domain {domain} (`{host}`); detach it first"
            );
            return Err(ApiError::in_use(message));
        }
        Ok(Txn::new().if_none_newer(record::prefix::<ReservedDomain>(call.account), domains.revision))
    }
}
