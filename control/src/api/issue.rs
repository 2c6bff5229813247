//! Leaves from the installation's own authorities, for names without an uploaded certificate: made in the same
//! transaction as the name, so that a name never exists without one.

use std::fmt::Display;

use ebbgate_model::Host;

use super::call::Call;
use super::failure::ApiError;
use crate::authority::Purpose;
use crate::record;
use crate::store::Txn;

/// Said when a client asks for a publicly trusted certificate.
pub(super) const NO_ACME: &str = "certificate_management_policy is stored, but certificates are issued by this installation's own authority";

/// Adds a fresh leaf for a domain or ingress to a transaction.
pub(super) fn leaf(
    call: &Call,
    txn: Txn,
    purpose: Purpose,
    owner: impl Display,
    host: &Host,
) -> Result<Txn, ApiError> {
    let issued = call.app.issue(purpose, call.account, owner, host).map_err(|e| ApiError::internal(&e))?;
    let (key, certificate) = issued;
    Ok(txn.put(key, record::encode(&certificate)))
}
