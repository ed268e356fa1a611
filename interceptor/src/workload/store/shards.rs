//! A hash map that a snapshot and its successor share.
//!
//! A mesh is never changed, so its successor needs maps of its own; copying maps of 50,000 entries
//! for one that changed would cost milliseconds and the memory of two meshes. The entries are
//! therefore spread over a fixed number of shards behind `Arc`s: a clone copies the pointers, and a
//! change copies the one shard that it falls into. A lookup is two hashes, whatever the size.
//!
//! Measured (`cargo bench -p interceptor --bench mesh`): see docs/scale.md.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// At 50,000 entries a shard has a hundred: copying one takes a few microseconds, and the pointers
/// to all fit into one page.
const SHARDS: usize = 512;

/// See the module.
pub(super) struct Shards<K, V> {
    /// Which shard a key belongs to. The shards hash for themselves: with the same hash their
    /// entries would collide.
    choose: RandomState,
    all: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

impl<K, V> Shards<K, V> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.all.iter().flat_map(|shard| shard.values())
    }
}

impl<K: Hash + Eq, V> Shards<K, V> {
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.all.get(self.shard(key))?.get(key)
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let hash = self.choose.hash_one(key);
        let shards = u64::try_from(SHARDS).unwrap_or(u64::MAX);
        usize::try_from(hash % shards).unwrap_or_default()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.shard(&key);
        let shard = self.all.get_mut(at)?;
        let before = Arc::make_mut(shard).insert(key, value);
        if before.is_none() {
            self.len = self.len.saturating_add(1);
        }
        before
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let at = self.shard(key);
        let shard = self.all.get_mut(at)?;
        if !shard.contains_key(key) {
            return None;
        }
        let before = Arc::make_mut(shard).remove(key);
        self.len = self.len.saturating_sub(1);
        before
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self {
            choose: RandomState::new(),
            // All the same one, until something is in them.
            all: std::iter::repeat_n(Arc::default(), SHARDS).collect(),
            len: 0,
        }
    }
}

impl<K, V> Clone for Shards<K, V> {
    fn clone(&self) -> Self {
        Self {
            choose: self.choose.clone(),
            all: self.all.clone(),
            len: self.len,
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Shards<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.all.iter().flat_map(|shard| shard.iter());
        f.debug_map().entries(entries).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::Shards;

    proptest! {
        #[test]
        fn it_is_a_map_and_a_clone_is_not_changed(
            steps in prop::collection::vec((0_u16..300, prop::option::of(0_u8..4)), 0..400),
        ) {
            let mut shards = Shards::default();
            let mut plain = HashMap::new();
            let mut clones = Vec::new();
            for (index, (key, value)) in steps.into_iter().enumerate() {
                let (before, expected) = if let Some(value) = value {
                    (shards.insert(key, value), plain.insert(key, value))
                } else {
                    (shards.remove(&key), plain.remove(&key))
                };
                prop_assert_eq!(before, expected);
                if index % 50 == 0 {
                    clones.push((shards.clone(), plain.clone()));
                }
            }
            clones.push((shards, plain));
            for (shards, plain) in clones {
                prop_assert_eq!(shards.len(), plain.len());
                prop_assert_eq!(shards.values().count(), plain.len());
                for key in 0..300 {
                    prop_assert_eq!(shards.get(&key), plain.get(&key));
                }
            }
        }
    }
}
