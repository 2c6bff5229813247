//! What is sent through the chains: which load, how many connections, how much of it. Pure.
//!
//! Counts are fixed, so that every chain of a table moves the same; they are small, so that five rounds over all chains of
//! all tables take minutes.

use serde::{Deserialize, Serialize};

/// Connections open at the same time.
pub(super) const CONNECTIONS: [u32; 3] = [1, 16, 256];
/// Connections held open and silent while the cost of others is measured.
pub(super) const IDLE: [u32; 3] = [100, 1_000, 9_000];
/// Connections that work while others are idle, and their echoes in all.
pub(super) const BESIDE_IDLE: Load =
    Load { table: Table::Relay, kind: Kind::Requests, connections: 16, amount: 2_048 };

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Table {
    /// Client, one relay, server.
    Relay,
    /// Client, edge, agent, server.
    Tunnel,
    /// TLS at the edge, a policy, agent, server.
    Https,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Relay, Self::Tunnel, Self::Https];

    /// For headings.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Relay => "Edge relay: client -> one relay -> server",
            Self::Tunnel => "Tunnel chain: client -> edge -> agent -> server",
            Self::Https => "HTTPS chain: TLS and policy at the edge -> agent -> server",
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Downloads; gigabytes.
    Bulk,
    /// 64 B echoes, or GETs of 64 B, on open connections.
    Requests,
    /// Connections that carry one echo or one GET each.
    Connections,
    /// Memory and cost beside silent connections.
    Idle,
}

impl Kind {
    /// Kinds that are measured in rounds.
    pub(super) const IN_ROUNDS: [Self; 3] = [Self::Bulk, Self::Requests, Self::Connections];

    /// For tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Idle => "idle",
        }
    }

    /// Of its CPU figures.
    pub(super) fn unit(self) -> &'static str {
        if self == Self::Bulk { "s/GB" } else { "us" }
    }
}

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) table: Table,
    pub(super) kind: Kind,
    /// Connections open at the same time.
    pub(super) connections: u32,
    /// Bytes, echoes or connections in all; milliseconds of steady load for HTTPS.
    pub(super) amount: u64,
}

/// The load of a cell.
pub(super) fn load(table: Table, kind: Kind, connections: u32) -> Load {
    let amount = match (table, kind, connections) {
        (Table::Https, Kind::Bulk, _) => 250,
        (Table::Https, ..) => 200,
        (Table::Relay, Kind::Bulk, _) => 256 << 20,
        (Table::Tunnel, Kind::Bulk, _) => 64 << 20,
        (_, Kind::Requests, 1) => 1_024,
        (Table::Relay, Kind::Requests, _) => 6_144,
        (_, Kind::Requests, _) => 4_096,
        (_, Kind::Connections, 1) => 80,
        (Table::Relay, ..) => 1_024,
        (Table::Tunnel, ..) => 320,
    };
    Load { table, kind, connections, amount }
}

/// All loads that a run measures in rounds, in order.
pub(super) fn plan(tables: &[Table], kinds: &[Kind], connections: &[u32]) -> Vec<Load> {
    let mut loads = Vec::new();
    for &table in tables {
        for kind in Kind::IN_ROUNDS.into_iter().filter(|kind| kinds.contains(kind)) {
            loads.extend(connections.iter().map(|&connections| load(table, kind, connections)));
        }
    }
    loads
}

/// What the loads do, for the report.
pub(super) fn describe(loads: &[Load]) -> Vec<String> {
    let say = |load: &Load| {
        let Load { table, kind, connections, amount } = load;
        let (name, what) = (format!("{table:?} {}", kind.title()).to_lowercase(), *connections);
        match (table, kind) {
            (Table::Https, Kind::Bulk) => {
                format!("{name}, {what}: endless GETs over TLS 1.3, {amount} ms of steady load")
            }
            (Table::Https, Kind::Requests) => {
                format!("{name}, {what}: GETs of 64 B on kept connections, {amount} ms of steady load")
            }
            (Table::Https, _) => {
                format!(
                    "{name}, {what}: a TLS 1.3 connection for each GET of 64 B, {amount} ms of steady load"
                )
            }
            (_, Kind::Bulk) => format!("{name}, {what}: {} MiB downloaded in all", amount >> 20),
            (_, Kind::Requests) => format!("{name}, {what}: {amount} echoes of 64 B in all"),
            _ => format!("{name}, {what}: {amount} connections in all, one echo of 64 B each"),
        }
    };
    loads.iter().map(say).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_of_a_load_gets_the_same_share() {
        for load in plan(&[Table::Relay, Table::Tunnel], &Kind::IN_ROUNDS, &CONNECTIONS) {
            assert!(load.amount >= u64::from(load.connections), "{load:?}");
            if load.kind == Kind::Bulk {
                assert_eq!(load.amount % u64::from(load.connections), 0, "{load:?}");
            }
        }
    }

    #[test]
    fn a_plan_holds_what_was_asked_for() {
        assert_eq!(plan(&Table::ALL, &Kind::IN_ROUNDS, &CONNECTIONS).len(), 27);
        assert_eq!(plan(&[Table::Tunnel], &[Kind::Bulk, Kind::Idle], &[16]).len(), 1);
    }
}
