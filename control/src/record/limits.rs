//! What the operator lets an account have, where that is not the default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes of all records of an account unless the operator says otherwise.
pub const ACCOUNT_BYTES_DEFAULT: usize = 64 << 20;

/// Most an account may have. What is not named here has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Objects, by collection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub objects: BTreeMap<String, usize>,
    /// Bytes of all its records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
}

impl Limits {
    /// Whether all are the defaults.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Most objects of a collection.
    pub fn objects(&self, collection: &str, default: usize) -> usize {
        self.objects.get(collection).copied().unwrap_or(default)
    }

    /// Most bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.unwrap_or(ACCOUNT_BYTES_DEFAULT)
    }
}
