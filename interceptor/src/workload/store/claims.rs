//! Who claims what only one may have: addresses, and places on a machine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// See the module. Almost everything has one claimant, and costs accordingly.
#[derive(Debug)]
pub(super) struct Claims<K, O> {
    sole: HashMap<K, O>,
    contested: BTreeMap<K, BTreeSet<O>>,
}

impl<K, O> Default for Claims<K, O> {
    fn default() -> Self {
        Self {
            sole: HashMap::new(),
            contested: BTreeMap::new(),
        }
    }
}

impl<K: Clone + Hash + Ord, O: Clone + Ord> Claims<K, O> {
    pub(super) fn claim(&mut self, key: &K, owner: &O) {
        if let Some(owners) = self.contested.get_mut(key) {
            owners.insert(owner.clone());
            return;
        }
        match self.sole.remove(key) {
            Some(first) if first != *owner => {
                let owners = BTreeSet::from([first, owner.clone()]);
                self.contested.insert(key.clone(), owners);
            }
            _ => {
                self.sole.insert(key.clone(), owner.clone());
            }
        }
    }

    pub(super) fn release(&mut self, key: &K, owner: &O) {
        if self.sole.get(key) == Some(owner) {
            self.sole.remove(key);
        }
        let Some(owners) = self.contested.get_mut(key) else {
            return;
        };
        owners.remove(owner);
        if owners.len() < 2 {
            let last = owners.pop_first();
            self.contested.remove(key);
            self.sole.extend(last.map(|last| (key.clone(), last)));
        }
    }

    /// Those who claim it, ascending.
    pub(super) fn owners(&self, key: &K) -> impl Iterator<Item = &O> {
        let contested = self.contested.get(key).into_iter().flatten();
        self.sole.get(key).into_iter().chain(contested)
    }
}
