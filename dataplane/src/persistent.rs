//! `Map`: a hash map that is cheap to clone. A clone shares every node; a change copies the few nodes on its way to one entry,
//! so that readers of the old map go on undisturbed.
//!
//! Own code, because no crate fits: `imbl` is under a copyleft licence, `rpds` allocates every entry alone. Not sorted.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::slice;
use std::sync::Arc;

/// Bits of the hash that choose a child.
const BITS: u32 = 3;
/// Children of a branch.
const WIDTH: usize = 1 << BITS;
/// Levels until the bits of a hash are used up; a leaf there grows without a limit.
const DEPTH_MAX: u32 = u64::BITS / BITS;
/// Entries of a leaf before it becomes a branch.
const LEAF_MAX: usize = 16;
/// Entries below a branch of leaves that make it one leaf again: far enough below [`LEAF_MAX`] that no entry that comes and
/// goes splits and joins each time.
const LEAF_JOIN: usize = LEAF_MAX / 2;

/// A map whose clones share what is equal.
pub struct Map<K, V> {
    root: Node<K, V>,
    len: usize,
    hasher: RandomState,
}

enum Node<K, V> {
    Empty,
    Leaf(Arc<Vec<Entry<K, V>>>),
    Branch(Arc<[Node<K, V>; WIDTH]>),
}

#[derive(Clone)]
struct Entry<K, V> {
    /// Half of the hash: most entries that are not meant differ here already.
    tag: u32,
    key: K,
    value: V,
}

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Leaf(entries) => Self::Leaf(Arc::clone(entries)),
            Self::Branch(children) => Self::Branch(Arc::clone(children)),
        }
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len, hasher: self.hasher.clone() }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { root: Node::Empty, len: 0, hasher: RandomState::new() }
    }
}

impl<K, V> Map<K, V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order that means anything.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { levels: vec![slice::from_ref(&self.root).iter()], leaf: [].iter() }
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Eq + Hash, V> Map<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        // Most maps of an edge are empty.
        if self.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let mut node = &self.root;
        let mut depth = 0;
        loop {
            match node {
                Node::Empty => return None,
                Node::Leaf(entries) => {
                    let entry = entries.iter().find(|entry| entry.is(tag(hash), key));
                    return entry.map(|entry| &entry.value);
                }
                Node::Branch(children) => node = children.get(slot(hash, depth))?,
            }
            depth += 1;
        }
    }

    /// Whether there is a value for a key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Map<K, V> {
    /// Sets the value of a key and gives the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        let before = self.root.put(0, hash, &self.hasher, Entry { tag: tag(hash), key, value });
        self.len += usize::from(before.is_none());
        before
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        // Nothing is copied for a key that is not there.
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let mut node = &mut self.root;
        let mut depth = 0;
        loop {
            match node {
                Node::Empty => return None,
                Node::Leaf(entries) => {
                    let entry = Arc::make_mut(entries).iter_mut().find(|entry| entry.is(tag(hash), key));
                    return entry.map(|entry| &mut entry.value);
                }
                Node::Branch(children) => node = Arc::make_mut(children).get_mut(slot(hash, depth))?,
            }
            depth += 1;
        }
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        // Nothing is copied for a key that is not there.
        self.get(key)?;
        let removed = self.root.take(0, self.hasher.hash_one(key), key);
        self.len -= usize::from(removed.is_some());
        removed
    }
}

