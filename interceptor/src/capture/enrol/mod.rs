//! Enrolling, updating and un-enrolling one workload, each as a whole.
//!
//! The order is what keeps a captured workload from ever being without its listeners:
//! listeners, addresses, `sk_lookup`, rules, and last the workload's own entry, which is what the
//! connect hook looks for; then the guards, which want every connection known. Un-enrolment goes
//! the other way.

mod addresses;
mod refused;
mod release;
mod shut;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use interceptor_common::{Address, ListenerKey};
use tokio::net::TcpListener;

use super::error::EnrolError;
use super::guard::{self, Naming, Unguarded};
use super::listeners::{Known, Opened, PORTS_ON_THE_HOST, ports_of_a_namespace};
use super::loader::{Loaded, Source, namespace_program};
use super::maps::{Entries, WriteError};
use super::older;
use super::origin::Origin;
use super::plan::{Interfaces, Place};
use super::site::{Site, locate};
use super::{Capture, Enrolled};
use crate::net::diag::Connection;
use crate::net::{Dialer, Namespace, unmapped};
use crate::workload::{Workload, WorkloadId};

pub(super) use refused::{keep_closed, open_closed};
use refused::{leave, refuse};
pub(super) use release::{refresh_host, retire_unclaimed};
use release::{release, undo};

/// An enrolled workload.
pub(super) struct Enrolment {
    site: Site,
    entries: Entries,
    /// Of its addresses, those that the mesh gives to it.
    given: HashSet<Address>,
    /// What its interfaces have and another workload has, too.
    left: Vec<Address>,
    origin: Origin,
    listeners: Known,
    unguarded: Vec<Unguarded>,
    older: Vec<Connection>,
}

impl Enrolment {
    /// Whether the namespace or cgroup is gone, or was replaced by another of the same name.
    pub(super) fn has_vanished(&self) -> bool {
        !self.site.exists()
    }

    /// The workload's key.
    pub(super) const fn key(&self) -> u64 {
        self.site.key()
    }

    /// Its listeners, as long as somebody accepts on them.
    pub(super) fn listeners(&self) -> Vec<(ListenerKey, Arc<TcpListener>)> {
        self.listeners.open()
    }

    /// Its interfaces that have no guard.
    pub(super) fn unguarded(&self) -> &[Unguarded] {
        &self.unguarded
    }

    /// Its connections from before the enrolment, and where they are.
    pub(super) fn older(&self) -> Option<(Namespace, Vec<Connection>)> {
        match &self.site {
            Site::Namespace { namespace, .. } if !self.older.is_empty() => {
                Some((namespace.clone(), self.older.clone()))
            }
            _ => None,
        }
    }

    /// Its addresses in the maps.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.entries.inbound.keys().copied().map(unmapped)
    }
}

/// Enrols `workload`, or leaves it as it was.
pub(super) fn enrol(capture: &mut Capture, workload: &Workload) -> Result<Enrolled, EnrolError> {
    let id = &workload.id;
    if capture.enrolled.contains_key(id) {
        return Err(EnrolError::Already { id: id.clone() });
    }
    let site = locate(capture, workload)?;
    leave(capture, id, &site);
    let enrolled = enrol_at(capture, workload, site.clone());
    match &enrolled {
        // Whoever failed to be enrolled there before is nobody's business any more.
        Ok(_enrolled) => capture.closed.retain(|_, it| it.key() != site.key()),
        Err(_error) => refuse(capture, workload, &site),
    }
    publish(capture);
    enrolled
}

