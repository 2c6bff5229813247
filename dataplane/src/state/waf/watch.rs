//! `Watch`: whether the operator's files of rules have changed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Most files that are looked at.
const FILES_MAX: usize = 10_000;

/// See the module.
pub(super) struct Watch {
    rules: PathBuf,
    /// As they were when they were read.
    read: Print,
    /// As they were at the last look, if they had changed.
    seen: Option<Print>,
}

/// Each file with its number, its length in bytes, and the time it was written in nanoseconds.
type Print = BTreeSet<(PathBuf, u64, u64, i128)>;

impl Watch {
    /// Takes the files as they are for what was read.
    pub(super) fn new(rules: &Path) -> Self {
        Self { rules: rules.to_owned(), read: print(rules), seen: None }
    }

    /// Whether they have changed and two looks saw the same, so that nobody writes any more. True once for a change.
    pub(super) fn has_changed(&mut self) -> bool {
        let now = print(&self.rules);
        if now == self.read {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            return false;
        }
        (self.read, self.seen) = (now, None);
        true
    }
}

/// The files of rules, and those beside them, which rules name.
fn print(rules: &Path) -> Print {
    let files = ebbgate_waf::files(rules).unwrap_or_default();
    let dirs: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    let beside = dirs.into_iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let beside = beside.filter_map(|entry| Some(entry.ok()?.path()));
    let all = files.iter().cloned().chain([rules.to_owned()]).chain(beside).take(FILES_MAX);
    all.filter_map(|file| {
        let known = fs::metadata(&file).ok().filter(fs::Metadata::is_file)?;
        let written = i128::from(known.mtime()) * 1_000_000_000 + i128::from(known.mtime_nsec());
        Some((file, known.ino(), known.len(), written))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_only_when_it_rests() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let new = dir.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, dir.path().join(name)).unwrap();
        };
        write("load.conf", "Include a.conf\n");
        write("a.conf", "SecAction \"id:1,phase:1\"\n");
        let mut watch = Watch::new(&dir.path().join("load.conf"));
        assert!(!watch.has_changed() && !watch.has_changed());
        for (name, text) in
            [("a.conf", "# other\n"), ("words.data", "word\n"), ("load.conf", "Include b.conf\n")]
        {
            write(name, text);
            assert!(!watch.has_changed(), "{name}: it may be written still");
            assert!(watch.has_changed(), "{name}");
            assert!(!watch.has_changed(), "{name}: told");
        }
        write("load.conf", "Include a.conf\n");
        assert!(!watch.has_changed());
        write("a.conf", "# again\n");
        assert!(!watch.has_changed(), "it changes still");
        assert!(watch.has_changed());
    }
}
