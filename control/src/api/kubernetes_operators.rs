//! `/kubernetes_operators`: registrations of Kubernetes operators, and the endpoints that each projects into its cluster
//! (`/kubernetes_operators/{id}/bound_endpoints`).
//!
//! An operator gets a client certificate for the key of its signing request. Nothing else of the request is taken.

use axum::extract::{Path, RawQuery};
use axum::response::Response;
use ebbgate_model::{Binding, EndpointId, KubernetesOperatorId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod;

use super::body::NoBody;
use super::call::Call;
use super::described::{Head, TextCodes};
use super::endpoints::{self, Endpoints};
use super::failure::ApiError;
use super::filter::{Budget, Filter};
use super::given::{Given, body};
use super::members::{self, Place};
use super::operation::Operation;
use super::reply::{Ref, timestamp};
use super::resource::{Draft, Resource, load, parse_id};
use super::routes::Routes;
use super::{pem, principal, region};
use crate::csr;
use crate::record::operator::{Deployment, KubernetesOperator, OperatorBinding};
use crate::record::{self, Endpoint, Stored};
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 215, metadata: 215 };
/// Path of the endpoints that one operator projects.
const BOUND_PATH: &str = "/kubernetes_operators/{id}/bound_endpoints";
/// Features an operator may have.
const FEATURES: [&str; 3] = ["bindings", "gateway", "ingress"];
/// Most selectors of one operator.
const SELECTORS_MAX: usize = 16;
/// Longest text about a deployment, and longest ingress endpoint, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// A Kubernetes operator.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KubernetesOperator)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    updated_at: String,
    /// `bindings`, `gateway`, `ingress`.
    enabled_features: Vec<String>,
    /// `global` unless it was given.
    region: String,
    /// Where it runs.
    deployment: DeploymentBody,
    /// Null: no endpoint is bound to its cluster.
    binding: Option<BindingView>,
    /// Whoever registered it.
    principal: Ref,
}

/// Where an operator runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = KubernetesOperatorDeployment)]
pub(super) struct DeploymentBody {
    /// Name of the deployment.
    name: String,
    /// Namespace it is installed in.
    namespace: String,
    /// Version of the operator.
    version: String,
    /// Name of the cluster.
    cluster_name: String,
}

/// How endpoints reach an operator's cluster.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KubernetesOperatorBinding)]
pub(super) struct BindingView {
    /// An endpoint is bound when one of them holds.
    endpoint_selectors: Vec<String>,
    /// Address at which the operator reaches the installation.
    ingress_endpoint: String,
    /// The operator's client certificate.
    cert: CertificateView,
}

/// An operator's client certificate.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KubernetesOperatorCert)]
pub(super) struct CertificateView {
    /// PEM.
    cert: String,
    /// Begin of its validity.
    not_before: String,
    /// End of its validity.
    not_after: String,
}

/// The binding that an operator asks for.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = KubernetesOperatorBindingCreate)]
pub(super) struct BindingBody {
    /// Conditions on an endpoint, such as `endpoint.metadata == "prod"`, in the language of list filters.
    endpoint_selectors: Option<Vec<String>>,
    /// Certificate signing request in PEM.
    csr: Option<String>,
    /// Address at which the operator reaches the installation.
    ingress_endpoint: Option<String>,
}

body! {
    /// Body of `POST /kubernetes_operators`.
    Create as "KubernetesOperatorCreate" {
        description: String,
        metadata: String,
        /// Of `bindings`, `gateway`, `ingress`, in any case.
        enabled_features: Vec<String>,
        /// `global` when absent.
        region: String,
        /// Where it runs.
        deployment: DeploymentBody,
        /// How endpoints reach its cluster; null: not at all.
        binding: Option<BindingBody>,
    }
}

body! {
    /// Body of `PATCH /kubernetes_operators/{id}`.
    Update as "KubernetesOperatorUpdate" {
        description: String,
        metadata: String,
        /// Of `bindings`, `gateway`, `ingress`, in any case.
        enabled_features: Vec<String>,
        /// `global` when empty.
        region: String,
        /// Where it runs.
        deployment: DeploymentBody,
        /// Fields that are absent stay; null ends the binding.
        binding: Option<BindingBody>,
    }
}

pub(super) struct KubernetesOperators;