/// Enrols `workload` at `site`.
fn enrol_at(
    capture: &mut Capture,
    workload: &Workload,
    site: Site,
) -> Result<Enrolled, EnrolError> {
    let id = &workload.id;
    let place = place(capture, workload, &site)?;
    let entries = place.entries(workload);
    check_conflicts(capture, id, place.key, &entries)?;
    let opened = open_listeners(capture, id, &site)?;

    let namespace = match &site {
        Site::Namespace { namespace, .. } => namespace.clone(),
        Site::Cgroup { .. } => capture.host.clone(),
    };
    let origin = Origin::new(
        place.addresses(workload),
        Arc::clone(&capture.loaded.maps.storage),
    );
    addresses::tell(id, &[], &place.left);
    let mut old = claim(&mut capture.adopted, place.key, &entries);
    old.ports
        .extend(addresses::take_from_others(capture, workload).ports);
    let enrolment = Enrolment {
        site,
        entries,
        given: addresses::given(workload),
        left: place.left.clone(),
        origin: origin.clone(),
        listeners: Known::default(),
        unguarded: Vec::new(),
        older: Vec::new(),
    };
    capture.enrolled.insert(id.clone(), enrolment);
    let listeners = write(capture, id, &old, &opened.keyed()).and_then(|()| {
        guard_interfaces(capture, id);
        // An agent that comes back finds connections that it captured before. Who was only shut has none
        // of those, and no address in the maps.
        if old.workload.is_none() || old.inbound.is_empty() {
            settle_older(capture, workload);
        }
        let (listeners, known) =
            (opened.into_listeners()).map_err(|error| step(id, "start the listeners", error))?;
        if let Some(enrolment) = capture.enrolled.get_mut(id) {
            enrolment.listeners = known;
        }
        Ok(listeners)
    });
    if listeners.is_err() {
        undo(capture, id, old);
    }
    Ok(Enrolled {
        key: place.key,
        listeners: listeners?,
        dialer: Dialer::marked(namespace, capture.mark(place.key)),
        origin,
    })
}

/// Follows a change of an enrolled workload.
pub(super) fn update(capture: &mut Capture, workload: &Workload) -> Result<(), EnrolError> {
    let id = &workload.id;
    let unknown = || EnrolError::Unknown { id: id.clone() };
    let site = capture.enrolled.get(id).ok_or_else(unknown)?.site.clone();
    if !site.is(workload.binding.as_ref()) {
        return Err(EnrolError::Rebound { id: id.clone() });
    }
    let place = place(capture, workload, &site)?;
    let new = place.entries(workload);
    check_conflicts(capture, id, place.key, &new)?;

    let taken = addresses::take_from_others(capture, workload);
    let enrolment = capture.enrolled.get_mut(id).ok_or_else(unknown)?;
    enrolment.given = addresses::given(workload);
    addresses::tell(id, &enrolment.left, &place.left);
    enrolment.left.clone_from(&place.left);
    // What another one's rules say of an address goes with it.
    enrolment.entries.ports.extend(taken.ports);
    let old = enrolment.entries.clone();
    if old != new {
        // Until both halves are written, either may be in the maps.
        enrolment.entries.absorb(&new);
        let maps = &mut capture.loaded.maps;
        maps.replace_inbound(&old, &new)
            .and_then(|()| maps.replace_outbound(place.key, &old, &new))
            .map_err(|error| write_failed(id, error))?;
        let program = |entries: &Entries| namespace_program(entries.workload.as_ref());
        if let Site::Namespace { namespace, .. } = &site
            && program(&old) != program(&new)
        {
            steer(&mut capture.loaded, namespace, &new)
                .map_err(|error| step(id, "steer the connections", error))?;
        }
        enrolment.entries = new;
    }
    enrolment.origin.set(place.addresses(workload));
    guard_interfaces(capture, id);
    publish(capture);
    Ok(())
}

/// Writes an enrolled workload again, whatever somebody else has made of it. `found` is what the
/// maps say of it now.
pub(super) fn write_again(
    capture: &mut Capture,
    id: &WorkloadId,
    found: &Entries,
) -> Result<(), EnrolError> {
    let unknown = || EnrolError::Unknown { id: id.clone() };
    let listeners = (capture.enrolled.get(id).ok_or_else(unknown)?).listeners();
    let listeners: Vec<_> = listeners
        .iter()
        .map(|(key, it)| (*key, it.as_fd()))
        .collect();
    write(capture, id, found, &listeners)?;
    guard_interfaces(capture, id);
    Ok(())
}

/// Attaches again the program that steers what arrives at an enrolled workload.
pub(super) fn steer_again(capture: &mut Capture, id: &WorkloadId) -> Result<(), EnrolError> {
    let unknown = || EnrolError::Unknown { id: id.clone() };
    let enrolment = capture.enrolled.get(id).ok_or_else(unknown)?;
    let Site::Namespace { namespace, .. } = &enrolment.site else {
        return Ok(());
    };
    steer(&mut capture.loaded, namespace, &enrolment.entries)
        .map_err(|error| step(id, "steer the connections", error))
}

