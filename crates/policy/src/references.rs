//! The objects of an account that its policies may name.

use std::collections::BTreeMap;

use ebbgate_model::{AuthorityId, IpPolicyId, IpPolicyRule};

use crate::secret::{SecretName, SecretValue};

/// The objects of one account that a policy may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Authorities of client certificates, PEM.
    pub authorities: BTreeMap<AuthorityId, String>,
    /// IP policies.
    pub ip_policies: BTreeMap<IpPolicyId, Vec<IpPolicyRule>>,
    /// Secrets of vaults.
    pub secrets: BTreeMap<SecretName, SecretValue>,
}
