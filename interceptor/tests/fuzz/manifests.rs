//! From bytes to a mesh: the reader, the objects, the compiler of policies and the decisions.

use std::net::SocketAddr;
use std::sync::Arc;

use interceptor::decide::{self, Outbound};
use interceptor::workload::objects::Objects;
use interceptor::workload::{Mesh, MeshSettings};
use interceptor::yaml::{self, Limits, Mistake, Report};
use interceptor_policy::Attempt;

use crate::engine::{Features, Target, feature, skeleton};

pub(crate) const TARGET: Target = Target {
    name: "manifests",
    run,
    words: &[
        "\n---\n",
        "&a ",
        "*a",
        "<<: *a\n",
        "!!binary ",
        "!!str ",
        "{",
        "}",
        "[",
        "]",
        "- ",
        ": ",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "#",
        "? ",
        "%YAML 1.2\n",
        "\u{feff}",
        "\t",
        "\0",
        "~",
        "null",
        "true",
        "0x1f",
        "1e309",
        "-1",
        "65536",
        "18446744073709551616",
        "*",
        "::",
        "0.0.0.0/0",
        "10.0.0.0/33",
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "Pod",
        "Service",
        "Namespace",
        "AuthorizationPolicy",
        "PeerAuthentication",
        "WorkloadEntry",
        "ServiceEntry",
        "Sidecar",
        "List",
        "items",
        "selector",
        "matchLabels",
        "targetRefs",
        "action",
        "ALLOW",
        "DENY",
        "AUDIT",
        "CUSTOM",
        "rules",
        "from",
        "source",
        "principals",
        "notPrincipals",
        "namespaces",
        "ipBlocks",
        "to",
        "operation",
        "ports",
        "notPorts",
        "methods",
        "when",
        "key",
        "values",
        "notValues",
        "source.principal",
        "destination.port",
        "request.headers[x]",
        "mtls",
        "mode",
        "STRICT",
        "portLevelMtls",
        "istio.io/dry-run",
        "istio.io/dataplane-mode",
        "ambient",
        "podIP",
        "nodeName",
        "clusterIP",
        "targetPort",
        "hostNetwork",
        "interceptor.dev/network-namespace",
        "traffic.sidecar.istio.io/excludeInboundPorts",
    ],
};

/// How long a message may be that a person reads in one line.
const LONGEST: usize = 4096;

fn run(input: &[u8]) -> Features {
    let limits = Limits {
        bytes: 64 * 1024,
        nodes: 20_000,
        aliased: 2_000,
        ..Limits::default()
    };
    let file: Arc<str> = Arc::from("input.yaml");
    let report = Report::default();
    let mut objects = Objects::default();
    for document in yaml::parse_bytes(&file, input, &limits, &report) {
        objects.read(&document, &report);
    }
    let (mesh, found) = Mesh::build(&objects, &MeshSettings::for_node("one"));
    let mut mistakes = report.into_mistakes();
    mistakes.extend(found);
    for mistake in &mistakes {
        readable(mistake);
    }
    let mut features = Features::new();
    features.extend(
        mistakes
            .iter()
            .map(|mistake| feature((mistake.severity, skeleton(&mistake.message)))),
    );
    if !mistakes.iter().any(Mistake::is_error) {
        features.extend(decisions(&mesh));
    }
    features
}

/// A finding is one line that does not surprise a terminal.
fn readable(mistake: &Mistake) {
    let text = mistake.to_string();
    assert!(text.len() <= LONGEST, "a finding of {} bytes", text.len());
    assert!(
        !text.chars().any(char::is_control),
        "a finding with control characters: {text:?}"
    );
}

/// Every workload calls every address that there is, and each answer can be explained.
fn decisions(mesh: &Mesh) -> Features {
    let mut features = Features::new();
    let workloads = || mesh.workloads().take(6);
    for source in workloads() {
        let services = mesh.services().take(4).flat_map(|service| {
            let ports = service.ports.iter().map(|port| port.port);
            let address = service.addresses.first().copied();
            ports.filter_map(move |port| Some(SocketAddr::new(address?, port)))
        });
        for to in services {
            let outbound = decide::outbound(mesh, source, to, 7);
            features.insert(feature(match &outbound {
                Outbound::Tunnel(_) => "tunnel",
                Outbound::Passthrough { why, .. } => why.reason().as_str(),
                Outbound::Refuse(refusal) => refusal.reason().as_str(),
            }));
        }
        for destination in workloads() {
            let address = destination.addresses.first().copied();
            for identity in [None, Some(&source.identity)] {
                let attempt = Attempt {
                    source: identity,
                    source_ip: source
                        .addresses
                        .first()
                        .copied()
                        .unwrap_or([192, 0, 2, 1].into()),
                    destination_ip: address.unwrap_or([192, 0, 2, 2].into()),
                    destination_port: destination.ports.values().next().copied().unwrap_or(80),
                };
                let verdict = decide::inbound(mesh, destination, attempt);
                assert_eq!(
                    verdict,
                    mesh.policies(destination).explain(&attempt).verdict
                );
                features.insert(feature(verdict.reason()));
            }
        }
    }
    features
}
