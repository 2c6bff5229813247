//! `Metrics`: what control counts, as OpenMetrics text. Values that others hold are asked for when they are read.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::acme::{self, FailureCode};
use crate::disk::Unwritable;
use crate::presence::Presence;
use crate::push::Planned;

/// What an API call is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// Method, or `other` for unknown ones.
    pub method: &'static str,
    /// Status answered.
    pub status: u16,
}

/// Why an ACME order failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AcmeLabels {
    reason: &'static str,
}

/// Who issued certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EdgeLabels {
    edge: String,
}

/// Why the disk takes no writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DiskLabels {
    reason: &'static str,
}

/// Counters of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Calls of the API.
    pub calls: Family<CallLabels, Counter>,
    /// Programs planned.
    pub plans: Counter,
    /// Programs refused by edges.
    pub refusals: Counter,
    /// Connections that edges reported as ended.
    pub connections: Counter,
    /// Requests that edges reported as answered.
    pub requests: Counter,
    /// Writes by which other controls are told of edges and sessions.
    pub presence_writes: Counter,
    /// Those that failed, and times that what others tell could not be followed.
    pub presence_failures: Counter,
    /// Unix time at which this control last saw what controls tell each other; 0: it is the only one.
    pub presence_seen: Gauge,
    /// Orders made at the ACME authority.
    pub acme_orders: Counter,
    /// Certificates of the ACME authority put in use.
    pub acme_certificates: Counter,
    /// Steps of orders that failed.
    acme_failures: Family<AcmeLabels, Counter>,
    /// When the first certificate expires, of our own authorities and of uploaded ones.
    expiries: Family<IssuerLabels, Gauge>,
}

impl Metrics {
    /// Counts a step of an order that failed.
    pub fn acme_failed(&self, code: FailureCode) {
        let reason = match code {
            FailureCode::DnsError => "dns",
            FailureCode::InternalError => "internal",
        };
        self.acme_failures.get_or_create(&AcmeLabels { reason }).inc();
    }

    /// When the first certificate of an issuer expires; None: there is none.
    pub fn first_expiry(&self, issuer: &'static str, not_after: Option<i64>) {
        let labels = IssuerLabels { issuer };
        match not_after {
            Some(at) => drop(self.expiries.get_or_create(&labels).set(at)),
            None => drop(self.expiries.remove(&labels)),
        }
    }

    /// The text of `/metrics`.
    /// What `more` adds stands at the end.
    pub fn text(
        &self,
        planned: &Planned,
        presence: &Presence,
        names: &acme::Registry,
        unwritable: Option<Unwritable>,
        more: impl FnOnce(&mut Registry),
    ) -> String {
        let mut registry = Registry::with_prefix("ebbgate_control");
        registry.register("api_calls", "Calls of the REST API", self.calls.clone());
        registry.register("plans", "Programs planned", self.plans.clone());
        registry.register("program_refusals", "Programs refused by edges", self.refusals.clone());
        registry.register(
            "edge_connections",
            "Ended connections reported by edges",
            self.connections.clone(),
        );
        registry.register("edge_requests", "Answered requests reported by edges", self.requests.clone());
        let generation = gauge(planned.generation.unwrap_or_default());
        registry.register("generation", "Generation of the newest Program", generation);
        let stuck = gauge(u64::from(planned.trouble.is_some()));
        registry.register("planning_stopped", "1 when newer revisions cannot be planned", stuck);
        let left_out = gauge(planned.left_out.len() as u64);
        registry.register(
            "objects_left_out",
            "Stored objects that edges do not get, named in /readyz",
            left_out,
        );
        let disk: Family<DiskLabels, Gauge> = Family::default();
        for reason in Unwritable::ALL {
            let labels = DiskLabels { reason: reason.word() };
            disk.get_or_create(&labels).set(i64::from(unwritable == Some(reason)));
        }
        registry.register("disk_unwritable", "1 while the database's disk takes no writes", disk);
        registry.register("acme_orders", "Orders made at the ACME authority", self.acme_orders.clone());
        registry.register(
            "acme_certificates",
            "Certificates of the ACME authority put in use",
            self.acme_certificates.clone(),
        );
        registry.register("acme_failures", "Steps of ACME orders that failed", self.acme_failures.clone());
        let names = names.all();
        let failing = names.iter().filter(|(_, name)| name.failure().is_some()).count();
        registry.register(
            "acme_names",
            "Names with certificates of the ACME authority",
            gauge(names.len() as u64),
        );
        registry.register(
            "acme_names_failing",
            "Those whose last order failed, named in /readyz",
            gauge(failing as u64),
        );
        self.first_expiry("acme", names.iter().filter_map(|(_, name)| name.not_after).min());
        registry.register(
            "certificate_expiry_seconds",
            "Unix time at which the first certificate expires",
            self.expiries.clone(),
        );
        let (live, sessions, connected) = edges(presence);
        registry.register("edge_generation", "Generation in force at an edge", live);
        registry.register("edge_sessions", "Agent sessions online at an edge", sessions);
        registry.register("edge_connected", "1 while the feed of an edge is open", connected);
        if self.presence_seen.get() > 0 {
            self.register_sharing(&mut registry, presence);
        }
        more(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string succeeds");
        text
    }
}

impl Metrics {
    /// What there is with other controls on the same store.
    fn register_sharing(&self, registry: &mut Registry, presence: &Presence) {
        let writes = "Writes by which other controls are told of edges and sessions";
        registry.register("presence_writes", writes, self.presence_writes.clone());
        let failures = "Failures to tell other controls or to follow what they tell";
        registry.register("presence_failures", failures, self.presence_failures.clone());
        let seen = "Unix time at which this control last saw what controls tell each other";
        registry.register("presence_seen_seconds", seen, self.presence_seen.clone());
        let elsewhere = presence.edges().iter().filter(|edge| edge.elsewhere.is_some()).count();
        registry.register("edges_elsewhere", "Edges that other controls feed", gauge(elsewhere as u64));
    }
}

type PerEdge = Family<EdgeLabels, Gauge>;

fn edges(presence: &Presence) -> (PerEdge, PerEdge, PerEdge) {
    let families = (PerEdge::default(), PerEdge::default(), PerEdge::default());
    // Each edge is counted by the control that feeds it.
    for edge in presence.edges().into_iter().filter(|edge| edge.elsewhere.is_none()) {
        let labels = EdgeLabels { edge: edge.id.to_string() };
        families.0.get_or_create(&labels).set(signed(edge.applied));
        families.1.get_or_create(&labels).set(signed(edge.sessions as u64));
        families.2.get_or_create(&labels).set(i64::from(edge.connected));
    }
    families
}

fn gauge(value: u64) -> Gauge {
    let gauge: Gauge = Gauge::default();
    gauge.set(signed(value));
    gauge
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
