//! Whether a workload is part of the mesh, and where its sockets are.
//!
//! Istio's labels and annotations decide who is enrolled; ours say which network namespace or
//! cgroup of this machine that is. An enrolled workload without a binding is not captured, and
//! `status` says so.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::MeshSettings;
use super::noted::Findings;
use crate::workload::objects::{
    CGROUP, EXISTING, Meta, NETWORK_NAMESPACE, NODE, ON_AGENT_DOWN, Origin, Pod, SAME_NODE, UDP,
    UNKNOWN_DESTINATIONS, WorkloadEntry, Written,
};
use crate::workload::{
    Binding, Enrolment, ExistingConnections, OnAgentDown, SaidBy, SameNode, TunnelProtocol,
    UdpRule, UnknownDestinations,
};
use crate::yaml::nearest;

const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const TUNNEL: &str = "networking.istio.io/tunnel";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const SIDECAR_STATUS: &str = "sidecar.istio.io/status";

/// Where the `ip netns` command keeps network namespaces.
const NAMED_NAMESPACES: &str = "/run/netns";

/// How a workload belongs to the mesh.
pub(super) struct Membership {
    pub(super) enrolment: Enrolment,
    pub(super) binding: Option<Binding>,
    pub(super) protocol: TunnelProtocol,
    pub(super) udp: UdpRule,
    pub(super) existing: ExistingConnections,
    pub(super) same_node: SameNode,
    pub(super) on_agent_down: OnAgentDown,
}

/// What the labels ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
    OptedOut,
}

pub(super) fn pod(
    pod: &Pod,
    namespace: Option<&Meta>,
    settings: &MeshSettings,
    findings: &mut Findings,
) -> Membership {
    let meta = &pod.meta;
    if let Some(node) = meta.annotations.get(NODE) {
        findings.add(
            node.origin
                .error("is for WorkloadEntries; a Pod has spec.nodeName"),
        );
    }
    let written = binding(meta, findings);
    let misplaced = match written {
        Some(Binding::Cgroup(_)) if !pod.host_network => {
            Some("is for Pods with hostNetwork: true; name this Pod's network namespace instead")
        }
        Some(Binding::NetworkNamespace(_)) if pod.host_network => {
            Some("is for Pods with a network of their own; name this Pod's cgroup instead")
        }
        _ => None,
    };
    if let Some(message) = misplaced {
        findings.add(binding_origin(meta).error(message));
    }
    let enrolment = match wanted(meta, namespace) {
        Wanted::OptedOut => Enrolment::OptedOut,
        Wanted::No => Enrolment::NotLabelled,
        Wanted::Yes if meta.annotations.contains_key(SIDECAR_STATUS) => Enrolment::Sidecar,
        Wanted::Yes if pod.host_network && written.is_none() => Enrolment::HostNetwork,
        Wanted::Yes if written.is_none() && pod.node.as_ref() == Some(&settings.node) => {
            Enrolment::Unbound
        }
        Wanted::Yes => Enrolment::Enrolled,
    };
    let member = matches!(enrolment, Enrolment::Enrolled | Enrolment::Unbound);
    if enrolment == Enrolment::Unbound {
        let message = format!("{enrolment}: connections to it are refused");
        findings.add(meta.origin.warning(message));
    }
    let tunnel = !pod.host_network && (member || has_tunnel(meta));
    Membership {
        binding: used(written, enrolment, meta, findings),
        enrolment,
        protocol: protocol(tunnel),
        udp: udp(meta, namespace, findings),
        existing: existing(meta, namespace, findings),
        same_node: same_node(meta, namespace, settings, findings),
        on_agent_down: on_agent_down(meta, namespace, findings),
    }
}