impl Resource for KubernetesOperators {
    const PATH: &'static str = "kubernetes_operators";
    const LIST_KEY: &'static str = "operators";
    const NOUN: &'static str = "Kubernetes operator";
    const ID_PREFIXES: &'static [&'static str] = &[KubernetesOperatorId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    type Id = KubernetesOperatorId;
    type Record = KubernetesOperator;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &KubernetesOperator) -> View {
        let Deployment { name, namespace, version, cluster_name } = record.deployment.clone();
        let binding = record.binding.as_ref().map(|binding| BindingView {
            endpoint_selectors: binding.endpoint_selectors.clone(),
            ingress_endpoint: binding.ingress_endpoint.clone(),
            cert: CertificateView {
                cert: binding.certificate_pem.clone(),
                not_before: timestamp(binding.not_before),
                not_after: timestamp(binding.not_after),
            },
        });
        View {
            head: Head::of::<Self>(call, record),
            updated_at: timestamp(record.updated_at),
            enabled_features: record.enabled_features.clone(),
            region: record.region.clone(),
            deployment: DeploymentBody { name, namespace, version, cluster_name },
            binding,
            principal: principal::reference(call, &record.principal),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<KubernetesOperator>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let now = call.app.now();
        let mut draft = Draft::new(KubernetesOperator {
            id: KubernetesOperatorId::new(call.app.ksuid()),
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            enabled_features: features(&body.enabled_features.or_default())?,
            region: place(&body.region)?,
            deployment: deployment(body.deployment.or_default())?,
            binding: None,
            principal: call.principal.clone(),
            updated_at: now,
            created_at: now,
        });
        bind(call, &mut draft, body.binding.or_default().as_ref())?;
        Ok(draft)
    }

    async fn update(
        call: &Call,
        stored: &Stored<KubernetesOperator>,
        body: &Update,
    ) -> Result<Draft<KubernetesOperator>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        draft.record.updated_at = call.app.now();
        if let Some(names) = body.enabled_features.get() {
            draft.record.enabled_features = features(names)?;
        }
        if body.region.get().is_some() {
            draft.record.region = place(&body.region)?;
        }
        if let Some(given) = body.deployment.get() {
            draft.record.deployment = deployment(given.clone())?;
        }
        if let Some(binding) = body.binding.get() {
            bind(call, &mut draft, binding.as_ref())?;
        }
        Ok(draft)
    }

    async fn delete(_: &Call, _: &Stored<KubernetesOperator>) -> Result<Txn, ApiError> {
        Ok(Txn::new())
    }

    /// Edges get none of it.
    fn sent_bytes(_: &KubernetesOperator) -> usize {
        0
    }
}

/// The endpoints of one operator.
pub(super) fn routes() -> Routes {
    let document = Operation::new(Endpoints::PATH, "list_bound", "List every endpoint bound to one operator")
        .id(KubernetesOperators::ID_PREFIXES)
        .lists::<endpoints::View>(Endpoints::LIST_KEY, Endpoints::ID_PREFIXES, &[]);
    Routes::new().add(HttpMethod::Get, BOUND_PATH, bound_endpoints, document)
}

async fn bound_endpoints(
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let operator = load::<KubernetesOperators>(&call, parse_id::<KubernetesOperators>(&id)?).await?.record;
    let selectors = operator.binding.as_ref().map(|binding| binding.endpoint_selectors.as_slice());
    let selectors = selectors.unwrap_or_default().iter().map(|source| selector(source));
    let selectors = selectors.collect::<Result<Vec<_>, _>>()?;
    let bound = bound(&call, &selectors).await?;
    let path = format!("{}/{}/bound_endpoints", KubernetesOperators::PATH, operator.id);
    let place = Place { path, list_key: Endpoints::LIST_KEY };
    members::page(&call, query.as_deref(), &place, parse_id::<Endpoints>, bound)
}

/// Endpoints of the account with the kubernetes binding that one of the selectors chooses, cloud and agent.
async fn bound(call: &Call, selectors: &[Filter]) -> Result<Vec<(EndpointId, serde_json::Value)>, ApiError> {
    let stored = record::list::<Endpoint>(&*call.app.store, call.account, None, None).await?;
    let mut views = Vec::new();
    for Stored { record, .. } in stored.items.iter().filter(|s| s.record.binding == Binding::Kubernetes) {
        views.push((record.id, Endpoints::view(call, record)));
    }
    for live in call.app.presence.endpoints(call.account) {
        if live.report.binding == Binding::Kubernetes {
            views.push((live.id, endpoints::of_agent(call, &live).await?));
        }
    }
    let (now, mut budget) = (call.app.now(), Budget::new());
    let mut bound = Vec::new();
    for (id, view) in views {
        let view = serde_json::to_value(view).map_err(|e| ApiError::internal(&e))?;
        for selector in selectors {
            if selector.keeps(&view, now, &mut budget)? {
                bound.push((id, view));
                break;
            }
        }
        // Others are served by the same threads.
        tokio::task::yield_now().await;
    }
    Ok(bound)
}

/// A selector calls the endpoint `endpoint`, or `obj` as filters do.
fn selector(source: &str) -> Result<Filter, ApiError> {
    Filter::parse_over(source, "endpoint").or_else(|error| Filter::parse(source).map_err(|_| error))
}

