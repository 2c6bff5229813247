//! `Live`: the objects that edges must have, with what follows them as single objects change: digests, bytes, and which
//! policies and certificates something names.
//!
//! Knows no record. What an object says is `plan`'s, which edge gets it `push`'s.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use ebbgate_model::{Digests, Object, ObjectKey, Program, ProgramDigest};

use crate::parallel::in_parts;

/// Bytes of an object's name on the wire, in round figures.
const NAME_BYTES: usize = 40;

/// What edges must have.
#[derive(Debug, Default)]
pub struct Live {
    objects: BTreeMap<ObjectKey, Object>,
    /// How many objects name a policy or a certificate.
    named: BTreeMap<ObjectKey, usize>,
    digests: Digests,
    bytes: usize,
    /// What objects were before changes that nobody has taken note of yet.
    before: BTreeMap<ObjectKey, Option<Object>>,
    /// Nobody will ask what has changed until all changes have been taken note of.
    is_new: bool,
    /// Digests and bytes are not known yet: they are made at once, of very many objects.
    is_uncounted: bool,
    /// Policies and certificates that are named, or no longer, since they were looked at.
    unsettled: Vec<ObjectKey>,
}

impl Live {
    /// An empty one for very many objects. [`Live::count`] makes its digests; nobody asks for its changes before
    /// [`Live::forget`].
    pub fn anew() -> Self {
        Self { is_new: true, is_uncounted: true, ..Self::default() }
    }

    /// Makes digests and bytes of what was put in place, several threads at once. From then on they follow.
    pub fn count(&mut self) {
        if !std::mem::take(&mut self.is_uncounted) {
            return;
        }
        let all: Vec<(&ObjectKey, &Object)> = self.objects.iter().collect();
        let count = |part: &[(&ObjectKey, &Object)]| {
            let (mut digests, mut bytes) = (Digests::default(), 0);
            for (key, object) in part {
                let (digest, of_object) = object.measured(key);
                digests.add(key.bucket(), digest);
                bytes += of_object + NAME_BYTES;
            }
            (digests, bytes)
        };
        for (digests, bytes) in in_parts(&all, count) {
            self.digests.merge(&digests);
            self.bytes += bytes;
        }
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key)
    }

    /// The objects after one in the order of keys; from the first on if None.
    pub fn after<'a>(
        &'a self,
        key: Option<&ObjectKey>,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Object)> + use<'a> {
        let from = key.map_or(Unbounded, |key| Excluded(key.clone()));
        self.objects.range((from, Unbounded))
    }

    /// Digests of all objects.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// Digest of all objects.
    pub fn digest(&self) -> ProgramDigest {
        self.digests.root()
    }

    /// Bytes of all objects as edges are sent them, in round figures.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an object names this policy or certificate.
    pub fn is_named(&self, key: &ObjectKey) -> bool {
        self.named.contains_key(key)
    }

    /// How many objects name this policy or certificate.
    pub fn naming(&self, key: &ObjectKey) -> usize {
        self.named.get(key).copied().unwrap_or_default()
    }

    /// Puts an object in place, or removes it.
    pub fn set(&mut self, key: &ObjectKey, object: Option<Object>) {
        if self.objects.get(key) == object.as_ref() {
            return;
        }
        if let Some(new) = &object {
            if !self.is_uncounted {
                let (digest, bytes) = new.measured(key);
                self.bytes += bytes + NAME_BYTES;
                self.digests.add(key.bucket(), digest);
            }
            named_by(new, |named| {
                let count = self.named.entry(named.clone()).or_default();
                *count += 1;
                if *count == 1 {
                    self.unsettled.push(named);
                }
            });
        }
        let old = match object {
            Some(new) => self.objects.insert(key.clone(), new),
            None => self.objects.remove(key),
        };
        if let Some(old) = &old {
            if !self.is_uncounted {
                let (digest, bytes) = old.measured(key);
                self.bytes = self.bytes.saturating_sub(bytes + NAME_BYTES);
                self.digests.take(key.bucket(), digest);
            }
            named_by(old, |named| {
                let Some(count) = self.named.get_mut(&named) else { return };
                *count -= 1;
                if *count == 0 {
                    self.named.remove(&named);
                    self.unsettled.push(named);
                }
            });
        }
        if !self.is_new {
            self.before.entry(key.clone()).or_insert(old);
        }
    }

    /// Policies and certificates to look at again: named for the first time, or no longer.
    pub fn take_unsettled(&mut self) -> Vec<ObjectKey> {
        std::mem::take(&mut self.unsettled)
    }

    /// Names of the objects that have changed since this was last asked.
    pub fn take_changed(&mut self) -> Vec<ObjectKey> {
        let before = std::mem::take(&mut self.before);
        before
            .into_iter()
            .filter(|(key, old)| self.objects.get(key) != old.as_ref())
            .map(|(key, _)| key)
            .collect()
    }

    /// Takes note of all changes.
    pub fn forget(&mut self) {
        self.count();
        self.before = BTreeMap::new();
        self.is_new = false;
    }

    /// All of it as one value.
    pub fn program(&self, generation: u64) -> Program {
        let mut all = ebbgate_model::Changes::default();
        self.objects.iter().for_each(|(key, object)| all.put(key, object));
        let mut program = Program { generation, ..Program::default() };
        program.apply(&all, &mut Digests::default());
        program
    }
}

