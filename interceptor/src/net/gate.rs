//! How many connections may be in some costly state at once: in all, and from one address.
//!
//! A handshake that is never finished, or a request that never comes, holds its place until a
//! timeout. The bound per address keeps one slow-loris peer from using up the places of everybody
//! else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The places; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_per_address: usize,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Gate {
    pub(crate) fn new(most: usize, most_per_address: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
            most_per_address,
        }
    }

    /// A place for a connection from `address`, if there is one left.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut taken = self.taken.lock();
        if taken.total >= self.most {
            return None;
        }
        let from_address = taken.by_address.entry(address).or_default();
        // An entry exists only while a place of its address is taken, so it was not just made.
        if *from_address >= self.most_per_address {
            return None;
        }
        *from_address += 1;
        taken.total += 1;
        drop(taken);
        Some(Place {
            gate: self.clone(),
            address,
        })
    }
}

/// A place that is given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Gate,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.gate.taken.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Some(count) = taken.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_the_places_of_others() {
        let gate = Gate::new(3, 2);
        let (one, two) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = gate.enter(one).unwrap();
        let _second = gate.enter(one).unwrap();
        assert!(gate.enter(one).is_none(), "its share is used up");
        let _other = gate.enter(two).unwrap();
        assert!(gate.enter(two).is_none(), "all places are used up");
        drop(first);
        assert!(gate.enter(two).is_some());
        assert_eq!(gate.taken.lock().by_address.len(), 2);
    }

    #[test]
    fn places_given_back_leave_nothing_behind() {
        let gate = Gate::new(1, 1);
        drop(gate.enter("::ffff:10.0.0.1".parse().unwrap()));
        assert!(gate.taken.lock().by_address.is_empty());
        assert_eq!(gate.taken.lock().total, 0);
    }
}
