//! STRICT with traffic that bypasses it, and modes that contradict policies.

use std::collections::{BTreeMap, BTreeSet};

use interceptor_policy::{MtlsMode, PlaintextAt, PolicyName};

use super::super::catalogue::{
    MODE_CONTRADICTION, STRICT_NOT_CAPTURED, STRICT_NOT_ENROLLED, STRICT_REFUSES, STRICT_UDP,
    STRICT_WITHOUT_AGENT,
};
use super::super::finding::{Findings, Place};
use super::super::model::{Known, Membership, Model, several};
use super::in_modes;
use crate::workload::objects::{Meta, PeerAuthentication};
use crate::workload::{Enrolment, OnAgentDown, PortSelection, UdpRule, WorkloadId};

const INCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/includeInboundPorts";
const ON_AGENT_DOWN: &str = "interceptor.dev/on-agent-down";
const EXCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
/// The port of HTTP over UDP.
const QUIC: u16 = 443;
/// Istio's own, never captured.
const ALWAYS_EXCLUDED: [u16; 3] = [15020, 15021, 15090];

/// For each `PeerAuthentication`: workloads where it is STRICT and nothing enforces it, and
/// neighbours that cannot call where it is enforced.
#[derive(Default)]
struct Reach<'m> {
    unenforced: Vec<&'m WorkloadId>,
    enforced: BTreeSet<&'m str>,
}

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let mut reach: BTreeMap<&PolicyName, Reach<'_>> = BTreeMap::new();
    for known in &model.workloads {
        let strict = known.ports.iter().chain([&0]);
        let strict = strict.map(|port| known.effective.mtls(*port));
        let strict: Vec<_> = strict
            .filter(|mtls| mtls.mode == MtlsMode::Strict)
            .collect();
        for name in strict.iter().filter_map(|mtls| mtls.origin.policy()) {
            let reach = reach.entry(name).or_default();
            let id = &known.workload.id;
            match model.membership(known) {
                Membership::Member => drop(reach.enforced.insert(&id.namespace)),
                Membership::Outside if reach.unenforced.last() != Some(&id) => {
                    reach.unenforced.push(id);
                }
                Membership::Outside | Membership::Unknown => {}
            }
        }
        if model.membership(known) != Membership::Outside && !strict.is_empty() {
            not_captured(known, findings);
            udp(known, findings);
            without_agent(model, known, findings);
        }
        if model.may_enforce(known) {
            contradictions(model, known, findings);
        }
    }
    let mut outside: BTreeMap<&str, Vec<&WorkloadId>> = BTreeMap::new();
    for known in &model.workloads {
        if model.membership(known) == Membership::Outside {
            let id = &known.workload.id;
            outside.entry(&id.namespace).or_default().push(id);
        }
    }
    for (name, reach) in &reach {
        if let Some(object) = model.modes(name) {
            report_reach(model, object, reach, &outside, findings);
        }
    }
}

/// Ports that are STRICT, and that an annotation keeps the agent away from.
fn not_captured(known: &Known<'_>, findings: &mut Findings) {
    let workload = &known.workload;
    let (annotation, ports): (&str, Vec<u16>) = match &workload.capture.inbound {
        PortSelection::AllExcept(ports) => {
            let own = ports.iter().filter(|port| !ALWAYS_EXCLUDED.contains(port));
            (EXCLUDE_INBOUND, own.copied().collect())
        }
        PortSelection::Only(ports) => {
            let left_out = known.ports.iter().filter(|port| !ports.contains(port));
            (INCLUDE_INBOUND, left_out.copied().collect())
        }
    };
    let strict = |port: &u16| known.effective.mtls(*port).mode == MtlsMode::Strict;
    let ports: Vec<u16> = ports.into_iter().filter(strict).collect();
    let Some(first) = ports.first() else {
        return;
    };
    let Some((meta, kind)) = known.template.map(|t| (&t.pod.meta, t.kind.as_str())) else {
        return;
    };
    let mode = known.effective.mtls(*first);
    findings.add(
        &STRICT_NOT_CAPTURED,
        &at_annotation(kind, meta, annotation),
        format!(
            "plaintext reaches {} of {} although it is STRICT ({}): it is not captured",
            match ports.as_slice() {
                [one] => format!("port {one}"),
                many => format!("ports {}", several(many)),
            },
            workload.id,
            mode.origin
        ),
        "take it out of the annotation, or make the exception visible with portLevelMtls",
    );
}

pub(super) fn at_annotation(kind: &str, meta: &Meta, annotation: &str) -> Place {
    let written = meta.annotations.get(annotation);
    let origin = written.map_or(&meta.origin, |written| &written.origin);
    Place::at(kind, meta, origin)
}

