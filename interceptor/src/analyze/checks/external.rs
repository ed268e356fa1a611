//! `ServiceEntry` objects that claim the same destinations.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;

use super::super::catalogue::{EXTERNAL_OVERLAP, NOT_COMPARED};
use super::super::extra::ServiceEntry;
use super::super::finding::Findings;
use super::super::model::Model;

/// So many hosts and ports are compared with each other; the rest is told as not compared.
const MAX_COMPARED: usize = 5_000_000;

/// Compares entries as long as that is bearable.
struct Comparison {
    left: Cell<usize>,
    skipped: Cell<usize>,
}

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let entries = &model.extra.service_entries;
    let comparison = Comparison {
        left: Cell::new(MAX_COMPARED),
        skipped: Cell::new(0),
    };
    same_host(entries, &comparison, findings);
    same_address(entries, &comparison, findings);
    like_a_service(model, findings);
    if let (skipped @ 1.., Some(entry)) = (comparison.skipped.get(), entries.first()) {
        findings.add(
            &NOT_COMPARED,
            &entry.place,
            format!("{skipped} pairs of ServiceEntries were not compared with each other"),
            "analyze one namespace at a time",
        );
    }
}

/// One address and port for different hosts.
fn same_address(entries: &[ServiceEntry], comparison: &Comparison, findings: &mut Findings) {
    let mut by_address: HashMap<&IpNet, Vec<&ServiceEntry>> = HashMap::new();
    for entry in entries {
        let own: BTreeSet<&IpNet> = entry.addresses.iter().collect();
        let overlap = own.iter().find_map(|address| {
            let mut others = by_address.get(*address)?.iter();
            let other = others.find(|other| comparison.overlap(entry, other))?;
            Some((*other, *address))
        });
        for address in own {
            by_address.entry(address).or_default().push(entry);
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
}

/// A host that is the name of a Service.
fn like_a_service(model: &Model<'_>, findings: &mut Findings) {
    let services = model.mesh.services();
    let hosts: HashMap<&str, String> = services
        .map(|service| (&*service.name.host, service.name.to_string()))
        .collect();
    for entry in &model.extra.service_entries {
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

/// One host twice in a namespace.
fn same_host(entries: &[ServiceEntry], comparison: &Comparison, findings: &mut Findings) {
    let mut by_host: HashMap<(&str, &str), Vec<&ServiceEntry>> = HashMap::new();
    for entry in entries {
        let hosts: BTreeSet<&str> = entry.hosts.iter().map(String::as_str).collect();
        for host in hosts {
            let others = by_host.entry((&entry.namespace, host)).or_default();
            if let Some(other) = others
                .iter()
                .find(|other| comparison.same_port(entry, other))
            {
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
            others.push(entry);
        }
    }
}

impl Comparison {
    /// Whether so much more can be compared.
    fn affords(&self, one: usize, other: usize) -> bool {
        let rest = self
            .left
            .get()
            .checked_sub(one.saturating_mul(other).max(1));
        match rest {
            Some(rest) => self.left.set(rest),
            None => self.skipped.set(self.skipped.get().saturating_add(1)),
        }
        rest.is_some()
    }

    fn same_port(&self, one: &ServiceEntry, other: &ServiceEntry) -> bool {
        self.affords(one.ports.len(), other.ports.len()) && one.same_port(other)
    }

    /// Whether both can be seen, and are for different hosts at a common port.
    fn overlap(&self, one: &ServiceEntry, other: &ServiceEntry) -> bool {
        let visible = one.namespace == other.namespace || !(one.private || other.private);
        visible
            && self.same_port(one, other)
            && self.affords(one.hosts.len(), other.hosts.len())
            && !one.hosts.iter().any(|host| other.hosts.contains(host))
    }
}

impl ServiceEntry {
    fn same_port(&self, other: &Self) -> bool {
        self.ports.is_empty()
            || other.ports.is_empty()
            || self.ports.iter().any(|port| other.ports.contains(port))
    }
}
