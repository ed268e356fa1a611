//! What operators read about configuration, made from real manifests.

use super::*;
use crate::workload::source::directory::load_mesh;
use crate::workload::{MeshSettings, WorkloadId};
use rstest::rstest;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  name: server
  namespace: demo
  annotations:
    interceptor.dev/network-namespace: server
    traffic.sidecar.istio.io/excludeInboundPorts: "9090"
    traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.9.0.0/16
spec:
  nodeName: one
  containers:
  - name: app
    ports: [{name: web, containerPort: 8080}, {name: old, containerPort: 8081}]
status: {podIP: 10.1.0.3, phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: batch, namespace: demo, labels: {istio.io/dataplane-mode: none}}
spec: {nodeName: one, containers: [{name: app}]}
status: {podIP: 10.1.0.4, phase: Running}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: demo}
spec:
  selector: {matchLabels: {}}
  mtls: {mode: STRICT}
"#;

fn mesh(manifests: &str) -> Mesh {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), manifests).unwrap();
    load_mesh(folder.path(), &MeshSettings::for_node("one"))
        .unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
        .0
}

fn lines(entries: &[Unprotected]) -> Vec<String> {
    let line = |e: &Unprotected| format!("{}: {}: {}", e.subject, e.what, e.why);
    entries.iter().map(line).collect()
}

#[test]
fn what_is_not_protected_by_configuration_is_listed_with_its_reason() {
    let manifests = MANIFESTS.replace("  selector: {matchLabels: {}}\n", "");
    assert_eq!(
        lines(&Unprotected::by_configuration(&mesh(&manifests))),
        [
            "demo/batch: everything: not enrolled: it has the label \
             istio.io/dataplane-mode=none",
            "demo/server: inbound ports 9090: annotation \
             traffic.sidecar.istio.io/excludeInboundPorts",
            "demo/server: outbound to 10.9.0.0/16: annotation \
             traffic.sidecar.istio.io/excludeOutboundIPRanges",
            "demo/server: UDP: no tunnel carries it; annotation interceptor.dev/udp can refuse it",
        ]
    );
}

#[rstest]
#[case::refused("deny", "deny", None)]
#[case::in_part(
    "deny-quic",
    "deny",
    Some("demo/server: UDP: annotation interceptor.dev/udp: deny-quic of demo/server")
)]
#[case::several(
    "observe",
    "allow",
    Some("2 workloads: UDP: annotation interceptor.dev/udp: observe of demo/server")
)]
fn udp_that_leaves_is_one_line(
    #[case] server: &str,
    #[case] batch: &str,
    #[case] expected: Option<&str>,
) {
    let entries = lines(&Unprotected::by_configuration(&mesh(&with_udp(
        server, batch,
    ))));
    let udp: Vec<_> = entries.iter().filter(|it| it.contains(": UDP: ")).collect();
    assert_eq!(udp, expected.as_slice());
}

#[rstest]
#[case::nobody_refuses("observe", "allow", None)]
#[case::one("deny-quic", "allow", Some("demo/server"))]
#[case::several("deny-quic", "deny", Some("2 workloads"))]
fn what_goes_past_a_rule_for_udp_is_one_line(
    #[case] server: &str,
    #[case] batch: &str,
    #[case] subject: Option<&str>,
) {
    let entries = lines(&Unprotected::by_configuration(&mesh(&with_udp(
        server, batch,
    ))));
    let found: Vec<_> = entries
        .iter()
        .filter(|it| it.contains("UDP that is"))
        .collect();
    let expected = subject.map(|it| {
        format!(
            "{it}: UDP that is refused: sockets that were connected before the rule go on, and \
             CAP_NET_RAW sends past it"
        )
    });
    assert_eq!(found, expected.iter().collect::<Vec<_>>());
}

/// The manifests with these rules for UDP.
fn with_udp(server: &str, batch: &str) -> String {
    MANIFESTS
        .replace("  annotations:\n", &format!("  annotations:\n    interceptor.dev/udp: {server}\n"))
        .replace(
            "labels: {istio.io/dataplane-mode: none}",
            &format!("annotations: {{interceptor.dev/udp: {batch}, interceptor.dev/network-namespace: batch}}"),
        )
}

#[test]
fn udp_that_arrives_at_the_hosts_ports_is_listed() {
    let manifests = MANIFESTS.replace(
        "    interceptor.dev/network-namespace: server\n",
        "    interceptor.dev/cgroup: a.slice/b.service\n    interceptor.dev/udp: deny\n",
    );
    let manifests = manifests.replace("  containers:\n", "  hostNetwork: true\n  containers:\n");
    let entries = lines(&Unprotected::by_configuration(&mesh(&manifests)));
    assert!(
        entries.contains(
            &"demo/server: UDP that arrives: a port of the host's network is the host's; \
              interceptor.dev/udp is for what leaves"
                .to_owned()
        ),
        "{entries:#?}"
    );
}

