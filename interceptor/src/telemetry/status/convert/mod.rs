//! Making the parts of a [`Status`](super::Status) from what the other modules know.

mod losses;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use interceptor_policy::{MtlsMode, MtlsOrigin};
use jiff::Timestamp;

use super::{
    Authority, Certificate, Configuration, EnrolledWorkload, Finding, KernelCounter, MapFill,
    Prober, Program, Root, Severity, Unprotected,
};
use crate::capture;
use crate::identity::{AuthorityStatus, RootStatus, SvidStatus};
use crate::workload::source::LoadState;
use crate::workload::{
    Binding, CaptureRules, Mesh, OutboundPort, PortSelection, UdpRule, Workload,
};
use crate::yaml::Mistake;

impl From<&SvidStatus> for Certificate {
    fn from(svid: &SvidStatus) -> Self {
        Self {
            identity: svid.id.to_string(),
            serial: svid.serial.as_ref().map(ToString::to_string),
            issuer: svid.issuer.clone(),
            not_before: svid.not_before.and_then(timestamp),
            not_after: svid.not_after.and_then(timestamp),
            renew_at: svid.renew_at.and_then(timestamp),
            last_error: svid.last_error.clone(),
        }
    }
}

impl From<&AuthorityStatus> for Authority {
    fn from(authority: &AuthorityStatus) -> Self {
        Self {
            issuer: authority.issuer.clone(),
            serial: authority.serial.as_ref().map(ToString::to_string),
            roots: authority.roots.iter().map(Root::from).collect(),
            last_error: authority.last_error.clone(),
        }
    }
}

impl From<&RootStatus> for Root {
    fn from(root: &RootStatus) -> Self {
        Self {
            trust_domain: root.trust_domain.to_string(),
            serial: root.serial.to_string(),
            not_before: timestamp(root.not_before),
            not_after: timestamp(root.not_after),
        }
    }
}

impl From<&capture::ProgramStatus> for Program {
    fn from(program: &capture::ProgramStatus) -> Self {
        Self {
            name: program.name.clone(),
            attached_to: program.attached_to.clone(),
            id: program.id,
            pinned: program.pinned.exists(),
        }
    }
}

impl From<(capture::Counter, u64)> for KernelCounter {
    fn from((counter, value): (capture::Counter, u64)) -> Self {
        Self {
            name: counter.name().to_owned(),
            help: counter.help().to_owned(),
            value,
        }
    }
}

impl From<&capture::MapFill> for MapFill {
    fn from(map: &capture::MapFill) -> Self {
        Self {
            name: map.name.to_owned(),
            holds: map.holds.to_owned(),
            entries: u64::try_from(map.entries).unwrap_or(u64::MAX),
            capacity: map.capacity.into(),
        }
    }
}

impl Prober {
    /// What is trusted, and how often it was seen.
    pub fn new(prober: &capture::ProberStatus, probes: u64) -> Self {
        let show = |path: &PathBuf| format!("/{}", path.display());
        Self {
            cgroups: prober.trusted.iter().map(show).collect(),
            problem: prober.problem.clone(),
            probes,
        }
    }
}

impl From<&Mistake> for Finding {
    fn from(mistake: &Mistake) -> Self {
        let mut place = mistake.file.to_string();
        if mistake.line > 0 {
            write!(place, ":{}:{}", mistake.line, mistake.column).unwrap_or_default();
        }
        if !mistake.key.is_empty() {
            write!(place, ": {}", mistake.key).unwrap_or_default();
        }
        Self {
            severity: match mistake.severity {
                crate::yaml::Severity::Error => Severity::Error,
                crate::yaml::Severity::Warning => Severity::Warning,
                crate::yaml::Severity::Note => Severity::Note,
            },
            place,
            message: mistake.message.clone(),
        }
    }
}

