//! Programs to compare with that take long to get: which of them a run needs, and getting them while ours are built.

use super::load::Table;
use crate::program;

/// Chains with rathole in them: alone, and behind a gateway.
const RATHOLE: [&str; 2] = ["rathole", "rathole tls"];
const BEHIND_GATEWAY: [&str; 4] =
    ["haproxy > rathole", "haproxy > rathole tls", "caddy > rathole", "envoy > rathole"];

/// Whether a run needs rathole.
pub(super) fn wants_rathole(tables: &[Table], wants: impl Fn(&str) -> bool) -> bool {
    let any =
        |table: Table, chains: &[&str]| tables.contains(&table) && chains.iter().any(|chain| wants(chain));
    any(Table::Tunnel, &RATHOLE) || any(Table::Https, &BEHIND_GATEWAY)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rathole_is_built_only_for_chains_that_have_it() {
        let wants = |part: &'static str| move |chain: &str| chain.contains(part);
        let both = [Table::Tunnel, Table::Https];
        assert!(!wants_rathole(&both, wants("ebbgate")));
        assert!(!wants_rathole(&[Table::Tunnel], wants("caddy")));
        for part in ["", "rathole tls", "caddy", "envoy"] {
            assert!(wants_rathole(&both, wants(part)), "{part}");
        }
    }
}
