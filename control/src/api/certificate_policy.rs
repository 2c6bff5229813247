//! `certificate_management_policy`: how a client asks for a certificate to be obtained.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::failure::ApiError;
use crate::record::ManagementPolicy;

/// Whose policy it is; the two have different defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Domain,
    Ingress,
}

/// A wish for a managed certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = CertificateManagementPolicy)]
pub(super) struct CertificatePolicy {
    /// `letsencrypt`.
    authority: String,
    /// `ecdsa` or `rsa`.
    private_key_type: String,
}

impl CertificatePolicy {
    pub(super) fn from_record(record: &ManagementPolicy) -> Self {
        Self { authority: record.authority.clone(), private_key_type: record.private_key_type.clone() }
    }

    /// Judges and completes it.
    pub(super) fn to_record(&self, kind: Kind) -> Result<ManagementPolicy, ApiError> {
        let (default_key, authority_code) = match kind {
            Kind::Domain => ("ecdsa", 435),
            Kind::Ingress => ("rsa", 1908),
        };
        if !matches!(self.authority.as_str(), "" | "letsencrypt") {
            let message =
                format!("the authority `{}` is unknown; the one there is is `letsencrypt`", self.authority);
            return Err(ApiError::bad(authority_code, message));
        }
        let private_key_type = match self.private_key_type.as_str() {
            "" => default_key,
            known @ ("ecdsa" | "rsa") => known,
            other => {
                let message = format!("the private key type `{other}` is unknown; use `ecdsa` or `rsa`");
                return Err(ApiError::bad(1909, message));
            }
        };
        Ok(ManagementPolicy { authority: "letsencrypt".into(), private_key_type: private_key_type.into() })
    }
}
