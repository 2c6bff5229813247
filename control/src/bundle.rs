//! A bundle: one file with everything that a new machine needs to go on as this installation. It is a database like
//! control's own, with the directory's secrets and authorities in a table beside the records.
//!
//! A bundle holds all secrets of the installation: only its owner may read the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;

use crate::check::{CheckError, Checked, check_database};
use crate::dir::{DataDir, DirError};
use crate::engine::{Engine, EngineError};
use crate::file::{self, FileError};
use crate::record::UnixSecs;
use crate::store::{Attached, Etcd, StoreError, attach, attached, copy_database, detach, write_database};

/// Why there is no bundle, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is a file already.
    #[error("{} exists: name a new file", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The database in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Records in it.
    #[error("{0}. To back up what is left, repeat with --damaged")]
    Records(CheckError),
    /// Secrets and authorities.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// Where the records are.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of it.
    #[error("{} is damaged: {name} is not what was backed up. Use another backup", path.display())]
    Damaged {
        /// The bundle.
        path: PathBuf,
        /// Which file in it.
        name: String,
    },
}

impl From<FileError> for BundleError {
    fn from(error: FileError) -> Self {
        Self::Dir(error.into())
    }
}

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct About {
    /// When it was made, in Unix seconds.
    pub made: UnixSecs,
    /// Release that made it.
    pub release: String,
    /// The files beside the database.
    pub files: Vec<String>,
}

/// What is in a bundle besides the database.
#[derive(Debug)]
pub struct Contents {
    /// What it says of itself.
    pub about: About,
    /// Contents by name.
    pub files: BTreeMap<String, String>,
}

/// Writes a bundle of a directory, in use or not, and reads it back. The path then holds a verified bundle, or nothing.
pub async fn backup(
    dir: &DataDir,
    to: &Path,
    now: UnixSecs,
    damaged_too: bool,
) -> Result<(About, Checked), BundleError> {
    if to.exists() {
        return Err(BundleError::Exists { path: to.to_owned() });
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = to.with_file_name(name);
    file::remove(&new)?;
    let made = make(dir, &new, now, damaged_too).await;
    let named = made.and_then(|made| Ok(file::link(&new, to).map(|()| made)?));
    file::remove(&new)?;
    named
}

async fn make(
    dir: &DataDir,
    new: &Path,
    now: UnixSecs,
    damaged_too: bool,
) -> Result<(About, Checked), BundleError> {
    let vault = dir.vault()?;
    dir.issuer(&vault)?;
    let mut files = BTreeMap::new();
    for kept in DataDir::kept() {
        match file::read(&dir.path().join(&kept.name)) {
            Ok(content) => drop(files.insert(kept.name, content)),
            Err(error) if kept.required => return Err(error.into()),
            Err(_) => {}
        }
    }
    match Engine::of(dir, None)? {
        Engine::Sqlite(path) => copy_database(&path, new)?,
        Engine::Etcd(place) => {
            let page = Etcd::read_all(&place).await?;
            write_database(new, &page.items, page.revision)?;
        }
    }
    let with_sum = |(name, content): (&String, &String)| {
        (name.clone(), (content.clone().into_bytes(), sum(name, content.as_bytes())))
    };
    let release = env!("CARGO_PKG_VERSION").to_owned();
    attach(new, &Attached { made: now, release, files: files.iter().map(with_sum).collect() })?;
    // Read back: what cannot be restored is no backup.
    let contents =
        open(new)?.ok_or_else(|| BundleError::Damaged { path: new.to_owned(), name: "bundle".into() })?;
    if contents.files != files {
        return Err(BundleError::Damaged { path: new.to_owned(), name: "the list of files".into() });
    }
    let checked = match check_database(new, &vault) {
        Ok(checked) => checked,
        Err(CheckError::Records { checked, .. }) if damaged_too => checked,
        Err(error @ CheckError::Records { .. }) => return Err(BundleError::Records(error)),
        Err(CheckError::Store(error)) => return Err(error.into()),
        Err(CheckError::Dir(error)) => return Err(error.into()),
        Err(CheckError::Engine(error)) => return Err(error.into()),
    };
    Ok((contents.about, checked))
}

/// What a bundle holds besides its database; None: it is a copy of a database alone, as older releases made.
pub fn open(path: &Path) -> Result<Option<Contents>, BundleError> {
    let Some(Attached { made, release, files: stored }) = attached(path)? else { return Ok(None) };
    let mut files = BTreeMap::new();
    for (name, (content, expected)) in stored {
        let is_known = DataDir::kept().iter().any(|kept| kept.name == name);
        let intact = is_known && sum(&name, &content) == expected;
        let damaged = || BundleError::Damaged { path: path.to_owned(), name: name.clone() };
        let content = String::from_utf8(content).ok().filter(|_| intact).ok_or_else(damaged)?;
        files.insert(name, content);
    }
    let about = About { made, release, files: files.keys().cloned().collect() };
    Ok(Some(Contents { about, files }))
}

/// Leaves the database alone in the file.
pub fn forget_files(path: &Path) -> Result<(), BundleError> {
    Ok(detach(path)?)
}

fn sum(name: &str, content: &[u8]) -> Vec<u8> {
    let text = [name.as_bytes(), b"\0", content].concat();
    digest(&SHA256, &text).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::tests::installation;

    #[tokio::test]
    async fn a_bundle_is_whole_or_there_is_none() {
        let (temporary, dir) = installation().await;
        let to = temporary.path().join("one.bundle");
        let (about, checked) = backup(&dir, &to, 7, false).await.unwrap();
        assert!(
            about.files.iter().any(|name| name == "secret.key") && checked.objects.contains_key("accounts")
        );
        assert!(matches!(backup(&dir, &to, 7, false).await, Err(BundleError::Exists { .. })));
        let whole = std::fs::read(&to).unwrap();
        let token = std::fs::read_to_string(dir.operator_token()).unwrap();
        let at = whole.windows(token.len()).position(|window| window == token.as_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&to, changed).unwrap();
        let error = open(&to).unwrap_err().to_string();
        assert!(error.contains("operator.token"), "{error}");
        std::fs::remove_file(dir.path().join("ca/ingress.pem")).unwrap();
        let two = temporary.path().join("two.bundle");
        assert!(backup(&dir, &two, 7, false).await.is_err() && !two.exists());
        let left = std::fs::read_dir(temporary.path()).unwrap().count();
        assert_eq!(left, 2, "the directory and the first bundle");
    }
}
