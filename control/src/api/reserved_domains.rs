//! `/reserved_domains`: names on which an account may open public endpoints.
//!
//! The rules of names are in `domain_name`. Certificates that are not uploaded come from the installation's own authority.

use axum::extract::Path;
use ebbgate_model::{AccountId, CertificateId, DomainId, Host};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod;

use super::body::NoBody;
use super::call::{Call, NoQuery};
use super::certificate_policy::{CertificatePolicy, Kind};
use super::condition::Conditions;
use super::described::{Head, TextCodes};
use super::domain_name;
use super::dry_run::DryRun;
use super::failure::ApiError;
use super::given::{Given, body};
use super::issue::{self, StatusView};
use super::operation::Operation;
use super::refusal::Refusal;
use super::region;
use super::reply::Ref;
use super::resource::{Draft, Resource, check_id, parse_id, save};
use super::routes::Routes;
use super::tls_certificates::TlsCertificates;
use super::x509;
use crate::acme::Owner;
use crate::authority::Purpose;
use crate::record::{
    self, Endpoint, Holder, ManagementPolicy, Record, ReservedDomain, Stored, TlsCertificate, index,
};
use crate::store::{Item, Range, Revision, Txn};

const TEXTS: TextCodes = TextCodes { description: 420, metadata: 421 };
/// Most entries of `resolves_to`.
const RESOLVES_TO_MAX: usize = 32;

/// A reserved domain.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReservedDomain)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    domain: String,
    /// Deprecated; always "".
    region: String,
    /// Name to point a CNAME record at; null where the installation is known by an address only.
    cname_target: Option<String>,
    certificate: Option<Ref>,
    certificate_management_policy: Option<CertificatePolicy>,
    certificate_management_status: Option<StatusView>,
    /// Where the CNAME record `_acme-challenge` of a wildcard must point to; null: no such record is needed.
    acme_challenge_cname_target: Option<String>,
    resolves_to: Vec<ResolvesTo>,
    /// Legacy; always null.
    error_redirect_url: Option<String>,
    /// Legacy; always null.
    http_endpoint_configuration: Option<Ref>,
    /// Legacy; always null.
    https_endpoint_configuration: Option<Ref>,
    /// Legacy; always false.
    is_dev: bool,
}

/// A point of presence.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolvesTo {
    /// A region code, `global`, or an address.
    value: String,
}

body! {
    /// Body of `POST /reserved_domains`.
    Create as "ReservedDomainCreate" {
        domain: String,
        /// Old name of `domain`.
        name: String,
        region: String,
        description: String,
        metadata: String,
        certificate_id: Option<String>,
        certificate_management_policy: Option<CertificatePolicy>,
        resolves_to: Vec<ResolvesTo>,
    }
}

body! {
    /// Body of `PATCH /reserved_domains/{id}`.
    Update as "ReservedDomainUpdate" {
        region: String,
        description: String,
        metadata: String,
        certificate_id: Option<String>,
        certificate_management_policy: Option<CertificatePolicy>,
        resolves_to: Vec<ResolvesTo>,
    }
}

pub(super) struct ReservedDomains;

/// The two calls beyond the common five: each takes one attachment off.
pub(super) fn routes() -> Routes {
    let base = format!("/{}/{{id}}", ReservedDomains::PATH);
    let detaching = |what: &str, summary: &str| {
        Operation::new(ReservedDomains::PATH, &format!("delete_{what}"), summary)
            .id(ReservedDomains::ID_PREFIXES)
            .refuses(&[Refusal::Conflict])
    };
    Routes::new()
        .add(
            HttpMethod::Delete,
            &format!("{base}/certificate"),
            detach_certificate,
            detaching("certificate", "Detach the certificate of one reserved domain"),
        )
        .add(
            HttpMethod::Delete,
            &format!("{base}/certificate_management_policy"),
            detach_policy,
            detaching("certificate_management_policy", "Detach the management policy of one reserved domain"),
        )
}

async fn detach_certificate(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    conditions: Conditions,
    _: NoBody,
) -> Result<StatusCode, ApiError> {
    detach(&call, &id, &conditions, Update { certificate_id: Given::from(None), ..Update::default() }).await
}

