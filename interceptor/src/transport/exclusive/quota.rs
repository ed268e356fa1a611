//! How many carriers a pair of identities has on all lanes together.
//!
//! Each lane has warm carriers of its own; what operators bound is their sum.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::super::hbone::Key;

/// The counts of one workload, by key. Clones are the same.
#[derive(Clone, Default)]
pub(in crate::transport) struct Quota(Arc<Mutex<HashMap<Key, Weak<AtomicUsize>>>>);

/// One carrier's part of a count, for as long as this lives.
pub(super) struct Share(Arc<AtomicUsize>);

impl Quota {
    /// The count of the carriers of `key`.
    pub(super) fn of(&self, key: &Key) -> Arc<AtomicUsize> {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get(key).and_then(Weak::upgrade) {
            return count;
        }
        // A new key is rare: the time to forget those that nobody has any more.
        counts.retain(|_, count| count.strong_count() > 0);
        let count = Arc::default();
        counts.insert(key.clone(), Arc::downgrade(&count));
        count
    }
}

impl Share {
    /// One more, if that is not more than `most`.
    pub(super) fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let one_more = |open| (open < most).then_some(open + 1);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
