//! Contradictions between objects, enrolment, capture rules.

use std::path::PathBuf;

use rstest::rstest;

use super::MeshSettings;
use crate::workload::fixtures::{good_mesh, mesh, shown, workload};
use crate::workload::{
    Binding, CaptureRules, Enrolment, OutboundPort, PortSelection, TunnelProtocol,
    UnknownDestinations, Workload,
};

/// A Pod of namespace `demo`, which is enrolled.
fn pod(name: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: demo, {metadata}}}
spec: {{{spec}}}
status: {{{status}}}
"
    )
}

const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
";

const CONTRADICTIONS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambiant}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: demo}}
---
apiVersion: v1
kind: Pod
metadata:
  name: a
  namespace: demo
  labels: {istio.io/dataplane-mode: ambient, app: web}
  annotations: {interceptor.dev/network-namespace: web}
spec: {nodeName: one}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: b
  namespace: demo
  labels: {istio.io/dataplane-mode: ambient, app: web}
  annotations: {interceptor.dev/network-namespace: /run/netns/web}
spec:
  nodeName: one
  containers:
  - {name: x, ports: [{name: http, containerPort: 80}, {name: admin, containerPort: 81}]}
  - {name: y, ports: [{name: http, containerPort: 8080}]}
status: {podIP: '::ffff:10.0.0.1'}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: demo, labels: {istio.io/dataplane-mode: ambient}}
spec: {nodeName: one, serviceAccountName: a/b}
---
apiVersion: v1
kind: Pod
metadata:
  name: d
  namespace: demo
  annotations: {interceptor.dev/cgroup: ../x, interceptor.dev/unknown-destinations: refused}
spec: {nodeName: one}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: demo}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{port: 80, targetPort: http}, {port: 80, name: x, targetPort: admin}]
---
apiVersion: v1
kind: Service
metadata: {name: t, namespace: demo}
spec: {clusterIP: 10.96.0.1, selector: {app: wep}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: u, namespace: demo}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: demo}
spec:
  selector: {matchLabels: {app: wep}}
  rules:
  - from:
    - source:
        ipBlocks: [10.0.0.0/33]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: q, namespace: demo}
spec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: [grpc]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: old, namespace: demo, creationTimestamp: '2024-01-01T00:00:00Z'}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: new, namespace: demo, creationTimestamp: '2025-01-01T00:00:00Z'}
spec: {mtls: {mode: PERMISSIVE}}
";

