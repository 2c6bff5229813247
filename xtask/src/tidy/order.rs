//! The order of dataplane's rooms (the files and folders below `dataplane/src`): an import may point down, never up.
//!
//! The table is the rule; ARCHITECTURE.md shows what was read.

use std::collections::{BTreeMap, BTreeSet};

use super::circles::{self, Graph};
use super::imports::{Arrow, Imports};

/// The package whose rooms have an order.
pub(super) const PACKAGE: &str = "ebbgate-edge";
/// Where its rooms are.
const SOURCES: &str = "dataplane/src/";
/// Declares the rooms and is none.
const ROOT: &str = "lib";

/// The rooms from the bottom up. Rooms of one step may import each other as long as they make no circle.
const STEPS: [&[&str]; 10] = [
    &["persistent", "sync"],
    &["net"],
    &["log"],
    &["tunnel"],
    &["state"],
    &["dispatch"],
    &["agents", "http", "l4", "xdp"],
    &["admin", "config", "drain", "feed", "hand_over"],
    &["shard"],
    &["main", "bin"],
];

/// An arrow between two rooms, with the first arrow between their files.
pub(super) struct RoomArrow<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    file: &'a str,
    target: &'a str,
    arrow: &'a Arrow,
    /// Arrows between files that this one stands for.
    pub(super) files: usize,
}

/// All arrows between rooms, sorted by both ends.
pub(super) fn arrows(imports: &Imports) -> Vec<RoomArrow<'_>> {
    let mut found: BTreeMap<(&str, &str), RoomArrow<'_>> = BTreeMap::new();
    for (file, target, arrow) in imports.within(PACKAGE) {
        let (Some(from), Some(to)) = (room(file), room(target)) else { continue };
        if from != to {
            let first = RoomArrow { from, to, file, target, arrow, files: 0 };
            found.entry((from, to)).or_insert(first).files += 1;
        }
    }
    found.into_values().collect()
}

/// The rooms that were read, from the top of the order down; those without a place last.
pub(super) fn rooms(imports: &Imports) -> Vec<&str> {
    let of = imports.files.iter().filter(|(_, package)| *package == PACKAGE);
    let rooms: BTreeSet<&str> = of.filter_map(|(file, _)| room(file)).collect();
    let mut rooms: Vec<&str> = rooms.into_iter().collect();
    rooms.sort_by_key(|room| (std::cmp::Reverse(step(room)), *room));
    rooms
}

/// Arrows that point up.
pub(super) fn upward<'a>(arrows: &'a [RoomArrow<'a>]) -> impl Iterator<Item = &'a RoomArrow<'a>> {
    arrows
        .iter()
        .filter(|arrow| matches!((step(arrow.from), step(arrow.to)), (Some(from), Some(to)) if from < to))
}

/// Each room without a place, each arrow that points up, and each circle of rooms.
pub(super) fn check(imports: &Imports) -> Vec<String> {
    let mut findings: Vec<String> = rooms(imports)
        .iter()
        .filter(|room| step(room).is_none())
        .map(|room| format!("{SOURCES}{room}: has no place in the order of rooms (xtask/src/tidy/order.rs)"))
        .collect();
    let arrows = arrows(imports);
    findings.extend(upward(&arrows).map(RoomArrow::explain));
    let mut graph = Graph::new();
    for arrow in &arrows {
        graph.entry(arrow.from).or_default().insert(arrow.to);
    }
    for circle in circles::knots(&graph).iter().flat_map(|knot| circles::of_knot(&graph, knot)) {
        findings.push(format!(
            "{SOURCES}: rooms import each other in a circle: {}; turn one of the arrows",
            circle.join(", ")
        ));
    }
    findings
}

impl RoomArrow<'_> {
    fn explain(&self) -> String {
        let Self { from, to, file, target, arrow, .. } = self;
        format!(
            "{file}:{}: imports `{}` of {target}, but {to} is above {from}; pass what {from} needs down as an argument, or \
             move it below {from}",
            arrow.line, arrow.path
        )
    }
}

fn step(room: &str) -> Option<usize> {
    STEPS.iter().position(|step| step.contains(&room))
}

fn room(file: &str) -> Option<&str> {
    let name = file.strip_prefix(SOURCES)?.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != ROOT).then_some(name)
}
