//! A change of objects carried into the Tables, in time proportional to the change and to what the changed objects are used by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::tunnel::load::Load;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::{
    AccountId, Binding, Changes, CloudEndpointSpec, Digests, EndpointId, IpRestrictionKind, ObjectKey,
    Scheme, SecretSpec, SessionKeySpec,
};
use ebbgate_policy::identity::{KeyRing, SealingKey};
use ebbgate_policy::{EndpointFacts, References, SecretName, SecretValue};

use super::data::Tables;
use super::effects::{Effects, Name};
use crate::state::endpoint::{Endpoint, Kind};

/// Objects that policies name and that changed, by account.
type Named = BTreeMap<AccountId, BTreeSet<ObjectKey>>;

/// How policies name a secret.
fn name_of(secret: &SecretSpec) -> SecretName {
    SecretName { vault: secret.vault.clone(), name: secret.name.clone() }
}

/// A key as control told it; None: it is none.
fn sealing_key(spec: &SessionKeySpec) -> Option<SealingKey> {
    let key = STANDARD.decode(&spec.key).ok()?.try_into().ok()?;
    Some(SealingKey { id: spec.id, from_unix_secs: spec.from_unix_secs, key })
}

impl Tables {
    /// Makes the changes and says what follows; for the digests see [`Objects::apply`]. The generation is the caller's to set.
    ///
    /// [`Objects::apply`]: crate::state::objects::Objects::apply
    pub fn apply(&mut self, changes: &Changes, digests: Option<&mut Digests>) -> Effects {
        let mut effects = Effects::default();
        let mut named = Named::new();
        self.withdraw_names(changes, &mut effects);
        self.withdraw(changes, &mut named, &mut effects);
        self.objects.apply(changes, digests);
        for (hash, policy) in &changes.policies.put {
            self.policies.insert(*hash, &policy.0);
        }
        if let Some(settings) = &changes.settings {
            let keys = settings.session_keys.iter().filter_map(sealing_key);
            self.session_keys = Arc::new(KeyRing::new(keys));
        }
        self.enter_names(changes, &mut effects);
        self.enter(changes, &mut named, &mut effects);
        self.enter_restrictions(changes, &named, &mut effects);
        for id in changes.endpoints.put.keys() {
            self.serve(*id, true, &mut effects);
        }
        self.compile_again(&named, &mut effects);
        for hash in &changes.policies.remove {
            self.policies.remove(hash);
        }
        let of_accounts = named.keys().copied();
        effects.accounts.extend(of_accounts);
        effects
    }

    /// Takes out of the indexes what these changes replace or remove; before the objects change.
    fn withdraw(&mut self, changes: &Changes, named: &mut Named, effects: &mut Effects) {
        let policies = &changes.ip_policies;
        for id in policies.put.keys().chain(&policies.remove) {
            let Some(account) = self.objects.ip_policies.get(id).map(|old| old.account) else { continue };
            named.entry(account).or_default().insert(ObjectKey::IpPolicy(*id));
            self.change_references(account, |references| drop(references.ip_policies.remove(id)));
        }
        let authorities = &changes.authorities;
        for id in authorities.put.keys().chain(&authorities.remove) {
            let Some(account) = self.objects.authorities.get(id).map(|old| old.account) else { continue };
            named.entry(account).or_default().insert(ObjectKey::Authority(*id));
            self.change_references(account, |references| drop(references.authorities.remove(id)));
        }
        for id in changes.secrets.put.keys().chain(&changes.secrets.remove) {
            let Some(old) = self.objects.secrets.get(id) else { continue };
            let (account, name) = (old.account, name_of(old));
            named.entry(account).or_default().insert(ObjectKey::Secret(*id));
            self.change_references(account, |references| drop(references.secrets.remove(&name)));
        }
        let restrictions = &changes.ip_restrictions;
        for id in restrictions.put.keys().chain(&restrictions.remove) {
            let Some(old) = self.objects.ip_restrictions.get(id).cloned() else { continue };
            self.restrictions.remove(*id, old.account);
            effects.accounts.insert(old.account);
        }
        for id in changes.addresses.put.keys().chain(&changes.addresses.remove) {
            let Some(old) = self.objects.addresses.get(id).cloned() else { continue };
            effects.names.push(Name { host: old.host.clone(), port: Some(old.port) });
            effects.ports.insert(old.port);
            if let Some(those) = self.addresses.get_mut(&old.port) {
                Arc::make_mut(those).retain(|address| !Arc::ptr_eq(address, &old));
                if those.is_empty() {
                    self.addresses.remove(&old.port);
                }
            }
        }
        for id in &changes.endpoints.remove {
            if let Some(old) = self.objects.endpoints.get(id).cloned() {
                self.owned.remove(&old.account, id);
            }
            self.unserved.remove(&ObjectKey::Endpoint(*id));
            if let Some(old) = self.cloud.remove(id) {
                self.list(*id, effects);
                effects.kernel |= is_alone_on_a_port(&old);
                effects.removed.push(old);
            }
        }
        for (id, spec) in &changes.endpoints.put {
            // By what was told before: what is in use may be an older version, of another account.
            let told = self.objects.endpoints.get(id).map(|old| old.account);
            if let Some(account) = told.filter(|account| *account != spec.0.account) {
                self.owned.remove(&account, id);
            }
        }
        for id in &changes.domains.remove {
            self.unserved.remove(&ObjectKey::Domain(*id));
        }
        for id in &changes.ingresses.remove {
            self.unserved.remove(&ObjectKey::Ingress(*id));
        }
    }

