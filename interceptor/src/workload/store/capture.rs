//! Istio's capture annotations: which of a workload's connections the agent takes.
//!
//! Istio's syntax and order, and in addition port names: inbound a container port of the
//! workload, outbound a Service port's name anywhere in the mesh. What does not parse is an
//! error, as in Istio's CNI plug-in: a port that silently stays open would be worse.

use std::net::IpAddr;

use ipnet::IpNet;

use super::noted::Findings;
use super::port_names::PortNames;
use crate::workload::objects::{Meta, Written};
use crate::workload::{CaptureRules, OutboundPort, PortSelection, Workload};

const PREFIX: &str = "traffic.sidecar.istio.io/";
const INCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/includeInboundPorts";
const EXCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
const INCLUDE_OUTBOUND: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
const EXCLUDE_OUTBOUND: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const INCLUDE_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
const EXCLUDE_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";

const KNOWN: [&str; 6] = [
    INCLUDE_INBOUND,
    EXCLUDE_INBOUND,
    INCLUDE_OUTBOUND,
    EXCLUDE_OUTBOUND,
    INCLUDE_RANGES,
    EXCLUDE_RANGES,
];

/// Annotations of Istio's that name network interfaces, which have no meaning for captured
/// sockets.
const UNSUPPORTED: [&str; 2] = ["excludeInterfaces", "kubevirtInterfaces"];

/// Metrics, readiness and Prometheus of Istio's own: never captured inbound.
const ALWAYS_EXCLUDED: [u16; 3] = [15020, 15021, 15090];

/// Rules that one workload may have: a quarter of those that fit on a node by default. One that asks
/// for more would have others refused, and the agent work for nobody else.
const MOST_RULES: usize = 16_384;

/// Inbound ports that one workload may name, each of which is an entry for each of its addresses.
const MOST_OWN_PORTS: usize = 1024;

/// The capture rules that the annotations of a workload come to. What they say about datagrams and
/// about older connections is there already.
pub(super) fn rules(
    workload: &Workload,
    meta: &Meta,
    names: &mut PortNames,
    findings: &mut Findings,
) -> CaptureRules {
    let mut reader = Annotations { meta, findings };
    reader.report_unknown();
    let mut rules = CaptureRules {
        inbound: reader.inbound(workload),
        ..workload.capture.clone()
    };
    let mut ports = |reader: &mut Annotations<'_>, key| reader.outbound_ports(key, workload, names);
    rules.excluded_outbound_ports = ports(&mut reader, EXCLUDE_OUTBOUND);
    rules.excluded_outbound_ranges = reader.ranges(EXCLUDE_RANGES).unwrap_or_default();
    rules.included_outbound_ranges = reader.ranges(INCLUDE_RANGES);
    if reader.get(INCLUDE_OUTBOUND).is_some_and(is_star) {
        // Every port, whatever the ranges say.
        rules.included_outbound_ranges = None;
    } else {
        rules.included_outbound_ports = ports(&mut reader, INCLUDE_OUTBOUND);
    }
    if count(&rules) > MOST_RULES {
        reader.refuse_all();
        // As if nothing was said: everything is captured.
        rules.excluded_outbound_ports.clear();
        rules.excluded_outbound_ranges.clear();
        rules.included_outbound_ports.clear();
        rules.included_outbound_ranges = None;
    }
    rules
}

/// How many rules are written there, or more. Those of names follow from the mesh and are not counted.
fn count(rules: &CaptureRules) -> usize {
    let numbers = |ports: &[OutboundPort]| {
        let numbers = ports
            .iter()
            .filter(|port| matches!(port, OutboundPort::Number(_)));
        // For each family of addresses.
        numbers.count().saturating_mul(2)
    };
    let excluded = rules.excluded_outbound_ranges.len();
    let included = rules.included_outbound_ranges.as_ref().map_or(0, Vec::len);
    // An included port has an exception for each excluded range.
    let exceptions = numbers(&rules.included_outbound_ports).saturating_mul(excluded + 1);
    (exceptions + included + excluded).saturating_add(numbers(&rules.excluded_outbound_ports))
}

struct Annotations<'a> {
    meta: &'a Meta,
    findings: &'a mut Findings,
}

impl<'a> Annotations<'a> {
    fn report_unknown(&mut self) {
        for (key, written) in &self.meta.annotations {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            if UNSUPPORTED.contains(&name) {
                let message = "has no effect: sockets are captured, not interfaces";
                self.findings.add(written.origin.warning(message));
            } else if !KNOWN.contains(&key.as_str()) {
                let hint = crate::yaml::nearest(key, KNOWN)
                    .map(|known| format!("; did you mean {known}?"))
                    .unwrap_or_default();
                let message = format!("unknown annotation{hint}");
                self.findings.add(written.origin.error(message));
            }
        }
    }

    /// Included ports, if there is a list of them; else all but the excluded.
    fn inbound(&mut self, workload: &Workload) -> PortSelection {
        if let Some(included) = self.get(INCLUDE_INBOUND)
            && !is_star(included)
        {
            return PortSelection::Only(self.own_ports(included, workload));
        }
        let mut excluded = ALWAYS_EXCLUDED.to_vec();
        if let Some(written) = self.get(EXCLUDE_INBOUND) {
            excluded.extend(self.own_ports(written, workload));
        }
        excluded.sort_unstable();
        excluded.dedup();
        PortSelection::AllExcept(excluded)
    }

