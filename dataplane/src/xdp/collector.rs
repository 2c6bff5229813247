//! Metrics of the filter: counters are read from the kernel when somebody asks, and cost nothing otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};

use ebbgate_ebpf as shared;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::maps::{Count, Counters};
use super::{Mode, Shared};

/// What the thread leaves for whoever asks.
#[derive(Default)]
pub(super) struct Seen {
    /// The kernel's counters, while there is a filter.
    pub(super) counters: Option<Counters>,
    /// Guarded TCP port of each policy number.
    pub(super) ports: BTreeMap<u32, u16>,
    /// Interfaces that are to be guarded, and how they are.
    pub(super) interfaces: BTreeMap<String, Option<Mode>>,
    /// Prefixes in the kernel.
    pub(super) prefixes: u64,
    /// Networks of the blocklist in force.
    pub(super) blocklist: u64,
}

impl Seen {
    /// Counters of all policies in force; none when they cannot be read.
    pub(super) fn counts(&self) -> Vec<Count> {
        let policies = std::iter::once(shared::POLICY_BLOCKLIST).chain(self.ports.keys().copied());
        self.counters.as_ref().and_then(|counters| counters.read(policies).ok()).unwrap_or_default()
    }

    fn policy(&self, count: &Count) -> String {
        match self.ports.get(&count.policy) {
            Some(port) => format!("tcp:{port}"),
            None if count.reason == shared::Reason::Blocked => "blocklist".into(),
            None => "none".into(),
        }
    }
}

pub(super) struct Packets(pub(super) Arc<Shared>);

impl fmt::Debug for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packets")
    }
}

impl Collector for Packets {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let help = "Packets that the XDP program decided on";
        let mut packets = encoder.encode_descriptor("admit_packets", help, None, MetricType::Counter)?;
        for count in seen.counts() {
            let verdict = if count.reason.passed() { "passed" } else { "dropped" };
            let labels = [
                ("policy", seen.policy(&count)),
                ("reason", count.reason.as_str().into()),
                ("verdict", verdict.into()),
            ];
            ConstCounter::<u64>::new(count.packets).encode(packets.encode_family(&labels)?)?;
        }
        let help = "Whether the XDP program is on an interface, in this mode";
        let mut attached = encoder.encode_descriptor("admit_attached", help, None, MetricType::Gauge)?;
        for (interface, now) in &seen.interfaces {
            for mode in Mode::ALL {
                let labels = [("interface", interface.as_str()), ("mode", mode.as_str())];
                let is = i64::from(*now == Some(mode));
                ConstGauge::<i64>::new(is).encode(attached.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in [
            ("admit_prefixes", "Prefixes in the kernel", seen.prefixes),
            ("blocklist_prefixes", "Networks of the blocklist in force", seen.blocklist),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::<u64>::new(value).encode(gauge)?;
        }
        Ok(())
    }
}
