//! Small files that are there whole or not at all, whatever is killed when.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {} failed", path.display())]
pub struct FileError {
    /// `read`, `write`, ...
    action: &'static str,
    /// Which file.
    path: PathBuf,
    source: io::Error,
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError { action, path: path.to_owned(), source }
}

/// Reads a whole small file as text.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(failed("reading", path))
}

/// Makes a directory, and those above it, that only its owner writes and its group may enter.
pub fn make_dir(path: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(failed("making the directory", path))
}

/// Replaces a file durably: readers see the old text or the new one. `mode` is that of the new file.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_dir(path)
    };
    write().map_err(failed("writing", path))
}

/// Gives a finished file its name, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).and_then(|()| sync_dir(to)).map_err(failed("renaming to", to))
}

/// Makes a directory that must not be there yet, for its owner only, durably.
pub fn make_new_dir(path: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().mode(0o700).create(path).and_then(|()| sync_dir(path));
    made.map_err(failed("making the directory", path))
}

/// Gives a file a second name, durably.
pub fn link(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::hard_link(from, to).and_then(|()| sync_dir(to)).map_err(failed("linking to", to))
}

/// Removes a file; one that is not there is no error.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Removes an empty directory; one that is not there is no error.
pub fn remove_dir(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        _ => Ok(()),
    }
}

/// A new name is durable once its directory is.
fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_whole_files_with_the_mode_asked_for_and_survives_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(dir.path().join("key.new"), "half").unwrap();
        replace(&path, "one", 0o600).unwrap();
        replace(&path, "two", 0o600).unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("key.new").exists());
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("key"));
    }
}
