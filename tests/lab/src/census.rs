//! What processes hold: descriptors, pipes among them, memory, threads, and what the edge itself counts as open. Taken
//! before, during and after a soak, and compared.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::http;

/// KiB a process may hold more after a soak than after its warm-up: allocators keep what peaks needed.
const GROWTH_KIB_MAX: u64 = 32 << 10;
/// Descriptors a process may hold more: links that wait for visitors come and go in number.
const DESCRIPTORS_MAX: u64 = 32;
/// Pipes of a pool a process may hold more.
const PIPES_MAX: u64 = 64;
/// The edge's counts that must come back to where they were end so.
const OPEN: &str = "_open";

/// What one process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Open descriptors, without those of pipes.
    pub descriptors: u64,
    /// Descriptors of pipes.
    pub pipes: u64,
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// Threads.
    pub threads: u64,
}

impl Held {
    /// What a process holds now.
    pub fn by(pid: u32) -> Result<Self> {
        let (mut descriptors, mut pipes) = (0, 0);
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            // One that was closed meanwhile is not held.
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            *(if link.to_string_lossy().starts_with("pipe:") { &mut pipes } else { &mut descriptors }) += 1;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.with_context(|| format!("/proc/{pid}/status has no {name}"))?.parse()?)
        };
        Ok(Self { descriptors, pipes, resident_kib: field("VmRSS:")?, threads: field("Threads:")? })
    }

    /// The larger of each.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        Self {
            descriptors: self.descriptors.max(other.descriptors),
            pipes: self.pipes.max(other.pipes),
            resident_kib: self.resident_kib.max(other.resident_kib),
            threads: self.threads.max(other.threads),
        }
    }

    /// What is held more than before, beyond what may be.
    fn leaks(self, before: Self) -> Vec<String> {
        let rows = [
            ("descriptors", before.descriptors, self.descriptors, DESCRIPTORS_MAX),
            ("pipe descriptors", before.pipes, self.pipes, PIPES_MAX),
            ("KiB of memory", before.resident_kib, self.resident_kib, GROWTH_KIB_MAX),
            ("threads", before.threads, self.threads, 0),
        ];
        let more = rows.into_iter().filter(|(_, before, now, most)| *now > before + most);
        more.map(|(what, before, now, _)| format!("{before} {what} became {now}")).collect()
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.resident_kib / 1024;
        write!(f, "{} fd, {} pipe fd, {mib} MiB, {} threads", self.descriptors, self.pipes, self.threads)
    }
}

/// All processes at one moment, and the edge's own counts.
#[derive(Debug, Clone, Serialize)]
pub struct Census {
    /// By name.
    pub processes: BTreeMap<String, Held>,
    /// The edge's gauges.
    pub edge_counts: BTreeMap<String, f64>,
}

impl Census {
    /// Of these processes, and the edge whose admin listener this is.
    pub fn take(processes: &[(String, u32)], edge_admin: SocketAddr) -> Result<Self> {
        let held = |(name, pid): &(String, u32)| {
            Ok((name.clone(), Held::by(*pid).with_context(|| format!("{name}, process {pid}"))?))
        };
        let answer =
            http::request(http::connect(edge_admin)?, "GET", &edge_admin.to_string(), "/metrics", &[], b"")?;
        Ok(Self {
            processes: processes.iter().map(held).collect::<Result<_>>()?,
            edge_counts: gauges(&answer.text()),
        })
    }

    /// Everything that did not come back to where it was.
    pub fn leaks(&self, before: &Self) -> Vec<String> {
        let processes = self.processes.iter().flat_map(|(name, held)| {
            let before = before.processes.get(name).copied();
            let leaks = before.map_or_else(Vec::new, |before| held.leaks(before));
            leaks.into_iter().map(move |leak| format!("{name}: {leak}"))
        });
        let counts =
            self.edge_counts.iter().filter(|(name, _)| name.ends_with(OPEN)).filter_map(|(name, now)| {
                let before = before.edge_counts.get(name).copied().unwrap_or_default();
                // Waiting links of agents are connections too.
                #[expect(clippy::cast_precision_loss, reason = "a small constant")]
                let more = *now > before + DESCRIPTORS_MAX as f64;
                more.then(|| format!("edge: {before} {name} became {now}"))
            });
        processes.chain(counts).collect()
    }
}

/// The gauges of a metrics page, without labels summed up.
fn gauges(text: &str) -> BTreeMap<String, f64> {
    let names: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge")).collect();
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.rsplit_once(' ') else { continue };
        let name = key.split('{').next().unwrap_or_default();
        if let (true, Ok(value)) = (names.contains(&name), value.parse::<f64>()) {
            *sums.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_summed_over_their_labels() {
        let page =
            "# TYPE a_open gauge\na_open{x=\"1\"} 2\na_open{x=\"2\"} 3\n# TYPE b counter\nb_total 7\n# EOF\n";
        assert_eq!(gauges(page), BTreeMap::from([("a_open".to_owned(), 5.0)]));
    }

    #[test]
    fn what_grows_is_named() {
        let before = Held { descriptors: 20, pipes: 0, resident_kib: 9_000, threads: 3 };
        assert!(before.leaks(before).is_empty());
        let now = Held { descriptors: 20 + DESCRIPTORS_MAX + 1, threads: 4, ..before };
        assert_eq!(now.leaks(before), ["20 descriptors became 53", "3 threads became 4"]);
    }

    #[test]
    fn this_process_holds_something() {
        let (_read, _write) = std::io::pipe().unwrap();
        let held = Held::by(std::process::id()).unwrap();
        assert!(held.pipes >= 2 && held.descriptors > 0 && held.threads > 0, "{held}");
    }
}