impl<K: Eq, V> Entry<K, V> {
    fn is(&self, tag: u32, key: &K) -> bool {
        self.tag == tag && self.key == *key
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Node<K, V> {
    fn put(&mut self, depth: u32, hash: u64, hasher: &RandomState, entry: Entry<K, V>) -> Option<V> {
        match self {
            Self::Empty => {
                *self = Self::Leaf(Arc::new(vec![entry]));
                None
            }
            Self::Branch(children) => {
                Arc::make_mut(children).get_mut(slot(hash, depth))?.put(depth + 1, hash, hasher, entry)
            }
            Self::Leaf(entries) => {
                let entries = Arc::make_mut(entries);
                if let Some(same) = entries.iter_mut().find(|other| other.is(entry.tag, &entry.key)) {
                    return Some(std::mem::replace(&mut same.value, entry.value));
                }
                entries.reserve_exact(1);
                entries.push(entry);
                if entries.len() > LEAF_MAX && depth < DEPTH_MAX {
                    *self = Self::split(std::mem::take(entries), depth, hasher);
                }
                None
            }
        }
    }

    fn split(entries: Vec<Entry<K, V>>, depth: u32, hasher: &RandomState) -> Self {
        let mut leaves: [Vec<Entry<K, V>>; WIDTH] = Default::default();
        for entry in entries {
            let slot = slot(hasher.hash_one(&entry.key), depth);
            leaves.get_mut(slot).expect("a slot is below WIDTH").push(entry);
        }
        Self::Branch(Arc::new(leaves.map(Self::leaf)))
    }

    fn leaf(mut entries: Vec<Entry<K, V>>) -> Self {
        entries.shrink_to_fit();
        if entries.is_empty() { Self::Empty } else { Self::Leaf(Arc::new(entries)) }
    }

    /// Makes a node of the `count` entries that come next, which share the slots above `depth`.
    fn build(entries: &mut Sorted<K, V>, count: usize, depth: u32) -> Self {
        if count <= LEAF_MAX || depth >= DEPTH_MAX {
            return Self::leaf(entries.by_ref().take(count).map(|(_, entry)| entry).collect());
        }
        let mut counts = [0; WIDTH];
        for (hash, _) in entries.as_slice().iter().take(count) {
            *counts.get_mut(slot(*hash, depth)).expect("a slot is below WIDTH") += 1;
        }
        Self::Branch(Arc::new(counts.map(|count| Self::build(entries, count, depth + 1))))
    }

    fn take(&mut self, depth: u32, hash: u64, key: &K) -> Option<V> {
        match self {
            Self::Empty => None,
            Self::Leaf(entries) => {
                let entries = Arc::make_mut(entries);
                let at = entries.iter().position(|entry| entry.is(tag(hash), key))?;
                let removed = entries.swap_remove(at).value;
                if entries.is_empty() {
                    *self = Self::Empty;
                }
                Some(removed)
            }
            Self::Branch(children) => {
                let children = Arc::make_mut(children);
                let removed = children.get_mut(slot(hash, depth))?.take(depth + 1, hash, key)?;
                if let Some(joined) = Self::join(children) {
                    *self = joined;
                }
                Some(removed)
            }
        }
    }

    /// One leaf of what is below a branch, if it is little.
    fn join(children: &[Self; WIDTH]) -> Option<Self> {
        let mut entries = 0;
        for child in children {
            match child {
                Self::Empty => {}
                Self::Leaf(leaf) => entries += leaf.len(),
                Self::Branch(_) => return None,
            }
        }
        let leaves = children.iter().filter_map(|child| match child {
            Self::Leaf(leaf) => Some(leaf.as_slice()),
            _ => None,
        });
        let joined = || leaves.flatten().cloned().collect::<Vec<_>>();
        match entries {
            0 => Some(Self::Empty),
            1..=LEAF_JOIN => Some(Self::Leaf(Arc::new(joined()))),
            _ => None,
        }
    }
}

/// Entries in the order of their hashes.
type Sorted<K, V> = std::vec::IntoIter<(u64, Entry<K, V>)>;

/// The first bits choose first, so that hashes in order are entries in the order of nodes.
fn slot(hash: u64, depth: u32) -> usize {
    // At DEPTH_MAX there are leaves only.
    let bits = hash.checked_shl(depth * BITS).unwrap_or(0) >> (u64::BITS - BITS);
    usize::try_from(bits).expect("a few bits fit")
}

fn tag(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).expect("half of a hash fits")
}

impl<K: Eq + Hash + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Self {
        let mut map = Self::default();
        map.extend(all);
        map
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, all: I) {
        if !self.is_empty() {
            all.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
            return;
        }
        // Several times as fast as one by one, each of which goes all over the memory.
        let hashed = |(key, value)| {
            let hash = self.hasher.hash_one(&key);
            (hash, Entry { tag: tag(hash), key, value })
        };
        let mut entries: Vec<(u64, Entry<K, V>)> = all.into_iter().map(hashed).collect();
        entries.sort_by_key(|(hash, _)| *hash);
        let mut single: Vec<(u64, Entry<K, V>)> = Vec::with_capacity(entries.len());
        for (hash, entry) in entries {
            let alike = single.iter_mut().rev().take_while(|(other, _)| *other == hash);
            match alike.map(|(_, other)| other).find(|other| other.key == entry.key) {
                Some(other) => other.value = entry.value,
                None => single.push((hash, entry)),
            }
        }
        self.len = single.len();
        self.root = Node::build(&mut single.into_iter(), self.len, 0);
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// The entries of a [`Map`].
pub struct Iter<'a, K, V> {
    levels: Vec<slice::Iter<'a, Node<K, V>>>,
    leaf: slice::Iter<'a, Entry<K, V>>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some((&entry.key, &entry.value));
            }
            match self.levels.last_mut()?.next() {
                None => drop(self.levels.pop()),
                Some(Node::Empty) => {}
                Some(Node::Leaf(entries)) => self.leaf = entries.iter(),
                Some(Node::Branch(children)) => self.levels.push(children.iter()),
            }
        }
    }
}

