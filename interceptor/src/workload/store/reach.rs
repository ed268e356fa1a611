//! What leads to the workloads that have changed: Services and `ServiceEntries`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::members::{Claimant, Disputed};
use super::noted::{Findings, Kind, Subject};
use super::selection::{Moved, Owner};
use super::table::Key;
use super::update::Store;
use super::{egress, service};
use crate::workload::{Service, ServiceName, Workload, WorkloadId};

impl Store {
    /// Reads workloads and Services, and those workloads once more to which a Service's port name
    /// means something else now.
    pub(super) fn follow(
        &mut self,
        mut workloads: BTreeSet<WorkloadId>,
        mut services: BTreeSet<Key>,
        moved: &mut Moved,
    ) {
        services.extend(behind(&moved.owners));
        let mut disputed = Disputed::default();
        loop {
            let mut now = Moved::default();
            for id in &workloads {
                self.read(id, &mut now, &mut disputed);
            }
            services.extend(behind(&now.owners));
            for key in std::mem::take(&mut services) {
                self.serve(&key, &mut disputed);
            }
            now.workloads.append(&mut moved.workloads);
            self.back(now.workloads);
            moved.owners.append(&mut now.owners);
            workloads = self.port_names.look_up(&self.mesh.services);
            if workloads.is_empty() {
                break;
            }
        }
        self.judge(&disputed);
    }

    /// Builds a Service anew.
    fn serve(&mut self, key: &Key, disputed: &mut Disputed) {
        let (namespace, name) = key;
        let before = self.mesh.service(namespace, name).cloned();
        let mut findings = Findings::default();
        let built = self.objects.services.get(key).map(|object| {
            let owner = (Kind::Service, key.clone());
            let selected = self.selected(&owner);
            service::service(object, selected, &self.mesh.settings, &mut findings)
        });
        let now = built.map(|service| match &before {
            Some(before) if **before == service => Arc::clone(before),
            _ => Arc::new(service),
        });
        self.noted
            .set(Subject::Object(Kind::Service, key.clone()), findings);
        let claimant = Claimant::Service(key.clone());
        for address in before.iter().flat_map(|it| &it.addresses) {
            self.addresses.release(address, &claimant);
            disputed.addresses.insert(*address);
        }
        for address in now.iter().flat_map(|it| &it.addresses) {
            self.addresses.claim(address, &claimant);
            disputed.addresses.insert(*address);
        }
        let same = match (&before, &now) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.put_service(key, now);
        }
    }

    fn put_service(&mut self, (namespace, name): &Key, now: Option<Arc<Service>>) {
        let all = &mut self.mesh.services;
        let mut names = all.get(namespace).cloned().unwrap_or_default();
        // Ours now, if nobody else has it: otherwise it would be copied for every Service.
        all.remove(namespace);
        let changed = Arc::make_mut(&mut names);
        match now {
            Some(now) => changed.insert(Arc::clone(name), now),
            None => changed.remove(name),
        };
        if !names.is_empty() {
            all.insert(Arc::clone(namespace), names);
        }
    }

    /// The workloads that a selector selects, by name, with their weights.
    fn selected(&self, owner: &Owner) -> Vec<egress::Member<'_>> {
        let member = |id: &WorkloadId| {
            let workload: &Arc<Workload> = self.mesh.workloads.get(id)?;
            let source = self.objects.workloads.get(&super::members::key(id))?;
            Some((workload, source.weight()))
        };
        self.selection.members(owner).filter_map(member).collect()
    }

    /// Which Services the workloads back that are selected by others than before.
    fn back(&mut self, workloads: BTreeSet<WorkloadId>) {
        for id in workloads {
            let mut names: Vec<ServiceName> = (self.selection.owners_of(&id))
                .filter(|(kind, _)| *kind == Kind::Service)
                .filter_map(|(_, (namespace, name))| self.mesh.service(namespace, name))
                .map(|service| service.name.clone())
                .collect();
            names.sort_unstable();
            if names.is_empty() {
                self.mesh.backed.remove(&id);
            } else {
                self.mesh.backed.insert(id, names.into());
            }
        }
    }

    /// Reads the `ServiceEntry` objects again, if one of them or one of their workloads changed.
    pub(super) fn follow_entries(&mut self, touched: &BTreeSet<Key>, moved: &Moved) {
        let mut changed = (moved.owners.iter()).any(|(kind, _)| *kind == Kind::ServiceEntry);
        for key in touched {
            changed = true;
            let mut findings = Findings::default();
            if let Some(entry) = self.objects.entries.get(key) {
                egress::report(entry, &mut findings);
            }
            self.noted
                .set(Subject::Object(Kind::ServiceEntry, key.clone()), findings);
        }
        if !changed {
            return;
        }
        let entries = self.objects.entries.values().map(|entry| {
            let owner = (Kind::ServiceEntry, super::table::Object::key(entry));
            (&**entry, self.selected(&owner))
        });
        self.mesh.externals = Arc::new(egress::externals(entries.collect()));
    }
}

/// The Services among the owners.
fn behind(owners: &BTreeSet<Owner>) -> impl Iterator<Item = Key> {
    let services = owners.iter().filter(|(kind, _)| *kind == Kind::Service);
    services.map(|(_, key)| key.clone())
}
