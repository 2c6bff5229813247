//! Programs to compare with that take long to get: which of them a run needs, and getting them while ours are built.

use super::load::Table;
use crate::program;

/// Whether a run needs rathole.
pub(super) fn wants_rathole(tables: &[Table], wants: impl Fn(&str) -> bool) -> bool {
    tables.contains(&Table::Https)
        || tables.contains(&Table::Tunnel) && (wants("rathole") || wants("rathole tls"))
}

/// Whether a run needs Envoy.
pub(super) fn wants_envoy(tables: &[Table], wants: impl Fn(&str) -> bool) -> bool {
    tables != [Table::Tunnel] && (wants("envoy") || wants("envoy > rathole"))
}

/// Gets them. What fails here is tried again, and noted, when its chain starts.
pub(super) fn install(tables: &[Table], wants: impl Fn(&str) -> bool) {
    let wanted = [("rathole", wants_rathole(tables, &wants)), ("envoy", wants_envoy(tables, &wants))];
    for (name, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        if let Err(error) = program::installed(name) {
            eprintln!("ahead of its turn: {error:#}");
        }
    }
}
