//! What agents have bound, kept on disk: a restarted edge knows which agents it waits for. Losing it costs a visitor who comes
//! before its agent a 404.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::Instant;

use super::disk::Disk;
use super::kept;
use crate::state::edge::Edge;
use crate::state::route::returning::Away;

const WHAT: &str = "what agents have bound";

/// Has visitors of what agents had bound wait for them.
pub fn expect(edge: &Edge, file: &Path, away: Away) {
    let lost = "what agents had bound is not known; visitors do not wait for them";
    if let Some(places) = kept::read::<BTreeSet<_>>(file, lost) {
        edge.routes.expect(places, away, Instant::now());
    }
}

/// Writes what agents have bound to disk, now.
pub fn save(edge: &Edge, disk: &Disk, file: &Path) {
    kept::save(disk, file, &edge.routes.places_of_agents(Instant::now()), WHAT);
}

/// Keeps what agents have bound on disk, for ever.
pub async fn keep(edge: Arc<Edge>, disk: Arc<Disk>, file: PathBuf) {
    let places = || edge.routes.places_of_agents(Instant::now());
    kept::keep(disk, file, WHAT, || edge.routes.changes(), places).await;
}
