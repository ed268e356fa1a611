//! What single objects get wrong.

use proptest::prelude::*;
use rstest::rstest;

use super::TargetPort;
use crate::workload::fixtures::{mesh, read, shown};

/// The findings about `manifests`, one per line.
fn findings(manifests: &str) -> String {
    let (_, mistakes) = mesh(manifests);
    shown(&mistakes).join("\n")
}

const TYPOS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: Web, namespce: demo, labels: {app: 1}}
spec:
  hostnetwork: true
  containers:
  - name: a
    image: b
    ports: [{containerPort: 80800, nam: http}, {containerPort: 80, name: HTTP, protocol: TPC}]
status:
  phase: Runing
  podIP: 10.0.0.256
  podIPs: [{ip: 10.0.0.1, port: 1}]
  conditions: [{type: Ready, status: true}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: none
  selectors: {app: web}
  ports: [{port: 80, targetPort: '8080'}, {targetPort: 70000}]
  trafficDistribution: PreferSameHost
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: demo}
spec:
  selector: {matchLables: {app: web}}
  rules:
  - from: [{source: {principal: [a]}}]
    to: [{operation: {ports: [80]}}]
  - form: []
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a, namespace: demo}
spec: {mtls: STRICT, portLevelMtl: {80: {mode: STRICT}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {adress: 10.0.0.1, ports: {http: 80, x: 0}, weight: -1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vn}
spec: {address: 10.0.0.300}
---
apiVersion: v1
kind: Pods
metadata: {name: x}
---
kind: Pod
";

#[test]
fn typos_are_reported_in_every_kind_with_the_nearest_field() {
    insta::assert_snapshot!(findings(TYPOS), @r#"
    demo.yaml:3:18: metadata.name: must be at most 253 lower-case letters, digits, '-' and '.', and begin with a letter or digit
    demo.yaml:3:53: metadata.labels.app: must be text, not the number 1; write it in quotes: "1"
    demo.yaml:5:3: spec: unknown field `hostnetwork`; did you mean `hostNetwork`?
    demo.yaml:9:29: spec.containers[0].ports[0].containerPort: must be a number from 1 to 65535, not the number 80800
    demo.yaml:9:36: spec.containers[0].ports[0]: unknown field `nam`; did you mean `name`?
    demo.yaml:9:74: spec.containers[0].ports[1].name: is not a port name: lower-case letters, digits and single '-', with at least one letter, at most 63
    demo.yaml:9:90: spec.containers[0].ports[1].protocol: must be TCP, UDP or SCTP, not the text "TPC"; did you mean TCP?
    demo.yaml:11:10: status.phase: must be Pending, Running, Succeeded, Failed or Unknown, not the text "Runing"; did you mean Running?
    demo.yaml:12:10: status.podIP: is not an IP address
    demo.yaml:13:27: status.podIPs[0]: unknown field `port`; known here: ip
    demo.yaml:14:38: status.conditions[0].status: must be True, False or Unknown, not the boolean true; did you mean True?
    demo.yaml:20:14: spec.clusterIP: is not an IP address
    demo.yaml:21:3: spec: unknown field `selectors`; did you mean `selector`?
    demo.yaml:22:34: spec.ports[0].targetPort: in quotes is a name, and names have a letter; remove the quotes
    demo.yaml:22:43: spec.ports[1]: field `port` is missing
    demo.yaml:22:56: spec.ports[1].targetPort: must be a number from 1 to 65535, not the number 70000
    demo.yaml:23:24: spec.trafficDistribution: must be PreferSameNode, PreferSameZone or PreferClose
    demo.yaml:29:14: spec.selector: unknown field `matchLables`; did you mean `matchLabels`?
    demo.yaml:31:22: spec.rules[0].from[0].source: unknown field `principal`; did you mean `principals`?
    demo.yaml:32:31: spec.rules[0].to[0].operation.ports[0]: must be text, not the number 80; write it in quotes: "80"
    demo.yaml:33:5: spec.rules[1]: unknown field `form`; did you mean `from`?
    demo.yaml:38:14: spec.mtls: must be a map, not the text "STRICT"
    demo.yaml:38:22: spec: unknown field `portLevelMtl`; did you mean `portLevelMtls`?
    demo.yaml:43:8: spec: unknown field `adress`; did you mean `address`?
    demo.yaml:43:47: spec.ports.x: must be a number from 1 to 65535, not the number 0
    demo.yaml:43:59: spec.weight: must be a number from 0 to 4294967295, not the number -1
    demo.yaml:48:17: spec.address: is not an IP address
    demo.yaml:50:1: unknown kind `Pods`; did you mean `Pod`?
    demo.yaml:54:1: field `apiVersion` is missing
    demo.yaml:19:1: warning: spec: without a selector this Service has no endpoints here: connections to it are refused
    "#);
}

#[rstest]
#[case::without_a_status_it_is_taken_to_run("", true)]
#[case::without_conditions_it_is_taken_to_run("phase: Running", true)]
#[case::pending_is_not_ready("phase: Pending", false)]
#[case::ready("conditions: [{type: Ready, status: 'True'}]", true)]
#[case::not_ready("conditions: [{type: Ready, status: 'False'}]", false)]
#[case::other_conditions_do_not_make_it_ready(
    "conditions: [{type: Initialized, status: 'True'}]",
    false
)]
fn readiness_is_what_the_status_says(#[case] status: &str, #[case] ready: bool) {
    let objects = read(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{}}\nstatus: {{{status}}}\n"
    ));
    assert_eq!(objects.pods[0].ready, ready);
}