#[test]
fn contradictions_name_both_places() {
    let (_, mistakes) = mesh(CONTRADICTIONS);
    insta::assert_snapshot!(shown(&mistakes).join("\n"), @r#"
    demo.yaml:3:18: warning: the label istio.io/dataplane-mode has no value "ambiant"; did you mean ambient?
    demo.yaml:5:52: Namespace demo is defined twice, also in demo.yaml:3; delete one
    demo.yaml:23:52: metadata.annotations["interceptor.dev/network-namespace"]: is also where demo/a is bound (demo.yaml:13); two workloads cannot share it
    demo.yaml:28:30: spec.containers[1].ports[0].name: the port name http means 80 and 8080 in one workload; rename one
    demo.yaml:29:17: status.podIP: 10.0.0.1 is also the address of demo/a (demo.yaml:15); correct one of them
    demo.yaml:33:18: warning: not captured: it is enrolled, but has no annotation interceptor.dev/network-namespace: connections to it are refused
    demo.yaml:34:43: spec.serviceAccountName: makes no identity: "a/b" is not a path segment (letters, digits, '.', '-', '_', not '.' or '..'); correct the service account's name
    demo.yaml:41:41: metadata.annotations["interceptor.dev/cgroup"]: must be the path of a cgroup below the root of cgroup2, such as system.slice/web.service
    demo.yaml:41:85: metadata.annotations["interceptor.dev/unknown-destinations"]: must be passthrough or refuse; did you mean refuse?
    demo.yaml:50:34: warning: spec.ports[0].targetPort: 1 of 2 selected workloads have no TCP port named "http": connections to port 80 never reach them
    demo.yaml:50:48: spec.ports[1].port: is there twice, first in line 50
    demo.yaml:50:73: warning: spec.ports[1].targetPort: 1 of 2 selected workloads have no TCP port named "admin": connections to port 80 never reach them
    demo.yaml:55:19: spec.clusterIP: 10.96.0.1 is also the address of service demo/s (demo.yaml:48); correct one of them
    demo.yaml:55:30: warning: spec.selector: selects no workload: connections to this Service are refused; compare it with the Pods' labels
    demo.yaml:60:1: warning: spec: without a selector this Service has no endpoints here: connections to it are refused
    demo.yaml:60:19: spec.clusterIP: 10.0.0.1 is also the address of workload demo/b; correct one of them
    demo.yaml:66:14: warning: spec.selector.matchLabels: selects no workload; compare it with the Pods' labels
    demo.yaml:70:20: spec.rules[0].from[0].source.ipBlocks[0]: "10.0.0.0/33" is neither an IP address nor a CIDR: write it as 10.0.0.1 or 10.0.0.0/8
    demo.yaml:75:80: warning: spec.rules[0].to[0].operation.ports[0]: never matches for demo/a, demo/b: no port there is named "grpc"
    demo.yaml:84:18: warning: has no effect: demo/old is older and holds for the same workloads
    "#);
}

const NETNS: &str = "interceptor.dev/network-namespace: web";

/// What is asked of enrolment: whether, where, how reached.
type Expected = (Enrolment, Option<Binding>, TunnelProtocol);

fn member(path: &str) -> Expected {
    let binding = Binding::NetworkNamespace(PathBuf::from(path));
    (Enrolment::Enrolled, Some(binding), TunnelProtocol::Hbone)
}

const fn outside(why: Enrolment) -> Expected {
    (why, None, TunnelProtocol::None)
}

#[rstest]
#[case::by_its_namespace("demo", "", NETNS, "nodeName: one", member("/run/netns/web"))]
#[case::by_its_own_label(
    "other",
    "istio.io/dataplane-mode: ambient",
    NETNS,
    "nodeName: one",
    member("/run/netns/web")
)]
#[case::bound_by_path(
    "demo",
    "",
    "interceptor.dev/network-namespace: /proc/7/ns/net",
    "nodeName: one",
    member("/proc/7/ns/net")
)]
#[case::opted_out(
    "demo",
    "istio.io/dataplane-mode: none",
    "",
    "nodeName: one",
    outside(Enrolment::OptedOut)
)]
#[case::not_labelled("other", "", "", "nodeName: one", outside(Enrolment::NotLabelled))]
#[case::has_a_sidecar(
    "demo",
    "",
    "sidecar.istio.io/status: injected",
    "nodeName: one",
    outside(Enrolment::Sidecar)
)]
#[case::on_the_hosts_network(
    "demo",
    "",
    "",
    "hostNetwork: true, nodeName: one",
    outside(Enrolment::HostNetwork)
)]
#[case::on_the_hosts_network_with_its_cgroup(
    "demo", "", "interceptor.dev/cgroup: /system.slice/web.service",
    "hostNetwork: true, nodeName: one",
    (
        Enrolment::Enrolled,
        Some(Binding::Cgroup(PathBuf::from("system.slice/web.service"))),
        TunnelProtocol::None
    )
)]
#[case::on_another_node_nothing_needs_to_be_bound(
    "demo", "", "", "nodeName: two", (Enrolment::Enrolled, None, TunnelProtocol::Hbone)
)]
#[case::speaks_hbone_itself(
    "other", "networking.istio.io/tunnel: http", "", "nodeName: one",
    (Enrolment::NotLabelled, None, TunnelProtocol::Hbone)
)]
#[case::captured_by_istios_own_agent(
    "other", "", "ambient.istio.io/redirection: enabled", "nodeName: two",
    (Enrolment::NotLabelled, None, TunnelProtocol::Hbone)
)]
fn pods_are_enrolled_by_label_and_bound_by_annotation(
    #[case] namespace: &str,
    #[case] label: &str,
    #[case] annotation: &str,
    #[case] spec: &str,
    #[case] expected: Expected,
) {
    let mesh = good_mesh(&format!(
        "{NAMESPACE}
---
apiVersion: v1
kind: Pod
metadata: {{name: a, namespace: {namespace}, labels: {{{label}}}, annotations: {{{annotation}}}}}
spec: {{{spec}}}
status: {{podIP: 10.0.0.1}}
"
    ));
    let found = workload(&mesh, &format!("{namespace}/a"));
    let captured = expected.1.is_some();
    assert_eq!(
        (found.enrolment, found.binding.clone(), found.protocol),
        expected
    );
    assert_eq!(mesh.local().count(), usize::from(captured));
    let here = spec.contains("nodeName: one");
    assert_eq!(mesh.unprotected().count(), usize::from(here && !captured));
}

