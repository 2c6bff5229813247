//! `Program`: everything an edge needs to know, as tables of objects; and the changes between two of them.
//!
//! The unit is one object: control plans, sends and counts single objects, an edge applies, keeps and refuses them. One
//! list of tables below makes the Program, its changes and the names of its objects: a new table is one line there.
//!
//! Laws, checked by property tests: `a.apply(a.diff(b)) == b`, and `Digests` that follow changes equal those made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{Digests, ProgramDigest, bucket};
use crate::policy::{PolicyHash, TrafficPolicy};
use crate::spec::Settings;

/// Name of the one object that stands in no table.
const SETTINGS: &str = "settings";

/// Makes a Program of its tables: `name, variant: key => value`.
macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident, $kind:ident: $key:ty => $value:ty,)*) => {
        /// The whole configuration of an edge at one generation.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Program {
            /// Store revision this was planned from; grows.
            pub generation: u64,
            /// What holds for the whole edge.
            pub settings: Settings,
            $($(#[$doc])* pub $table: BTreeMap<$key, $value>,)*
        }

        /// Objects to put in place and to remove.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Changes {
            /// New settings, when they changed.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub settings: Option<Arc<Settings>>,
            $(
                /// See the table of this name in [`Program`].
                #[serde(skip_serializing_if = "TableChanges::is_empty")]
                pub $table: TableChanges<$key, $value>,
            )*
        }

        /// Names one object of a Program; its text is `table/key`, or `settings`. Ordered by table, then key.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ObjectKey {
            /// What holds for the whole edge.
            Settings,
            $(
                /// An object of the table of this name.
                $kind($key),
            )*
        }

        /// One object of a Program, shared.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Object {
            /// What holds for the whole edge.
            Settings(Arc<Settings>),
            $(
                /// An object of the table of this name.
                $kind(Arc<$value>),
            )*
        }

        impl fmt::Display for ObjectKey {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Settings => f.write_str(SETTINGS),
                    $(Self::$kind(key) => write!(f, "{}/{key}", stringify!($table)),)*
                }
            }
        }

        impl FromStr for ObjectKey {
            type Err = ObjectKeyError;

            fn from_str(text: &str) -> Result<Self, ObjectKeyError> {
                if text == SETTINGS {
                    return Ok(Self::Settings);
                }
                let (table, key) = text.split_once('/').ok_or(ObjectKeyError)?;
                match table {
                    $(stringify!($table) => key.parse().map(Self::$kind).map_err(|_| ObjectKeyError),)*
                    _ => Err(ObjectKeyError),
                }
            }
        }

        impl Object {
            /// Digest of this object under its key.
            pub fn digest(&self, key: &ObjectKey) -> ProgramDigest {
                self.measured(key).0
            }

            /// Its digest under its key, and the bytes of its value as compact JSON.
            pub fn measured(&self, key: &ObjectKey) -> (ProgramDigest, usize) {
                match self {
                    Self::Settings(value) => ProgramDigest::measured(key, value.as_ref()),
                    $(Self::$kind(value) => ProgramDigest::measured(key, value.as_ref()),)*
                }
            }

            /// Bytes of its value as compact JSON.
            pub fn bytes(&self) -> usize {
                match self {
                    Self::Settings(value) => json_bytes(value.as_ref()),
                    $(Self::$kind(value) => json_bytes(value.as_ref()),)*
                }
            }
        }

        impl Changes {
            /// Puts an object in place. One of another table than its key is left alone.
            pub fn put(&mut self, key: &ObjectKey, object: &Object) {
                match (key, object) {
                    (ObjectKey::Settings, Object::Settings(value)) => self.settings = Some(Arc::clone(value)),
                    $((ObjectKey::$kind(key), Object::$kind(value)) => {
                        self.$table.remove.remove(key);
                        self.$table.put.insert(key.clone(), Shared(Arc::clone(value)));
                    })*
                    _ => {}
                }
            }

            /// Removes an object. Settings are never removed.
            pub fn remove(&mut self, key: &ObjectKey) {
                match key {
                    ObjectKey::Settings => {}
                    $(ObjectKey::$kind(key) => {
                        self.$table.put.remove(key);
                        self.$table.remove.insert(key.clone());
                    })*
                }
            }

            /// Whether nothing changes.
            pub fn is_empty(&self) -> bool {
                self.settings.is_none() $(&& self.$table.is_empty())*
            }

            /// Objects that are put in place or removed.
            pub fn len(&self) -> usize {
                usize::from(self.settings.is_some()) $(+ self.$table.put.len() + self.$table.remove.len())*
            }

            /// Names of the objects that are put in place.
            pub fn puts(&self) -> impl Iterator<Item = ObjectKey> {
                let settings = self.settings.iter().map(|_| ObjectKey::Settings);
                settings$(.chain(self.$table.put.keys().cloned().map(ObjectKey::$kind)))*
            }
        }

        impl Program {
            /// What changes from `self` to `to`.
            pub fn diff(&self, to: &Self) -> Changes {
                Changes {
                    settings: (self.settings != to.settings).then(|| Arc::new(to.settings.clone())),
                    $($table: TableChanges::between(&self.$table, &to.$table),)*
                }
            }

            /// Makes the changes in place, in time proportional to them. The generation is the caller's to set.
            pub fn apply(&mut self, changes: &Changes, digests: &mut Digests) {
                if let Some(settings) = &changes.settings {
                    let key = ObjectKey::Settings;
                    digests.take(key.bucket(), ProgramDigest::of_object(&key, &self.settings));
                    digests.add(key.bucket(), ProgramDigest::of_object(&key, settings.as_ref()));
                    self.settings.clone_from(settings);
                }
                $(changes.$table.apply(&mut self.$table, digests, &ObjectKey::$kind);)*
            }

            /// Removes all objects of these buckets. Settings stay.
            pub fn clear(&mut self, buckets: &BTreeSet<u16>, digests: &mut Digests) {
                $(clear(&mut self.$table, buckets, digests, &ObjectKey::$kind);)*
            }

            /// The digests of what it holds, made anew.
            pub fn digests(&self) -> Digests {
                let mut digests = Digests::default();
                let settings = ObjectKey::Settings;
                digests.add(settings.bucket(), ProgramDigest::of_object(&settings, &self.settings));
                $(for (key, value) in &self.$table {
                    let key = ObjectKey::$kind(key.clone());
                    digests.add(key.bucket(), ProgramDigest::of_object(&key, value));
                })*
                digests
            }

            /// One object.
            pub fn object(&self, key: &ObjectKey) -> Option<Object> {
                Some(match key {
                    ObjectKey::Settings => Object::Settings(Arc::new(self.settings.clone())),
                    $(ObjectKey::$kind(key) => Object::$kind(Arc::new(self.$table.get(key)?.clone())),)*
                })
            }
        }
    };
}

