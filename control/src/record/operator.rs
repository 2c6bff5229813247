//! Stored registrations of Kubernetes operators.

use ebbgate_model::{AccountId, KubernetesOperatorId};
use serde::{Deserialize, Serialize};

use super::{Record, UnixSecs};

records! {
    /// The registration of a Kubernetes operator.
    KubernetesOperator(KubernetesOperatorId) = "kubernetes_operators" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// `bindings`, `gateway`, `ingress`: lower case, in this order, none twice.
        enabled_features: Vec<String>,
        /// Region asked for, as given; `global` when none was.
        region: String,
        /// Where it runs.
        deployment: Deployment,
        /// How endpoints with the kubernetes binding reach its cluster; None: not at all.
        binding: Option<OperatorBinding>,
        /// Id of the API key, service user or user that made it.
        principal: String,
        /// When it was last changed.
        updated_at: UnixSecs,
    }
}

/// Where an operator runs, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Name of the deployment.
    pub name: String,
    /// Namespace it is installed in.
    pub namespace: String,
    /// Version of the operator.
    pub version: String,
    /// Name of the cluster, as an administrator chose it.
    pub cluster_name: String,
}

/// How endpoints with the kubernetes binding reach an operator's cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorBinding {
    /// CEL expressions over an endpoint; it is bound when one of them holds.
    pub endpoint_selectors: Vec<String>,
    /// Address at which the operator reaches the installation.
    pub ingress_endpoint: String,
    /// The operator's client certificate, PEM. Its key never leaves the operator.
    pub certificate_pem: String,
    /// Unix seconds.
    pub not_before: UnixSecs,
    /// Unix seconds.
    pub not_after: UnixSecs,
}