    /// A list of the workload's own ports, by number or by name.
    fn own_ports(&mut self, written: &Written<String>, workload: &Workload) -> Vec<u16> {
        let mut ports = Vec::new();
        if self.has_too_many(written, MOST_OWN_PORTS) {
            return ports;
        }
        for word in words(written) {
            match (parse_port(word), workload.ports.get(word)) {
                (Port::Number(port), _) | (Port::Name, Some(&port)) => ports.push(port),
                (Port::Name, None) => {
                    let known: Vec<&str> = workload.ports.keys().map(String::as_str).collect();
                    let message = format!(
                        "the workload has no port named {word:?} (it has: {})",
                        if known.is_empty() {
                            "none".to_owned()
                        } else {
                            known.join(", ")
                        }
                    );
                    self.error(written, message);
                }
                (Port::Wrong, _) => self.error(written, wrong_port(word)),
            }
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// A list of destination ports, by number or by a Service port's name.
    fn outbound_ports(
        &mut self,
        key: &str,
        workload: &Workload,
        names: &mut PortNames,
    ) -> Vec<OutboundPort> {
        let Some(written) = self.get(key) else {
            return Vec::new();
        };
        let mut ports = Vec::new();
        if self.has_too_many(written, MOST_RULES) {
            return ports;
        }
        for word in words(written) {
            let port = match parse_port(word) {
                Port::Number(port) => OutboundPort::Number(port),
                Port::Name => {
                    let endpoints = names.ask(word, &workload.id).unwrap_or_else(|| {
                        let message = format!("no Service of the mesh has a port named {word:?}");
                        self.findings.add(written.origin.warning(message));
                        Vec::new()
                    });
                    let name = word.to_owned();
                    OutboundPort::Named { name, endpoints }
                }
                Port::Wrong => {
                    self.error(written, wrong_port(word));
                    continue;
                }
            };
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// A list of ranges; `None` for `*` and for no annotation, which mean all when included.
    fn ranges(&mut self, key: &str) -> Option<Vec<IpNet>> {
        let written = self.get(key)?;
        if is_star(written) {
            if key == EXCLUDE_RANGES {
                self.error(
                    written,
                    format!("cannot be *; to capture nothing, write {INCLUDE_RANGES}: \"\""),
                );
            }
            return None;
        }
        let mut ranges = Vec::new();
        if self.has_too_many(written, MOST_RULES) {
            return None;
        }
        for word in words(written) {
            if let Some(range) = parse_range(word) {
                ranges.push(range);
            } else {
                let message = format!("{word:?} is not an address or a range such as 10.0.0.0/8");
                self.error(written, message);
            }
        }
        Some(ranges)
    }

    /// Whether a list is longer than it may be, which is looked at before anything in it.
    fn has_too_many(&mut self, written: &Written<String>, most: usize) -> bool {
        let there = words(written).count();
        if there > most {
            let message = format!("has {there} entries; a workload may have {most} at most");
            self.error(written, message);
        }
        there > most
    }

    /// Says that all lists together come to too much, at the longest of them.
    fn refuse_all(&mut self) {
        let lists = [
            EXCLUDE_RANGES,
            INCLUDE_OUTBOUND,
            EXCLUDE_OUTBOUND,
            INCLUDE_RANGES,
        ];
        let lists = lists.into_iter().filter_map(|key| self.get(key));
        if let Some(longest) = lists.max_by_key(|written| written.value.len()) {
            let message = format!(
                "with the other outbound annotations this comes to more than {MOST_RULES} rules, which is what a workload may have (an included port needs one for each excluded range)"
            );
            self.error(longest, message);
        }
    }

    fn get(&self, key: &str) -> Option<&'a Written<String>> {
        self.meta.annotations.get(key)
    }

    fn error(&mut self, written: &Written<String>, message: String) {
        self.findings.add(written.origin.error(message));
    }
}

fn is_star(written: &Written<String>) -> bool {
    written.value.trim() == "*"
}

/// The elements of a comma-separated list; the empty text has none.
fn words(written: &Written<String>) -> impl Iterator<Item = &str> {
    let text = written.value.trim();
    let empty = text.is_empty();
    text.split(',').map(str::trim).filter(move |_| !empty)
}

enum Port {
    Number(u16),
    Name,
    Wrong,
}

/// A word with a letter is a name; Kubernetes wants one in every port name.
fn parse_port(word: &str) -> Port {
    match word.parse::<u16>() {
        Ok(0) => Port::Wrong,
        Ok(port) if word.bytes().all(|byte| byte.is_ascii_digit()) => Port::Number(port),
        _ if word.contains(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') =>
        {
            Port::Name
        }
        _ => Port::Wrong,
    }
}

fn wrong_port(word: &str) -> String {
    format!("{word:?} is not a port: write numbers from 1 to 65535 or port names, with commas")
}

/// A range in canonical form, or a single address.
fn parse_range(word: &str) -> Option<IpNet> {
    let net = match word.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(word.parse::<IpAddr>().ok()?),
    };
    Some(net.trunc())
}