fn features(given: &[String]) -> Result<Vec<String>, ApiError> {
    let known = FEATURES.join(", ");
    for (at, name) in given.iter().enumerate() {
        if !FEATURES.iter().any(|feature| feature.eq_ignore_ascii_case(name)) {
            let message = format!("`{name}` is no feature; the features are {known}");
            return Err(ApiError::value(&format!("enabled_features[{at}]"), message));
        }
    }
    let wanted = |feature: &&&str| given.iter().any(|name| feature.eq_ignore_ascii_case(name));
    Ok(FEATURES.iter().filter(wanted).map(|feature| (*feature).to_owned()).collect())
}

fn place(given: &Given<String>) -> Result<String, ApiError> {
    let place = given.or_default();
    region::check(&place, 215)?;
    Ok(if place.is_empty() { "global".to_owned() } else { place })
}

fn deployment(given: DeploymentBody) -> Result<Deployment, ApiError> {
    let DeploymentBody { name, namespace, version, cluster_name } = given;
    for (field, text) in [
        ("deployment.name", &name),
        ("deployment.namespace", &namespace),
        ("deployment.version", &version),
        ("deployment.cluster_name", &cluster_name),
    ] {
        check_text(field, text)?;
    }
    Ok(Deployment { name, namespace, version, cluster_name })
}

fn check_text(field: &str, text: &str) -> Result<(), ApiError> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::value(field, format_args!("it is longer than {TEXT_BYTES_MAX} bytes")))
}

/// The binding as it will be. A new request gets a new certificate; without one the old certificate stays.
fn bind(
    call: &Call,
    draft: &mut Draft<KubernetesOperator>,
    given: Option<&BindingBody>,
) -> Result<(), ApiError> {
    let before = draft.record.binding.take();
    let Some(given) = given else { return Ok(()) };
    let endpoint_selectors = match (&given.endpoint_selectors, &before) {
        (Some(selectors), _) => {
            check_selectors(selectors)?;
            selectors.clone()
        }
        (None, Some(before)) => before.endpoint_selectors.clone(),
        (None, None) => {
            return Err(ApiError::value(
                "binding.endpoint_selectors",
                "a binding needs at least one; `true` selects every endpoint with the kubernetes binding",
            ));
        }
    };
    let ingress_endpoint = match (&given.ingress_endpoint, &before) {
        (Some(address), _) => address.clone(),
        (None, before) => before.as_ref().map(|before| before.ingress_endpoint.clone()).unwrap_or_default(),
    };
    check_text("binding.ingress_endpoint", &ingress_endpoint)?;
    let (certificate_pem, not_before, not_after) = match (&given.csr, before) {
        (Some(request), _) if !request.is_empty() => certificate(call, &draft.record, request)?,
        (_, Some(before)) => (before.certificate_pem, before.not_before, before.not_after),
        (_, None) => {
            let message = "a binding needs a certificate signing request in PEM";
            return Err(ApiError::value("binding.csr", message));
        }
    };
    draft.warnings.push("kubernetes endpoints are listed for the operator, but not served yet".to_owned());
    draft.record.binding = Some(OperatorBinding {
        endpoint_selectors,
        ingress_endpoint,
        certificate_pem,
        not_before,
        not_after,
    });
    Ok(())
}

fn check_selectors(selectors: &[String]) -> Result<(), ApiError> {
    const FIELD: &str = "binding.endpoint_selectors";
    if selectors.is_empty() || selectors.len() > SELECTORS_MAX {
        let message = format!("there are {}; a binding has 1 to {SELECTORS_MAX}", selectors.len());
        return Err(ApiError::value(FIELD, message));
    }
    for (at, source) in selectors.iter().enumerate() {
        selector(source).map_err(|e| ApiError::value(&format!("{FIELD}[{at}]"), e.message()))?;
    }
    Ok(())
}

/// The authority is the one of agents: what it signs says nothing to edges' and visitors' peers.
fn certificate(
    call: &Call,
    operator: &KubernetesOperator,
    request: &str,
) -> Result<(String, i64, i64), ApiError> {
    const FIELD: &str = "binding.csr";
    let blocks = pem::blocks(FIELD, request)?;
    let [block] = blocks.as_slice() else {
        return Err(ApiError::value(FIELD, format_args!("it has {} PEM blocks; send one", blocks.len())));
    };
    if !matches!(block.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        let message = format!("it holds a `{}`; it must be a `CERTIFICATE REQUEST`", block.label);
        return Err(ApiError::value(FIELD, message));
    }
    let key = csr::public_key(&block.der).map_err(|e| ApiError::value(FIELD, e))?;
    let signed = call.app.issuer.connect.client(&operator.id.to_string(), &key, call.app.now());
    let signed = signed.map_err(|e| ApiError::internal(&e))?;
    Ok((signed.certificate_pem, signed.not_before, signed.not_after))
}
