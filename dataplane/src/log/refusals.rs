//! Refused connections and requests of one source, summed: strangers must not fill the disk with lines.
//!
//! Pure: time and sources go in. Every minute a source has a few lines, and one that says how many more there were. The
//! table is bounded; sources beyond it share one sum.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::net::listen::source;

/// Lines of refusals that one source may have written in a minute.
pub const REFUSALS_PER_SOURCE_MAX: u64 = 10;
/// Sources counted apart in one minute.
pub const REFUSAL_SOURCES_MAX: usize = 1_024;
/// Milliseconds over which refusals are summed.
pub const REFUSALS_MS: i64 = 60_000;

/// Refusals that had no line of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// One IPv4 address or IPv6 /64. None: all sources that the table had no room for.
    pub source: Option<IpAddr>,
    /// How many.
    pub refused: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    began_ms: i64,
    sources: HashMap<IpAddr, u64>,
    others: u64,
}

impl Refusals {
    /// Counts one refusal. True: it may have a line.
    pub fn count(&mut self, peer: IpAddr, now_ms: i64) -> bool {
        let source = source(peer);
        if self.sources.is_empty() && self.others == 0 {
            self.began_ms = now_ms;
        }
        if self.sources.len() >= REFUSAL_SOURCES_MAX && !self.sources.contains_key(&source) {
            self.others = self.others.saturating_add(1);
            return false;
        }
        let count = self.sources.entry(source).or_insert(0);
        *count = count.saturating_add(1);
        *count <= REFUSALS_PER_SOURCE_MAX
    }

    /// The sums of a minute that is over; empty before, and where everything had its line.
    pub fn take(&mut self, now_ms: i64) -> Vec<Sum> {
        // A clock that was set back ends the minute too.
        let age_ms = now_ms.saturating_sub(self.began_ms);
        if (0..REFUSALS_MS).contains(&age_ms) { Vec::new() } else { self.take_all() }
    }

    /// All sums, before the process ends.
    pub fn take_all(&mut self) -> Vec<Sum> {
        let more = |(source, count): (IpAddr, u64)| {
            let refused = count.saturating_sub(REFUSALS_PER_SOURCE_MAX);
            (refused > 0).then_some(Sum { source: Some(source), refused })
        };
        let mut sums: Vec<Sum> = std::mem::take(&mut self.sources).into_iter().filter_map(more).collect();
        let others = std::mem::take(&mut self.others);
        sums.extend((others > 0).then_some(Sum { source: None, refused: others }));
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_refusals_of_a_source_are_ten_lines_and_a_sum_each_minute() {
        let mut refusals = Refusals::default();
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let lines = (0..1_000_000).filter(|_| refusals.count(source, 5_000)).count();
        assert_eq!(lines, 10);
        assert!(refusals.take(5_000 + REFUSALS_MS - 1).is_empty(), "the minute is not over");
        let sums = refusals.take(5_000 + REFUSALS_MS);
        assert_eq!(sums, [Sum { source: Some(source), refused: 999_990 }]);
        assert!(refusals.take(i64::MAX).is_empty(), "said once");
        assert!(refusals.count(source, 70_000), "the next minute has lines again");
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_few_refusals_need_no_sum() {
        let mut refusals = Refusals::default();
        for host in 0..12_u128 {
            refusals.count(IpAddr::V6((0x2001_0db8_u128 << 96 | host).into()), 0);
        }
        refusals.count("198.51.100.7".parse().unwrap(), 0);
        let sums = refusals.take_all();
        assert_eq!(sums, [Sum { source: Some("2001:db8::".parse().unwrap()), refused: 2 }]);
    }

    #[test]
    fn a_million_sources_take_no_more_room_than_a_thousand() {
        let mut refusals = Refusals::default();
        let lines = (0..1_000_000_u32).filter(|n| refusals.count(IpAddr::V4((*n).into()), 0)).count();
        assert_eq!((lines, refusals.sources.len()), (REFUSAL_SOURCES_MAX, REFUSAL_SOURCES_MAX));
        let refused = 1_000_000 - REFUSAL_SOURCES_MAX as u64;
        assert_eq!(refusals.take_all(), [Sum { source: None, refused }]);
    }
}
