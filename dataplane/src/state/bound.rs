//! What agents have bound, kept on disk: a restarted edge knows which agents it waits for. Losing it costs a visitor who comes
//! before its agent a 404, so no error here stops anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::disk::Disk;
use crate::state::edge::Edge;
use crate::state::route::RouteKey;
use crate::state::route::returning::Away;

/// Seconds between looks at what changed.
const LOOK_SECS: u64 = 1;
/// Bytes of the file that are read at most: places are bounded in number and each in size.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Has visitors of what agents had bound wait for them.
pub fn expect(edge: &Edge, file: &PathBuf, away: Away) {
    let places = match std::fs::metadata(file) {
        Ok(about) if about.len() > FILE_BYTES_MAX => Err("it is longer than it can be".to_owned()),
        Ok(_) => std::fs::read(file).map_err(|e| e.to_string()).and_then(|bytes| {
            serde_json::from_slice::<BTreeSet<RouteKey>>(&bytes).map_err(|e| e.to_string())
        }),
        Err(_) => return,
    };
    match places {
        Ok(places) => edge.routes.expect(places, away, Instant::now()),
        Err(reason) => {
            tracing::warn!(file = %file.display(), reason, "what agents had bound is not known; visitors do not wait for them");
        }
    }
}

/// Writes what agents have bound to disk, now.
pub fn save(edge: &Edge, disk: &Disk, file: &Path) {
    let text = serde_json::to_vec(&edge.routes.places_of_agents(Instant::now())).expect("places are text");
    if let Err(error) = disk.write(file, &text) {
        tracing::warn!(file = %file.display(), %error, "what agents have bound is not on disk");
    }
}

/// Keeps what agents have bound on disk, for ever. What the disk does not take, [`Disk`] tells and writes later.
pub async fn keep(edge: Arc<Edge>, disk: Arc<Disk>, file: PathBuf) {
    let mut look = interval(Duration::from_secs(LOOK_SECS));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut kept) = (None, None);
    loop {
        look.tick().await;
        let changes = edge.routes.changes();
        if seen == Some(changes) {
            continue;
        }
        let places = edge.routes.places_of_agents(Instant::now());
        seen = Some(changes);
        if kept.as_ref() == Some(&places) {
            continue;
        }
        let text = serde_json::to_vec(&places).expect("places are text");
        let (disk, to) = (Arc::clone(&disk), file.clone());
        // The disk may be slow, and this thread serves the feed.
        let wrote = tokio::task::spawn_blocking(move || disk.write(&to, &text)).await;
        match wrote {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(file = %file.display(), %error, "what agents have bound is not on disk");
            }
            Err(_) => return,
        }
        kept = Some(places);
    }
}
