//! A store that followed any sequence of changes is the store to which only the last of each file
//! was said.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use interceptor_policy::Policy;
use proptest::prelude::*;

use crate::workload::fixtures::shown;
use crate::workload::objects::Objects;
use crate::workload::{Mesh, MeshSettings, Store, Workload};
use crate::yaml::{Limits, Report, parse};

/// What a file may hold. Few names, addresses and labels, so that objects meet and contradict each
/// other.
fn object() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => pod(), 1 => entry(), 4 => service(), 2 => namespace(), 4 => policy(), 1 => egress()
    ]
}

/// Namespace, name and labels.
fn metadata() -> impl Strategy<Value = (u8, u8, String, String)> {
    (0..3_u8, 0..4_u8, "(a|b|c)", "(x|y)")
}

fn pod() -> impl Strategy<Value = String> {
    (metadata(), 0..6_u8, 0..3_u8, any::<[bool; 5]>(), 0..5_u8).prop_map(
        |((namespace, name, app, tier), address, node, [ready, host, bound, done, grpc], note)| {
            let annotation = match note {
                0 => "traffic.sidecar.istio.io/excludeOutboundPorts: http",
                1 => "traffic.sidecar.istio.io/excludeOutboundPorts: 'grpc,80'",
                2 => "interceptor.dev/udp: denyy",
                3 => "interceptor.dev/unknown-destinations: refuse",
                _ => "else: where",
            };
            let binding = if bound {
                "interceptor.dev/network-namespace: web,"
            } else {
                ""
            };
            let port = if grpc { "grpc" } else { "http" };
            format!(
                "apiVersion: v1
kind: Pod
metadata:
  name: w{name}
  namespace: n{namespace}
  labels: {{app: {app}, tier: {tier}}}
  annotations: {{{binding} {annotation}}}
spec:
  nodeName: node{node}
  serviceAccountName: sa{name}
  hostNetwork: {host}
  containers: [{{name: c, ports: [{{name: {port}, containerPort: 8080}}]}}]
status:
  phase: {}
  podIP: 10.0.0.{address}
  conditions: [{{type: Ready, status: '{}'}}]
",
                if done { "Succeeded" } else { "Running" },
                if ready { "True" } else { "False" }
            )
        },
    )
}

fn entry() -> impl Strategy<Value = String> {
    (metadata(), 0..6_u8, 1..3_u8).prop_map(|((namespace, name, app, tier), address, weight)| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: w{name}, namespace: n{namespace}, labels: {{tier: {tier}}}}}
spec:
  address: 10.0.0.{address}
  labels: {{app: {app}}}
  ports: {{http: 9090}}
  weight: {weight}
"
        )
    })
}

fn service() -> impl Strategy<Value = String> {
    (metadata(), 0..6_u8, 0..5_u8, any::<bool>()).prop_map(
        |((namespace, name, app, tier), address, kind, http)| {
            let selector = match kind {
                0 => "{}".to_owned(),
                1 => format!("{{app: {app}, tier: {tier}}}"),
                _ => format!("{{app: {app}}}"),
            };
            let port = if http { "http" } else { "grpc" };
            // Some at the addresses of workloads.
            let address = if kind == 4 {
                format!("10.0.0.{address}")
            } else {
                format!("10.96.0.{address}")
            };
            format!(
                "apiVersion: v1
kind: Service
metadata: {{name: s{name}, namespace: n{namespace}}}
spec:
  clusterIP: {address}
  selector: {selector}
  ports: [{{name: {port}, port: 80, targetPort: {port}}}, {{name: x, port: 81}}]
"
            )
        },
    )
}

fn namespace() -> impl Strategy<Value = String> {
    (0..3_u8, "(ambient|none|ambiant)").prop_map(|(name, mode)| {
        format!(
            "apiVersion: v1
kind: Namespace
metadata: {{name: n{name}, labels: {{istio.io/dataplane-mode: {mode}}}}}
"
        )
    })
}

