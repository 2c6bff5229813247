//! Certificates of names without an uploaded one. Leaves of the installation's own authorities are made in the same
//! transaction as the name. What the ACME authority is to issue is written down there, and ordered later.

use std::fmt::Display;

use ebbgate_model::Host;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::failure::ApiError;
use super::reply;
use crate::acme::{FailureCode, Managed, Owner};
use crate::authority::Purpose;
use crate::record::{self, ManagementPolicy, UnixSecs};
use crate::store::Txn;

/// Said when a client asks for a publicly trusted certificate.
pub(super) const NO_ACME: &str = "certificate_management_policy is stored, but certificates are issued by this installation's own authority";

/// Said when only a TXT record proves the names of one, and this installation writes none.
const NO_DNS: &str = "a wildcard is proved to the ACME authority by a TXT record, and this installation writes none: the name has no certificate until the operator sets --acme-dns or --acme-dns-hook";

/// Adds what a domain's or ingress's policy asks for to a transaction. Gives what is to be said about it.
///
/// `before`: the policy until now. With an ACME authority a new name has no certificate until the authority issues one:
/// visitors get the TLS alert, agents (`is_kept`) go on with our own authority's.
pub(super) async fn managed(
    call: &Call,
    txn: Txn,
    owner: Owner,
    host: &Host,
    before: Option<&ManagementPolicy>,
    after: Option<&ManagementPolicy>,
) -> Result<(Txn, Vec<String>), ApiError> {
    let Some(acme) = call.app.acme.settings() else {
        return Ok((txn, after.map(|_| NO_ACME.to_owned()).into_iter().collect()));
    };
    match (before, after) {
        (before, Some(after)) if before != Some(after) => {
            let stored = record::read::<Managed>(&*call.app.store, &owner.key()).await?;
            let fresh = || Managed::new(host.clone(), call.app.now());
            // Another kind of key is asked for: the certificate in use stays until then.
            let name = stored.map_or_else(fresh, |stored| Managed {
                next_at: call.app.now(),
                failures: 0,
                failure: None,
                ..stored.record
            });
            let warnings = (host.is_wildcard() && acme.dns.is_none()).then(|| NO_DNS.to_owned());
            Ok((txn.put(owner.key(), record::encode(&name)), warnings.into_iter().collect()))
        }
        (Some(_), None) => {
            let txn = owner.challenge_key(host).into_iter().fold(txn.delete(owner.key()), Txn::delete);
            let key = owner.certificate_key();
            if call.app.store.get(&key).await?.is_some() {
                return Ok((txn, Vec::new()));
            }
            let leaf = call.app.issue_at(owner.purpose(), &key, host).map_err(|e| ApiError::internal(&e))?;
            Ok((txn.put(key, record::encode(&leaf)), Vec::new()))
        }
        _ => Ok((txn, Vec::new())),
    }
}

/// How far a managed certificate is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CertificateManagementStatus)]
pub(super) struct StatusView {
    /// When the certificate in use is renewed.
    renews_at: Option<String>,
    /// What is under way, or why it does not go on.
    provisioning_job: Option<JobView>,
}

/// An order at the authority.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CertificateProvisioningJob)]
struct JobView {
    /// `DNS_ERROR` or `INTERNAL_ERROR`; null: nothing failed yet.
    error_code: Option<FailureCode>,
    /// What the authority says.
    msg: String,
    /// When it was begun.
    started_at: String,
    /// When it is tried again.
    retries_at: Option<String>,
}

/// What the API says of a managed certificate. None: the name has none.
pub(super) fn status(
    call: &Call,
    owner: Owner,
    policy: Option<&ManagementPolicy>,
    since: UnixSecs,
) -> Option<StatusView> {
    policy?;
    call.app.acme.settings()?;
    let queued = || StatusView {
        renews_at: None,
        provisioning_job: Some(JobView {
            error_code: None,
            msg: "The certificate is being ordered.".into(),
            started_at: reply::timestamp(since),
            retries_at: None,
        }),
    };
    let Some(status) = call.app.acme.status(owner) else { return Some(queued()) };
    let job = status.job.map(|job| JobView {
        error_code: job.failure.as_ref().map(|failure| failure.code),
        msg: job
            .failure
            .map_or_else(|| "The certificate is being ordered.".into(), |failure| failure.message),
        started_at: reply::timestamp(job.started_at),
        retries_at: Some(reply::timestamp(job.retries_at)),
    });
    Some(StatusView { renews_at: status.renews_at.map(reply::timestamp), provisioning_job: job })
}

/// Where a wildcard's `_acme-challenge` must point to by CNAME; None: no such record is needed.
pub(super) fn cname_target(call: &Call, policy: Option<&ManagementPolicy>, host: &Host) -> Option<String> {
    policy.filter(|_| host.is_wildcard())?;
    call.app.acme.settings()?.cname_target(host)
}

/// Adds the removal of all that belongs to a name's certificate.
pub(super) fn forget(txn: Txn, owner: Owner, host: &Host) -> Txn {
    let txn = txn.delete(owner.certificate_key()).delete(owner.key());
    owner.challenge_key(host).into_iter().fold(txn, Txn::delete)
}

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
