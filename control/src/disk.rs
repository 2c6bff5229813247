//! Whether a disk takes writes, as the file system says before anything is written.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};

/// Bytes free below which a disk counts as full: SQLite needs a few pages beside the database for every write.
const FREE_BYTES_MIN: u64 = 64 << 10;

/// Why a disk takes no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritable {
    /// There is no room.
    Full,
    /// It is mounted for reading only.
    ReadOnly,
}

impl Unwritable {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Full, Self::ReadOnly];

    /// The word of the metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
        }
    }
}

/// What the file system of a path says; None: it takes writes, or says nothing.
pub fn unwritable(path: &Path) -> Option<Unwritable> {
    let there = path.ancestors().find(|path| path.exists())?;
    let state = statvfs(there).ok()?;
    if state.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Some(Unwritable::ReadOnly);
    }
    // A file system without blocks says nothing of its room.
    let is_full = state.f_blocks > 0 && state.f_bavail.saturating_mul(state.f_frsize) < FREE_BYTES_MIN;
    is_full.then_some(Unwritable::Full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_room_takes_writes_also_for_what_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unwritable(&dir.path().join("not/there/yet")), None);
    }
}
