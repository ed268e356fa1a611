//! Capture annotations that cancel each other out, or leave nothing to capture.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::super::catalogue::{CAPTURE_CANCELS, CAPTURE_NOTHING};
use super::super::finding::Findings;
use super::super::model::Model;
use super::strict::at_annotation;
use crate::workload::objects::{Meta, Written};

const PREFIX: &str = "traffic.sidecar.istio.io/";

/// The annotations of one object.
struct Annotations<'m>(&'m BTreeMap<String, Written<String>>);

impl<'m> Annotations<'m> {
    fn get(&self, name: &str) -> Option<&'m str> {
        let written = self.0.get(&format!("{PREFIX}{name}"))?;
        Some(written.value.trim())
    }

    /// The elements of a list; none for `*`.
    fn words(&self, name: &str) -> Vec<&'m str> {
        let text = self
            .get(name)
            .filter(|text| *text != "*")
            .unwrap_or_default();
        let words = text.split(',').map(str::trim);
        words.filter(|word| !word.is_empty()).collect()
    }

    fn ranges(&self, name: &str) -> Vec<IpNet> {
        let words = self.words(name).into_iter();
        words
            .filter_map(|word| {
                let single = || word.parse::<std::net::IpAddr>().ok().map(IpNet::from);
                word.parse::<IpNet>().ok().or_else(single)
            })
            .collect()
    }
}

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    for known in &model.workloads {
        if let Some(template) = known.template {
            annotations(&template.kind, &template.pod.meta, findings);
        }
    }
    for entry in &model.objects.workload_entries {
        annotations("WorkloadEntry", &entry.meta, findings);
    }
}

fn annotations(kind: &str, meta: &Meta, findings: &mut Findings) {
    let all = Annotations(&meta.annotations);
    let mut cancels = |name: &str, effect: String, fix: &str| {
        let place = at_annotation(kind, meta, &format!("{PREFIX}{name}"));
        findings.add(&CAPTURE_CANCELS, &place, effect, fix);
    };
    let included = all.get("includeInboundPorts").filter(|text| *text != "*");
    if included.is_some() && all.get("excludeInboundPorts").is_some() {
        cancels(
            "excludeInboundPorts",
            "has no effect: includeInboundPorts lists the ports that are captured, and only those are".into(),
            "remove one of the two",
        );
    }
    let excluded = all.words("excludeOutboundPorts");
    let included = all.words("includeOutboundPorts").into_iter();
    for port in included.filter(|port| excluded.contains(port)) {
        cancels(
            "includeOutboundPorts",
            format!("does not capture port {port}: excludeOutboundPorts has it, too, and wins"),
            "take the port out of one of the two",
        );
    }
    if all.get("includeOutboundPorts") == Some("*")
        && !all.words("includeOutboundIPRanges").is_empty()
    {
        cancels(
            "includeOutboundIPRanges",
            "has no effect: includeOutboundPorts is *, which captures every port at every address"
                .into(),
            "remove one of the two",
        );
    }
    let excluded = all.ranges("excludeOutboundIPRanges");
    for range in all.ranges("includeOutboundIPRanges") {
        if let Some(by) = excluded.iter().find(|excluded| excluded.contains(&range)) {
            cancels(
                "includeOutboundIPRanges",
                format!(
                    "does not capture {range}: excludeOutboundIPRanges has {by}, which covers it and wins"
                ),
                "take the range out of one of the two",
            );
        }
    }
    nothing(kind, meta, &all, findings);
}

/// One direction in which nothing is left.
fn nothing(kind: &str, meta: &Meta, all: &Annotations<'_>, findings: &mut Findings) {
    let mut report = |name: &str, effect: &str| {
        let place = at_annotation(kind, meta, &format!("{PREFIX}{name}"));
        let fix = "remove the annotation, or opt out visibly with istio.io/dataplane-mode=none";
        findings.add(&CAPTURE_NOTHING, &place, effect, fix);
    };
    if all.get("includeInboundPorts") == Some("") {
        report(
            "includeInboundPorts",
            "nothing inbound is captured: callers reach the application without identity and policy",
        );
    }
    let ports = all.get("includeOutboundPorts").unwrap_or_default();
    if all.get("includeOutboundIPRanges") == Some("") && ports.is_empty() {
        report(
            "includeOutboundIPRanges",
            "nothing outbound is captured: the workload calls in plaintext and without an identity",
        );
    }
    let everything: Vec<IpNet> = all.ranges("excludeOutboundIPRanges");
    if everything.iter().any(|range| range.prefix_len() == 0) {
        report(
            "excludeOutboundIPRanges",
            "nothing outbound of this address family is captured: the workload calls in plaintext",
        );
    }
}
