//! `Routes`: which events of an account go to which destinations, from its subscriptions. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ebbgate_model::{AccountId, EventDestinationId, EventId};

use super::envelope::Event;
use super::traffic::{Traffic, filterable, select};
use super::types::is_traffic;
use crate::api::filter::{Budget, Filter};
use crate::clock::UnixSecs;
use crate::record::events::{EventSubscription, Source};

/// Subscriptions, by account.
#[derive(Debug, Default)]
pub(super) struct Routes {
    accounts: BTreeMap<AccountId, Vec<Route>>,
    /// Whose subscriptions also get the installation's own events.
    installation: Option<AccountId>,
}

#[derive(Debug)]
struct Route {
    sources: BTreeMap<String, Choice>,
    destinations: BTreeSet<EventDestinationId>,
}

/// Which traffic events, and what of them.
#[derive(Debug)]
struct Choice {
    fields: Vec<String>,
    filter: Option<Filter>,
}

impl Choice {
    /// None: the filter cannot be read, which a filter that was checked never is; nothing is delivered by it.
    fn of(source: &Source) -> Option<Self> {
        let filter = match source.filter.as_str() {
            "" => None,
            text => Some(Filter::parse_over(text, "ev").ok()?),
        };
        Some(Self { fields: source.fields.clone(), filter })
    }
}

impl Routes {
    /// No subscriptions yet.
    pub(super) fn new(installation: Option<AccountId>) -> Self {
        Self { accounts: BTreeMap::new(), installation }
    }

    /// Replaces an account's subscriptions.
    pub(super) fn set(&mut self, account: AccountId, subscriptions: &[EventSubscription]) {
        let route = |subscription: &EventSubscription| Route {
            sources: subscription
                .sources
                .iter()
                .filter_map(|source| Some((source.r#type.clone(), Choice::of(source)?)))
                .collect(),
            destinations: subscription.destinations.iter().copied().collect(),
        };
        let routes: Vec<_> = subscriptions.iter().map(route).collect();
        if routes.is_empty() {
            self.accounts.remove(&account);
        } else {
            self.accounts.insert(account, routes);
        }
    }

    /// Whether any subscription asks for traffic events.
    pub(super) fn want_traffic(&self) -> bool {
        self.accounts.values().flatten().any(|route| route.sources.keys().any(|kind| is_traffic(kind)))
    }

    /// Where an event goes, each destination once.
    pub(super) fn of(&self, event: &Event) -> BTreeSet<EventDestinationId> {
        let account = event.account.or(self.installation);
        let routes = account.and_then(|account| self.accounts.get(&account)).into_iter().flatten();
        let wanted = routes.filter(|route| route.sources.contains_key(&event.kind));
        wanted.flat_map(|route| route.destinations.iter().copied()).collect()
    }

    /// The events to deliver for something that happened on an edge, each with its destinations.
    pub(super) fn of_traffic(
        &self,
        traffic: &Traffic,
        id: impl FnOnce() -> EventId,
        now: UnixSecs,
    ) -> Vec<(Bytes, BTreeSet<EventDestinationId>)> {
        let Some(account) = traffic.account() else { return Vec::new() };
        let Some(routes) = self.accounts.get(&account) else { return Vec::new() };
        let kind = traffic.kind();
        let mut wanted = routes.iter().filter_map(|route| Some((route, route.sources.get(kind)?))).peekable();
        if wanted.peek().is_none() {
            return Vec::new();
        }
        let (object, id) = (traffic.object(), id());
        let seen = filterable(&object);
        let passes = |choice: &Choice| {
            let keeps = |filter: &Filter| filter.keeps(&seen, now, &mut Budget::new()).unwrap_or(false);
            choice.filter.as_ref().is_none_or(keeps)
        };
        wanted
            .filter(|(_, choice)| passes(choice))
            .map(|(route, choice)| {
                let whole = choice.fields.is_empty();
                let object = if whole { object.clone() } else { select(&object, &choice.fields) };
                let event = Event::of_traffic(id, kind, traffic.at(), account, &object, traffic.operation());
                (event.body, route.destinations.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::types::TCP;
    use ebbgate_model::event::ConnectionEvent;
    use ebbgate_model::{EventSubscriptionId, Ksuid};
    use serde_json::{Value, json};

    fn subscription(sources: &[(&str, &[&str], &str)], destination: u8) -> EventSubscription {
        let source = |(kind, fields, filter): &(&str, &[&str], &str)| Source {
            r#type: (*kind).to_owned(),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            filter: (*filter).to_owned(),
        };
        EventSubscription {
            id: EventSubscriptionId::new(Ksuid::new(1_700_000_000, [1; 16])),
            account: account(1),
            description: String::new(),
            metadata: String::new(),
            sources: sources.iter().map(source).collect(),
            destinations: vec![EventDestinationId::new(Ksuid::new(1_700_000_000, [destination; 16]))],
            created_at: 0,
        }
    }

    fn account(n: u8) -> AccountId {
        AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
    }

    fn connection(account: AccountId, client: &str) -> Traffic {
        Traffic::Connection(Box::new(ConnectionEvent {
            account: Some(account),
            client: client.into(),
            ..ConnectionEvent::default()
        }))
    }

    #[test]
    fn traffic_goes_where_fields_and_filter_say_and_to_no_other_account() {
        let mut routes = Routes::new(None);
        assert!(!routes.want_traffic());
        routes.set(
            account(1),
            &[
                subscription(&[(TCP, &["conn.client_ip"], "ev.conn.client_ip == '192.0.2.1'")], 1),
                subscription(&[(TCP, &[], "")], 2),
                subscription(&[("endpoint_created.v0", &[], "")], 3),
            ],
        );
        assert!(routes.want_traffic());
        let id = || EventId::new(Ksuid::new(1_700_000_000, [9; 16]));
        let found = routes.of_traffic(&connection(account(1), "192.0.2.1:7"), id, 0);
        assert_eq!(found.len(), 2);
        let first: Value = serde_json::from_slice(&found[0].0).unwrap();
        assert_eq!(first["object"], json!({"conn": {"client_ip": "192.0.2.1"}}));
        assert_eq!(first["principal"], Value::Null);
        assert_eq!(routes.of_traffic(&connection(account(1), "192.0.2.2:7"), id, 0).len(), 1);
        assert!(routes.of_traffic(&connection(account(2), "192.0.2.1:7"), id, 0).is_empty());
        routes.set(account(1), &[]);
        assert!(!routes.want_traffic());
    }

    #[test]
    fn events_of_the_installation_go_to_the_account_the_operator_named() {
        let event = Event { kind: "installation_updated.v0".into(), account: None, body: Bytes::new() };
        let mut routes = Routes::new(Some(account(1)));
        routes.set(account(1), &[subscription(&[("installation_updated.v0", &[], "")], 1)]);
        assert_eq!(routes.of(&event).len(), 1);
        let other = Event { account: Some(account(2)), ..event.clone() };
        assert!(routes.of(&other).is_empty());
        let mut routes = Routes::new(None);
        routes.set(account(1), &[subscription(&[("installation_updated.v0", &[], "")], 1)]);
        assert!(routes.of(&event).is_empty());
    }
}
