//! `Objects`: everything control told this edge, object by object. Clones share what is equal, and a change costs what it
//! changes, however many objects there are.
//!
//! What the edge makes of the objects is `tables`'. An object that cannot be used is held all the same, so that both ends
//! have the same digest.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use ebbgate_model::feed::PART_BYTES;
use ebbgate_model::{Changes, Digests, Object, ObjectKey, Program, ProgramDigest, Settings, TableChanges};
use serde::Serialize;

use crate::persistent::Map;

macro_rules! objects {
    ($($(#[$doc:meta])* $table:ident, $kind:ident: $key:ty => $value:ty,)*) => {
        /// All objects of one generation, by table.
        #[derive(Debug, Clone, Default)]
        pub struct Objects {
            /// What holds for the whole edge.
            pub settings: Arc<Settings>,
            $(
                $(#[$doc])*
                pub $table: Map<$key, Arc<$value>>,
            )*
        }

        impl Objects {
            /// Makes the changes. The digests are those from before, and follow; None: they are known already.
            pub fn apply(&mut self, changes: &Changes, mut digests: Option<&mut Digests>) {
                if let Some(settings) = &changes.settings {
                    let before = std::mem::replace(&mut self.settings, Arc::clone(settings));
                    if let Some(digests) = digests.as_deref_mut() {
                        follow(digests, &ObjectKey::Settings, Some(&*before), Some(&**settings));
                    }
                }
                $(apply(&mut self.$table, &changes.$table, digests.as_deref_mut(), &ObjectKey::$kind);)*
            }

            /// Adds the objects of `part` to those of `whole`.
            pub fn gather(whole: &mut Changes, mut part: Changes) {
                whole.settings = part.settings.take().or(whole.settings.take());
                // One by one: `append` makes the whole table anew for each part.
                $(whole.$table.put.extend(part.$table.put);)*
            }

            /// The digests of all objects, made anew.
            pub fn digests(&self) -> Digests {
                let mut digests = Digests::default();
                self.each(|key, object| digests.add(key.bucket(), object.digest(&key)));
                digests
            }

            /// What makes of these objects those of some buckets that `told` has, and leaves all others.
            pub fn replaced(&self, buckets: Option<&BTreeSet<u16>>, mut told: Changes) -> Changes {
                let is_replaced = |key: &ObjectKey| {
                    let bucket = || u16::try_from(key.bucket()).ok();
                    buckets.is_none_or(|buckets| bucket().is_some_and(|bucket| buckets.contains(&bucket)))
                };
                $(
                    let gone = self.$table.keys().filter(|key| !told.$table.put.contains_key(key));
                    let gone: BTreeSet<$key> =
                        gone.filter(|key| is_replaced(&ObjectKey::$kind((*key).clone()))).cloned().collect();
                    told.$table.put.retain(|key, value| self.$table.get(key) != Some(&value.0));
                    told.$table.remove = gone;
                )*
                told.settings.take_if(|settings| **settings == *self.settings);
                told
            }

            /// Calls `take` with every object.
            pub fn each(&self, mut take: impl FnMut(ObjectKey, Object)) {
                take(ObjectKey::Settings, Object::Settings(Arc::clone(&self.settings)));
                $(for (key, value) in &self.$table {
                    take(ObjectKey::$kind(key.clone()), Object::$kind(Arc::clone(value)));
                })*
            }

            /// All of them as a plain value.
            pub fn program(&self, generation: u64) -> Program {
                Program {
                    generation,
                    settings: Settings::clone(&self.settings),
                    $($table: self.$table.iter().map(|(key, value)| (key.clone(), (**value).clone())).collect(),)*
                }
            }
        }
    };
}

ebbgate_model::program_tables!(objects);

impl Objects {
    /// Calls `take` with all objects, in parts of a bounded size.
    ///
    /// # Errors
    /// The first of `take`.
    pub fn parts<E>(&self, mut take: impl FnMut(Changes) -> Result<(), E>) -> Result<(), E> {
        let (mut part, mut bytes, mut result) = (Changes::default(), 0, Ok(()));
        self.each(|key, object| {
            if result.is_err() {
                return;
            }
            part.put(&key, &object);
            bytes += object.bytes();
            if bytes >= PART_BYTES {
                bytes = 0;
                result = take(std::mem::take(&mut part));
            }
        });
        result?;
        if part.is_empty() { Ok(()) } else { take(part) }
    }
}

fn apply<K: Ord + Eq + Hash + Clone, V: Serialize>(
    table: &mut Map<K, Arc<V>>,
    changes: &TableChanges<K, V>,
    mut digests: Option<&mut Digests>,
    named: &dyn Fn(K) -> ObjectKey,
) {
    for key in &changes.remove {
        let before = table.remove(key);
        if let Some(digests) = digests.as_deref_mut() {
            follow(digests, &named(key.clone()), before.as_deref(), None);
        }
    }
    for (key, value) in &changes.put {
        let before = table.insert(key.clone(), Arc::clone(&value.0));
        if let Some(digests) = digests.as_deref_mut() {
            follow(digests, &named(key.clone()), before.as_deref(), Some(&*value.0));
        }
    }
}

fn follow<V: Serialize>(digests: &mut Digests, key: &ObjectKey, before: Option<&V>, now: Option<&V>) {
    let bucket = key.bucket();
    if let Some(before) = before {
        digests.take(bucket, ProgramDigest::of_object(key, before));
    }
    if let Some(now) = now {
        digests.add(bucket, ProgramDigest::of_object(key, now));
    }
}
