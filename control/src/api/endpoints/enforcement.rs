//! How an endpoint's address rules are enforced, summed over the edges that serve it.
//!
//! Knows what edges report and nothing of kernels. One edge that checks in user space makes the whole `userspace`: the
//! answer is as strong as the weakest edge.

use std::collections::{BTreeMap, BTreeSet};

use ebbgate_model::feed::{EnforcementReport, Enforcer};
use serde::Serialize;
use utoipa::ToSchema;

/// How address rules are enforced. They always hold in user space; the kernel may refuse earlier.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = EndpointEnforcement)]
pub(in super::super) struct Enforcement {
    /// `xdp`: refused sources are dropped by the kernel on every edge. `userspace`: on some edge they are not.
    restrict_ips: String,
    /// Why not by the kernel; empty for `xdp`.
    reason: String,
    /// Where the kernel's program is attached.
    interfaces: Vec<GuardedInterface>,
    /// Packets that passed the kernel's check.
    passed_packets: u64,
    /// Packets that the kernel dropped, by reason.
    dropped_packets: BTreeMap<String, u64>,
}

/// An interface with the kernel's program.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(in super::super) struct GuardedInterface {
    name: String,
    /// `native` or `generic`.
    mode: String,
}

/// The sum of what edges report; None when none does.
pub(super) fn sum(reports: &[EnforcementReport]) -> Option<Enforcement> {
    if reports.is_empty() {
        return None;
    }
    let is_xdp = reports.iter().all(|report| report.by == Enforcer::Xdp);
    let reasons: BTreeSet<&str> =
        reports.iter().map(|report| report.reason.as_str()).filter(|reason| !reason.is_empty()).collect();
    let interfaces: BTreeSet<_> = reports
        .iter()
        .flat_map(|report| &report.interfaces)
        .map(|(name, mode)| GuardedInterface { name: name.clone(), mode: mode.clone() })
        .collect();
    let mut dropped = BTreeMap::<String, u64>::new();
    for (reason, packets) in reports.iter().flat_map(|report| &report.dropped) {
        let sum = dropped.entry(reason.clone()).or_default();
        *sum = sum.saturating_add(*packets);
    }
    Some(Enforcement {
        restrict_ips: if is_xdp { "xdp" } else { "userspace" }.to_owned(),
        reason: reasons.into_iter().collect::<Vec<_>>().join("; "),
        interfaces: interfaces.into_iter().collect(),
        passed_packets: reports.iter().fold(0, |sum, report| sum.saturating_add(report.passed)),
        dropped_packets: dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(by: Enforcer, reason: &str, interface: &str, dropped: u64) -> EnforcementReport {
        EnforcementReport {
            by,
            reason: reason.into(),
            interfaces: [(interface.to_owned(), "native".to_owned())].into(),
            passed: u64::MAX - 1,
            dropped: [("unlisted".to_owned(), dropped)].into(),
        }
    }

    #[test]
    fn the_weakest_edge_names_the_whole() {
        let (one, two) =
            (report(Enforcer::Xdp, "", "eth0", 3), report(Enforcer::Userspace, "shared port", "eth1", 4));
        assert_eq!(sum(&[]), None);
        let both = serde_json::to_value(sum(&[one.clone(), two.clone(), two])).unwrap();
        let expect = json!({
            "restrict_ips": "userspace", "reason": "shared port", "passed_packets": u64::MAX,
            "interfaces": [{"name": "eth0", "mode": "native"}, {"name": "eth1", "mode": "native"}],
            "dropped_packets": {"unlisted": 11},
        });
        assert_eq!(both, expect);
        let alone = sum(&[one]).unwrap();
        assert_eq!((alone.restrict_ips.as_str(), alone.reason.as_str()), ("xdp", ""));
    }
}
