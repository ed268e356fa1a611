//! The workloads that have changed, and who may claim what: their addresses, and their places on a
//! machine.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::draft::Around;
use super::noted::{Findings, Kind, Place, Subject};
use super::selection::Moved;
use super::table::{Key, Object, Source};
use super::update::Store;
use super::{capture, draft, enrol};
use crate::workload::objects::Origin;
use crate::workload::{Service, Workload, WorkloadId};

/// Who claims an address. Workloads first: a Service that takes a workload's address is the one
/// that is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimant {
    Workload(WorkloadId),
    Service(Key),
}

/// What claims have changed and must be looked at.
#[derive(Debug, Default)]
pub(super) struct Disputed {
    pub(super) addresses: BTreeSet<IpAddr>,
    places: BTreeSet<Place>,
}

pub(super) fn key(id: &WorkloadId) -> Key {
    (Arc::clone(&id.namespace), Arc::clone(&id.name))
}

impl Store {
    /// Reads a workload from its object and puts it into the mesh.
    pub(super) fn read(&mut self, id: &WorkloadId, moved: &mut Moved, disputed: &mut Disputed) {
        let mut findings = Findings::default();
        let before = self.mesh.workloads.get(id).cloned();
        self.port_names.forget(id);
        let read = self.drafted(id, &mut findings);
        let own_address = read.as_ref().is_some_and(|(_, own)| *own);
        let now = read.map(|(workload, _)| match &before {
            // Whoever has the old one need not look again.
            Some(before) if **before == workload => Arc::clone(before),
            _ => Arc::new(workload),
        });
        self.noted
            .set(Subject::Object(Kind::Workload, key(id)), findings);
        let reached = now.as_deref().map(|workload| (workload, own_address));
        self.dispute(id, before.as_deref(), reached, disputed);
        let labels = now.as_ref().map(|workload| &workload.labels);
        self.selection.place(id, labels, moved);
        self.put(id, before.as_ref(), now);
    }

    /// The workload, and whether its addresses are its own.
    fn drafted(&mut self, id: &WorkloadId, findings: &mut Findings) -> Option<(Workload, bool)> {
        let key = key(id);
        for source in self.objects.workloads.all(&key) {
            enrol::report_unknown_mode(source.meta(), findings);
        }
        let source = self.objects.workloads.get(&key)?;
        let meta = source.meta();
        let namespace = (Arc::from(""), Arc::clone(&id.namespace));
        let namespace = self.objects.namespaces.get(&namespace);
        let around = Around {
            namespace: namespace.map(|it| &it.meta),
            sidecars: &self.sidecars,
            settings: &self.mesh.settings,
        };
        let drafted = draft::draft(source, &around, &mut self.interned, findings)?;
        let mut workload = drafted.workload;
        workload.capture = capture::rules(&workload, meta, &mut self.port_names, findings);
        Some((workload, drafted.own_address))
    }

    fn put(&mut self, id: &WorkloadId, before: Option<&Arc<Workload>>, now: Option<Arc<Workload>>) {
        let same = match (before, &now) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let here = |it: &Arc<Workload>| it.node.as_ref() == Some(&self.mesh.settings.node);
        let (was_here, is_here) = (before.is_some_and(here), now.as_ref().is_some_and(here));
        if let Some(now) = now.as_ref().filter(|_| is_here) {
            Arc::make_mut(&mut self.mesh.here).insert(id.clone(), Arc::clone(now));
        } else if was_here {
            Arc::make_mut(&mut self.mesh.here).remove(id);
        }
        match now {
            Some(now) => self.mesh.workloads.insert(id.clone(), now),
            None => self.mesh.workloads.remove(id),
        };
    }

    /// Claims what the workload has now (also its addresses, if they are its own) and releases what
    /// it had.
    fn dispute(
        &mut self,
        id: &WorkloadId,
        before: Option<&Workload>,
        now: Option<(&Workload, bool)>,
        disputed: &mut Disputed,
    ) {
        let claimant = Claimant::Workload(id.clone());
        for address in before.iter().flat_map(|it| &it.addresses) {
            self.addresses.release(address, &claimant);
            disputed.addresses.insert(*address);
        }
        let own = now.filter(|(_, own)| *own);
        for address in own.iter().flat_map(|(it, _)| &it.addresses) {
            self.addresses.claim(address, &claimant);
            disputed.addresses.insert(*address);
        }
        if let Some(place) = before.and_then(place) {
            self.bindings.release(&place, id);
            disputed.places.insert(place);
        }
        if let Some(place) = now.and_then(|(it, _)| place(it)) {
            self.bindings.claim(&place, id);
            disputed.places.insert(place);
        }
    }