impl Configuration {
    /// What `state` says of the configuration that is read from `source`.
    pub fn new(source: impl Into<String>, state: &LoadState) -> Self {
        Self {
            source: source.into(),
            version: state.version,
            loaded: state.loaded_at.and_then(timestamp),
            mistakes: state.mistakes.iter().map(Finding::from).collect(),
        }
    }
}

impl EnrolledWorkload {
    /// `workload`, enrolled under the kernel's `key`, or not because of an error.
    pub fn new(workload: &Workload, enrolled: Result<u64, String>) -> Self {
        let (key, error) = match enrolled {
            Ok(key) => (Some(format!("{key:x}")), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            namespace: workload.id.namespace.to_string(),
            name: workload.id.name.to_string(),
            key,
            identity: workload.identity.to_string(),
            addresses: workload.addresses.clone(),
            inbound: inbound(&workload.capture.inbound),
            outbound: outbound(&workload.capture),
            error,
        }
    }
}

impl Unprotected {
    /// What the mesh's configuration leaves unprotected on this node: workloads that are not
    /// enrolled, ports and ranges that are excluded, ports that accept plaintext.
    pub fn by_configuration(mesh: &Mesh) -> Vec<Self> {
        let mut entries: Vec<_> = mesh
            .unprotected()
            .map(|workload| Self::new(workload, "everything", workload.enrolment.to_string()))
            .collect();
        for workload in mesh.local() {
            excluded(workload, &mut entries);
            plaintext(mesh, workload, &mut entries);
        }
        entries.extend(Self::by_udp(mesh));
        entries.extend(Self::by_udp_beside_its_rule(mesh));
        let local = mesh.local();
        entries.extend(local.filter_map(|it| Self::by_udp_on_the_host(it)));
        entries
    }

    /// What an owner refuses and nobody stops, because the port is the host's.
    fn by_udp_on_the_host(workload: &Workload) -> Option<Self> {
        let on_the_host = matches!(workload.binding, Some(Binding::Cgroup(_)));
        let refuses = !matches!(workload.capture.udp, UdpRule::Allow | UdpRule::Observe);
        let why =
            "a port of the host's network is the host's; interceptor.dev/udp is for what leaves";
        (on_the_host && refuses).then(|| Self::new(workload, "UDP that arrives", why))
    }

    /// The workloads whose datagrams leave, in one line: it is what most of them have in common.
    fn by_udp(mesh: &Mesh) -> Option<Self> {
        let rule = |workload: &Workload| workload.capture.udp;
        let all = mesh.local().filter(|it| rule(it) != UdpRule::Deny);
        let quiet = |workload: &&Arc<Workload>| rule(workload) == UdpRule::Allow;
        let (allowed, in_part): (Vec<_>, Vec<_>) = all.partition(quiet);
        let subject = match (allowed.as_slice(), in_part.as_slice()) {
            ([], []) => return None,
            ([one], []) | ([], [one]) => one.id.to_string(),
            (allowed, in_part) => format!("{} workloads", allowed.len() + in_part.len()),
        };
        let why = if in_part.is_empty() {
            "no tunnel carries it; annotation interceptor.dev/udp can refuse it".to_owned()
        } else {
            let word = |it: &&Arc<Workload>| format!("{} of {}", rule(it), it.id);
            format!(
                "annotation interceptor.dev/udp: {}",
                list(in_part.iter().map(word))
            )
        };
        Some(Self {
            subject,
            what: "UDP".to_owned(),
            why,
            connections: None,
        })
    }

    /// What leaves although owners refuse it, in one line: the rule is asked where a peer is named.
    fn by_udp_beside_its_rule(mesh: &Mesh) -> Option<Self> {
        let refuses =
            |it: &&Arc<Workload>| !matches!(it.capture.udp, UdpRule::Allow | UdpRule::Observe);
        let refusing: Vec<_> = mesh.local().filter(refuses).collect();
        let subject = match refusing.as_slice() {
            [] => return None,
            [one] => one.id.to_string(),
            several => format!("{} workloads", several.len()),
        };
        Some(Self {
            subject,
            what: "UDP that is refused".to_owned(),
            why: "sockets that were connected before the rule go on, and CAP_NET_RAW sends past it"
                .to_owned(),
            connections: None,
        })
    }