/// Whether an update of an enrolled workload would capture more, though nothing about it has
/// changed: an address of its interfaces was another workload's, and is not any more.
pub(super) fn may_take_more(capture: &Capture, id: &WorkloadId) -> bool {
    let enrolment = capture.enrolled.get(id);
    enrolment.is_some_and(|it| addresses::has_become_free(capture, (id, it.key()), &it.left))
}

/// Un-enrols a workload.
pub(super) fn unenrol(capture: &mut Capture, id: &WorkloadId) -> Result<(), EnrolError> {
    let unknown = || EnrolError::Unknown { id: id.clone() };
    let enrolment = capture.enrolled.remove(id).ok_or_else(unknown)?;
    publish(capture);
    release(capture, id, enrolment.key(), &enrolment.entries)
}

/// For messages about something that is no workload with a name.
pub(super) fn nobody(name: &str) -> WorkloadId {
    WorkloadId {
        namespace: "".into(),
        name: name.into(),
    }
}

/// Whether the kernel knows a workload by this key, served or not.
pub(super) fn is_workload(capture: &Capture, key: u64) -> bool {
    let mut enrolled = capture.enrolled.values();
    enrolled.any(|it| it.key() == key) || capture.adopted.contains_key(&key)
}

/// Trusts the cgroup with this key as the node's prober.
pub(super) fn trust(capture: &mut Capture, key: u64) -> Result<(), EnrolError> {
    let trusted = capture.loaded.maps.trust(key);
    trusted.map_err(|error| write_failed(&nobody("the node's prober"), error))
}

/// Takes that back.
pub(super) fn distrust(capture: &mut Capture, key: u64) -> Result<(), EnrolError> {
    let distrusted = capture.loaded.maps.distrust(key);
    distrusted.map_err(|error| write_failed(&nobody("the node's prober"), error))
}

/// What the workload's entries depend on besides itself.
fn place(capture: &Capture, workload: &Workload, site: &Site) -> Result<Place, EnrolError> {
    let id = &workload.id;
    let (namespace, steered) = match site {
        Site::Namespace { namespace, .. } => (namespace, true),
        Site::Cgroup { .. } => (&capture.host, false),
    };
    let interfaces = namespace
        .enter(Interfaces::here)
        .map_err(|error| step(id, "read the addresses", error))?;
    if !interfaces.loopback_up {
        return Err(EnrolError::LoopbackDown { id: id.clone() });
    }
    let mut place = Place {
        key: site.key(),
        local: interfaces.addresses,
        left: Vec::new(),
        steered,
    };
    if steered {
        addresses::leave_to_others(capture, workload, &mut place);
    }
    Ok(place)
}

/// Refuses a workload that would take another one's key or address.
fn check_conflicts(
    capture: &Capture,
    id: &WorkloadId,
    key: u64,
    entries: &Entries,
) -> Result<(), EnrolError> {
    let others = capture.enrolled.iter().filter(|(other, _)| *other != id);
    for (by, other) in others {
        let (id, by) = (id.clone(), by.clone());
        if other.key() == key {
            return Err(EnrolError::BindingTaken { id, by });
        }
        let taken = |address: &&_| {
            other.entries.inbound.contains_key(*address) && other.given.contains(*address)
        };
        if let Some(address) = entries.inbound.keys().find(taken) {
            let address = unmapped(*address);
            return Err(EnrolError::AddressTaken { id, address, by });
        }
    }
    Ok(())
}

/// Takes over what an earlier agent left for the workload with this `key`, and what it left at
/// the workload's addresses for others: a workload that was replaced while no agent was running.
fn claim(adopted: &mut HashMap<u64, Entries>, key: u64, entries: &Entries) -> Entries {
    let mut claimed = adopted.remove(&key).unwrap_or_default();
    for other in adopted.values_mut() {
        let taken = |address: &_| entries.inbound.contains_key(address);
        other.inbound.retain(|address, _| !taken(address));
        let ports = other.ports.extract_if(|port, _| taken(&port.address));
        claimed.ports.extend(ports);
    }
    claimed
}

/// Opens the listeners of a workload.
fn open_listeners(
    capture: &mut Capture,
    id: &WorkloadId,
    site: &Site,
) -> Result<Opened, EnrolError> {
    let (of, inherited) = ((id, site.key()), &mut capture.inherited);
    match site {
        Site::Namespace { namespace, .. } => {
            let ports = ports_of_a_namespace(capture.config.ports);
            Opened::new(of, namespace, &ports, inherited)
        }
        Site::Cgroup { .. } => Opened::new(of, &capture.host, &PORTS_ON_THE_HOST, inherited),
    }
}

