//! Counters by label set, with a bound on the number of label sets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Label sets per metric. Prometheus copes with this many from one node; a mesh that needs more
/// has names that are not names.
pub(super) const MAX_LABEL_SETS: usize = 10_000;

/// Counters for events that are rare enough for a lock: refusals, failures.
#[derive(Debug)]
pub(super) struct Table<K> {
    counts: Mutex<BTreeMap<K, u64>>,
    overflowed: AtomicU64,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self {
            counts: Mutex::default(),
            overflowed: AtomicU64::new(0),
        }
    }
}

impl<K: Ord + Clone> Table<K> {
    /// Adds one to `key`, or to the overflow when there is no room for it.
    pub(super) fn add(&self, key: K) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&key) {
            *count += 1;
        } else if counts.len() < MAX_LABEL_SETS {
            counts.insert(key, 1);
        } else {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counts, in the order of their keys.
    pub(super) fn counts(&self) -> Vec<(K, u64)> {
        let counts = self.counts.lock();
        counts.iter().map(|(k, v)| (k.clone(), *v)).collect()
    }

    /// How often there was no room.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_label_sets_than_fit_are_counted_and_not_kept() {
        let table = Table::default();
        for key in 0..MAX_LABEL_SETS + 5 {
            table.add(key);
        }
        table.add(0);
        assert_eq!(table.counts().len(), MAX_LABEL_SETS);
        assert_eq!(table.counts().first(), Some(&(0, 2)));
        assert_eq!(table.overflowed(), 5);
    }
}
