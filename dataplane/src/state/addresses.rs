//! `Addresses`: databases of addresses (MMDB files) that fill `conn.geo`, `conn.client_ip.as` and their like for policies.
//!
//! Files are read into memory, never mapped: a file that is cut short while it is mapped kills the process. A file that
//! changed is read and checked to its end before it takes the place of the one before; one that is at fault changes nothing.

mod layout;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use ebbgate_policy::AddressSource;
use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use prometheus_client::metrics::counter::Counter;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::sync::watch;

/// Most databases.
pub const DATABASES_MAX: usize = 8;
/// Most bytes of one file.
pub const DATABASE_BYTES_MAX: u64 = 1 << 30;
/// Seconds between looks whether a file changed.
pub const LOOK_SECS: u64 = 2;

/// Why a database is not taken; the one before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file.
    #[error("cannot read the address database {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// More bytes than [`DATABASE_BYTES_MAX`].
    #[error("the address database {0} is longer than {DATABASE_BYTES_MAX} bytes")]
    TooLong(PathBuf),
    /// No MMDB file, or a damaged one.
    #[error("{path} is no whole address database: {source}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: MaxMindDbError,
    },
    /// Nothing in it that a policy could name.
    #[error("the address database {0} has nothing that policies may name; docs/geo.md lists the layouts")]
    NothingKnown(PathBuf),
    /// More files than [`DATABASES_MAX`].
    #[error("{0} address databases; the limit is {DATABASES_MAX}")]
    TooMany(usize),
}

/// What of a file tells that it is another one.
type Stamp = Option<(SystemTime, u64, u64)>;

struct Database {
    reader: Reader<Vec<u8>>,
    /// Names of [`ebbgate_policy::ADDRESS_NAMES`] that it has.
    names: BTreeSet<&'static str>,
}

/// One file, as it was read last.
struct Slot {
    path: PathBuf,
    /// Of the file as it was looked at last, taken or not.
    seen: ArcSwap<Stamp>,
    database: ArcSwap<Database>,
}

/// See the module. Of two files that know a name, the first answers.
pub struct Addresses {
    slots: Vec<Slot>,
    names: watch::Sender<BTreeSet<String>>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { slots: Vec::new(), names: watch::Sender::new(BTreeSet::new()) }
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses").field("files", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Addresses {
    /// Reads these files, all of them or none.
    pub fn read(paths: &[PathBuf]) -> Result<Self, DatabaseError> {
        if paths.len() > DATABASES_MAX {
            return Err(DatabaseError::TooMany(paths.len()));
        }
        let slot = |path: &PathBuf| {
            let seen = stamp(path);
            let database = Database::read(path)?;
            tracing::info!(path = %path.display(), kind = database.reader.metadata().database_type, "address database read");
            let (seen, database) = (ArcSwap::from_pointee(seen), ArcSwap::from_pointee(database));
            Ok(Slot { path: path.clone(), seen, database })
        };
        let slots = paths.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
        let addresses = Self { slots, ..Self::default() };
        addresses.tell();
        Ok(addresses)
    }

    /// Whether there is no database.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The names that the databases have.
    pub fn has(&self) -> BTreeSet<String> {
        self.names.borrow().clone()
    }

    /// The names that the databases have, now and whenever they change.
    pub fn names(&self) -> watch::Receiver<BTreeSet<String>> {
        let mut names = self.names.subscribe();
        names.mark_changed();
        names
    }

    /// Reads each file that changed. Takes seconds for large ones: not for a shard's thread.
    pub fn look(&self, failures: &Counter) {
        for slot in &self.slots {
            let now = stamp(&slot.path);
            if now == **slot.seen.load() {
                continue;
            }
            slot.seen.store(Arc::new(now));
            match Database::read(&slot.path) {
                Ok(database) => {
                    slot.database.store(Arc::new(database));
                    tracing::info!(path = %slot.path.display(), "address database read again");
                }
                Err(error) => {
                    failures.inc();
                    tracing::error!(%error, "the address database before stays in use");
                }
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let databases: Vec<_> = self.slots.iter().map(|slot| slot.database.load()).collect();
        let names: BTreeSet<String> =
            databases.iter().flat_map(|database| &database.names).map(ToString::to_string).collect();
        self.names.send_if_modified(|told| {
            let is_new = *told != names;
            *told = names;
            is_new
        });
    }
}

impl AddressSource for Addresses {
    fn look_up(&self, address: IpAddr, name: &str) -> Option<Value> {
        self.slots.iter().find_map(|slot| {
            let database = slot.database.load();
            database.names.contains(name).then(|| layout::value(&database.reader, address, name)).flatten()
        })
    }
}

impl Database {
    fn read(path: &Path) -> Result<Self, DatabaseError> {
        let failed = |source| DatabaseError::Read { path: path.to_owned(), source };
        let damaged = |source| DatabaseError::Damaged { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(DATABASE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > DATABASE_BYTES_MAX {
            return Err(DatabaseError::TooLong(path.to_owned()));
        }
        let reader = Reader::from_source(bytes).map_err(damaged)?;
        check_whole(&reader).map_err(damaged)?;
        let names = layout::names(&reader).map_err(damaged)?;
        if names.is_empty() {
            return Err(DatabaseError::NothingKnown(path.to_owned()));
        }
        Ok(Self { reader, names })
    }
}

/// Whether every network leads to a record that can be read.
fn check_whole(reader: &Reader<Vec<u8>>) -> Result<(), MaxMindDbError> {
    // The crate's own check also wants a description, which the files of ip-location-db and of mmdb-writer do without.
    if !reader.metadata().description.is_empty() {
        return reader.verify();
    }
    let mut seen = HashSet::new();
    for network in reader.networks(WithinOptions::default())? {
        let network = network?;
        if network.offset().is_some_and(|offset| seen.insert(offset)) {
            network.decode::<IgnoredAny>()?;
        }
    }
    Ok(())
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests;