/// The tables of a Program, each with the kind of its objects, their key and their value: `$then! { ... }` is expanded with
/// all of them, so that a table is listed once.
#[macro_export]
macro_rules! program_tables {
    ($then:ident) => {
        $then! {
            /// Traffic policies, each once, however many endpoints name it.
            policies, Policy: $crate::PolicyHash => $crate::TrafficPolicy,
            /// Certificates with keys.
            certificates, Certificate: $crate::CertificateId => $crate::CertificateSpec,
            /// Authorities that policies name.
            authorities, Authority: $crate::AuthorityId => $crate::AuthoritySpec,
            /// IP policies that policies name.
            ip_policies, IpPolicy: $crate::IpPolicyId => $crate::IpPolicySpec,
            /// What accounts demand of source addresses, whatever their endpoints' policies say.
            ip_restrictions, IpRestriction: $crate::IpRestrictionId => $crate::IpRestrictionSpec,
            /// Secrets that policies read.
            secrets, Secret: $crate::SecretId => $crate::SecretSpec,
            /// Reserved domains.
            domains, Domain: $crate::DomainId => $crate::DomainSpec,
            /// Reserved TCP addresses.
            addresses, Address: $crate::AddressId => $crate::AddressSpec,
            /// Custom connect names.
            ingresses, Ingress: $crate::IngressId => $crate::IngressSpec,
            /// Answers to certificate authorities, by the name they check.
            challenges, Challenge: $crate::Host => $crate::ChallengeSpec,
            /// Authtokens, as hashes.
            credentials, Credential: $crate::CredentialId => $crate::CredentialSpec,
            /// Sessions of visitors that were ended before their time.
            ended_sessions, EndedSession: $crate::AppSessionId => $crate::EndedSessionSpec,
            /// Cloud endpoints.
            endpoints, Endpoint: $crate::EndpointId => $crate::CloudEndpointSpec,
        }
    };
}

