//! `ebbgate-control import`: puts exported records where there are none, beside the secrets they were sealed with.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::audit::{self, Actor, Doing, Operation};
use crate::check::{CheckError, check_page};
use crate::dir::{DataDir, DirError};
use crate::engine::{self, Engine, EngineError};
use crate::export::{self, ExportError};
use crate::file::{self, FileError};
use crate::restore::{SIDE_FILES, beside};
use crate::store::{DirLock, Etcd, Item, Place, Revision, StoreError, write_database};

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The directory has records.
    #[error("{} has records already: import into a directory with secrets (secret.key, ca/, operator.token) and no records", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Records that do not open or cannot be read.
    #[error("these records do not fit the secrets in the directory: {0}")]
    Records(CheckError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where the records go.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Secrets and authorities.
    #[error(transparent)]
    Dir(#[from] DirError),
}

impl From<FileError> for ImportError {
    fn from(error: FileError) -> Self {
        Self::Dir(error.into())
    }
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The export.
    pub imported: PathBuf,
    /// Where the records are now.
    pub store: String,
    /// How many there are.
    pub records: usize,
    /// Objects of each kind, by the name of their collection.
    pub objects: BTreeMap<String, usize>,
}

/// Imports an export, all of it or nothing. Revisions go on after those of where it came from.
pub async fn import(dir: &DataDir, from: &Path, place: Option<Place>) -> Result<Imported, ImportError> {
    let _lock = DirLock::take(dir.path())?;
    let vault = dir.vault()?;
    dir.issuer(&vault)?;
    let named = dir.store().exists();
    let engine = Engine::of(dir, place)?;
    let is_free = match &engine {
        Engine::Sqlite(path) => !path.exists(),
        Engine::Etcd(place) => !named && Etcd::is_free(place).await?,
    };
    if !is_free {
        return Err(ImportError::InUse { dir: dir.path().to_owned() });
    }
    let mut page = export::import(BufReader::new(File::open(from).map_err(ExportError::Io)?))?;
    let checked = check_page(&page, &from.display().to_string(), &vault).map_err(ImportError::Records)?;
    let records = page.items.len();
    page.items.push(entry(from, records, page.revision));
    match &engine {
        Engine::Sqlite(path) => {
            let new = dir.unfinished_database();
            for suffix in SIDE_FILES {
                file::remove(&beside(&new, suffix))?;
            }
            write_database(&new, &page.items, page.revision)?;
            file::rename(&new, path)?;
        }
        Engine::Etcd(place) => {
            let items = page.items.into_iter().map(|item| (item.key, item.value));
            Etcd::fill(place, items, page.revision).await?;
            engine::keep(dir, place)?;
        }
    }
    Ok(Imported { imported: from.to_owned(), store: engine.name(), records, objects: checked.objects })
}

/// The entry of the audit log that tells of it: there with the records, or not at all.
fn entry(from: &Path, records: usize, revision: Revision) -> Item {
    let operation = Operation::new(Doing::Import, json!({ "file": from }));
    let ended = || operation.ended(json!({ "records": records, "revision": revision }));
    let (key, value) = audit::sync_acting(Actor::operator(), ended);
    Item { key, value: value.into(), created: revision, modified: revision, lease: None, damaged: false }
}
