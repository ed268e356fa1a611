//! `ServiceEntry` objects that claim the same destinations.

use std::collections::HashMap;

use ipnet::IpNet;

use super::super::catalogue::EXTERNAL_OVERLAP;
use super::super::extra::ServiceEntry;
use super::super::finding::Findings;
use super::super::model::Model;

/// More entries with one address, and more hosts of one entry, are not compared.
const MAX_COMPARED: usize = 16;

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let entries = &model.extra.service_entries;
    same_host(entries, findings);
    let mut by_address: HashMap<&IpNet, Vec<&ServiceEntry>> = HashMap::new();
    for entry in entries {
        let mut own = entry.addresses.iter();
        let overlap = own.find_map(|address| {
            let mut others = by_address.get(address)?.iter();
            let other = others.find(|other| entry.overlaps(other))?;
            Some((*other, address))
        });
        for address in &entry.addresses {
            let there = by_address.entry(address).or_default();
            if there.len() < MAX_COMPARED {
                there.push(entry);
            }
        }
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

    /// Whether both can be seen, and are for different hosts at a common port.
    fn overlaps(&self, other: &Self) -> bool {
        let visible = self.namespace == other.namespace || !(self.private || other.private);
        let own = self.hosts.iter().take(MAX_COMPARED);
        let shares_host = own.into_iter().any(|host| other.hosts.contains(host));
        visible && !shares_host && self.same_port(other)
    }
}
