//! What a change of the Tables means for the rest of the edge: whom it concerns, so that nobody else is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebbgate_model::{AccountId, CredentialId, Host, ObjectKey};

use super::data::Tables;
use crate::state::endpoint::Endpoint;

/// What follows from a change of the Tables.
#[derive(Debug, Default)]
pub struct Effects {
    /// Cloud endpoints that are new or changed.
    pub put: Vec<Arc<Endpoint>>,
    /// Cloud endpoints that are gone, or were at another URL before.
    pub removed: Vec<Arc<Endpoint>>,
    /// Ports of reserved addresses that came or went.
    pub ports: BTreeSet<u16>,
    /// Accounts whose restrictions, or the objects their policies name, changed.
    pub accounts: BTreeSet<AccountId>,
    /// Credentials that changed or are gone.
    pub credentials: BTreeSet<CredentialId>,
    /// Names and addresses that were reserved or given up.
    pub names: Vec<Name>,
    /// Whether the settings changed.
    pub settings: bool,
    /// Whether the kernel may have to enforce something else.
    pub kernel: bool,
    /// Objects that cannot be used as they are now, each with the reason.
    pub refused: BTreeMap<ObjectKey, String>,
}

/// A name that was reserved or given up; a wildcard stands for all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub host: Host,
    /// Of an address: its port.
    pub port: Option<u16>,
}

impl Effects {
    /// What follows from Tables where there was nothing.
    pub fn of_all(tables: &Tables) -> Self {
        let refused = tables.unserved.iter().map(|(key, reason)| (key.clone(), reason.to_string()));
        Self {
            put: tables.cloud.values().cloned().collect(),
            ports: tables.objects.addresses.values().map(|address| address.port).collect(),
            settings: true,
            kernel: true,
            refused: refused.collect(),
            ..Self::default()
        }
    }

    /// Whether nobody's sessions are concerned.
    pub fn spares_sessions(&self) -> bool {
        !self.settings && self.accounts.is_empty() && self.credentials.is_empty() && self.names.is_empty()
    }
}
