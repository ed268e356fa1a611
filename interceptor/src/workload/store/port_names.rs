//! What the names of Service ports in capture annotations mean: every address and port in the mesh
//! that bears the name.
//!
//! An annotation of one workload so depends on every Service. Few use names, so those that do are
//! remembered, and looked at again when a Service has changed what their name means.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use super::Services;
use crate::workload::{ServicePort, WorkloadId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PortNames {
    of: BTreeMap<String, Named>,
    used: HashMap<WorkloadId, BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Named {
    /// `None` if no Service has such a name.
    endpoints: Option<Vec<SocketAddr>>,
    users: BTreeSet<WorkloadId>,
}

impl PortNames {
    /// What `name` means by now to `user`, who is told when that changes.
    pub(super) fn ask(&mut self, name: &str, user: &WorkloadId) -> Option<Vec<SocketAddr>> {
        let named = self.of.entry(name.to_owned()).or_default();
        named.users.insert(user.clone());
        let used = self.used.entry(user.clone()).or_default();
        used.insert(name.to_owned());
        named.endpoints.clone()
    }

    /// Before a workload is read again, or when it is gone.
    pub(super) fn forget(&mut self, user: &WorkloadId) {
        for name in self.used.remove(user).into_iter().flatten() {
            if let Some(named) = self.of.get_mut(&name) {
                named.users.remove(user);
            }
        }
    }

    /// Looks the names up in these Services again. Returns those to whom one of them means
    /// something else than before.
    pub(super) fn look_up(&mut self, services: &Services) -> BTreeSet<WorkloadId> {
        self.of.retain(|_, named| !named.users.is_empty());
        let mut surprised = BTreeSet::new();
        for (name, named) in &mut self.of {
            let endpoints = bearing(name, services);
            if named.endpoints != endpoints {
                named.endpoints = endpoints;
                surprised.extend(named.users.iter().cloned());
            }
        }
        surprised
    }
}

fn bearing(name: &str, services: &Services) -> Option<Vec<SocketAddr>> {
    let mut found = Vec::new();
    let mut known = false;
    for service in services.values().flat_map(|of| of.values()) {
        let named = |port: &&ServicePort| port.name.as_deref() == Some(name);
        for port in service.ports.iter().filter(named) {
            known = true;
            let own = service.addresses.iter();
            found.extend(own.map(|address| SocketAddr::new(*address, port.port)));
            for endpoint in &service.endpoints {
                if let Some(target) = endpoint.target_ports.get(&port.port) {
                    let addresses = endpoint.workload.addresses.iter();
                    found.extend(addresses.map(|address| SocketAddr::new(*address, *target)));
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    known.then_some(found)
}
