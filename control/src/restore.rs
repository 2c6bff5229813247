//! `ebbgate-control restore`: makes a data directory from a bundle, on a new machine or in the place of what is there.
//! What was there is kept in a folder of its own.
//!
//! Whatever it is killed between, control then finds the old database whole, none at all, or the new one: never one
//! database beside the log of another, nor beside the secrets of another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::audit::{self, Actor, Doing, Operation};
use crate::bundle::{self, About, BundleError};
use crate::check::{CheckError, check_database};
use crate::dir::{DataDir, DirError};
use crate::engine;
use crate::file::{self, FileError};
use crate::record::UnixSecs;
use crate::store::{
    DirLock, Etcd, Place, Revision, Sqlite, Store, StoreError, Txn, copy_database, read_database,
};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The database or the lock.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Secrets and authorities in the bundle.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A copy of a database, without what opens it.
    #[error(
        "{} holds the database alone, as older releases backed it up, and {} has no secrets to open it: put secret.key, ca/ and operator.token of that installation there first ({reason})",
        backup.display(), dir.display()
    )]
    DatabaseAlone {
        /// The backup.
        backup: PathBuf,
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        reason: String,
    },
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The bundle.
    pub restored: PathBuf,
    /// What the bundle says of itself; None: a database alone.
    pub bundle: Option<About>,
    /// The store's revision.
    pub revision: Option<Revision>,
    /// Objects of each kind, by the name of their collection.
    pub objects: BTreeMap<String, usize>,
    /// Records that are damaged, by key, each with the reason.
    pub damaged: BTreeMap<String, String>,
    /// The folder with what was there before; None: nothing was.
    pub replaced: Option<PathBuf>,
}

/// Folders tried for what is replaced.
const FOLDERS_MAX: u32 = 1000;

/// Makes the directory what a bundle says, after all of it was checked. Killed half way, it can be run again.
///
/// Its entry of the audit log is in the database before that gets its name: both are in force, or neither.
pub async fn restore(dir: &DataDir, backup: &Path, now: UnixSecs) -> Result<Restored, RestoreError> {
    let (_lock, restored) = prepare(dir, backup, now)?;
    let (key, value) = entry(&restored);
    let store = Sqlite::open(&dir.unfinished_database())?;
    let _ = store.commit(Txn::new().put(key, value)).await?;
    // Closes it, so that one file has everything.
    drop(store);
    file::rename(&dir.unfinished_database(), &dir.database())?;
    Ok(restored)
}

/// The same, its records in an etcd where none are. Revisions go on after those of the backup.
pub async fn restore_on(
    place: &Place,
    dir: &DataDir,
    backup: &Path,
    now: UnixSecs,
) -> Result<Restored, RestoreError> {
    if !Etcd::is_free(place).await? {
        return Err(StoreError::InUseAt { store: place.url.to_string() }.into());
    }
    let (_lock, restored) = prepare(dir, backup, now)?;
    let new = dir.unfinished_database();
    // Brings it up to date.
    drop(Sqlite::open(&new)?);
    let page = read_database(&new)?.ok_or_else(|| StoreError::Missing { path: new.clone() })?;
    engine::keep(dir, place)?;
    let kept = page.items.into_iter().filter(|item| item.lease.is_none() && !item.damaged);
    let (key, value) = entry(&restored);
    let items = kept.map(|item| (item.key, item.value)).chain([(key, value.into())]);
    Etcd::fill(place, items, page.revision).await?;
    for suffix in SIDE_FILES {
        file::remove(&beside(&new, suffix))?;
    }
    Ok(restored)
}

/// The entry that tells of it.
fn entry(restored: &Restored) -> (String, Vec<u8>) {
    let about = json!({ "file": restored.restored });
    let made = restored.bundle.as_ref().map(|bundle| bundle.made);
    let done = json!({ "made": made, "revision": restored.revision, "damaged": restored.damaged.len(), "replaced": restored.replaced });
    audit::sync_acting(Actor::operator(), || Operation::new(Doing::Restore, about).ended(done))
}

/// Everything but the last step: the records are in the unfinished database, and all else is in its place.
fn prepare(dir: &DataDir, backup: &Path, now: UnixSecs) -> Result<(DirLock, Restored), RestoreError> {
    if !backup.exists() {
        return Err(StoreError::Missing { path: backup.to_owned() }.into());
    }
    file::make_dir(dir.path())?;
    let lock = DirLock::take(dir.path())?;
    let new = dir.unfinished_database();
    for suffix in SIDE_FILES {
        file::remove(&beside(&new, suffix))?;
    }
    copy_database(backup, &new)?;
    let restored = replace(dir, backup, now);
    if restored.is_err() {
        // The database that was there has kept its name, or has gone to its folder for a second try.
        for suffix in SIDE_FILES {
            file::remove(&beside(&new, suffix))?;
        }
    }
    Ok((lock, restored?))
}