#[test]
fn init_containers_count_only_if_they_keep_running() {
    let objects = read(
        "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  initContainers:
  - {name: once, ports: [{name: once, containerPort: 1}]}
  - {name: sidecar, restartPolicy: Always, ports: [{name: side, containerPort: 2}]}
  containers:
  - {name: main, ports: [{name: udp, protocol: UDP, containerPort: 3}, {containerPort: 4}]}
",
    );
    let ports = &objects.pods[0].ports;
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].value.name, "side");
}

#[test]
fn services_keep_their_tcp_ports_and_addresses() {
    let objects = read(
        "
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'FD00::1']
  ports:
  - {port: 80}
  - {port: 81, targetPort: http, name: '', appProtocol: grpc}
  - {port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, clusterIPs: [None]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.org}
",
    );
    assert_eq!(
        objects.services.len(),
        2,
        "an ExternalName is no destination"
    );
    let [service, headless] = &objects.services[..] else {
        panic!("two");
    };
    let addresses: Vec<String> = service
        .addresses
        .iter()
        .map(|a| a.value.to_string())
        .collect();
    assert_eq!(addresses, ["10.96.0.1", "fd00::1"]);
    assert_eq!(service.ports.len(), 2);
    assert_eq!(service.ports[0].target.value, TargetPort::Number(80));
    assert_eq!(
        service.ports[1].target.value,
        TargetPort::Name("http".to_owned())
    );
    assert_eq!(service.ports[1].name, None);
    assert!(headless.addresses.is_empty());
}

#[rstest]
#[case::of_a_deployment("ownerReferences: [{kind: ReplicaSet, name: web-5d4f}]", "web")]
#[case::of_a_stateful_set("ownerReferences: [{kind: StatefulSet, name: db}]", "db")]
#[case::from_the_generated_name("generateName: web-5d4f-", "web-5d4f")]
#[case::its_own("", "web-5d4f-x2k")]
fn the_workloads_name_is_its_owners(#[case] metadata: &str, #[case] expected: &str) {
    let (mesh, _) = mesh(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-5d4f-x2k, {metadata}}}\nspec: {{}}\n"
    ));
    let workload = mesh.workloads().next().unwrap();
    assert_eq!(&*workload.canonical.workload, expected);
}