fn udp(known: &Known<'_>, findings: &mut Findings) {
    let Some(template) = known.template else {
        return;
    };
    let refused = |port: u16| match known.workload.capture.udp {
        UdpRule::Allow | UdpRule::Observe => false,
        UdpRule::DenyQuic => port == QUIC,
        UdpRule::DenyExceptDns | UdpRule::Deny => true,
    };
    let mut open = template.declared.iter();
    let Some(port) = open.find(|port| port.udp && !refused(port.number)) else {
        return;
    };
    findings.add(
        &STRICT_UDP,
        &Place::at(&template.kind, &template.pod.meta, &port.origin),
        format!(
            "UDP port {} of {} takes traffic without mutual TLS and policy, although the workload is STRICT",
            port.number, known.workload.id
        ),
        "refuse it with the annotation interceptor.dev/udp: deny, or serve over TCP",
    );
}

/// STRICT that ends with the agent.
fn without_agent(model: &Model<'_>, known: &Known<'_>, findings: &mut Findings) {
    let id = &known.workload.id;
    if known.workload.capture.on_agent_down != OnAgentDown::AllowPlaintext {
        return;
    }
    let own = known.template.map(|it| (it.kind.as_str(), &it.pod.meta));
    let own = own.filter(|(_, meta)| meta.annotations.contains_key(ON_AGENT_DOWN));
    let namespace = model.namespaces.get(&*id.namespace);
    let Some((kind, meta)) = own.or_else(|| Some(("Namespace", *namespace?))) else {
        return;
    };
    findings.add(
        &STRICT_WITHOUT_AGENT,
        &at_annotation(kind, meta, ON_AGENT_DOWN),
        format!("{id} is STRICT, but takes and sends plaintext while the agent is down"),
        "use refuse, the default, or PERMISSIVE if plaintext is acceptable",
    );
}

/// DISABLE is for callers in plaintext; ALLOW policies that all ask for an identity refuse them.
fn contradictions(model: &Model<'_>, known: &Known<'_>, findings: &mut Findings) {
    let mut reported = BTreeSet::new();
    for port in &known.ports {
        let mtls = known.effective.mtls(*port);
        let Some(name) = mtls.origin.policy() else {
            continue;
        };
        if mtls.mode != MtlsMode::Disable || reported.contains(name) {
            continue;
        }
        let refused = model.plaintext_at(known, *port);
        let (Some(PlaintextAt::RefusedByPolicy(policies)), Some(object)) =
            (refused, model.modes(name))
        else {
            continue;
        };
        reported.insert(name);
        findings.add(
            &MODE_CONTRADICTION,
            &in_modes(object, "spec"),
            format!(
                "DISABLE is for callers in plaintext, and {} refuses them at port {port} of {}: only who comes \
                 with mutual TLS all the same gets through, and behind Istio's sidecars nobody does",
                several(&policies),
                known.workload.id
            ),
            "change the mode to PERMISSIVE or STRICT, or allow by address",
        );
    }
}

fn report_reach(
    model: &Model<'_>,
    object: &PeerAuthentication,
    reach: &Reach<'_>,
    outside: &BTreeMap<&str, Vec<&WorkloadId>>,
    findings: &mut Findings,
) {
    let place = in_modes(object, "spec");
    let enrol = |who: &[&WorkloadId]| {
        let of = |id: &WorkloadId| model.known(id).map(|known| known.workload.enrolment);
        match who.first().and_then(|id| of(id)) {
            Some(Enrolment::OptedOut) => "remove their label istio.io/dataplane-mode=none",
            Some(Enrolment::HostNetwork) => {
                "give them a network of their own, or name their cgroup with interceptor.dev/cgroup"
            }
            _ => "label the namespace istio.io/dataplane-mode=ambient",
        }
    };
    if !reach.unenforced.is_empty() {
        findings.add(
            &STRICT_NOT_ENROLLED,
            &place,
            format!(
                "STRICT is not enforced for {}: {} not enrolled, so plaintext reaches {}",
                several(&reach.unenforced),
                if reach.unenforced.len() == 1 {
                    "it is"
                } else {
                    "they are"
                },
                if reach.unenforced.len() == 1 {
                    "it"
                } else {
                    "them"
                },
            ),
            format!("enrol: {}", enrol(&reach.unenforced)),
        );
    }
    let own = reach.enforced.iter().filter_map(|own| outside.get(own));
    let outside: Vec<&WorkloadId> = own.flatten().copied().collect();
    if !outside.is_empty() {
        findings.add(
            &STRICT_REFUSES,
            &place,
            format!(
                "STRICT refuses calls from {}: not enrolled, so without an identity",
                several(&outside)
            ),
            format!(
                "enrol the callers ({}), or make the ports that they call PERMISSIVE",
                enrol(&outside)
            ),
        );
    }
}
