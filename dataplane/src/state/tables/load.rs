//! Very many endpoints at once, at the start: maps that are made whole are made several times as fast as one by one.

use std::sync::Arc;
use std::thread;

use ebbgate_model::{CloudEndpointSpec, EndpointId, IpRestrictionKind, ObjectKey};

use super::apply::endpoint;
use super::data::Tables;
use super::effects::Effects;

impl Tables {
    /// Adds endpoints to Tables that have none, when all they refer to is there. One whose policy does not compile is closed.
    pub fn load(&mut self, endpoints: Vec<(EndpointId, Arc<CloudEndpointSpec>)>) {
        let mut effects = Effects::default();
        let in_use: Vec<_> = endpoints
            .iter()
            .map(|(id, spec)| {
                let references = self.references(spec.account);
                let compiled = spec.policy.map(|hash| self.policies.engine(hash, spec.account, &references));
                let engine = compiled.transpose().unwrap_or_else(|reason| {
                    self.refuse(ObjectKey::Endpoint(*id), &format!("{}: {reason}", spec.url), &mut effects);
                    None
                });
                (*id, Arc::new(endpoint(*id, spec, engine)))
            })
            .collect();
        thread::scope(|scope| {
            let (owned, all) = (&mut self.owned, &endpoints);
            scope.spawn(move || *owned = all.iter().map(|(id, spec)| (spec.account, *id)).collect());
            self.cloud.extend(in_use);
        });
        let may_have_list = |spec: &CloudEndpointSpec| {
            let policy = spec.policy.and_then(|hash| self.policies.get(&hash));
            let restricted = self.restrictions.of(spec.account, IpRestrictionKind::Endpoints);
            policy.is_some_and(|policy| policy.restricts_ips) || restricted.into_iter().next().is_some()
        };
        let with_list = endpoints.iter().filter(|(_, spec)| may_have_list(spec)).map(|(id, _)| *id);
        let with_list: Vec<EndpointId> = with_list.collect();
        self.objects.endpoints.extend(endpoints);
        for id in with_list {
            self.list(id, &mut effects);
        }
    }
}