/// Several values under one key; a key without values is not there.
#[derive(Debug, Clone)]
pub struct Index<K, V>(Map<K, Map<V, ()>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<K: Eq + Hash + Clone + Ord, V: Eq + Hash + Clone> FromIterator<(K, V)> for Index<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Self {
        let mut groups: std::collections::BTreeMap<K, Vec<(V, ())>> = std::collections::BTreeMap::new();
        for (key, value) in all {
            groups.entry(key).or_default().push((value, ()));
        }
        Self(groups.into_iter().map(|(key, values)| (key, values.into_iter().collect())).collect())
    }
}

impl<K: Eq + Hash + Clone, V: Eq + Hash + Clone> Index<K, V> {
    /// Adds a value.
    pub fn insert(&mut self, key: &K, value: V) {
        if let Some(values) = self.0.get_mut(key) {
            values.insert(value, ());
        } else {
            self.0.insert(key.clone(), Map::from_iter([(value, ())]));
        }
    }

    /// Removes a value.
    pub fn remove(&mut self, key: &K, value: &V) {
        let Some(values) = self.0.get_mut(key) else { return };
        values.remove(value);
        if values.is_empty() {
            self.0.remove(key);
        }
    }

    /// The values of a key.
    pub fn get(&self, key: &K) -> impl Iterator<Item = &V> {
        self.0.get(key).into_iter().flat_map(Map::keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn is<K: Eq + Hash + Clone, V: Clone + PartialEq>(map: &Map<K, V>, expect: &HashMap<K, V>) -> bool {
        let found = |(key, value): (&K, &V)| expect.get(key) == Some(value);
        map.len() == expect.len()
            && map.iter().count() == expect.len()
            && map.iter().all(found)
            && expect.iter().all(|(key, value)| map.get(key) == Some(value))
    }

    proptest! {
        /// Few keys and many steps, so that leaves split and join; and clones of any time stay as they were.
        #[test]
        fn says_what_a_hash_map_says_and_its_clones_do_not_change(
            steps in vec((0u16..400, any::<bool>(), any::<u8>()), 0..1500),
        ) {
            let (mut map, mut expect) = (Map::default(), HashMap::new());
            let mut kept = Vec::new();
            for (n, (key, is_put, value)) in steps.into_iter().enumerate() {
                if is_put {
                    prop_assert_eq!(map.insert(key, value), expect.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), expect.remove(&key));
                }
                if n % 100 == 0 {
                    kept.push((map.clone(), expect.clone()));
                }
            }
            prop_assert!(is(&map, &expect));
            for (map, expect) in &kept {
                prop_assert!(is(map, expect));
            }
            for key in expect.keys() {
                map.remove(key);
            }
            prop_assert!(map.is_empty() && matches!(map.root, Node::Empty), "nothing is left behind");
        }
    }

    proptest! {
        #[test]
        fn made_at_once_is_what_it_is_one_by_one(all in vec((0u16..2000, any::<u8>()), 0..3000)) {
            let expect: HashMap<u16, u8> = all.iter().copied().collect();
            let mut map: Map<u16, u8> = all.into_iter().collect();
            prop_assert!(is(&map, &expect));
            for key in expect.keys() {
                prop_assert_eq!(map.remove(key), expect.get(key).copied());
            }
            prop_assert!(map.is_empty() && matches!(map.root, Node::Empty));
        }
    }

    /// Keys whose hashes are equal, as an attacker would have them.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Colliding(u16);

    impl Hash for Colliding {
        fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
    }

    #[test]
    fn equal_hashes_are_no_equal_keys() {
        let mut map: Map<Colliding, u16> = (0..100).map(|n| (Colliding(n), n)).collect();
        assert!((0..100).all(|n| map.get(&Colliding(n)) == Some(&n)));
        assert!((0..100).all(|n| map.remove(&Colliding(n)) == Some(n)));
        assert!(map.is_empty());
    }

    #[test]
    fn an_index_forgets_keys_without_values() {
        let mut index = Index::default();
        index.insert(&1, 'a');
        index.insert(&1, 'b');
        index.remove(&1, &'a');
        index.remove(&2, &'a');
        assert_eq!(index.get(&1).collect::<Vec<_>>(), [&'b']);
        index.remove(&1, &'b');
        assert!(index.0.is_empty());
    }
}