    /// Decides what was disputed: whose each address and place is, and who is told.
    pub(super) fn judge(&mut self, disputed: &Disputed) {
        for address in &disputed.addresses {
            let findings = self.judge_address(*address);
            self.noted.set(Subject::Address(*address), findings);
        }
        for place in &disputed.places {
            let findings = self.judge_place(place);
            self.noted.set(Subject::Binding(place.clone()), findings);
        }
    }

    /// The last in the order of writing has the address; all after the first are told.
    fn judge_address(&mut self, address: IpAddr) -> Findings {
        let mut workloads: Vec<(Origin, Arc<Workload>)> = Vec::new();
        let mut services: Vec<(Origin, Arc<Service>)> = Vec::new();
        for claimant in self.addresses.owners(&address) {
            match claimant {
                Claimant::Workload(id) => workloads.extend(self.workload_claim(id, address)),
                Claimant::Service(key) => services.extend(self.service_claim(key, address)),
            }
        }
        workloads.sort_by(|(one, _), (other, _)| order(one).cmp(&order(other)));
        services.sort_by(|(one, _), (other, _)| order(one).cmp(&order(other)));
        let mut findings = Findings::default();
        let mut tell = |origin: &Origin, other: String| {
            let message = format!("{address} is also the address of {other}; correct one of them");
            findings.add(origin.error(message));
        };
        for pair in workloads.windows(2) {
            if let [(first, other), (origin, _)] = pair {
                tell(origin, format!("{} ({})", other.id, first.place()));
            }
        }
        for pair in services.windows(2) {
            if let [(first, other), (origin, _)] = pair {
                tell(
                    origin,
                    format!("service {} ({})", other.name, first.place()),
                );
            }
        }
        if let Some((_, workload)) = workloads.last() {
            for (origin, _) in &services {
                tell(origin, format!("workload {}", workload.id));
            }
        }
        let mesh = &mut self.mesh;
        match workloads.pop() {
            Some((_, workload)) => mesh.by_address.insert(address, workload),
            None => mesh.by_address.remove(&address),
        };
        match services.pop() {
            Some((_, service)) => mesh.by_virtual_address.insert(address, service),
            None => mesh.by_virtual_address.remove(&address),
        };
        findings
    }

    fn workload_claim(&self, id: &WorkloadId, address: IpAddr) -> Option<(Origin, Arc<Workload>)> {
        let written = match self.objects.workloads.get(&key(id))? {
            Source::Pod(pod) => pod.addresses.iter().find(|it| it.value == address)?,
            Source::Entry(entry) => entry.address.as_ref()?,
        };
        let workload = self.mesh.workloads.get(id)?;
        Some((written.origin.clone(), Arc::clone(workload)))
    }

    fn service_claim(&self, key: &Key, address: IpAddr) -> Option<(Origin, Arc<Service>)> {
        let object = self.objects.services.get(key)?;
        let written = object.addresses.iter().find(|it| it.value == address)?;
        let service = self.mesh.service(&key.0, &key.1)?;
        Some((written.origin.clone(), Arc::clone(service)))
    }

    /// A namespace or cgroup that two workloads of one node claim: the kernel could not tell them
    /// apart, and one would get the other's identity.
    fn judge_place(&self, place: &Place) -> Findings {
        let claim = |id: &WorkloadId| {
            let source = self.objects.workloads.get(&key(id))?;
            Some((enrol::binding_origin(source.meta()).clone(), id.clone()))
        };
        let mut claims: Vec<(Origin, WorkloadId)> =
            self.bindings.owners(place).filter_map(claim).collect();
        claims.sort_by(|(one, _), (other, _)| order(one).cmp(&order(other)));
        let mut findings = Findings::default();
        for pair in claims.windows(2) {
            if let [(first, other), (origin, _)] = pair {
                findings.add(origin.error(format!(
                    "is also where {other} is bound ({}); two workloads cannot share it",
                    first.place()
                )));
            }
        }
        findings
    }
}

fn place(workload: &Workload) -> Option<Place> {
    Some((workload.node.clone(), workload.binding.clone()?))
}

/// The order of writing.
fn order(origin: &Origin) -> (&str, crate::yaml::Position) {
    (&origin.file, origin.at)
}