#[test]
fn an_enrolled_pod_of_this_node_that_is_not_bound_is_reported_and_stays_closed() {
    let (mesh, mistakes) = mesh(&format!("{NAMESPACE}{}", pod("a", "", "nodeName: one", "")));
    assert_eq!(
        shown(&mistakes),
        [
            "demo.yaml:8:18: warning: not captured: it is enrolled, but has no annotation \
             interceptor.dev/network-namespace: connections to it are refused"
        ]
    );
    let found = workload(&mesh, "demo/a");
    assert_eq!(found.enrolment, Enrolment::Unbound);
    assert_eq!(found.protocol, TunnelProtocol::Hbone);
}

#[rstest]
#[case::tunnel_elsewhere(
    "networking.istio.io/tunnel: http", "",
    (Enrolment::Enrolled, None, TunnelProtocol::Hbone)
)]
#[case::a_namespaces_label_does_not_make_a_machine_speak_hbone(
    "",
    "",
    outside(Enrolment::NotLabelled)
)]
#[case::bound_on_this_node(
    "",
    "interceptor.dev/node: one, interceptor.dev/network-namespace: web",
    member("/run/netns/web")
)]
#[case::a_process_of_this_host(
    "", "interceptor.dev/node: one, interceptor.dev/cgroup: web.slice",
    (
        Enrolment::Enrolled,
        Some(Binding::Cgroup(PathBuf::from("web.slice"))),
        TunnelProtocol::None
    )
)]
fn workload_entries_are_enrolled_by_label_or_binding(
    #[case] label: &str,
    #[case] annotations: &str,
    #[case] expected: Expected,
) {
    let mesh = good_mesh(&format!(
        "{NAMESPACE}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: a, namespace: demo, labels: {{{label}}}, annotations: {{{annotations}}}}}
spec: {{address: 10.0.0.1, serviceAccount: vm}}
"
    ));
    let found = workload(&mesh, "demo/a");
    assert_eq!(
        (found.enrolment, found.binding.clone(), found.protocol),
        expected
    );
    assert_eq!(found.identity.principal(), "cluster.local/ns/demo/sa/vm");
}

#[test]
fn the_namespace_says_what_becomes_of_unknown_destinations_unless_the_workload_does() {
    let namespace = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, annotations: {interceptor.dev/unknown-destinations: refuse}}
";
    let own = "annotations: {interceptor.dev/unknown-destinations: passthrough}";
    let (a, b) = (pod("a", "", "", ""), pod("b", own, "", ""));
    let mesh = good_mesh(&format!("{namespace}{a}{b}"));
    let of = |id| workload(&mesh, id).unknown_destinations;
    assert_eq!(of("demo/a"), UnknownDestinations::Refuse);
    assert_eq!(of("demo/b"), UnknownDestinations::Passthrough);
}

/// A Pod with `annotations` beside a Service whose ports have names.
fn captured(annotations: &str) -> (Workload, Vec<String>) {
    let (mesh, mistakes) = mesh(&format!(
        "{}{}---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: demo}}
spec:
  clusterIP: 10.96.0.1
  selector: {{app: db}}
  ports: [{{name: mysql, port: 3306, targetPort: sql}}]
",
        pod(
            "a",
            &format!("annotations: {{{annotations}}}"),
            "containers: [{name: a, ports: [{name: http, containerPort: 8080}]}]",
            ""
        ),
        pod(
            "db",
            "labels: {app: db}",
            "containers: [{name: a, ports: [{name: sql, containerPort: 33060}]}]",
            "podIP: 10.0.0.9"
        ),
    ));
    (Workload::clone(workload(&mesh, "demo/a")), shown(&mistakes))
}

/// What is captured of a workload without annotations.
fn everything() -> CaptureRules {
    CaptureRules {
        inbound: PortSelection::AllExcept(vec![15020, 15021, 15090]),
        ..CaptureRules::default()
    }
}

const T: &str = "traffic.sidecar.istio.io/";