program_tables!(tables);

/// A text names no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an object is named `settings` or `table/key`")]
pub struct ObjectKeyError;

as_text!(ObjectKey);

impl ObjectKey {
    /// The bucket of its digest.
    pub fn bucket(&self) -> usize {
        bucket(self)
    }
}

/// A value that may be shared; as JSON it is the value itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared<V>(pub Arc<V>);

impl<V: Serialize> Serialize for Shared<V> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Shared<V> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        V::deserialize(d).map(Arc::new).map(Self)
    }
}

/// Changes to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Ord + Serialize, V: Serialize",
    deserialize = "K: Ord + Deserialize<'de>, V: Deserialize<'de>"
))]
pub struct TableChanges<K: Ord, V> {
    /// Rows to insert or replace.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub put: BTreeMap<K, Shared<V>>,
    /// Rows to remove.
    #[serde(default = "BTreeSet::new", skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<K>,
}

impl<K: Ord, V> Default for TableChanges<K, V> {
    fn default() -> Self {
        Self { put: BTreeMap::new(), remove: BTreeSet::new() }
    }
}

impl<K: Ord, V> TableChanges<K, V> {
    fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq + Serialize> TableChanges<K, V> {
    fn between(from: &BTreeMap<K, V>, to: &BTreeMap<K, V>) -> Self {
        let changed = to.iter().filter(|(k, v)| from.get(*k) != Some(*v));
        Self {
            put: changed.map(|(k, v)| (k.clone(), Shared(Arc::new(v.clone())))).collect(),
            remove: from.keys().filter(|k| !to.contains_key(*k)).cloned().collect(),
        }
    }

    fn apply(&self, table: &mut BTreeMap<K, V>, digests: &mut Digests, named: &dyn Fn(K) -> ObjectKey) {
        for key in &self.remove {
            if let Some(gone) = table.remove(key) {
                let key = named(key.clone());
                digests.take(key.bucket(), ProgramDigest::of_object(&key, &gone));
            }
        }
        for (key, Shared(value)) in &self.put {
            let gone = table.insert(key.clone(), V::clone(value));
            let key = named(key.clone());
            if let Some(gone) = gone {
                digests.take(key.bucket(), ProgramDigest::of_object(&key, &gone));
            }
            digests.add(key.bucket(), ProgramDigest::of_object(&key, value.as_ref()));
        }
    }
}

fn clear<K: Ord + Clone, V: Serialize>(
    table: &mut BTreeMap<K, V>,
    buckets: &BTreeSet<u16>,
    digests: &mut Digests,
    named: &dyn Fn(K) -> ObjectKey,
) {
    table.retain(|key, value| {
        let key = named(key.clone());
        let bucket = key.bucket();
        let goes = u16::try_from(bucket).is_ok_and(|bucket| buckets.contains(&bucket));
        if goes {
            digests.take(bucket, ProgramDigest::of_object(&key, value));
        }
        !goes
    });
}

/// Counts bytes and keeps none.
struct Counting(usize);

impl std::io::Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn json_bytes(value: &impl Serialize) -> usize {
    let mut count = Counting(0);
    serde_json::to_writer(&mut count, value).expect("objects have string keys only, and counting takes all");
    count.0
}

impl Program {
    /// Puts a policy in its table, for endpoints to name.
    pub fn share(&mut self, policy: TrafficPolicy) -> PolicyHash {
        let hash = policy.hash();
        self.policies.insert(hash, policy);
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AccountId;
    use crate::id::Ksuid;
    use crate::spec::IpRestrictionKind;
    use crate::url::Binding;
    use crate::{
        CertificateId, CertificateSpec, CloudEndpointSpec, EndpointId, IpPolicyId, IpRestrictionId,
        IpRestrictionSpec,
    };
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000 + u64::from(n), [n; 16])
    }

