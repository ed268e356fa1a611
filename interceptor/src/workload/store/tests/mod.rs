//! Contradictions between objects, and enrolment.

mod capture;
mod changes;

use std::path::PathBuf;

use rstest::rstest;

use super::MeshSettings;
use crate::workload::fixtures::{good_mesh, mesh, mesh_with, shown, workload};
use crate::workload::{
    Binding, Enrolment, SaidBy, SameNode, TunnelProtocol, UdpRule, UnknownDestinations,
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
  annotations: {interceptor.dev/cgroup: ../x, interceptor.dev/unknown-destinations: refused, interceptor.dev/udp: block}
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
    demo.yaml:41:115: metadata.annotations["interceptor.dev/udp"]: must be allow, observe, deny-quic, deny-except-dns or deny
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

/// A policy whose name, namespace or all of `metadata` is wrong, and whose body is, too.
#[test]
fn a_wrong_name_does_not_hide_what_is_wrong_in_the_body() {
    let (_, mistakes) = mesh(
        "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: Upper, namespace: demo}
spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: x, namespace: De/mo}
spec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRICTT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: demo}
spec: {action: ALOW}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
spec: {action: DENI}
",
    );
    let told = shown(&mistakes).join("\n");
    for place in [
        "3:18", "4:45", "8:32", "9:56", "13:1", "14:16", "16:1", "18:16",
    ] {
        assert!(
            told.contains(&format!("demo.yaml:{place}: ")),
            "{place} in\n{told}"
        );
    }
    assert_eq!(mistakes.len(), 8, "{told}");
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
    let of = |id| workload(&mesh, id).unknown_destinations.clone();
    assert_eq!(of("demo/a"), UnknownDestinations::Refuse);
    assert_eq!(of("demo/b"), UnknownDestinations::Passthrough);
}

#[test]
fn the_workload_says_what_becomes_of_its_datagrams_else_its_namespace() {
    let namespace = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, annotations: {interceptor.dev/udp: deny-quic}}
";
    let own = "annotations: {interceptor.dev/udp: observe}";
    let (a, b) = (pod("a", "", "", ""), pod("b", own, "", ""));
    let mesh = good_mesh(&format!("{namespace}{a}{b}"));
    let of = |id| workload(&mesh, id).capture.udp;
    assert_eq!(of("demo/a"), UdpRule::DenyQuic);
    assert_eq!(of("demo/b"), UdpRule::Observe);
}

const OF_THE_MESH: SameNode = SameNode::Mtls(SaidBy::Mesh);

#[rstest]
#[case::nobody_says("", "", SameNode::Kernel, SameNode::Kernel)]
#[case::the_mesh("", "", OF_THE_MESH, OF_THE_MESH)]
#[case::the_namespace("mtls", "", SameNode::Kernel, SameNode::Mtls(SaidBy::Namespace))]
#[case::the_namespace_before_the_mesh("kernel", "", OF_THE_MESH, SameNode::Kernel)]
#[case::the_workload_before_all(
    "kernel",
    "mtls",
    SameNode::Kernel,
    SameNode::Mtls(SaidBy::Workload)
)]
#[case::the_workload_may_relax("mtls", "kernel", OF_THE_MESH, SameNode::Kernel)]
fn the_workload_says_how_it_is_connected_on_its_node_else_its_namespace_else_the_mesh(
    #[case] namespace: &str,
    #[case] own: &str,
    #[case] of_the_mesh: SameNode,
    #[case] expected: SameNode,
) {
    let annotation = |value: &str| match value {
        "" => String::new(),
        value => format!("annotations: {{interceptor.dev/same-node: {value}}}"),
    };
    let (of_namespace, pod) = (annotation(namespace), pod("a", &annotation(own), "", ""));
    let namespace = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: demo, {of_namespace}}}}}\n{pod}"
    );
    let settings = MeshSettings {
        same_node: of_the_mesh,
        ..MeshSettings::for_node("one")
    };
    let (mesh, _) = mesh_with(&namespace, &settings);
    assert_eq!(workload(&mesh, "demo/a").same_node, expected);
}

#[test]
fn what_is_no_way_to_be_connected_or_stands_among_the_labels_is_refused() {
    let wrong = pod(
        "a",
        "annotations: {interceptor.dev/same-node: plain}",
        "",
        "",
    );
    let misplaced = pod("b", "labels: {interceptor.dev/same-node: mtls}", "", "");
    let (_, mistakes) = mesh(&format!("{wrong}{misplaced}"));
    insta::assert_snapshot!(shown(&mistakes).join("\n"), @r#"
    demo.yaml:10:38: metadata.labels: interceptor.dev/same-node is an annotation: move it from labels to annotations
    demo.yaml:4:79: metadata.annotations["interceptor.dev/same-node"]: must be kernel or mtls
    "#);
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
