//! Whose an address is that two workloads have.
//!
//! The mesh gives each address to one workload. What interfaces have beyond that is nobody's word:
//! containers that run containers all have a bridge with the same address, and whoever may change
//! its own interfaces can give itself any. Such an address is steered only if nobody else has it,
//! and goes to the workload to which the mesh gives it as soon as that one is enrolled. Otherwise a
//! workload could keep others from being captured, or take what is theirs.
//!
//! Not here: two workloads to which the mesh gives the same address. That is a mistake, and refused.

use std::collections::HashSet;
use std::net::IpAddr;

use interceptor_common::Address;

use crate::capture::Capture;
use crate::capture::links;
use crate::capture::maps::Entries;
use crate::capture::plan::Place;
use crate::net::{mapped, unmapped};
use crate::workload::{Workload, WorkloadId};

/// So many addresses of a workload are steered that only its interfaces have: more than anybody
/// needs, and few enough that no workload can fill the map for all others. Those beyond are refused.
const MOST_FOUND: usize = 16;

/// The addresses that the mesh gives to the workload.
pub(super) fn given(workload: &Workload) -> HashSet<Address> {
    let given = workload.addresses.iter().map(IpAddr::to_canonical);
    given.map(mapped).collect()
}

/// Leaves out of `place` what the workload's interfaces have and the mesh does not give to it, if
/// somebody else has it.
pub(super) fn leave_to_others(capture: &Capture, workload: &Workload, place: &mut Place) {
    let mut left = Vec::new();
    let (id, key) = (&workload.id, place.key);
    let given = given(workload);
    place.local.retain(|ip| {
        let address = mapped(*ip);
        let free = given.contains(&address) || !is_anothers(capture, (id, key), address);
        if !free {
            left.push(address);
        }
        free
    });
    place.left = left;
    let found = |ip: &IpAddr| !given.contains(&mapped(*ip));
    let left_out = place.local.iter().copied().filter(found).skip(MOST_FOUND);
    let left_out: HashSet<IpAddr> = left_out.collect();
    if !left_out.is_empty() {
        let addresses = left_out.len();
        tracing::warn!(workload = %id, addresses, "its interfaces have more addresses than can be captured; connections to these are refused");
        place.local.retain(|ip| !left_out.contains(ip));
    }
}

/// Tells of addresses that are left to others, when they have not been told of `before`.
pub(super) fn tell(id: &WorkloadId, before: &[Address], left: &[Address]) {
    for address in left.iter().filter(|it| !before.contains(it)) {
        let address = unmapped(*address);
        tracing::warn!(workload = %id, %address, "an interface has the address of another workload; it is left to that one until it is free");
    }
}

/// Whether one of the addresses that were left to others is nobody's any more.
pub(super) fn has_become_free(
    capture: &Capture,
    asked: (&WorkloadId, u64),
    left: &[Address],
) -> bool {
    left.iter().any(|it| !is_anothers(capture, asked, *it))
}

/// Whether another workload has this address, one of an earlier agent that still exists included.
fn is_anothers(capture: &Capture, (id, key): (&WorkloadId, u64), address: Address) -> bool {
    let has = |entries: &Entries| entries.inbound.contains_key(&address);
    let mut enrolled = capture.enrolled.iter();
    let mut adopted = capture.adopted.iter();
    enrolled.any(|(other, it)| other != id && has(&it.entries))
        || adopted.any(|(other, entries)| {
            let pin = capture.loaded.pins.namespace_link(*other);
            *other != key && has(entries) && links::is_attached(&pin)
        })
}

/// Takes what the mesh gives to `workload` away from others whose interfaces merely have it.
/// Returns what that leaves in the maps.
pub(super) fn take_from_others(capture: &mut Capture, workload: &Workload) -> Entries {
    let given = given(workload);
    let mut taken = Entries::default();
    for (other, enrolment) in &mut capture.enrolled {
        if *other == workload.id {
            continue;
        }
        let unclaimed =
            |address: &Address| given.contains(address) && !enrolment.given.contains(address);
        let entries = &mut enrolment.entries;
        let inbound = entries.inbound.extract_if(|address, _| unclaimed(address));
        for (address, inbound) in inbound {
            let ip = unmapped(address);
            tracing::warn!(workload = %workload.id, from = %other, address = %ip, "another workload's interface has its address; it is not steered there any more");
            enrolment.left.push(address);
            taken.inbound.insert(address, inbound);
        }
        let ports = entries.ports.extract_if(|port, _| unclaimed(&port.address));
        taken.ports.extend(ports);
    }
    taken
}
