//! `ebbgate-control check`: whether a data directory can be trusted: the database's structure, every value's checksum,
//! every record's form, every sealed key. Changes nothing; control may run beside it.

mod outside;

use std::collections::BTreeMap;
use std::path::Path;

use crate::dir::{DataDir, DirError};
use crate::engine::{Engine, EngineError};
use crate::secret::Vault;
use crate::snapshot::Snapshot;
use crate::store::{Etcd, Page, Revision, StoreError, read_database, verify_database};

/// Damaged records that an error names.
const NAMED_MAX: usize = 20;

/// What was found in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The store's revision; None: the database is of before values had checksums, and gets them at the next start.
    pub revision: Option<Revision>,
    /// Objects of each kind, by the name of their collection.
    pub objects: BTreeMap<String, usize>,
}

/// Why a directory cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database as a whole.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Secrets and authorities.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// Where the records are.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Records.
    #[error(
        "{store} holds {} records that are damaged or lead nowhere; none of them is used: {}. Delete these objects and make them anew, or put a backup in place with `ebbgate-control restore`",
        damaged.len(), named(damaged)
    )]
    Records {
        /// Where the records are.
        store: String,
        /// Their keys, each with the reason.
        damaged: BTreeMap<String, String>,
        /// What is there besides.
        checked: Checked,
    },
}

fn named(damaged: &BTreeMap<String, String>) -> String {
    let named = damaged.iter().take(NAMED_MAX).map(|(key, reason)| format!("{key} ({reason})"));
    named.collect::<Vec<_>>().join(", ")
}

/// Checks everything in a data directory, and in the etcd it names. Gives where the records are.
pub async fn check(dir: &DataDir) -> Result<(String, Checked), CheckError> {
    let vault = dir.vault()?;
    dir.issuer(&vault)?;
    let engine = Engine::of(dir, None)?;
    let checked = match &engine {
        Engine::Sqlite(path) => check_database(path, &vault)?,
        Engine::Etcd(place) => check_page(&Etcd::read_all(place).await?, &engine.name(), &vault)?,
    };
    Ok((engine.name(), checked))
}

/// Checks a database with sealed keys that this vault opens.
pub fn check_database(path: &Path, vault: &Vault) -> Result<Checked, CheckError> {
    verify_database(path)?;
    let Some(page) = read_database(path)? else {
        return Ok(Checked { revision: None, objects: BTreeMap::new() });
    };
    check_page(&page, &path.display().to_string(), vault)
}

/// Checks the records of a store, whatever it is made of.
pub fn check_page(page: &Page, store: &str, vault: &Vault) -> Result<Checked, CheckError> {
    let mut damaged = Snapshot::read(&page.items, page.revision, vault).damaged;
    for (key, reason) in outside::defects(&page.items, vault) {
        damaged.entry(key).or_insert(reason);
    }
    let mut objects: BTreeMap<String, usize> = BTreeMap::new();
    for item in &page.items {
        let mut parts =
            item.key.strip_prefix(crate::record::ACCOUNTS_PREFIX).into_iter().flat_map(|p| p.split('/'));
        if let Some(kind) = parts.nth(1) {
            let kind = if kind == "account" { "accounts" } else { kind };
            *objects.entry(kind.to_owned()).or_default() += 1;
        }
    }
    let checked = Checked { revision: Some(page.revision), objects };
    if damaged.is_empty() {
        return Ok(checked);
    }
    Err(CheckError::Records { store: store.to_owned(), damaged, checked })
}