#[test]
fn lists_are_read_and_paths_lead_through_them() {
    assert_eq!(
        findings(
            "apiVersion: v1
kind: PodList
items:
- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodName: one}}
"
        ),
        "demo.yaml:4:59: items[0].spec: unknown field `nodName`; did you mean `nodeName`?"
    );
    assert_eq!(
        findings(
            "apiVersion: v1
kind: List
items:
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: a, namespace: demo}
  spec: {action: DENI, rules: [{}]}
"
        ),
        "demo.yaml:7:18: items[0].spec.action: \"DENI\" is not an action: write ALLOW, DENY or AUDIT"
    );
}

#[test]
fn annotations_of_ours_must_be_known() {
    assert_eq!(
        findings(
            "apiVersion: v1
kind: Pod
metadata: {name: a, annotations: {interceptor.dev/network-namspace: a}}
spec: {}
"
        ),
        "demo.yaml:3:69: metadata.annotations[\"interceptor.dev/network-namspace\"]: unknown \
         annotation; did you mean interceptor.dev/network-namespace?"
    );
}

/// A value of any shape at any place of a real manifest.
fn broken(manifest: &str, line: usize, with: &str) -> String {
    let mut lines: Vec<String> = manifest.lines().map(str::to_owned).collect();
    let at = line % lines.len();
    let kept = lines[at]
        .split_inclusive(": ")
        .next()
        .unwrap_or("")
        .to_owned();
    lines[at] = format!("{kept}{with}");
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_panics_whatever_a_field_holds(
        file in 0..5_usize,
        line in 0..200_usize,
        with in prop::sample::select(vec![
            "", "~", "[]", "{}", "[[]]", "{a: b}", "\"\"", "-1", "99999999999999999999", "1.5",
            "true", "'*'", "\"\\0\"", "10.0.0.0/33", "::ffff:1.2.3.4", "{- a", "&a [*a]", "|",
        ]),
    ) {
        let manifests = [
            include_str!("../../../../deploy/examples/workloads.yaml"),
            include_str!("../../../../deploy/examples/policies.yaml"),
            include_str!("../../../../deploy/examples/service.yaml"),
            include_str!("../../../../deploy/examples/namespace.yaml"),
            include_str!("../../../../deploy/examples/peer-authentication.yaml"),
        ];
        findings(&broken(manifests[file], line, with));
    }
}

const EGRESS: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: ['*', ok.example.com]
  addresses: [192.0.2.0/33]
  ports: [{number: 0, name: a}, {number: 443}]
  resolution: STATC
  location: MESH
  endpoint: []
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b}
spec: {hosts: [b.example.com], ports: [{number: 80, name: http}], resolution: STATIC}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: c}
spec:
  hosts: [c.example.com]
  ports: [{number: 80, name: http}]
  endpoints: [{address: c.internal}, {address: 10.0.0.1, prots: {http: 1}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: d}
spec:
  workloadSelector: {labels: {app: d}, matchLabels: {app: d}}
  outboundTrafficPolicy: {mode: REGISTRY}
  egress: [{hosts: ['*/*']}]
";

#[test]
fn every_mistake_of_an_egress_rule_is_reported_with_its_place() {
    insta::assert_snapshot!(findings(EGRESS));
}

#[test]
fn hosts_that_only_dns_knows_are_reported() {
    let entry = |rest: &str| {
        findings(&format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\n\
             spec: {{hosts: [a.example.com], ports: [{{number: 443, name: tls}}], {rest}}}\n"
        ))
    };
    assert!(entry("resolution: DNS").contains("cannot be told by address"));
    assert!(entry("resolution: NONE").contains("cannot be told by address"));
    assert!(entry("resolution: DNS, addresses: [192.0.2.1]").contains("not resolved by the node"));
    assert_eq!(entry("resolution: NONE, addresses: [192.0.2.1]"), "");
}