    /// Puts into the indexes what these changes brought; after the objects changed.
    fn enter(&mut self, changes: &Changes, named: &mut Named, effects: &mut Effects) {
        for (id, spec) in &changes.ip_policies.put {
            named.entry(spec.0.account).or_default().insert(ObjectKey::IpPolicy(*id));
            let rules = spec.0.rules.clone();
            self.change_references(spec.0.account, |all| drop(all.ip_policies.insert(*id, rules)));
        }
        for (id, spec) in &changes.authorities.put {
            named.entry(spec.0.account).or_default().insert(ObjectKey::Authority(*id));
            let pem = spec.0.ca_pem.clone();
            self.change_references(spec.0.account, |all| drop(all.authorities.insert(*id, pem)));
        }
        for (id, spec) in &changes.secrets.put {
            named.entry(spec.0.account).or_default().insert(ObjectKey::Secret(*id));
            let (name, value) = (name_of(&spec.0), SecretValue::new(&spec.0.value));
            self.change_references(spec.0.account, |all| drop(all.secrets.insert(name, value)));
        }
        for spec in changes.addresses.put.values() {
            effects.names.push(Name { host: spec.0.host.clone(), port: Some(spec.0.port) });
            effects.ports.insert(spec.0.port);
            let mut those = self.addresses.remove(&spec.0.port).unwrap_or_default();
            Arc::make_mut(&mut those).push(Arc::clone(&spec.0));
            self.addresses.insert(spec.0.port, those);
        }
        let credentials = &changes.credentials;
        effects.credentials.extend(credentials.put.keys().chain(&credentials.remove));
    }

    fn change_references(&mut self, account: AccountId, change: impl FnOnce(&mut References)) {
        let mut references = self.references.remove(&account).unwrap_or_default();
        change(Arc::make_mut(&mut references));
        if *references != References::default() {
            self.references.insert(account, references);
        }
    }

    fn enter_restrictions(&mut self, changes: &Changes, named: &Named, effects: &mut Effects) {
        for (account, changed) in named {
            let references = self.references(*account);
            let policies = changed.iter().filter_map(|key| match key {
                ObjectKey::IpPolicy(id) => Some(*id),
                _ => None,
            });
            for policy in policies {
                self.restrictions.compile_again(*account, policy, &references);
                // The kernel's lists may hold its rules.
                self.listed.version += 1;
                effects.kernel = true;
            }
        }
        for (id, spec) in &changes.ip_restrictions.put {
            let references = self.references(spec.0.account);
            self.restrictions.insert(*id, &spec.0, &references);
            effects.accounts.insert(spec.0.account);
        }
        if !changes.ip_restrictions.put.is_empty() || !changes.ip_restrictions.remove.is_empty() {
            for account in effects.accounts.clone() {
                let endpoints: Vec<EndpointId> = self.owned.get(&account).copied().collect();
                for id in endpoints {
                    self.list(id, effects);
                }
            }
        }
    }

