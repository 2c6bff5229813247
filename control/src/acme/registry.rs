//! `Registry`: what every replica knows of managed names, for the API, `/readyz` and metrics. Does not know the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ebbgate_model::Host;
use tokio::sync::Notify;

use super::name::{Failure, Managed, Owner};
use super::settings::AcmeSettings;
use crate::clock::UnixSecs;
use crate::record::parse;
use crate::store::Item;

/// Managed names, and which authority issues their certificates.
#[derive(Debug, Default)]
pub struct Registry {
    settings: Option<AcmeSettings>,
    names: Mutex<BTreeMap<Owner, Managed>>,
    changed: Notify,
}

/// How far a name is, in the API's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameStatus {
    /// When the certificate in use is renewed; None: there is none yet.
    pub renews_at: Option<UnixSecs>,
    /// When it expires.
    pub not_after: Option<UnixSecs>,
    /// What is under way. None: nothing is to be done before `renews_at`.
    pub job: Option<JobStatus>,
}

/// An order under way, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// Why the last try failed; None: none did.
    pub failure: Option<Failure>,
    /// Since when the name, or its renewal, is worked on.
    pub started_at: UnixSecs,
    /// When it is tried again.
    pub retries_at: UnixSecs,
}

impl NameStatus {
    /// Why the last try failed; None: it did not.
    pub fn failure(&self) -> Option<&Failure> {
        self.job.as_ref().and_then(|job| job.failure.as_ref())
    }
}

impl Registry {
    /// An empty one.
    pub fn new(settings: Option<AcmeSettings>) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Which authority issues certificates; None: only our own authorities do.
    pub fn settings(&self) -> Option<&AcmeSettings> {
        self.settings.as_ref()
    }

    /// How far a name is. None: it is not managed.
    pub fn status(&self, owner: Owner) -> Option<NameStatus> {
        self.locked().get(&owner).map(status)
    }

    /// Names in order with how far each is.
    pub fn all(&self) -> Vec<(Host, NameStatus)> {
        self.locked().values().map(|name| (name.host.clone(), status(name))).collect()
    }

    /// Owners for which something is to be done now, longest due first, and when the next one comes.
    pub(super) fn due(&self, now: UnixSecs) -> (Vec<Owner>, Option<UnixSecs>) {
        let names = self.locked();
        let mut due: Vec<_> = names
            .iter()
            .filter(|(_, name)| name.next_at <= now)
            .map(|(owner, name)| (name.next_at, *owner))
            .collect();
        due.sort_unstable();
        let later = names.values().map(|name| name.next_at).filter(|at| *at > now).min();
        (due.into_iter().map(|(_, owner)| owner).collect(), later)
    }

    /// Completes after a change.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Forgets all names.
    pub(super) fn clear(&self) {
        self.locked().clear();
    }

    /// A name was stored or removed.
    pub(super) fn set(&self, key: &str, item: Option<&Item>) {
        let Some(owner) = Owner::of_key(key) else { return };
        let name = item.and_then(|item| match parse::<Managed>(item) {
            Ok(name) => Some(name),
            Err(error) => {
                tracing::error!(key, %error, "what is remembered of a certificate order cannot be read");
                None
            }
        });
        match name {
            Some(name) => self.locked().insert(owner, name),
            None => self.locked().remove(&owner),
        };
        self.changed.notify_one();
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Owner, Managed>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(name: &Managed) -> NameStatus {
    let issued = name.issued.as_ref();
    let is_at_rest = issued.is_some() && name.failure.is_none() && name.order.is_none();
    let started_at = name.order.as_ref().map_or(name.since, |order| order.begun_at);
    let job = || JobStatus { failure: name.failure.clone(), started_at, retries_at: name.next_at };
    NameStatus {
        renews_at: issued.map(|issued| issued.renews_at),
        not_after: issued.map(|issued| issued.not_after),
        job: (!is_at_rest).then(job),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::FailureCode;
    use ebbgate_model::{AccountId, DomainId, Ksuid};

    fn owner(n: u8) -> Owner {
        let ksuid = Ksuid::new(1_700_000_000, [n; 16]);
        Owner::Domain(AccountId::new(ksuid), DomainId::new(ksuid))
    }

    #[test]
    fn the_longest_due_comes_first() {
        let registry = Registry::default();
        for (n, at) in [(1, 30), (2, 10), (3, 50), (4, 70)] {
            let name = Managed { next_at: at, ..Managed::new("a.example.com".parse().unwrap(), 0) };
            registry.locked().insert(owner(n), name);
        }
        assert_eq!(registry.due(40), (vec![owner(2), owner(1)], Some(50)));
        assert_eq!(registry.due(5), (vec![], Some(10)));
        assert_eq!(registry.due(90).1, None);
    }

    #[test]
    fn a_failure_is_told_until_it_is_over() {
        let mut name = Managed::new("a.example.com".parse().unwrap(), 7);
        let first = status(&name);
        assert_eq!((first.renews_at, first.job.unwrap().started_at), (None, 7));
        name.failure = Some(Failure { code: FailureCode::DnsError, message: "no".into(), at: 9 });
        name.next_at = 300;
        let job = status(&name).job.unwrap();
        assert_eq!((job.failure.unwrap().message.as_str(), job.retries_at), ("no", 300));
    }
}
