//! `ServiceEntry` objects that claim the same destinations.

use std::collections::HashMap;

use super::super::catalogue::EXTERNAL_OVERLAP;
use super::super::extra::ServiceEntry;
use super::super::finding::Findings;
use super::super::model::Model;

/// More entries than this are not compared by address: pairs grow with the square.
const MAX_COMPARED: usize = 2000;

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let entries = &model.extra.service_entries;
    same_host(entries, findings);
    for (index, entry) in entries.iter().enumerate().take(MAX_COMPARED) {
        let before = entries.iter().take(index);
        let overlap = before
            .into_iter()
            .find_map(|other| Some((other, entry.overlap(other)?)));
        if let Some((other, what)) = overlap {
            findings.add(
                &EXTERNAL_OVERLAP,
                &entry.place,
                format!(
                    "{what} is also in {} ({}): their age decides which counts",
                    other.place.object,
                    other.place.short()
                ),
                "join them, or make addresses and ports distinct",
            );
        }
    }
    let services = model.mesh.services();
    let hosts: HashMap<&str, String> = services
        .map(|service| (&*service.name.host, service.name.to_string()))
        .collect();
    for entry in entries {
        let taken = entry
            .hosts
            .iter()
            .find_map(|host| Some((host, hosts.get(host.as_str())?)));
        if let Some((host, service)) = taken {
            findings.add(
                &EXTERNAL_OVERLAP,
                &entry.place,
                format!("{host} is also the name of Service {service}, which counts instead"),
                "choose another host",
            );
        }
    }
}

fn same_host(entries: &[ServiceEntry], findings: &mut Findings) {
    let mut first: HashMap<(&str, &str), &ServiceEntry> = HashMap::new();
    for entry in entries {
        for host in &entry.hosts {
            let key = (entry.namespace.as_str(), host.as_str());
            let other = *first.entry(key).or_insert(entry);
            if !std::ptr::eq(other, entry) && other.place != entry.place && other.same_port(entry) {
                findings.add(
                    &EXTERNAL_OVERLAP,
                    &entry.place,
                    format!(
                        "{host} is also in {} ({}): only the older one counts",
                        other.place.object,
                        other.place.short()
                    ),
                    "join them, or make hosts distinct",
                );
            }
        }
    }
}

impl ServiceEntry {
    fn same_port(&self, other: &Self) -> bool {
        self.ports.is_empty()
            || other.ports.is_empty()
            || self.ports.iter().any(|port| other.ports.contains(port))
    }

    /// An address that both claim at a common port, for different hosts.
    fn overlap(&self, other: &Self) -> Option<String> {
        let visible = self.namespace == other.namespace || !(self.private || other.private);
        let shares_host = self.hosts.iter().any(|host| other.hosts.contains(host));
        if !visible || shares_host || !self.same_port(other) {
            return None;
        }
        let mut own = self.addresses.iter();
        // A narrower range within a wider one is a choice: the longest prefix counts.
        own.find(|address| other.addresses.contains(address))
            .map(ToString::to_string)
    }
}
