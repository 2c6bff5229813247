//! What the edge learns and keeps on disk for its next start, as JSON. Losing it costs little, so that no error here stops
//! anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::disk::Disk;

/// Seconds between looks at what changed.
const LOOK_SECS: u64 = 1;
/// Bytes of a file that are read at most: what is kept is bounded in number and each in size.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is kept in a file. None: there is none, or it cannot be read, which is logged with what is lost.
pub(super) fn read<T: DeserializeOwned>(file: &Path, lost: &str) -> Option<T> {
    let read = match std::fs::metadata(file) {
        Ok(about) if about.len() > FILE_BYTES_MAX => Err("it is longer than it can be".to_owned()),
        Ok(_) => std::fs::read(file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string())),
        Err(_) => return None,
    };
    read.inspect_err(|reason| tracing::warn!(file = %file.display(), reason, "{lost}")).ok()
}

/// Writes a value, now.
pub(super) fn save(disk: &Disk, file: &Path, value: &impl Serialize, what: &str) {
    let text = serde_json::to_vec(value).expect("what is kept is text and numbers");
    if let Err(error) = disk.write(file, &text) {
        tracing::warn!(file = %file.display(), %error, "{what} is not on disk");
    }
}

/// Keeps a value on disk, for ever. `changes` is another number after each change. What the disk does not take, [`Disk`] tells
/// and writes later.
pub(super) async fn keep<T: Serialize + PartialEq + Send + Sync + 'static>(
    disk: Arc<Disk>,
    file: PathBuf,
    what: &'static str,
    changes: impl Fn() -> u64,
    value: impl Fn() -> T,
) {
    let mut look = interval(Duration::from_secs(LOOK_SECS));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut kept) = (None, None::<Arc<T>>);
    loop {
        look.tick().await;
        let now = changes();
        if seen == Some(now) {
            continue;
        }
        seen = Some(now);
        let value = Arc::new(value());
        if kept.as_ref() == Some(&value) {
            continue;
        }
        let (disk, to, written) = (Arc::clone(&disk), file.clone(), Arc::clone(&value));
        // The disk may be slow, and this thread serves the feed.
        if tokio::task::spawn_blocking(move || save(&disk, &to, &*written, what)).await.is_err() {
            return;
        }
        kept = Some(value);
    }
}
