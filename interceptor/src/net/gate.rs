//! How many connections may be in some costly state at once: in all, and from one address.
//!
//! A handshake that is never finished, or a request that never comes, holds its place until a
//! timeout. The bound per address keeps one slow-loris peer from using up the places of everybody
//! else; and when some of them have taken all places, as many again are for addresses that have none.

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
        let from_address = taken.by_address.get(&address).copied().unwrap_or_default();
        let most_in_all = if from_address == 0 {
            self.most.saturating_mul(2)
        } else {
            self.most
        };
        if taken.total >= most_in_all || from_address >= self.most_per_address {
            return None;
        }
        taken.by_address.insert(address, from_address + 1);
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
    fn many_addresses_together_cannot_shut_out_one_that_has_no_place() {
        let gate = Gate::new(2, 2);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let _all = [
            gate.enter(address(1)).unwrap(),
            gate.enter(address(1)).unwrap(),
        ];
        let third = gate.enter(address(2)).unwrap();
        assert!(gate.enter(address(2)).is_none(), "one each");
        let _fourth = gate.enter(address(3)).unwrap();
        assert!(
            gate.enter(address(4)).is_none(),
            "twice as many is all there is"
        );
        drop(third);
        assert!(gate.enter(address(4)).is_some());
    }

    #[test]
    fn places_given_back_leave_nothing_behind() {
        let gate = Gate::new(1, 1);
        drop(gate.enter("::ffff:10.0.0.1".parse().unwrap()));
        assert!(gate.taken.lock().by_address.is_empty());
        assert_eq!(gate.taken.lock().total, 0);
    }
}