#[rstest]
#[case::nothing_said("", everything())]
#[case::excluded_inbound_by_number_and_name(
    "excludeInboundPorts: '9090, http'",
    CaptureRules {
        inbound: PortSelection::AllExcept(vec![8080, 9090, 15020, 15021, 15090]),
        ..everything()
    }
)]
#[case::included_inbound_beats_excluded(
    "includeInboundPorts: 'http,9090'",
    CaptureRules { inbound: PortSelection::Only(vec![8080, 9090]), ..everything() }
)]
#[case::included_inbound_star_is_all("includeInboundPorts: '*'", everything())]
#[case::included_inbound_empty_is_none(
    "includeInboundPorts: ''",
    CaptureRules { inbound: PortSelection::Only(vec![]), ..everything() }
)]
#[case::excluded_outbound_by_number_and_name(
    "excludeOutboundPorts: '443,mysql'",
    CaptureRules {
        excluded_outbound_ports: vec![
            OutboundPort::Number(443),
            OutboundPort::Named {
                name: "mysql".to_owned(),
                endpoints: vec![
                    "10.0.0.9:33060".parse().unwrap(),
                    "10.96.0.1:3306".parse().unwrap(),
                ],
            },
        ],
        ..everything()
    }
)]
#[case::excluded_ranges_in_canonical_form(
    "excludeOutboundIPRanges: '10.1.2.3/8, ::1, 192.0.2.1'",
    CaptureRules {
        excluded_outbound_ranges: vec![
            "10.0.0.0/8".parse().unwrap(),
            "::1/128".parse().unwrap(),
            "192.0.2.1/32".parse().unwrap(),
        ],
        ..everything()
    }
)]
#[case::included_ranges(
    "includeOutboundIPRanges: 10.0.0.0/8",
    CaptureRules {
        included_outbound_ranges: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        ..everything()
    }
)]
#[case::included_ranges_empty_leave_the_included_ports(
    "includeOutboundPorts: '80', T-includeOutboundIPRanges: ''",
    CaptureRules {
        included_outbound_ports: vec![OutboundPort::Number(80)],
        included_outbound_ranges: Some(vec![]),
        ..everything()
    }
)]
#[case::included_ports_star_beat_the_ranges(
    "includeOutboundPorts: '*', T-includeOutboundIPRanges: ''",
    everything()
)]
fn capture_annotations_mean_what_they_mean_to_istio(
    #[case] annotations: &str,
    #[case] expected: CaptureRules,
) {
    let annotations = match annotations {
        "" => String::new(),
        some => format!("{T}{}", some.replace("T-", T)),
    };
    let (workload, mistakes) = captured(&annotations);
    assert_eq!(mistakes, Vec::<String>::new());
    assert_eq!(workload.capture, expected);
}

#[rstest]
#[case::a_port_that_is_none(
    "excludeInboundPorts: '80,0'",
    "\"0\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::an_empty_element(
    "excludeOutboundPorts: '80,,81'",
    "\"\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::a_star_among_ports(
    "excludeOutboundPorts: '*'",
    "\"*\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::a_range_of_ports(
    "excludeOutboundPorts: '80-90'",
    "\"80-90\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::a_name_that_the_workload_does_not_have(
    "excludeInboundPorts: grpc",
    "the workload has no port named \"grpc\" (it has: http)"
)]
#[case::a_name_that_no_service_has(
    "excludeOutboundPorts: redis",
    "warning: no Service of the mesh has a port named \"redis\""
)]
#[case::a_range_that_is_none(
    "includeOutboundIPRanges: '10.0.0.0/33'",
    "\"10.0.0.0/33\" is not an address or a range such as 10.0.0.0/8"
)]
#[case::excluding_everything(
    "excludeOutboundIPRanges: '*'",
    "cannot be *; to capture nothing, write \
     traffic.sidecar.istio.io/includeOutboundIPRanges: \"\""
)]
#[case::a_typo(
    "excludeInboundPort: '80'",
    "unknown annotation; did you mean traffic.sidecar.istio.io/excludeInboundPorts?"
)]
#[case::what_has_no_meaning_here(
    "excludeInterfaces: eth1",
    "warning: has no effect: sockets are captured, not interfaces"
)]
fn wrong_capture_annotations_are_reported(#[case] annotation: &str, #[case] message: &str) {
    let (_, mistakes) = captured(&format!("{T}{annotation}"));
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    let (warning, message) = match message.strip_prefix("warning: ") {
        Some(message) => ("warning: ", message),
        None => ("", message),
    };
    assert!(
        mistakes[0].contains(&format!(": {warning}metadata.annotations")),
        "{mistakes:?}"
    );
    assert!(
        mistakes[0].ends_with(&format!("\"]: {message}")),
        "{mistakes:?}"
    );
}

#[test]
fn finished_pods_are_not_part_of_the_mesh() {
    let done = pod("done", "", "", "phase: Succeeded, podIP: 10.0.0.1");
    let next = pod("next", "", "", "podIP: 10.0.0.1");
    let mesh = good_mesh(&format!("{done}{next}"));
    assert_eq!(mesh.workloads().count(), 1);
    let at = mesh.workload_at([10, 0, 0, 1].into()).unwrap();
    assert_eq!(&*at.id.name, "next");
}

#[test]
fn an_empty_mesh_knows_nothing() {
    let mesh = super::Mesh::empty(MeshSettings::for_node("one"));
    assert_eq!(mesh.version(), 0);
    assert_eq!(mesh.local().count(), 0);
    assert!(mesh.workload_at([10, 0, 0, 1].into()).is_none());
    assert!(mesh.service("demo", "web").is_none());
}