    fn endpoint() -> impl Strategy<Value = CloudEndpointSpec> {
        (0u8..3, 1u16..4, any::<bool>(), any::<bool>()).prop_map(
            |(account, port, pooling_enabled, policy)| CloudEndpointSpec {
                account: AccountId::new(ksuid(account)),
                url: format!("tcp://host:{port}").parse().unwrap(),
                binding: Binding::Public,
                pooling_enabled,
                policy: policy.then(|| TrafficPolicy::default().hash()),
            },
        )
    }

    fn restriction() -> impl Strategy<Value = IpRestrictionSpec> {
        let policies = btree_set((0u8..3).prop_map(|n| IpPolicyId::new(ksuid(n))), 1..3);
        (0u8..2, 0usize..4, any::<bool>(), policies).prop_map(|(account, kind, enforced, ip_policies)| {
            IpRestrictionSpec {
                account: AccountId::new(ksuid(account)),
                kind: IpRestrictionKind::ALL[kind],
                enforced,
                ip_policies,
            }
        })
    }

    fn program() -> impl Strategy<Value = Program> {
        let endpoints = btree_map((0u8..8).prop_map(|n| EndpointId::new(ksuid(n))), endpoint(), 0..8);
        let certificates = btree_map(
            (0u8..4).prop_map(|n| CertificateId::new(ksuid(n))),
            "[ab]".prop_map(|pem| CertificateSpec { chain_pem: pem.clone(), key_pem: pem }),
            0..4,
        );
        let restrictions =
            btree_map((0u8..4).prop_map(|n| IpRestrictionId::new(ksuid(n))), restriction(), 0..4);
        (0u64..3, "[xy]", endpoints, certificates, restrictions).prop_map(
            |(generation, region, endpoints, certificates, ip_restrictions)| Program {
                generation,
                settings: Settings { region, ..Settings::default() },
                endpoints,
                certificates,
                ip_restrictions,
                ..Program::default()
            },
        )
    }

    proptest! {
        #[test]
        fn applying_changes_gives_the_target_and_its_digests(a in program(), b in program()) {
            let changes = a.diff(&b);
            let sent: Changes = serde_json::from_str(&serde_json::to_string(&changes).unwrap()).unwrap();
            prop_assert_eq!(&sent, &changes);
            let (mut applied, mut digests) = (a.clone(), a.digests());
            applied.generation = b.generation;
            applied.apply(&sent, &mut digests);
            prop_assert_eq!(&applied, &b);
            prop_assert_eq!(digests, b.digests());
        }

        /// What a control does that found buckets to differ.
        #[test]
        fn replacing_the_buckets_that_differ_gives_the_target(a in program(), b in program()) {
            let (mut mended, mut digests) = (a.clone(), a.digests());
            let differing: BTreeSet<u16> = b.digests().differing(digests.buckets()).into_iter().collect();
            mended.clear(&differing, &mut digests);
            let mut part = Changes::default();
            for key in Program::default().diff(&b).puts().chain([ObjectKey::Settings]) {
                if differing.contains(&u16::try_from(key.bucket()).unwrap()) {
                    part.put(&key, &b.object(&key).unwrap());
                }
            }
            mended.apply(&part, &mut digests);
            mended.generation = b.generation;
            prop_assert_eq!(digests.root(), b.digests().root());
            prop_assert_eq!(mended, b);
        }

        #[test]
        fn a_name_of_an_object_is_one_text(a in program()) {
            for key in Program::default().diff(&a).puts() {
                let read: ObjectKey = key.to_string().parse().unwrap();
                prop_assert_eq!(&read, &key);
                let object = a.object(&key).unwrap();
                let mut changes = Changes::default();
                changes.put(&key, &object);
                prop_assert_eq!(changes.puts().collect::<Vec<_>>(), vec![key.clone()]);
                changes.remove(&key);
                prop_assert_eq!(changes.puts().count(), usize::from(key == ObjectKey::Settings));
            }
        }
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for bad in ["", "endpoints", "endpoints/", "endpoints/rd_1", "tables/x", "settings/x"] {
            assert_eq!(bad.parse::<ObjectKey>(), Err(ObjectKeyError), "{bad}");
        }
    }
}