    /// The interfaces of an enrolled workload at which hand-made packets are not stopped.
    pub fn by_interfaces(workload: &capture::WorkloadStatus) -> Vec<Self> {
        let entry = |it: &capture::Unguarded| Self {
            subject: workload.id.to_string(),
            what: format!("packet sockets, interface {}", it.interface),
            why: it.why.to_owned(),
            connections: None,
        };
        workload.unguarded.iter().map(entry).collect()
    }

    /// The connections that an enrolled workload still has from before.
    pub fn by_age(workload: &capture::WorkloadStatus) -> Option<Self> {
        const SHOWN: usize = 3;
        let count = workload.older.len();
        let show = |(local, remote): &(SocketAddr, SocketAddr)| format!("{local} with {remote}");
        let mut why = list(workload.older.iter().take(SHOWN).map(show));
        if count > SHOWN {
            write!(why, " and {} more", count - SHOWN).unwrap_or_default();
        }
        (count > 0).then(|| Self {
            subject: workload.id.to_string(),
            what: "connections from before it was enrolled".to_owned(),
            why: format!("interceptor.dev/existing-connections is not reset: {why}"),
            connections: u64::try_from(count).ok(),
        })
    }

    /// A workload whose owner prefers plaintext to refusal while the agent is down.
    pub fn by_absence(workload: &capture::WorkloadStatus) -> Option<Self> {
        let capture::Unserved { outbound, inbound } = workload.unserved?;
        Some(Self {
            subject: workload.id.to_string(),
            what: "everything, while the agent is down".to_owned(),
            why: format!(
                "interceptor.dev/on-agent-down is allow-plaintext: {outbound} outbound and \
                 {inbound} inbound connections passed unprotected so far"
            ),
            connections: Some(outbound.saturating_add(inbound)),
        })
    }

    /// The processes of the host that no policy is asked about.
    pub fn by_prober(prober: &Prober) -> Option<Self> {
        (!prober.cgroups.is_empty()).then(|| Self {
            subject: "host network".to_owned(),
            what: format!("processes of {}, to every workload", list(&prober.cgroups)),
            why: "trusted as kubelet's probes: capture.prober".to_owned(),
            connections: Some(prober.probes),
        })
    }

    fn new(workload: &Workload, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            subject: workload.id.to_string(),
            what: what.into(),
            why: why.into(),
            connections: None,
        }
    }
}

/// What annotations keep from capture.
fn excluded(workload: &Workload, entries: &mut Vec<Unprotected>) {
    let rules = &workload.capture;
    let annotation = |what: &str| format!("annotation traffic.sidecar.istio.io/{what}");
    match &rules.inbound {
        PortSelection::AllExcept(ports) => {
            let ports: Vec<_> = ports.iter().filter(|p| !is_istios_own(**p)).collect();
            if !ports.is_empty() {
                let what = format!("inbound ports {}", list(ports));
                entries.push(Unprotected::new(
                    workload,
                    what,
                    annotation("excludeInboundPorts"),
                ));
            }
        }
        PortSelection::Only(ports) => {
            let what = match ports.as_slice() {
                [] => "all inbound ports".to_owned(),
                ports => format!("inbound ports other than {}", list(ports)),
            };
            entries.push(Unprotected::new(
                workload,
                what,
                annotation("includeInboundPorts"),
            ));
        }
    }
    if !rules.excluded_outbound_ports.is_empty() {
        let ports = list(rules.excluded_outbound_ports.iter().map(port));
        entries.push(Unprotected::new(
            workload,
            format!("outbound ports {ports}"),
            annotation("excludeOutboundPorts"),
        ));
    }
    if !rules.excluded_outbound_ranges.is_empty() {
        entries.push(Unprotected::new(
            workload,
            format!("outbound to {}", list(&rules.excluded_outbound_ranges)),
            annotation("excludeOutboundIPRanges"),
        ));
    }
    if let Some(ranges) = &rules.included_outbound_ranges {
        let what = match ranges.as_slice() {
            [] => "all outbound".to_owned(),
            ranges => format!("outbound to other than {}", list(ranges)),
        };
        entries.push(Unprotected::new(
            workload,
            what,
            annotation("includeOutboundIPRanges"),
        ));
    }
}

