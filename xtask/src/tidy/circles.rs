//! Circles in a graph of names. Pure, and knows nothing of files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A graph: from each name to those it has an arrow to.
pub(super) type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// The knots of a graph: names that all reach one another, two or more.
pub(super) fn knots<'a>(graph: &Graph<'a>) -> Vec<BTreeSet<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|name| (*name, reach(graph, name))).collect();
    let mut knots: Vec<BTreeSet<&str>> = Vec::new();
    for (name, beyond) in &reached {
        if !beyond.contains(name) || knots.iter().any(|knot| knot.contains(name)) {
            continue;
        }
        let back = |other: &&&str| reached.get(**other).is_some_and(|beyond| beyond.contains(name));
        knots.push(beyond.iter().filter(back).copied().collect());
    }
    knots
}

/// The circles of a knot to begin with: each pair of names that have arrows to each other, else the shortest circle.
pub(super) fn of_knot<'a>(graph: &Graph<'a>, knot: &BTreeSet<&'a str>) -> Vec<Vec<&'a str>> {
    let has = |from: &str, to: &str| graph.get(from).is_some_and(|beyond| beyond.contains(to));
    let mut pairs = Vec::new();
    for one in knot {
        for other in knot.range(*one..).skip(1) {
            if has(one, other) && has(other, one) {
                pairs.push(vec![*one, *other]);
            }
        }
    }
    if pairs.is_empty() {
        pairs.extend(knot.iter().filter_map(|name| way_back(graph, name)).min_by_key(Vec::len));
    }
    pairs
}

/// All names that can be reached from one, by at least one arrow.
fn reach<'a>(graph: &Graph<'a>, start: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut queue: Vec<&str> = graph.get(start).into_iter().flatten().copied().collect();
    while let Some(name) = queue.pop() {
        if reached.insert(name) {
            queue.extend(graph.get(name).into_iter().flatten());
        }
    }
    reached
}

/// The shortest circle through a name.
fn way_back<'a>(graph: &Graph<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(name) = queue.pop_front() {
        for next in graph.get(name).into_iter().flatten() {
            if *next == start {
                let way = std::iter::successors(Some(name), |at| before.get(at).copied());
                let mut circle: Vec<&str> = way.collect();
                circle.reverse();
                return Some(circle);
            }
            if !before.contains_key(next) {
                before.insert(next, name);
                queue.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knots_and_their_circles() {
        let check = |arrows: &[(&'static str, &'static str)], expect: &[&[&[&str]]]| {
            let mut graph = Graph::new();
            for (from, to) in arrows {
                graph.entry(from).or_default().insert(to);
            }
            let found: Vec<_> = knots(&graph).iter().map(|knot| of_knot(&graph, knot)).collect();
            assert_eq!(found, expect, "{arrows:?}");
        };
        check(&[("a", "b"), ("b", "c"), ("a", "c")], &[]);
        check(&[("a", "b"), ("b", "a")], &[&[&["a", "b"]]]);
        check(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")], &[&[&["a", "b", "c"]]]);
        check(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")], &[&[&["a", "b"], &["b", "c"]]]);
        check(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")], &[&[&["a", "b"]], &[&["c", "d"]]]);
    }
}
