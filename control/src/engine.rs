//! `Engine`: which engine a data directory's records are on, and how it is opened. A directory without `store.json` has a
//! database of its own.

use std::path::PathBuf;
use std::sync::Arc;

use crate::dir::DataDir;
use crate::file::{self, FileError};
use crate::leader::Candidate;
use crate::secret::Entropy;
use crate::store::{Etcd, Page, Place, Sqlite, Store, StoreError, read_database};

/// Where records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// In a SQLite file of the directory.
    Sqlite(PathBuf),
    /// In an etcd.
    Etcd(Place),
}

/// Why it is not known where records are, or they cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// `store.json`.
    #[error("{} is damaged ({reason}): write {{\"url\":\"etcd://HOST:PORT\"}} there, with ca and identity if it has TLS", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Two places.
    #[error("{} is there, and the records are said to be on {store}: move them with `backup` and `restore --store`, or move the file away", database.display())]
    Both {
        /// The SQLite file.
        database: PathBuf,
        /// The etcd.
        store: String,
    },
}

impl Engine {
    /// Where a directory's records are: as a flag says, else as `store.json` says, else in its own file.
    pub fn of(dir: &DataDir, flag: Option<Place>) -> Result<Self, EngineError> {
        let place = match flag {
            Some(place) => Some(place),
            None => kept(dir)?,
        };
        match place {
            None => Ok(Self::Sqlite(dir.database())),
            Some(place) if dir.database().exists() => {
                Err(EngineError::Both { database: dir.database(), store: place.url.to_string() })
            }
            Some(place) => Ok(Self::Etcd(place)),
        }
    }

    /// Opens it. What may claim jobs for this process comes with it.
    pub async fn open(&self, entropy: &dyn Entropy) -> Result<(Arc<dyn Store>, Candidate), StoreError> {
        match self {
            Self::Sqlite(path) => {
                let store: Arc<dyn Store> = Arc::new(Sqlite::open(path)?);
                Ok((Arc::clone(&store), Candidate::alone(store)))
            }
            Self::Etcd(place) => {
                let store: Arc<dyn Store> = Arc::new(Etcd::open(place).await?);
                Ok((Arc::clone(&store), Candidate::replica(store, entropy)))
            }
        }
    }

    /// Everything it holds, in use or not. None: a database of before there were checksums.
    pub async fn read_all(&self) -> Result<Option<Page>, StoreError> {
        match self {
            Self::Sqlite(path) => read_database(path),
            Self::Etcd(place) => Etcd::read_all(place).await.map(Some),
        }
    }

    /// How an operator calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Etcd(place) => place.url.to_string(),
        }
    }
}

/// The etcd that a directory names.
fn kept(dir: &DataDir) -> Result<Option<Place>, EngineError> {
    let path = dir.store();
    if !path.exists() {
        return Ok(None);
    }
    let text = file::read(&path)?;
    let place = serde_json::from_str(&text);
    place.map(Some).map_err(|error| EngineError::Damaged { path, reason: error.to_string() })
}

/// Lets a directory name its etcd.
pub fn keep(dir: &DataDir, place: &Place) -> Result<(), FileError> {
    let text = serde_json::to_string_pretty(place).expect("it has string keys only");
    file::replace(&dir.store(), &(text + "\n"), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_place_for_its_records() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temporary.path());
        let place = |url: &str| Place { url: url.parse().unwrap(), ca: None, identity: None };
        assert_eq!(Engine::of(&dir, None).unwrap(), Engine::Sqlite(dir.database()));
        let kept = place("etcd://127.0.0.1:2379?prefix=/x/");
        keep(&dir, &kept).unwrap();
        assert_eq!(Engine::of(&dir, None).unwrap(), Engine::Etcd(kept));
        let other = place("etcd://127.0.0.1:2380");
        assert_eq!(Engine::of(&dir, Some(other.clone())).unwrap(), Engine::Etcd(other));
        std::fs::write(dir.database(), "").unwrap();
        assert!(matches!(Engine::of(&dir, None), Err(EngineError::Both { .. })));
        std::fs::remove_file(dir.database()).unwrap();
        std::fs::write(dir.store(), "{\"url\":\"http://x\"}").unwrap();
        let error = Engine::of(&dir, None).unwrap_err().to_string();
        assert!(error.contains("store.json is damaged") && error.contains("etcd://HOST:PORT"), "{error}");
    }
}