/// Ports that Istio never captures inbound: its own probes and metrics. Everybody has them.
const fn is_istios_own(port: u16) -> bool {
    matches!(port, 15020 | 15021 | 15090)
}

/// Whether plaintext is accepted: for ports in general, and for those declared ports that differ.
fn plaintext(mesh: &Mesh, workload: &Workload, entries: &mut Vec<Unprotected>) {
    let policies = mesh.policies(workload);
    // No workload declares port 0, so this is the mode of ports without one of their own.
    let general = policies.mtls(0);
    let mut note = |what: String, mode: MtlsMode, origin: &MtlsOrigin| {
        if mode != MtlsMode::Strict {
            entries.push(Unprotected::new(
                workload,
                what,
                plaintext_reason(mode, origin),
            ));
        }
    };
    note(
        "inbound in plaintext".to_owned(),
        general.mode,
        &general.origin,
    );
    for (name, number) in &*workload.ports {
        let own = policies.mtls(*number);
        if own.mode != general.mode {
            let what = format!("inbound in plaintext on port {number} ({name})");
            note(what, own.mode, &own.origin);
        }
    }
}

fn plaintext_reason(mode: MtlsMode, origin: &MtlsOrigin) -> String {
    let mode = match mode {
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
        MtlsMode::Disable => "DISABLE",
    };
    match origin {
        MtlsOrigin::Default => format!("{mode} is the default without a PeerAuthentication"),
        MtlsOrigin::Mesh(name)
        | MtlsOrigin::Namespace(name)
        | MtlsOrigin::Workload(name)
        | MtlsOrigin::Port(name) => format!("PeerAuthentication {name} says {mode}"),
    }
}

fn inbound(selection: &PortSelection) -> String {
    match selection {
        PortSelection::AllExcept(ports) if ports.is_empty() => "all".to_owned(),
        PortSelection::AllExcept(ports) => format!("all except {}", list(ports)),
        PortSelection::Only(ports) if ports.is_empty() => "none".to_owned(),
        PortSelection::Only(ports) => format!("only {}", list(ports)),
    }
}

fn outbound(rules: &CaptureRules) -> String {
    let mut text = match &rules.included_outbound_ranges {
        None => "all".to_owned(),
        Some(ranges) if ranges.is_empty() => "none".to_owned(),
        Some(ranges) => format!("only {}", list(ranges)),
    };
    if !rules.included_outbound_ports.is_empty() {
        let ports = list(rules.included_outbound_ports.iter().map(port));
        write!(text, " and ports {ports}").unwrap_or_default();
    }
    let excluded = rules.excluded_outbound_ports.iter().map(port);
    let excluded: Vec<_> = excluded
        .chain(
            rules
                .excluded_outbound_ranges
                .iter()
                .map(ToString::to_string),
        )
        .collect();
    if !excluded.is_empty() {
        write!(text, " except {}", excluded.join(", ")).unwrap_or_default();
    }
    text
}

fn port(port: &OutboundPort) -> String {
    match port {
        OutboundPort::Number(number) => number.to_string(),
        OutboundPort::Named { name, .. } => name.clone(),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

fn timestamp(at: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(at).ok()
}

#[cfg(test)]
mod tests;
