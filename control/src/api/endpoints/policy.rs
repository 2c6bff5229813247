//! What an endpoint's traffic policy may say: the checks of `ebbgate-policy`, and those that need the account's objects.

use std::collections::{BTreeMap, BTreeSet};

use ebbgate_model::{SecretId, TrafficPolicy};
use ebbgate_policy::{CheckContext, Checked, Diagnostic, SECRETS_MAX, check};

use super::super::call::Call;
use super::super::failure::ApiError;
use super::super::policy_secrets;
use crate::record::{self, CertificateAuthority, IpPolicy, Record};
use crate::store::Txn;

/// Most defects listed in one answer.
const DIAGNOSTICS_MAX: usize = 20;

/// Most certificate authorities and IP policies that one policy names, each counted once.
pub(in crate::api) const REFERENCES_MAX: usize = 64;

/// A policy that may be stored.
#[derive(Debug)]
pub(super) struct Judged {
    /// None: the endpoint has no policy yet.
    pub(super) policy: Option<TrafficPolicy>,
    /// What is doubtful about the text, whatever else is there.
    pub(super) warnings: Vec<String>,
    /// Secrets it names, each once.
    pub(super) secrets: Vec<SecretId>,
}

/// Judges a policy text. Objects it names are held in place by the transaction.
pub(super) async fn judge(
    call: &Call,
    text: &str,
    cx: &CheckContext,
    txn: &mut Txn,
) -> Result<Judged, ApiError> {
    if text.trim().is_empty() {
        return absent(call);
    }
    let checked = check(text, cx).map_err(|defects| refused(&defects))?;
    let mut missing = checked.addresses_missing(&call.app.presence.address_data());
    missing.extend(checked.core_rule_set_missing(call.app.presence.has_core_rule_set()));
    if !missing.is_empty() {
        return Err(refused(&missing));
    }
    *txn = hold_references(call, &checked, std::mem::take(txn)).await?;
    let secrets = hold_secrets(call, &checked, txn).await?;
    let warnings = checked.warnings.iter().map(ToString::to_string).collect();
    Ok(Judged { policy: Some(checked.policy), warnings, secrets })
}

/// An endpoint without a policy answers as offline until it has one. Strict installations refuse it.
fn absent(call: &Call) -> Result<Judged, ApiError> {
    let message = "`traffic_policy`: a cloud endpoint needs a traffic policy that ends all traffic";
    if call.is_strict() {
        return Err(ApiError::bad(18011, message).detail("field", "traffic_policy"));
    }
    Ok(Judged {
        policy: None,
        warnings: vec![format!("{message}; until one is set, visitors get an offline answer")],
        secrets: Vec::new(),
    })
}

/// All defects at once: the first in `msg`, every one in `details`.
pub(in crate::api) fn refused(defects: &[Diagnostic]) -> ApiError {
    // A defect of the whole document is often only the consequence of one that has a place.
    let Some(first) = defects.iter().find(|defect| !defect.path.is_empty()).or(defects.first()) else {
        return ApiError::bad(18002, "the traffic policy is invalid").detail("field", "traffic_policy");
    };
    let more = match defects.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more, listed in details)"),
    };
    let error = ApiError::bad(first.code.number(), format!("the traffic policy is invalid: {first}{more}"));
    let error = error.detail("field", "traffic_policy").detail("endpoint_error_code", "ERR_NGROK_18002");
    let error = located(error, first);
    defects
        .iter()
        .take(DIAGNOSTICS_MAX)
        .enumerate()
        .fold(error, |error, (at, defect)| error.detail(format!("defect_{}", at + 1), defect.to_string()))
}

fn located(mut error: ApiError, defect: &Diagnostic) -> ApiError {
    if !defect.path.is_empty() {
        error = error.detail("path", defect.path.clone());
    }
    let numbers = [("line", defect.line), ("column", defect.column)];
    numbers.into_iter().fold(error, |error, (name, number)| match number {
        Some(number) => error.detail(name, number.to_string()),
        None => error,
    })
}

/// Refuses ids the account does not have (228, 229), and keeps those it has until the transaction.
async fn hold_references(call: &Call, checked: &Checked, mut txn: Txn) -> Result<Txn, ApiError> {
    let store = &*call.app.store;
    let authorities: BTreeSet<_> = checked.authorities().iter().collect();
    let ip_policies: BTreeSet<_> = checked.ip_policies().iter().collect();
    let named = authorities.len() + ip_policies.len();
    if named > REFERENCES_MAX {
        let message = format!(
            "the traffic policy names {named} certificate authorities and IP policies; at most {REFERENCES_MAX} are allowed"
        );
        return Err(ApiError::bad(18002, message).detail("field", "traffic_policy"));
    }
    for id in authorities {
        let stored = record::load::<CertificateAuthority>(store, call.account, *id).await?;
        let stored = stored.ok_or_else(|| unknown(228, "certificate authority", id))?;
        txn = txn.if_unchanged(stored.record.key(), stored.modified);
    }
    for id in ip_policies {
        let stored = record::load::<IpPolicy>(store, call.account, *id).await?;
        let stored = stored.ok_or_else(|| unknown(229, "IP policy", id))?;
        txn = txn.if_unchanged(stored.record.key(), stored.modified);
    }
    Ok(txn)
}

/// Refuses secrets the account does not have, at their places, and keeps those it has until the transaction.
async fn hold_secrets(call: &Call, checked: &Checked, txn: &mut Txn) -> Result<Vec<SecretId>, ApiError> {
    let names = checked.secrets();
    if names.len() > SECRETS_MAX {
        let message =
            format!("the traffic policy names {} secrets; at most {SECRETS_MAX} are allowed", names.len());
        return Err(ApiError::bad(18002, message).detail("field", "traffic_policy"));
    }
    let mut found = BTreeMap::new();
    for name in names {
        if let Some(stored) = policy_secrets::find(call, name).await? {
            found.insert(name.clone(), stored);
        }
    }
    let missing = checked.secrets_missing(|name| found.contains_key(name));
    if !missing.is_empty() {
        return Err(refused(&missing));
    }
    // Not the secrets' own keys: a value may change meanwhile, a name may not.
    let keys: BTreeMap<_, _> = found.values().flat_map(|found| found.keys.clone()).collect();
    *txn = keys.into_iter().fold(std::mem::take(txn), |txn, (key, modified)| txn.if_unchanged(key, modified));
    Ok(found.values().map(|found| found.id).collect())
}

fn unknown(code: u32, noun: &str, id: &dyn std::fmt::Display) -> ApiError {
    let message = format!("the traffic policy names the {noun} {id}, which this account does not have");
    ApiError::bad(code, message).detail("field", "traffic_policy")
}