fn policy() -> impl Strategy<Value = String> {
    let namespace = prop_oneof![3 => "n[0-2]", 1 => Just("istio-system".to_owned())];
    let selector = prop_oneof![
        Just(String::new()),
        "(a|b|d)".prop_map(|app| format!("selector: {{matchLabels: {{app: {app}}}}}, ")),
    ];
    let attached =
        prop_oneof!["s[0-3]".prop_map(|name| format!(
            "targetRefs: [{{kind: Service, group: '', name: {name}}}], "
        )),];
    let scope = prop_oneof![4 => selector.clone(), 1 => attached];
    let authorization = (
        namespace.clone(),
        0..3_u8,
        scope,
        "(ALLOW|DENY)",
        "(http|grpc|81|70000)",
    )
        .prop_map(|(namespace, name, scope, action, port)| {
            format!(
                "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p{name}, namespace: {namespace}}}
spec: {{{scope}action: {action}, rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}
"
            )
        });
    let modes = (
        namespace,
        0..3_u8,
        selector,
        "(STRICT|PERMISSIVE|DISABLE|STRIKT)",
    )
        .prop_map(|(namespace, name, selector, mode)| {
            format!(
                "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: p{name}, namespace: {namespace}}}
spec: {{{selector}mtls: {{mode: {mode}}}}}
"
            )
        });
    prop_oneof![2 => authorization, 1 => modes]
}

fn egress() -> impl Strategy<Value = String> {
    let entry =
        (0..3_u8, 0..3_u8, "(a|b)", any::<bool>()).prop_map(|(namespace, name, app, selects)| {
            let endpoints = if selects {
                format!("workloadSelector: {{labels: {{app: {app}}}}}")
            } else {
                "endpoints: [{address: 192.0.2.1}]".to_owned()
            };
            format!(
                "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: e{name}, namespace: n{namespace}}}
spec:
  hosts: [e{name}.example.com]
  addresses: [198.51.100.0/24]
  ports: [{{name: http, number: 80, protocol: TCP}}]
  resolution: STATIC
  {endpoints}
"
            )
        });
    let namespace = prop_oneof![3 => "n[0-2]", 1 => Just("istio-system".to_owned())];
    let sidecar = (
        namespace,
        0..2_u8,
        "(ALLOW_ANY|REGISTRY_ONLY)",
        any::<bool>(),
    )
        .prop_map(|(namespace, name, mode, selects)| {
            let selector = if selects {
                "workloadSelector: {labels: {app: a}}"
            } else {
                ""
            };
            format!(
                "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: d{name}, namespace: {namespace}}}
spec:
  outboundTrafficPolicy: {{mode: {mode}}}
  {selector}
"
            )
        });
    prop_oneof![entry, sidecar]
}

fn read(file: &str, text: &str) -> Objects {
    let report = Report::default();
    let mut objects = Objects::default();
    for document in parse(&Arc::from(file), text, &Limits::default(), &report) {
        objects.read(&document, &report);
    }
    objects
}

/// All that can be observed of a mesh.
fn observed(mesh: &Mesh) -> String {
    let mut seen = String::new();
    let mut see = |what: &str, value: &dyn std::fmt::Debug| {
        writeln!(seen, "{what}: {value:?}").unwrap();
    };
    for workload in mesh.workloads() {
        let holds = mesh.policies(workload);
        see("workload", workload);
        see("behind", &mesh.services_of(&workload.id));
        see(
            "holds",
            &holds.policies().map(Policy::name).collect::<Vec<_>>(),
        );
        see(
            "modes",
            &[80, 81, 8080].map(|port| holds.mtls(port).clone()),
        );
        see("names", &holds.unknown_port_names());
        assert_eq!(
            holds,
            mesh.work_out_policies(workload),
            "worked out beforehand"
        );
    }
    see("counts", &(mesh.workload_count(), mesh.service_count()));
    for service in mesh.services() {
        see(
            "service",
            &(&service.name, &service.addresses, &service.ports),
        );
        for endpoint in &service.endpoints {
            let id = &endpoint.workload.id;
            see("endpoint", &(id, &endpoint.target_ports, endpoint.weight));
            assert!(
                Arc::ptr_eq(mesh.workload(id).unwrap(), &endpoint.workload),
                "the same {id}"
            );
        }
    }
    let ids = |of: Vec<&Arc<Workload>>| of.iter().map(|it| it.id.clone()).collect::<Vec<_>>();
    see("local", &ids(mesh.local().collect()));
    see("unprotected", &ids(mesh.unprotected().collect()));
    for last in 0..8 {
        see(
            "at",
            &mesh.workload_at([10, 0, 0, last].into()).map(|it| &it.id),
        );
        see(
            "service at",
            &mesh.service_at([10, 96, 0, last].into()).map(|it| &it.name),
        );
        see(
            "service at",
            &mesh.service_at([10, 0, 0, last].into()).map(|it| &it.name),
        );
    }
    for external in mesh.externals() {
        let endpoints = external.endpoints.iter();
        let endpoints = endpoints.map(|it| (it.address, it.workload.as_ref().map(|it| &it.id)));
        see("external", &(&external.name, endpoints.collect::<Vec<_>>()));
    }
    see(
        "policies",
        &mesh.policy_set().policies().collect::<Vec<_>>(),
    );
    let modes = mesh.policy_set().peer_authentications();
    see("modes", &modes.collect::<BTreeSet<_>>());
    see("ignored", &mesh.policy_set().ignored());
    seen
}

fn settings() -> MeshSettings {
    MeshSettings::for_node("node0")
}

fn agree(store: &Store, files: &BTreeMap<String, String>) -> Result<(), TestCaseError> {
    let mut fresh = Store::new(settings());
    for (file, text) in files.iter().rev() {
        fresh.say(&Arc::from(file.as_str()), read(file, text));
    }
    fresh.settle();
    prop_assert_eq!(shown(&store.findings()), shown(&fresh.findings()));
    prop_assert_eq!(observed(&store.snapshot()), observed(&fresh.snapshot()));
    Ok(())
}

proptest! {
    #[test]
    fn changes_one_by_one_come_to_what_a_fresh_load_comes_to(
        edits in prop::collection::vec(
            (0..5_u8, prop::collection::vec(object(), 0..5), any::<bool>()),
            1..12,
        ),
    ) {
        let mut store = Store::new(settings());
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for (file, objects, settle) in edits {
            let file = format!("{file}.yaml");
            let text = objects.join("---\n");
            let before = store.snapshot();
            let seen = observed(&before);
            store.say(&Arc::from(file.as_str()), read(&file, &text));
            files.insert(file, text);
            if settle {
                store.settle();
                agree(&store, &files)?;
                prop_assert_eq!(observed(&before), seen, "a snapshot never changes");
            }
        }
        store.settle();
        agree(&store, &files)?;
    }
}
