//! Metrics of the filter: counters are read from the kernel when `/metrics` is read, and cost nothing otherwise.

use std::fmt;
use std::sync::{Arc, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::exchange::Exchange;
use super::settings::Mode;

pub(super) struct Packets(pub(super) Arc<Exchange>);

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
