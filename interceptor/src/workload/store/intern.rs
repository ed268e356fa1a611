//! One copy of what many workloads have in common.
//!
//! Replicas have the same labels, ports, capture rules and names; at 50,000 workloads these would
//! be most of the memory of a mesh.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Values that somebody still has, each once.
#[derive(Debug)]
pub(super) struct Interner<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// Look for values that nobody has any more when there are so many.
    prune_at: usize,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            prune_at: 1024,
        }
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    /// The copy that is equal to `value`; `value` itself if there is none yet.
    pub(super) fn intern(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.values.get(&*value) {
            *value = Arc::clone(known);
            return;
        }
        if self.values.len() >= self.prune_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.prune_at = self.values.len().saturating_mul(2).max(1024);
        }
        self.values.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Interner;

    #[test]
    fn equal_values_become_one_and_what_nobody_has_goes() {
        let mut interner: Interner<str> = Interner::default();
        let (mut one, mut same) = (Arc::from("a"), Arc::from("a"));
        interner.intern(&mut one);
        interner.intern(&mut same);
        assert!(Arc::ptr_eq(&one, &same));
        for number in 0..10_000 {
            interner.intern(&mut Arc::from(number.to_string()));
        }
        assert!(interner.values.len() <= 1025, "{}", interner.values.len());
        assert!(interner.values.contains("a"));
    }
}