/// Calls back with every policy and certificate an object names.
fn named_by(object: &Object, mut named: impl FnMut(ObjectKey)) {
    match object {
        Object::Endpoint(endpoint) => {
            endpoint.policy.into_iter().for_each(|hash| named(ObjectKey::Policy(hash)));
        }
        Object::Domain(domain) => {
            domain.certificate.into_iter().for_each(|id| named(ObjectKey::Certificate(id)));
        }
        Object::Ingress(ingress) => {
            ingress.certificate.into_iter().for_each(|id| named(ObjectKey::Certificate(id)));
        }
        Object::Settings(settings) => {
            let both = [settings.connect_certificate, settings.default_domain_certificate];
            both.into_iter().flatten().for_each(|id| named(ObjectKey::Certificate(id)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{AccountId, CertificateId, DomainId, DomainSpec, Ksuid, Settings};
    use std::sync::Arc;

    fn domain(certificate: Option<u8>) -> (ObjectKey, Object) {
        let ksuid = |n| Ksuid::new(1_700_000_000, [n; 16]);
        let spec = DomainSpec {
            account: AccountId::new(ksuid(1)),
            host: "a.example.com".parse().unwrap(),
            certificate: certificate.map(|n| CertificateId::new(ksuid(n))),
        };
        (ObjectKey::Domain(DomainId::new(ksuid(2))), Object::Domain(Arc::new(spec)))
    }

    #[test]
    fn what_is_named_and_what_has_changed_is_told_once() {
        let mut live = Live::default();
        let certificate = |n| ObjectKey::Certificate(CertificateId::new(Ksuid::new(1_700_000_000, [n; 16])));
        let (key, first) = domain(Some(7));
        live.set(&key, Some(first.clone()));
        assert_eq!(live.take_unsettled(), [certificate(7)]);
        assert_eq!(live.take_changed(), std::slice::from_ref(&key));
        live.set(&key, Some(domain(Some(8)).1));
        live.set(&key, Some(first.clone()));
        assert!(live.take_changed().is_empty(), "it is what it was");
        assert!(live.is_named(&certificate(7)) && !live.is_named(&certificate(8)));
        live.set(&key, None);
        assert_eq!(live.take_changed(), [key]);
        assert_eq!((live.bytes(), live.digest()), (0, ProgramDigest::default()));
    }

    #[test]
    fn changes_of_a_new_one_are_told_from_when_all_was_taken_note_of() {
        let (mut live, mut followed) = (Live::anew(), Live::default());
        let (key, object) = domain(None);
        for live in [&mut live, &mut followed] {
            live.set(&ObjectKey::Settings, Some(Object::Settings(Arc::new(Settings::default()))));
            live.set(&key, Some(domain(Some(7)).1));
            live.set(&key, Some(object.clone()));
        }
        live.count();
        assert_eq!((live.digests(), live.bytes()), (followed.digests(), followed.bytes()));
        live.forget();
        assert!(live.take_changed().is_empty());
        live.set(&key, None);
        assert_eq!(live.take_changed(), [key]);
    }

    #[test]
    fn digests_are_those_of_the_program() {
        let mut live = Live::default();
        live.set(&ObjectKey::Settings, Some(Object::Settings(Arc::new(Settings::default()))));
        let (key, object) = domain(None);
        live.set(&key, Some(object));
        let program = live.program(3);
        assert_eq!((program.domains.len(), program.digests().root()), (1, live.digest()));
    }
}