async fn detach_policy(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    conditions: Conditions,
    _: NoBody,
) -> Result<StatusCode, ApiError> {
    let update = Update { certificate_management_policy: Given::from(None), ..Update::default() };
    detach(&call, &id, &conditions, update).await
}

async fn detach(
    call: &Call,
    id: &str,
    conditions: &Conditions,
    update: Update,
) -> Result<StatusCode, ApiError> {
    let id = parse_id::<ReservedDomains>(id)?;
    save::<ReservedDomains>(call, id, &update, conditions, DryRun::default()).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Resource for ReservedDomains {
    const PATH: &'static str = "reserved_domains";
    const NOUN: &'static str = "reserved domain";
    const ID_PREFIXES: &'static [&'static str] = &[DomainId::PREFIX];
    const EMPTY_UPDATE: u32 = 422;
    const EXAMPLE: &'static str = r#"{"domain": "app.example.com"}"#;
    type Id = DomainId;
    type Record = ReservedDomain;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &ReservedDomain) -> View {
        let target = &call.app.installation.tcp_host;
        let owner = Owner::Domain(record.account, record.id);
        View {
            head: Head::of::<Self>(call, record),
            domain: record.host.to_string(),
            region: String::new(),
            cname_target: target.ip().is_none().then(|| target.to_string()),
            certificate: record.certificate.map(|id| call.reference(TlsCertificates::PATH, id)),
            certificate_management_policy: record.management.as_ref().map(CertificatePolicy::from_record),
            certificate_management_status: issue::status(
                call,
                owner,
                record.management.as_ref(),
                record.created_at,
            ),
            acme_challenge_cname_target: issue::cname_target(call, record.management.as_ref(), &record.host),
            resolves_to: record.resolves_to.iter().map(|value| ResolvesTo { value: value.clone() }).collect(),
            error_redirect_url: None,
            http_endpoint_configuration: None,
            https_endpoint_configuration: None,
            is_dev: false,
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<ReservedDomain>, ApiError> {
        let name = domain_name::check(&wanted_name(body)?)?;
        TEXTS.check(&body.description, &body.metadata)?;
        region::check(&body.region.or_default(), 400)?;
        domain_name::check_foreign(&name.host, &call.app.installation)?;
        let id = DomainId::new(call.app.ksuid());
        let revision = check_free(call, &name.host).await?;
        let txn = record::take(Txn::new(), index::domain(&name.host), call.account, id);
        let mut draft = Draft::new(ReservedDomain {
            id,
            account: call.account,
            host: name.host,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            certificate: None,
            management: None,
            resolves_to: read_resolves_to(&body.resolves_to.or_default())?,
            created_at: call.app.now(),
        });
        if name.is_laboratory {
            refuse_if_strict(call, &draft.record.host)?;
            draft.warnings.push(format!("`{}` can never be resolved on the internet", draft.record.host));
        }
        draft.txn = txn.if_none_newer(index::DOMAINS_PREFIX, revision);
        attach(call, &mut draft, &body.certificate_id, &body.certificate_management_policy).await?;
        if draft.record.management.is_none() || call.app.acme.settings().is_none() {
            draft.txn = issue::leaf(call, draft.txn, Purpose::Ingress, id, &draft.record.host)?;
        }
        manage(call, &mut draft, None).await?;
        draft.warnings.extend(without_effect(call, &body.region, &body.resolves_to));
        Ok(draft)
    }

    async fn update(
        call: &Call,
        stored: &Stored<ReservedDomain>,
        body: &Update,
    ) -> Result<Draft<ReservedDomain>, ApiError> {
        region::check(&body.region.or_default(), 400)?;
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        if let Some(values) = body.resolves_to.get() {
            draft.record.resolves_to = read_resolves_to(values)?;
        }
        attach(call, &mut draft, &body.certificate_id, &body.certificate_management_policy).await?;
        manage(call, &mut draft, stored.record.management.as_ref()).await?;
        draft.warnings.extend(without_effect(call, &body.region, &body.resolves_to));
        Ok(draft)
    }

    async fn delete(call: &Call, stored: &Stored<ReservedDomain>) -> Result<Txn, ApiError> {
        let domain = &stored.record;
        let unused = unused(call, domain.id, domain.host.as_str()).await?;
        let txn = unused.delete(index::domain(&domain.host));
        Ok(issue::forget(txn, Owner::Domain(call.account, domain.id), &domain.host))
    }

    async fn delete_damaged(call: &Call, id: DomainId) -> Result<Txn, ApiError> {
        unused(call, id, &id.to_string()).await
    }
}

/// Refuses while a cloud endpoint stands on the domain; else the compare that keeps it so.
async fn unused(call: &Call, domain: DomainId, name: &str) -> Result<Txn, ApiError> {
    let endpoints = record::list::<Endpoint>(&*call.app.store, call.account, None, None).await?;
    if let Some(user) = endpoints.items.iter().find(|e| e.record.domain == Some(domain)) {
        let (url, id) = (&user.record.url, user.record.id);
        let message = format!("`{name}` is in use by the cloud endpoint {id} on {url}; delete that first");
        return Err(ApiError::conflict(446, message));
    }
    record::none_damaged(&endpoints.damaged, "endpoint", name).map_err(ApiError::in_use)?;
    Ok(Txn::new().if_none_newer(record::prefix::<Endpoint>(call.account), endpoints.revision))
}

/// What to say of fields that are kept and change nothing.
fn without_effect(call: &Call, region: &Given<String>, resolves_to: &Given<Vec<ResolvesTo>>) -> Vec<String> {
    let mut warnings: Vec<_> =
        region::ignored(&region.or_default(), &call.app.installation).into_iter().collect();
    if resolves_to.get().is_some_and(|values| !values.is_empty()) {
        warnings.push(
            "`resolves_to` is stored, but has no effect: who resolves the name is told by your own DNS records".to_owned(),
        );
    }
    warnings
}

fn refuse_if_strict(call: &Call, host: &Host) -> Result<(), ApiError> {
    if !call.is_strict() {
        return Ok(());
    }
    let message = format!("`{host}` cannot be reserved: its last label is not a public top-level domain");
    Err(ApiError::bad(411, message).detail("field", "domain"))
}

fn wanted_name(body: &Create) -> Result<String, ApiError> {
    match (body.domain.or_default(), body.name.or_default()) {
        (domain, name) if !domain.is_empty() && !name.is_empty() => {
            Err(ApiError::bad(449, "both `domain` and its old name `name` are given; give `domain` only"))
        }
        (domain, name) if domain.is_empty() => Ok(name),
        (domain, _) => Ok(domain),
    }
}

/// Whether another account has reserved a name or one above it; the revision makes it so until the transaction.
pub(super) async fn is_foreign(call: &Call, host: &Host) -> Result<(bool, Revision), ApiError> {
    let (items, revision) = around(call, host).await?;
    for item in &items {
        let owner = record::decode::<Holder>(item)?.record.account;
        let clash = name_of_key(&item.key)
            .and_then(|taken| domain_name::clash((call.account, host), (owner, &taken)));
        if owner != call.account && clash.is_some() {
            return Ok((true, revision));
        }
    }
    Ok((false, revision))
}

/// Refuses a name that clashes with one above it, below it or equal; the revision makes the check hold until the
/// transaction.
async fn check_free(call: &Call, host: &Host) -> Result<Revision, ApiError> {
    let (items, revision) = around(call, host).await?;
    for item in &items {
        let owner: AccountId = record::decode::<Holder>(item)?.record.account;
        let taken = name_of_key(&item.key);
        if let Some(clash) = taken.and_then(|taken| domain_name::clash((call.account, host), (owner, &taken)))
        {
            return Err(clash.detail("field", "domain"));
        }
    }
    Ok(revision)
}

/// Index entries of the names at, below and above a name, and their revision.
async fn around(call: &Call, host: &Host) -> Result<(Vec<Item>, Revision), ApiError> {
    let store = &*call.app.store;
    let bare = host.wildcard_suffix().unwrap_or(host.as_str());
    let bare: Host = bare.parse().map_err(|e| ApiError::internal(&e))?;
    let below = store.range(Range::all(index::domain(&bare))).await?;
    let mut items = below.items;
    for (at, _) in bare.as_str().match_indices('.') {
        let parent = bare.as_str().get(at + 1..).unwrap_or_default();
        for name in [parent.to_owned(), format!("*.{parent}")] {
            let Ok(name) = name.parse::<Host>() else { continue };
            items.extend(store.get(&index::domain(&name)).await?);
        }
    }
    Ok((items, below.revision))
}

/// The name an index key stands for.
fn name_of_key(key: &str) -> Option<Host> {
    let labels = key.strip_prefix(index::DOMAINS_PREFIX)?.strip_suffix('.')?;
    labels.rsplit('.').collect::<Vec<_>>().join(".").parse().ok()
}

/// Sets certificate and management policy as given. Both at once exclude each other (434).
async fn attach(
    call: &Call,
    draft: &mut Draft<ReservedDomain>,
    certificate: &Given<Option<String>>,
    policy: &Given<Option<CertificatePolicy>>,
) -> Result<(), ApiError> {
    if let Some(policy) = policy.get() {
        draft.record.management = policy.as_ref().map(|p| p.to_record(Kind::Domain)).transpose()?;
    }
    if let Some(id) = certificate.get() {
        draft.record.certificate = None;
        if let Some(id) = id.as_deref().filter(|id| !id.is_empty()) {
            attach_certificate(call, draft, check_id(id, TlsCertificates::ID_PREFIXES)?).await?;
        }
    }
    if draft.record.certificate.is_some() && draft.record.management.is_some() {
        let message = "a domain has either an uploaded certificate or a certificate_management_policy; set the other to null";
        return Err(ApiError::bad(434, message));
    }
    Ok(())
}

/// Has the domain's certificate managed as its policy says. `before`: what it said until now.
async fn manage(
    call: &Call,
    draft: &mut Draft<ReservedDomain>,
    before: Option<&ManagementPolicy>,
) -> Result<(), ApiError> {
    let domain = &draft.record;
    let owner = Owner::Domain(domain.account, domain.id);
    let txn = std::mem::take(&mut draft.txn);
    let (txn, warnings) =
        issue::managed(call, txn, owner, &domain.host, before, domain.management.as_ref()).await?;
    draft.txn = txn;
    draft.warnings.extend(warnings);
    Ok(())
}

async fn attach_certificate(
    call: &Call,
    draft: &mut Draft<ReservedDomain>,
    id: CertificateId,
) -> Result<(), ApiError> {
    let stored = record::load::<TlsCertificate>(&*call.app.store, call.account, id).await?;
    let stored = stored.ok_or_else(|| {
        ApiError::bad(1965, format!("`certificate_id`: there is no certificate {id} in this account"))
    })?;
    let host = &draft.record.host;
    if !x509::covers(&stored.record.chain_pem, host) {
        draft.warnings.push(format!("the certificate {id} does not name `{host}`; clients will refuse it"));
    }
    draft.record.certificate = Some(id);
    draft.txn = std::mem::take(&mut draft.txn).if_unchanged(stored.record.key(), stored.modified);
    Ok(())
}

fn read_resolves_to(given: &[ResolvesTo]) -> Result<Vec<String>, ApiError> {
    if given.len() > RESOLVES_TO_MAX {
        return Err(ApiError::value(
            "resolves_to",
            format_args!("it has more than {RESOLVES_TO_MAX} entries"),
        ));
    }
    for (at, entry) in given.iter().enumerate() {
        if !region::is_place(&entry.value) {
            let field = format!("resolves_to[{at}].value");
            let message = format!("`{}` is not a region, `global` or an address", entry.value);
            return Err(ApiError::value(&field, message));
        }
    }
    Ok(given.iter().map(|entry| entry.value.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_keys_lead_back_to_names() {
        for name in ["a.example.com", "*.example.com", "example.com"] {
            let host: Host = name.parse().unwrap();
            assert_eq!(name_of_key(&index::domain(&host)), Some(host));
        }
    }
}