/// Everything but the last step, which gives the new database its name.
fn replace(dir: &DataDir, backup: &Path, now: UnixSecs) -> Result<Restored, RestoreError> {
    let new = dir.unfinished_database();
    let contents = bundle::open(&new)?;
    let staged = DataDir::new(dir.path().join("restore.new"));
    let source = match &contents {
        Some(contents) => {
            stage(&staged, &contents.files)?;
            bundle::forget_files(&new)?;
            &staged
        }
        None => dir,
    };
    let alone = |reason: DirError| match &contents {
        Some(_) => RestoreError::Dir(reason),
        None => RestoreError::DatabaseAlone {
            backup: backup.to_owned(),
            dir: dir.path().to_owned(),
            reason: reason.to_string(),
        },
    };
    let vault = source.vault().map_err(alone)?;
    source.issuer(&vault).map_err(alone)?;
    let (checked, damaged) = match check_database(&new, &vault) {
        Ok(checked) => (checked, BTreeMap::new()),
        Err(CheckError::Records { checked, damaged, .. }) => (checked, damaged),
        Err(CheckError::Store(error)) => return Err(error.into()),
        Err(CheckError::Dir(error)) => return Err(error.into()),
        Err(CheckError::Engine(error)) => return Err(BundleError::Engine(error).into()),
    };
    let replaced = put_aside(dir, contents.is_some(), now)?;
    for kept in DataDir::kept() {
        if let Some(content) = contents.as_ref().and_then(|contents| contents.files.get(&kept.name)) {
            let path = dir.path().join(&kept.name);
            file::make_dir(path.parent().unwrap_or(dir.path()))?;
            file::replace(&path, content, kept.mode)?;
        }
    }
    unstage(&staged)?;
    Ok(Restored {
        restored: backup.to_owned(),
        bundle: contents.map(|contents| contents.about),
        revision: checked.revision,
        objects: checked.objects,
        damaged,
        replaced,
    })
}

/// Writes a bundle's files where they can be tried before anything is replaced.
fn stage(staged: &DataDir, files: &BTreeMap<String, String>) -> Result<(), RestoreError> {
    unstage(staged)?;
    file::make_new_dir(staged.path())?;
    for (name, content) in files {
        let path = staged.path().join(name);
        file::make_dir(path.parent().unwrap_or(staged.path()))?;
        file::replace(&path, content, 0o600)?;
    }
    Ok(())
}

fn unstage(staged: &DataDir) -> Result<(), FileError> {
    for kept in DataDir::kept() {
        file::remove(&staged.path().join(&kept.name))?;
    }
    file::remove_dir(&staged.path().join("ca"))?;
    file::remove_dir(staged.path())
}

/// Keeps what is there in a new folder `control.db.replaced-<now>`, and takes the old database's name away.
///
/// First everything gets its second name, then the old names go, the database's before its log's: without a database
/// control does not start, and says so.
fn put_aside(dir: &DataDir, secrets_too: bool, now: UnixSecs) -> Result<Option<PathBuf>, RestoreError> {
    let database = dir.database();
    let side_files = SIDE_FILES.map(|suffix| beside(&database, suffix));
    let named = side_files.iter().zip(SIDE_FILES.map(|suffix| format!("control.db{suffix}")));
    let mut old: Vec<_> = named.map(|(path, name)| (path.clone(), name)).collect();
    old.push((dir.store(), "store.json".to_owned()));
    if secrets_too {
        old.extend(DataDir::kept().into_iter().map(|kept| (dir.path().join(&kept.name), kept.name)));
    }
    old.retain(|(path, _)| path.exists());
    if old.is_empty() {
        return Ok(None);
    }
    let folder = folder(&database, now)?;
    for (path, name) in &old {
        let kept = folder.join(name);
        file::make_dir(kept.parent().unwrap_or(&folder))?;
        file::link(path, &kept)?;
    }
    for path in side_files.iter().chain([&dir.store()]) {
        file::remove(path)?;
    }
    Ok(Some(folder))
}

/// A new folder for what is replaced: two restores in a second have two.
fn folder(database: &Path, now: UnixSecs) -> Result<PathBuf, RestoreError> {
    let name = |n: u32| match n {
        0 => database.with_extension(format!("db.replaced-{now}")),
        n => database.with_extension(format!("db.replaced-{now}-{n}")),
    };
    let free = (0..FOLDERS_MAX).map(name).find(|path| !path.exists());
    let folder = free.unwrap_or_else(|| name(FOLDERS_MAX));
    file::make_new_dir(&folder)?;
    Ok(folder)
}

/// The database itself, its write-ahead log and its index of the log.
pub const SIDE_FILES: [&str; 3] = ["", "-wal", "-shm"];