    /// Compiles policies anew that name what changed.
    fn compile_again(&mut self, named: &Named, effects: &mut Effects) {
        for (account, changed) in named {
            let concerned: Vec<EndpointId> = self.owned.get(account).copied().collect();
            let is_about = |id: &EndpointId| self.policy(*id).is_some_and(|policy| policy.is_about(changed));
            let concerned: Vec<EndpointId> = concerned.into_iter().filter(is_about).collect();
            let hashes: BTreeSet<_> =
                concerned.iter().filter_map(|id| self.objects.endpoints.get(id)?.policy).collect();
            for hash in hashes {
                self.policies.forget(hash, *account);
            }
            for id in concerned {
                self.serve(id, false, effects);
            }
        }
    }

    /// Puts an endpoint in use as it was told. One whose policy does not compile stays as it was if it `is_new`, a version
    /// that was told now; else it has no policy: it answers as offline, and forwards nothing.
    fn serve(&mut self, id: EndpointId, is_new: bool, effects: &mut Effects) {
        let Some(spec) = self.objects.endpoints.get(&id).cloned() else { return };
        let key = ObjectKey::Endpoint(id);
        let references = self.references(spec.account);
        let compiled = spec.policy.map(|hash| self.policies.engine(hash, spec.account, &references));
        let before = self.cloud.get(&id).cloned();
        self.owned.insert(&spec.account, id);
        let engine = match compiled.transpose() {
            Ok(engine) => {
                self.unserved.remove(&key);
                engine
            }
            Err(reason) => {
                self.refuse(key, &format!("{}: {reason}", spec.url), effects);
                if is_new && before.as_ref().is_some_and(|before| before.engine.is_some()) {
                    return self.list(id, effects);
                }
                None
            }
        };
        let now = Arc::new(endpoint(id, &spec, engine));
        if let Some(before) = before {
            if is_same(&before, &now) {
                return self.list(id, effects);
            }
            effects.kernel |= is_alone_on_a_port(&before);
            if before.url != now.url || before.binding != now.binding || before.account != now.account {
                effects.removed.push(before);
            }
        }
        effects.kernel |= is_alone_on_a_port(&now);
        self.cloud.insert(id, Arc::clone(&now));
        effects.put.push(now);
        self.list(id, effects);
    }

    /// Lists an endpoint that has a list of source addresses, and no other. One that is not as it was told has none: the
    /// kernel must not refuse whom a policy in use lets in.
    pub(super) fn list(&mut self, id: EndpointId, effects: &mut Effects) {
        let is_restricted = |endpoint: &Arc<Endpoint>| {
            let kind = IpRestrictionKind::Endpoints;
            endpoint.binding == Binding::Public
                && self.restrictions.of(endpoint.account, kind).next().is_some()
        };
        let restricts = || self.policy(id).is_some_and(|policy| policy.restricts_ips);
        let in_use = self.cloud.get(&id).filter(|_| !self.unserved.contains_key(&ObjectKey::Endpoint(id)));
        let has_list = in_use.is_some_and(|endpoint| restricts() || is_restricted(endpoint));
        let was_listed = if has_list {
            self.listed.endpoints.insert(id, ()).is_some()
        } else {
            self.listed.endpoints.remove(&id).is_some()
        };
        if has_list || was_listed {
            self.listed.version += 1;
            effects.kernel = true;
        }
    }

    /// Says of an object that it cannot be used as it was told.
    pub(super) fn refuse(&mut self, key: ObjectKey, reason: &str, effects: &mut Effects) {
        effects.refused.insert(key.clone(), reason.to_owned());
        self.unserved.insert(key, reason.into());
    }
}

pub(super) fn endpoint(
    id: EndpointId,
    spec: &CloudEndpointSpec,
    engine: Option<Arc<ebbgate_policy::Engine>>,
) -> Endpoint {
    Endpoint {
        id,
        account: spec.account,
        url: spec.url.clone(),
        binding: spec.binding,
        facts: Arc::new(EndpointFacts::new(id.to_string(), spec.url.clone())),
        engine,
        kind: Kind::Cloud,
        upstream_http2: false,
        pooling_enabled: spec.pooling_enabled,
        own_load: Load::default(),
    }
}

/// Whether one can stand for the other.
fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    let engines = match (&one.engine, &other.engine) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    };
    engines
        && one.account == other.account
        && one.url == other.url
        && one.binding == other.binding
        && one.pooling_enabled == other.pooling_enabled
}

/// Whether a port's owner may be another with or without it.
fn is_alone_on_a_port(endpoint: &Endpoint) -> bool {
    endpoint.binding == Binding::Public && endpoint.url.scheme() == Scheme::Tcp
}