/// An enrolled workload with all that may be missing from its protection, or none of it.
fn enrolled(unguarded: Vec<capture::Unguarded>, older: u16) -> capture::WorkloadStatus {
    let older = (0..older).map(|number| {
        let local = SocketAddr::from(([10, 1, 0, 3], 40_000 + number));
        (local, SocketAddr::from(([10, 1, 0, 9], 5432)))
    });
    capture::WorkloadStatus {
        id: WorkloadId {
            namespace: "demo".into(),
            name: "server".into(),
        },
        key: 7,
        addresses: Vec::new(),
        unguarded,
        unserved: None,
        older: older.collect(),
    }
}

#[test]
fn each_interface_without_a_guard_is_listed_with_its_reason() {
    let unguarded = |interface: &str, why| capture::Unguarded {
        interface: interface.to_owned(),
        why,
    };
    let workload = enrolled(
        vec![
            unguarded("net1", "it has no other end in the host's network"),
            unguarded("net2", "the kernel has no tcx"),
        ],
        0,
    );
    assert_eq!(
        lines(&Unprotected::by_interfaces(&workload)),
        [
            "demo/server: packet sockets, interface net1: it has no other end in the host's network",
            "demo/server: packet sockets, interface net2: the kernel has no tcx",
        ]
    );
    assert_eq!(Unprotected::by_interfaces(&enrolled(Vec::new(), 0)), []);
}

#[rstest]
#[case::none(0, None)]
#[case::one(1, Some("10.1.0.3:40000 with 10.1.0.9:5432"))]
#[case::more_than_are_shown(
    5,
    Some(
        "10.1.0.3:40000 with 10.1.0.9:5432, 10.1.0.3:40001 with 10.1.0.9:5432, \
         10.1.0.3:40002 with 10.1.0.9:5432 and 2 more"
    )
)]
fn connections_from_before_the_enrolment_are_listed(
    #[case] older: u16,
    #[case] expected: Option<&str>,
) {
    let entry = Unprotected::by_age(&enrolled(Vec::new(), older));
    let expected = expected.map(|which| {
        format!(
            "demo/server: connections from before it was enrolled: \
             interceptor.dev/existing-connections is not reset: {which}"
        )
    });
    assert_eq!(lines(entry.as_slice()), expected.as_slice());
    let connections = entry.and_then(|it| it.connections);
    assert_eq!(connections, (older > 0).then_some(older.into()));
}

#[test]
fn plaintext_that_is_accepted_names_the_object_that_says_so() {
    let without = MANIFESTS.rsplit_once("---").unwrap().0;
    let entries = lines(&Unprotected::by_configuration(&mesh(without)));
    assert!(
        entries.contains(
            &"demo/server: inbound in plaintext: PERMISSIVE is the default without a \
          PeerAuthentication"
                .to_owned()
        )
    );
    let by_port = format!(
        "{without}---\n\
         apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: web, namespace: demo}}\nspec:\n  \
         selector: {{matchLabels: {{app: server}}}}\n  mtls: {{mode: STRICT}}\n  \
         portLevelMtls: {{8081: {{mode: DISABLE}}}}\n"
    )
    .replace(
        "  name: server\n",
        "  name: server\n  labels: {app: server}\n",
    );
    let entries = lines(&Unprotected::by_configuration(&mesh(&by_port)));
    assert!(
        entries.contains(
            &"demo/server: inbound in plaintext on port 8081 (old): PeerAuthentication \
              demo/web says DISABLE"
                .to_owned()
        ),
        "{entries:#?}"
    );
}

#[test]
fn capture_rules_read_like_sentences() {
    let mesh = mesh(MANIFESTS.rsplit_once("---").unwrap().0);
    let server = mesh.local().next().unwrap();
    let enrolled = EnrolledWorkload::new(server, Ok(0x1a));
    assert_eq!(enrolled.key.as_deref(), Some("1a"));
    assert!(
        enrolled.inbound.starts_with("all except "),
        "{}",
        enrolled.inbound
    );
    assert!(enrolled.inbound.contains("9090"));
    assert_eq!(enrolled.outbound, "all except 10.9.0.0/16");
}

#[test]
fn a_mistake_keeps_its_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.yaml"), "kind: [\n").unwrap();
    let mistakes = load_mesh(folder.path(), &MeshSettings::for_node("one")).unwrap_err();
    let finding = Finding::from(mistakes.first().unwrap());
    assert!(finding.place.contains("bad.yaml:"), "{}", finding.place);
}