pub(super) fn workload_entry(
    entry: &WorkloadEntry,
    namespace: Option<&Meta>,
    settings: &MeshSettings,
    findings: &mut Findings,
) -> Membership {
    let meta = &entry.meta;
    let written = binding(meta, findings);
    let node = meta.annotations.get(NODE);
    match (&written, node) {
        (Some(_), None) => {
            let message = format!("needs the annotation {NODE}, too: whose namespace or cgroup?");
            findings.add(binding_origin(meta).error(message));
        }
        (None, Some(node)) if *node.value == *settings.node => {
            let message = format!("needs {NETWORK_NAMESPACE} or {CGROUP}, too, to have an effect");
            findings.add(node.origin.warning(message));
        }
        _ => {}
    }
    let enrolment = match wanted(meta, namespace) {
        Wanted::OptedOut => Enrolment::OptedOut,
        // A namespace's label alone does not make a machine elsewhere speak HBONE.
        Wanted::Yes if written.is_some() => Enrolment::Enrolled,
        _ if has_tunnel(meta) => Enrolment::Enrolled,
        _ => Enrolment::NotLabelled,
    };
    let on_host = matches!(written, Some(Binding::Cgroup(_)));
    let member = enrolment == Enrolment::Enrolled;
    Membership {
        binding: used(written, enrolment, meta, findings),
        enrolment,
        protocol: protocol((member && !on_host) || has_tunnel(meta)),
        udp: udp(meta, namespace, findings),
        existing: existing(meta, namespace, findings),
        same_node: same_node(meta, namespace, settings, findings),
        on_agent_down: on_agent_down(meta, namespace, findings),
    }
}

/// The node that a `WorkloadEntry` says it runs on.
pub(super) fn node_of(meta: &Meta) -> Option<Arc<str>> {
    let node = meta.annotations.get(NODE)?;
    Some(Arc::from(node.value.as_str()))
}

/// Where the binding was written, for mistakes about it.
pub(super) fn binding_origin(meta: &Meta) -> &Origin {
    let annotation = [NETWORK_NAMESPACE, CGROUP]
        .into_iter()
        .find_map(|key| meta.annotations.get(key));
    annotation.map_or(&meta.origin, |written| &written.origin)
}

/// What becomes of connections to what cannot prove an identity: as the workload says, else as
/// its namespace says; `None` if neither says anything.
pub(super) fn unknown_destinations(
    meta: &Meta,
    namespace: Option<&Meta>,
    findings: &mut Findings,
) -> Option<UnknownDestinations> {
    let choices = [
        ("passthrough", UnknownDestinations::Passthrough),
        ("refuse", UnknownDestinations::Refuse),
    ];
    chosen(UNKNOWN_DESTINATIONS, &choices, meta, namespace, findings)
}

/// What becomes of datagrams: as the workload says, else as its namespace says.
fn udp(meta: &Meta, namespace: Option<&Meta>, findings: &mut Findings) -> UdpRule {
    let choices = [
        ("allow", UdpRule::Allow),
        ("observe", UdpRule::Observe),
        ("deny-quic", UdpRule::DenyQuic),
        ("deny-except-dns", UdpRule::DenyExceptDns),
        ("deny", UdpRule::Deny),
    ];
    chosen(UDP, &choices, meta, namespace, findings).unwrap_or_default()
}

/// What becomes of connections from before the enrolment: as the workload says, else as its
/// namespace says.
fn existing(meta: &Meta, namespace: Option<&Meta>, findings: &mut Findings) -> ExistingConnections {
    let choices = [
        ("keep", ExistingConnections::Keep),
        ("reset", ExistingConnections::Reset),
    ];
    chosen(EXISTING, &choices, meta, namespace, findings).unwrap_or_default()
}

/// What becomes of its connections while the agent is down: as the workload says, else as its
/// namespace says.
fn on_agent_down(meta: &Meta, namespace: Option<&Meta>, findings: &mut Findings) -> OnAgentDown {
    let choices = [
        ("allow-plaintext", OnAgentDown::AllowPlaintext),
        ("refuse", OnAgentDown::Refuse),
    ];
    chosen(ON_AGENT_DOWN, &choices, meta, namespace, findings).unwrap_or_default()
}

/// How it is connected with others of its node: as the workload says, else as its namespace says,
/// else as the mesh is configured.
fn same_node(
    meta: &Meta,
    namespace: Option<&Meta>,
    settings: &MeshSettings,
    findings: &mut Findings,
) -> SameNode {
    let said_by = if meta.annotations.contains_key(SAME_NODE) {
        SaidBy::Workload
    } else {
        SaidBy::Namespace
    };
    let choices = [
        ("kernel", SameNode::Kernel),
        ("mtls", SameNode::Mtls(said_by)),
    ];
    chosen(SAME_NODE, &choices, meta, namespace, findings).unwrap_or(settings.same_node)
}

