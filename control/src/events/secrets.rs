//! Secrets of destinations: one sealed JSON object a destination, never shown again.

use std::collections::BTreeMap;

use crate::record::Record;
use crate::record::events::EventDestination;
use crate::secret::{OpenError, Sealed, Vault};

/// Opens what a destination has, by name.
pub fn open(record: &EventDestination, vault: &Vault) -> Result<BTreeMap<String, String>, OpenError> {
    let Some(sealed) = &record.secrets else { return Ok(BTreeMap::new()) };
    let text = vault.open(&record.key(), sealed)?;
    serde_json::from_str(&text).map_err(|_| OpenError { context: record.key() })
}

/// Seals secrets for the key their destination is stored under. None: there are none.
pub fn seal(key: &str, secrets: &BTreeMap<String, String>, vault: &Vault) -> Option<Sealed> {
    let text = serde_json::to_string(secrets).ok().filter(|_| !secrets.is_empty())?;
    Some(vault.seal(key, &text))
}
