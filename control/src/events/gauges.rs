//! Destinations and the audit log in `/metrics` and `/readyz`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::hub::Events;
use super::stats::Stats;
use crate::api::timestamp;
use crate::clock::UnixSecs;

/// Seconds that a destination fails before `/readyz` names it.
const FAILING_SECS: i64 = 300;
/// Destinations that `/readyz` names.
const TOLD_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    destination: String,
}

/// A number of each destination: its name, what it says, and how to read it.
type Number = (&'static str, &'static str, fn(&Stats, UnixSecs) -> u64);

const NUMBERS: &[Number] = &[
    ("event_destination_delivered", "Events delivered since control started", |stats, _| stats.delivered),
    ("event_destination_retried", "Batches tried again since control started", |stats, _| stats.retried),
    ("event_destination_dropped", "Events dropped since control started", |stats, _| stats.dropped),
    ("event_destination_waiting", "Events that wait on disk", |stats, _| stats.waiting),
    ("event_destination_spool_bytes", "Bytes of events on disk", |stats, _| stats.spool_bytes),
    ("event_destination_damaged", "Damaged segments of the spool that were set aside", |stats, _| {
        stats.damaged
    }),
    (
        "event_destination_failing_seconds",
        "Seconds since every delivery fails; 0 when it does not",
        |stats, now| stats.failing_since.map_or(0, |since| age(since, now)),
    ),
    ("event_destination_age_seconds", "Seconds since the last delivery while events wait", |stats, now| {
        stats.waiting_since.map_or(0, |since| age(since, now))
    }),
];

fn age(since: UnixSecs, now: UnixSecs) -> u64 {
    u64::try_from(now.saturating_sub(since)).unwrap_or(0)
}

/// Adds what is known of destinations.
pub fn register(events: &Events, now: UnixSecs, registry: &mut Registry) {
    let all = events.stats.all();
    for (name, help, read) in NUMBERS {
        let family: Family<Labels, Gauge> = Family::default();
        for (id, (_, stats)) in &all {
            let labels = Labels { destination: id.to_string() };
            family.get_or_create(&labels).set(i64::try_from(read(stats, now)).unwrap_or(i64::MAX));
        }
        registry.register(*name, *help, family);
    }
    let dropped: Gauge = Gauge::default();
    dropped.set(i64::try_from(events.traffic_dropped()).unwrap_or(i64::MAX));
    let help = "Traffic events that found no room on their way to destinations";
    registry.register("traffic_events_dropped", help, dropped);
    let stuck: Gauge = Gauge::default();
    stuck.set(i64::from(events.audit.trouble.borrow().is_some()));
    registry.register("audit_stuck", "1 while the audit log cannot be extended", stuck);
}

/// Lines for `/readyz`: what fails for long. None of it keeps control from being ready.
pub fn told(events: &Events, now: UnixSecs) -> String {
    let mut text = String::new();
    if let Some(trouble) = &*events.audit.trouble.borrow() {
        text.extend([format!("audit log: {trouble}\n")]);
    }
    let failing = |stats: &Stats| stats.failing_since.filter(|since| now - since >= FAILING_SECS);
    let all = events.stats.all();
    let long = all.iter().filter_map(|(id, (_, stats))| Some((id, failing(stats)?, &stats.reason)));
    text.extend(long.take(TOLD_MAX).map(|(id, since, reason)| {
        format!("event destination {id}: failing since {}: {}\n", timestamp(since), reason.escape_debug())
    }));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{AccountId, EventDestinationId, Ksuid};
    use prometheus_client::encoding::text::encode;

    #[test]
    fn a_destination_that_fails_for_long_is_told_and_measured() {
        let events = Events::default();
        let ksuid = Ksuid::new(1_700_000_000, [1; 16]);
        let id = EventDestinationId::new(ksuid);
        events.stats.change(id, AccountId::new(ksuid), |stats| {
            stats.failing_since = Some(1000);
            stats.reason = "the receiver answered 500\n".into();
            stats.delivered = 7;
        });
        assert_eq!(told(&events, 1000 + FAILING_SECS - 1), "");
        let text = told(&events, 1000 + FAILING_SECS);
        assert!(
            text.contains(&format!("{id}: failing since 1970-01-01T00:16:40Z")) && text.lines().count() == 1,
            "{text}"
        );
        events.audit.trouble.send_replace(Some("disk full".into()));
        assert!(told(&events, 0).contains("audit log: disk full"));
        let mut registry = Registry::default();
        register(&events, 1010, &mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            format!("event_destination_delivered{{destination=\"{id}\"}} 7"),
            format!("event_destination_failing_seconds{{destination=\"{id}\"}} 10"),
            "audit_stuck 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