/// Writes everything of an enrolled workload, its own entry last.
fn write(
    capture: &mut Capture,
    id: &WorkloadId,
    old: &Entries,
    listeners: &[(ListenerKey, BorrowedFd<'_>)],
) -> Result<(), EnrolError> {
    let unknown = || EnrolError::Unknown { id: id.clone() };
    let enrolment = capture.enrolled.get(id).ok_or_else(unknown)?;
    let (key, site, new) = (
        enrolment.key(),
        enrolment.site.clone(),
        enrolment.entries.clone(),
    );
    let loaded = &mut capture.loaded;
    for (key, listener) in listeners {
        let set = loaded.maps.set_listener(*key, *listener);
        set.map_err(|error| write_failed(id, error))?;
    }
    let inbound = loaded.maps.replace_inbound(old, &new);
    inbound.map_err(|error| write_failed(id, error))?;
    match &site {
        Site::Namespace { namespace, .. } => {
            steer(loaded, namespace, &new)
                .map_err(|error| step(id, "steer the connections", error))?;
        }
        Site::Cgroup { .. } => refresh_host(capture, id)?,
    }
    let maps = &mut capture.loaded.maps;
    maps.replace_outbound(key, old, &new)
        .map_err(|error| write_failed(id, error))
}

/// Attaches the program that steers what arrives in a workload's namespace, or puts it in the
/// place of the one for another rule.
fn steer(loaded: &mut Loaded, namespace: &Namespace, entries: &Entries) -> Result<(), Source> {
    let program = namespace_program(entries.workload.as_ref());
    let pin = loaded.pins.namespace_link(namespace.cookie());
    (loaded.hooks).attach_to_namespace(program, namespace, &pin)
}

/// Guards the interfaces of an enrolled workload. From here on its connections have to be known
/// to leave, so this comes when all of them are.
pub(super) fn guard_interfaces(capture: &mut Capture, id: &WorkloadId) {
    if let Some(enrolment) = capture.enrolled.get_mut(id) {
        enrolment.unguarded = match &enrolment.site {
            Site::Namespace { namespace, .. } => {
                let key = namespace.cookie();
                let workload = (namespace, key);
                guard::attach(&mut capture.loaded, &capture.host, workload, Naming::Needed)
            }
            Site::Cgroup { .. } => guard::of_the_host(),
        };
    }
}

/// Lists or resets the connections that a workload had before it was enrolled.
fn settle_older(capture: &mut Capture, workload: &Workload) {
    let (id, rule) = (&workload.id, workload.capture.existing);
    if let Some(enrolment) = capture.enrolled.get_mut(id)
        && let Site::Namespace { namespace, .. } = &enrolment.site
    {
        let (pins, entries) = (&capture.loaded.pins, &enrolment.entries);
        enrolment.older = older::settle(pins, id, namespace, entries, rule);
    }
}

/// Tells the observers who is enrolled, and who is in the maps besides.
pub(super) fn publish(capture: &Capture) {
    capture.observer.set_workloads(&capture.enrolled);
    let namespaces = capture.enrolled.values().map(|it| match &it.site {
        Site::Namespace { namespace, .. } => (it.key(), namespace.clone()),
        Site::Cgroup { .. } => (it.key(), capture.host.clone()),
    });
    let left = capture.adopted.iter();
    let left = left.filter(|(_, entries)| entries.workload.is_some());
    let closed = capture.closed.values().map(Site::key);
    let unserved = left.map(|(key, _)| *key).chain(closed).collect();
    (capture.direct).set_workloads(namespaces.collect(), unserved);
}

/// The error of a step.
fn step(id: &WorkloadId, step: &'static str, source: impl Into<Source>) -> EnrolError {
    EnrolError::Step {
        id: id.clone(),
        step,
        source: source.into(),
    }
}

/// The error of a map that could not be written.
fn write_failed(id: &WorkloadId, error: WriteError) -> EnrolError {
    match error {
        WriteError::Full(what) => EnrolError::Full { what },
        other @ WriteError::Other(..) => step(id, "write the maps", other),
    }
}
