//! Very many endpoints at once, at the start: maps that are made whole are made several times as fast as one by one.

use std::sync::Arc;
use std::thread;

use ebbgate_model::{Changes, CloudEndpointSpec, Digests, EndpointId, IpRestrictionKind, Object, ObjectKey};

use super::apply::endpoint;
use super::data::Tables;
use super::effects::Effects;

/// Threads that count objects at most.
const THREADS_MAX: usize = 4;

impl Tables {
    /// As [`Tables::with`], of very many endpoints where there are none. `digests` follow.
    pub fn with_all(
        &self,
        mut changes: Changes,
        generation: u64,
        digests: &mut Digests,
    ) -> (Tables, Effects) {
        let endpoints = std::mem::take(&mut changes.endpoints.put);
        let endpoints: Vec<_> = endpoints.into_iter().map(|(id, spec)| (id, spec.0)).collect();
        let (mut next, mut effects) = self.with(&changes, generation, Some(digests));
        digests.merge(&count(&endpoints));
        let mut loaded = next.load(endpoints);
        effects.put.extend(next.cloud.values().cloned());
        effects.refused.append(&mut loaded.refused);
        effects.kernel = true;
        (next, effects)
    }

    /// Adds endpoints to Tables that have none, when all they refer to is there. One with a policy that does not compile is closed,
    /// and named in what this gives.
    pub fn load(&mut self, endpoints: Vec<(EndpointId, Arc<CloudEndpointSpec>)>) -> Effects {
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
        effects
    }
}

/// The digests of these endpoints alone, made by several threads.
fn count(endpoints: &[(EndpointId, Arc<CloudEndpointSpec>)]) -> Digests {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let count = |part: &[(EndpointId, Arc<CloudEndpointSpec>)]| {
        let mut digests = Digests::default();
        for (id, spec) in part {
            let key = ObjectKey::Endpoint(*id);
            digests.add(key.bucket(), Object::Endpoint(Arc::clone(spec)).digest(&key));
        }
        digests
    };
    thread::scope(|scope| {
        let parts = endpoints.chunks(endpoints.len().div_ceil(threads).max(1));
        let counting: Vec<_> = parts.map(|part| scope.spawn(move || count(part))).collect();
        let mut all = Digests::default();
        for thread in counting {
            all.merge(&thread.join().expect("counting does not panic"));
        }
        all
    })
}