/// A side file of a database.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{Cli, Command};
    use crate::secret::SystemEntropy;
    use crate::store::Range;
    use clap::Parser;
    use tempfile::TempDir;

    /// A directory as `init` makes it, in a temporary one.
    pub(crate) async fn installation() -> (TempDir, DataDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temporary.path().join("data"));
        let cli = Cli::parse_from(["ebbgate-control", "init"]);
        let Command::Init(options) = cli.command else { panic!("init") };
        let clock = crate::clock::SystemClock;
        crate::init::init(&dir, &options.installation(), &options.acme, "first", &clock, &SystemEntropy)
            .await
            .unwrap();
        (temporary, dir)
    }

    async fn value(path: &Path) -> Option<bytes::Bytes> {
        Sqlite::open(path).unwrap().get("/x").await.unwrap().map(|item| item.value)
    }

    async fn put(path: &Path, value: &'static str) {
        let _ = Sqlite::open(path).unwrap().commit(Txn::new().put("/x", value)).await.unwrap();
    }

    #[tokio::test]
    async fn a_bundle_makes_the_directory_on_an_empty_machine() {
        let (temporary, dir) = installation().await;
        put(&dir.database(), "backed up").await;
        let bundle = temporary.path().join("one.bundle");
        bundle::backup(&dir, &bundle, 7, false).await.unwrap();
        let empty = DataDir::new(temporary.path().join("empty"));
        let restored = restore(&empty, &bundle, 8).await.unwrap();
        assert_eq!(restored.bundle.as_ref().map(|about| about.made), Some(7));
        assert_eq!((restored.objects.get("accounts"), restored.replaced.as_ref()), (Some(&1), None));
        let log = Sqlite::open(&empty.database()).unwrap().range(Range::all("audit/new/")).await.unwrap();
        // In the order of their keys, which within a second is no order of time.
        let entries = log.items.iter().map(|item| String::from_utf8_lossy(&item.value));
        let parts =
            ["operation_ended.v0", r#"\"operation\":\"restore\""#, r#"\"type\":\"operator\""#, "one.bundle"];
        let told = entries.filter(|entry| parts.iter().all(|part| entry.contains(part))).count();
        assert_eq!(told, 1, "{:?}", log.items);
        assert_eq!(value(&empty.database()).await.as_deref(), Some(&b"backed up"[..]));
        for kept in DataDir::kept() {
            let read = |dir: &DataDir| std::fs::read(dir.path().join(&kept.name)).unwrap();
            assert_eq!(read(&empty), read(&dir), "{}", kept.name);
        }
        crate::check::check(&empty).await.unwrap();
        // The secrets went to their files and are nowhere in the database, not even in pages that are free.
        let key = std::fs::read_to_string(dir.path().join("secret.key")).unwrap();
        let database = std::fs::read(empty.database()).unwrap();
        assert!(!database.windows(key.len()).any(|window| window == key.as_bytes()));
        assert!(!empty.path().join("restore.new").exists());
    }

    #[tokio::test]
    async fn what_was_there_is_kept_whole_with_its_secrets() {
        let (temporary, dir) = installation().await;
        put(&dir.database(), "backed up").await;
        let bundle = temporary.path().join("one.bundle");
        bundle::backup(&dir, &bundle, 7, false).await.unwrap();
        let (_other, there) = installation().await;
        put(&there.database(), "later").await;
        let key = |dir: &Path| std::fs::read_to_string(dir.join("secret.key")).unwrap();
        let before = key(there.path());
        let replaced = restore(&there, &bundle, 7).await.unwrap().replaced.unwrap();
        assert_eq!(key(there.path()), key(dir.path()), "the database opens with it");
        assert_eq!(key(&replaced), before);
        assert_eq!(value(&replaced.join("control.db")).await.as_deref(), Some(&b"later"[..]));
        let again = restore(&there, &bundle, 7).await.expect("it can be run again").replaced.unwrap();
        assert_ne!(again, replaced);
        // Killed after the database had lost its name: its log must not be taken for that of the restored one.
        std::fs::remove_file(there.database()).unwrap();
        std::fs::write(beside(&there.database(), "-wal"), "of another database").unwrap();
        restore(&there, &bundle, 8).await.unwrap();
        assert_eq!(value(&there.database()).await.as_deref(), Some(&b"backed up"[..]));
        assert!(restore(&there, &temporary.path().join("none"), 9).await.is_err());
        assert_eq!(value(&there.database()).await.as_deref(), Some(&b"backed up"[..]));
    }

    #[tokio::test]
    async fn a_copy_of_the_database_alone_needs_the_secrets_it_was_made_beside() {
        let (temporary, dir) = installation().await;
        put(&dir.database(), "backed up").await;
        let copy = temporary.path().join("copy.db");
        copy_database(&dir.database(), &copy).unwrap();
        put(&dir.database(), "later").await;
        let empty = DataDir::new(temporary.path().join("empty"));
        let error = restore(&empty, &copy, 7).await.unwrap_err().to_string();
        assert!(error.contains("database alone") && error.contains("secret.key"), "{error}");
        assert!(!empty.database().exists() && !empty.unfinished_database().exists());
        let restored = restore(&dir, &copy, 7).await.unwrap();
        assert_eq!(restored.bundle, None);
        assert_eq!(value(&dir.database()).await.as_deref(), Some(&b"backed up"[..]));
    }
}
