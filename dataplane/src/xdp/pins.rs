//! The folder of a BPF file system that one edge keeps its maps and links in, so that the filter outlives the process.
//!
//! One process at a time holds it: the lock is the kernel's, on the folder itself, and goes with the process however it
//! ends. Below it: `layout-N-M` with the maps of layout N, and `link-NETNS-IFINDEX-MODE` for each interface. No names of
//! interfaces: they may hold dots, which that file system does not take, and may change.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ebbgate_ebpf as shared;

use super::settings::Mode;

/// What statfs says of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Why a folder for pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// No BPF file system.
    #[error(
        "{0} is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf` or name another folder with --xdp-pins"
    )]
    NotBpf(PathBuf),
    /// Another process has it.
    #[error("another edge holds the pins in {0}; give each edge its own with --xdp-pins")]
    Taken(PathBuf),
    /// The system refuses.
    #[error("the pins in {path} cannot be used: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl PinsError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// A claimed folder.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    lock: File,
}

/// A pinned link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPin {
    /// Where.
    pub path: PathBuf,
    /// Network namespace of the interface, by its inode.
    pub netns: u64,
    /// Index of the interface there.
    pub ifindex: u32,
    /// How the program is attached.
    pub mode: Mode,
}

impl Pins {
    /// Makes the folder if need be and claims it for this process.
    pub fn claim(dir: &Path) -> Result<Self, PinsError> {
        let there = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = rustix::fs::statfs(there).map_err(|e| PinsError::at(there)(e.into()))?.f_type;
        if kind != BPF_FS_MAGIC {
            return Err(PinsError::NotBpf(dir.to_owned()));
        }
        fs::create_dir_all(dir).map_err(PinsError::at(dir))?;
        let lock = File::open(dir).map_err(PinsError::at(dir))?;
        Self::with(dir, lock)
    }

    /// A copy of the lock for a process that takes over.
    pub fn lock_copy(&self) -> Result<File, PinsError> {
        self.lock.try_clone().map_err(PinsError::at(&self.dir))
    }

    /// The folder with its open handle: another process that had locked it gave it to this one, or it is locked now.
    pub fn with(dir: &Path, lock: File) -> Result<Self, PinsError> {
        let error = PinsError::at(dir);
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PinsError::Taken(dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        // Its former holder may have removed the folder meanwhile. Then our handle is not what others find by the path.
        let found = fs::metadata(dir).map_err(&error)?;
        if lock.metadata().map_err(&error)?.ino() != found.ino() {
            return Err(PinsError::Taken(dir.to_owned()));
        }
        Ok(Self { dir: dir.to_owned(), lock })
    }

    /// Folders of maps, newest first.
    pub fn layouts(&self) -> Vec<PathBuf> {
        layouts(&self.dir)
    }

    /// Folders of maps that this program could take over, newest first.
    pub fn own_layouts(&self) -> Vec<PathBuf> {
        let own = |path: &PathBuf| layout(path).is_some_and(|(number, _)| number == shared::LAYOUT);
        self.layouts().into_iter().filter(own).collect()
    }

    /// Makes a new folder of maps.
    pub fn fresh_layout(&self) -> Result<PathBuf, PinsError> {
        let last = self.own_layouts().first().and_then(|path| layout(path)).map_or(0, |(_, serial)| serial);
        let path = self.dir.join(format!("layout-{}-{}", shared::LAYOUT, last.saturating_add(1)));
        fs::create_dir(&path).map_err(PinsError::at(&path))?;
        Ok(path)
    }

    /// Removes every folder of maps but one.
    pub fn keep_layout(&self, keep: &Path) -> Result<(), PinsError> {
        self.layouts().iter().filter(|path| *path != keep).try_for_each(|path| remove(path))
    }

    /// The pin of a link, there or not.
    pub fn link(&self, netns: u64, ifindex: u32, mode: Mode) -> LinkPin {
        let path = self.dir.join(format!("link-{netns}-{ifindex}-{}", mode.as_str()));
        LinkPin { path, netns, ifindex, mode }
    }

    /// All pinned links.
    pub fn links(&self) -> Vec<LinkPin> {
        links(&self.dir)
    }

    /// Removes everything: links first, so that no program runs over maps that are going.
    pub fn remove(self) -> Result<(), PinsError> {
        self.links().iter().try_for_each(LinkPin::remove)?;
        remove(&self.dir)
    }
}

/// Folders of maps below a folder of pins, newest first.
pub fn layouts(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = entries(dir).into_iter().filter(|path| layout(path).is_some()).collect();
    found.sort_by_key(|path| std::cmp::Reverse(layout(path)));
    found
}

/// Links pinned in a folder.
pub fn links(dir: &Path) -> Vec<LinkPin> {
    entries(dir).into_iter().filter_map(read_link).collect()
}

impl LinkPin {
    /// Takes the program off the interface, unless another pin or process holds the link too.
    pub fn remove(&self) -> Result<(), PinsError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinsError::at(&self.path)(source)),
            _ => Ok(()),
        }
    }
}

fn read_link(path: PathBuf) -> Option<LinkPin> {
    let mut parts = path.file_name()?.to_str()?.strip_prefix("link-")?.split('-');
    let (netns, ifindex) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let mode = Mode::ALL.into_iter().find(|mode| parts.clone().eq([mode.as_str()]))?;
    Some(LinkPin { path, netns, ifindex, mode })
}

/// Layout and serial number of a folder of maps.
fn layout(path: &Path) -> Option<(u32, u32)> {
    let (number, serial) = path.file_name()?.to_str()?.strip_prefix("layout-")?.split_once('-')?;
    Some((number.parse().ok()?, serial.parse().ok()?))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn remove(dir: &Path) -> Result<(), PinsError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinsError::at(dir)(source)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let link = read_link("/p/link-4026531840-3-generic".into()).unwrap();
        assert_eq!((link.netns, link.ifindex, link.mode), (4_026_531_840, 3, Mode::Generic));
        for other in ["/p/link-1-2", "/p/link-1-2-fast", "/p/link-1-2-native-x", "/p/layout-1-1"] {
            assert_eq!(read_link(other.into()), None, "{other}");
        }
        assert_eq!(layout(Path::new("/p/layout-2-17")), Some((2, 17)));
        assert_eq!(layout(Path::new("/p/layout-2")), None);
    }

    #[test]
    fn a_folder_elsewhere_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let message = Pins::claim(&dir.path().join("pins")).unwrap_err().to_string();
        assert!(message.contains("mount -t bpf"), "{message}");
        assert!(!dir.path().join("pins").exists());
    }
}