/// What the annotation `key` of the workload chooses, else its namespace's; `None` if neither says
/// anything. What is no choice is an error and means the last, the strictest.
fn chosen<T: Clone>(
    key: &str,
    choices: &[(&'static str, T)],
    meta: &Meta,
    namespace: Option<&Meta>,
    findings: &mut Findings,
) -> Option<T> {
    let on = |meta: &Meta| meta.annotations.get(key).cloned();
    let written = on(meta).or_else(|| on(namespace?))?;
    let value = written.value.as_str();
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == value) {
        return Some(choice.clone());
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let hint = nearest(value, words.iter().copied())
        .map(|word| format!("; did you mean {word}?"))
        .unwrap_or_default();
    let list = match words.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    };
    findings.add(written.origin.error(format!("must be {list}{hint}")));
    choices.last().map(|(_, strictest)| strictest.clone())
}

/// The pod's label beats the namespace's.
fn wanted(meta: &Meta, namespace: Option<&Meta>) -> Wanted {
    let mode = |meta: &Meta| match meta.labels.get(DATAPLANE_MODE).map(String::as_str) {
        Some("ambient") => Some(Wanted::Yes),
        Some("none") => Some(Wanted::OptedOut),
        _ => None,
    };
    match (mode(meta), namespace.and_then(mode)) {
        (Some(own), _) => own,
        (None, Some(Wanted::Yes)) => Wanted::Yes,
        (None, _) => Wanted::No,
    }
}

/// Istio takes an unknown value of the label for no label; somebody wanted something, though.
pub(super) fn report_unknown_mode(meta: &Meta, findings: &mut Findings) {
    let Some(mode) = meta.labels.get(DATAPLANE_MODE) else {
        return;
    };
    let known = ["ambient", "none"];
    if !known.contains(&mode.as_str()) {
        let hint = nearest(mode, known)
            .map(|word| format!("; did you mean {word}?"))
            .unwrap_or_default();
        let message = format!("the label {DATAPLANE_MODE} has no value {mode:?}{hint}");
        findings.add(meta.origin.warning(message));
    }
}

/// Whether something else than this product's labels says that it takes HBONE.
fn has_tunnel(meta: &Meta) -> bool {
    let redirected = meta.annotations.get(REDIRECTION);
    meta.labels
        .get(TUNNEL)
        .is_some_and(|tunnel| tunnel == "http")
        || redirected.is_some_and(|written| written.value == "enabled")
}

const fn protocol(tunnel: bool) -> TunnelProtocol {
    if tunnel {
        TunnelProtocol::Hbone
    } else {
        TunnelProtocol::None
    }
}

/// The binding, if the workload is enrolled; otherwise its author should know that it is unused.
fn used(
    binding: Option<Binding>,
    enrolment: Enrolment,
    meta: &Meta,
    findings: &mut Findings,
) -> Option<Binding> {
    if binding.is_some() && enrolment != Enrolment::Enrolled {
        findings.add(binding_origin(meta).warning(format!("has no effect: {enrolment}")));
    }
    binding.filter(|_| enrolment == Enrolment::Enrolled)
}

fn binding(meta: &Meta, findings: &mut Findings) -> Option<Binding> {
    let namespace = meta.annotations.get(NETWORK_NAMESPACE);
    let cgroup = meta.annotations.get(CGROUP);
    if let (Some(_), Some(cgroup)) = (namespace, cgroup) {
        let message = format!("cannot be together with {NETWORK_NAMESPACE}; remove one");
        findings.add(cgroup.origin.error(message));
    }
    match (namespace, cgroup) {
        (Some(written), _) => network_namespace(written, findings),
        (None, Some(written)) => cgroup_path(written, findings),
        (None, None) => None,
    }
}

fn network_namespace(written: &Written<String>, findings: &mut Findings) -> Option<Binding> {
    let text = written.value.as_str();
    let path = if text.starts_with('/') {
        PathBuf::from(text)
    } else {
        Path::new(NAMED_NAMESPACES).join(text)
    };
    let is_name = Path::new(text).components().count() == 1;
    let plain = path.components().all(|part| part != Component::ParentDir);
    if text.is_empty() || text == "." || !plain || !(is_name || text.starts_with('/')) {
        findings.add(written.origin.error(
            "must be the name of a network namespace (as in `ip netns`) or an absolute path",
        ));
        return None;
    }
    Some(Binding::NetworkNamespace(path))
}

fn cgroup_path(written: &Written<String>, findings: &mut Findings) -> Option<Binding> {
    let text = written.value.trim_matches('/');
    let path = Path::new(text);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if text.is_empty() || !plain {
        findings.add(written.origin.error(
            "must be the path of a cgroup below the root of cgroup2, such as \
             system.slice/web.service",
        ));
        return None;
    }
    Some(Binding::Cgroup(path.to_owned()))
}
