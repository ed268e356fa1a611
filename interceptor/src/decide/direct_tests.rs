//! What may go past the agent, and how connections are shared out between the kernel and it.

use std::net::SocketAddr;

use proptest::prelude::*;
use rstest::rstest;

use super::{NotDirect, Outbound, Way, beside_the_kernel, outbound, slots, ways};
use crate::workload::fixtures::{good_mesh, mesh as any_mesh, mesh_with, shown, workload};
use crate::workload::{Mesh, MeshSettings, SaidBy, SameNode};

const DEMO: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  name: caller
  namespace: demo
  annotations: {interceptor.dev/network-namespace: caller}
spec: {nodeName: one, serviceAccountName: caller}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: near
  namespace: demo
  labels: {app: server}
  annotations:
    interceptor.dev/network-namespace: near
    traffic.sidecar.istio.io/excludeInboundPorts: '9999'
spec: {nodeName: one, serviceAccountName: server}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: demo, labels: {app: server}}
spec: {nodeName: two, serviceAccountName: server}
status: {podIP: 10.0.1.2}
---
apiVersion: v1
kind: Pod
metadata:
  name: private
  namespace: demo
  annotations: {interceptor.dev/network-namespace: private, interceptor.dev/same-node: mtls}
spec: {nodeName: one}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: demo}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1'], selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
";

const ALLOW_OTHERS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: others, namespace: demo}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/demo/sa/other]}}]}]}
";

const ALLOW_ADDRESSES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: addresses, namespace: demo}
spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}
";

const AUDIT: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watch, namespace: demo}
spec: {action: AUDIT, rules: [{}]}
";

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: demo}
spec: {mtls: {mode: STRICT}}
";

/// Whether a rule looks at requests there depends on the port.
const BY_REQUEST: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: demo}
spec:
  rules:
  - {from: [{source: {principals: [cluster.local/ns/demo/sa/caller]}}]}
  - to: [{operation: {methods: [GET], ports: ['8080']}}]
";

const DENY_BY_REQUEST: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: writers, namespace: demo}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin], ports: ['8080']}}]}]}
";

fn from_the_caller(mesh: &Mesh, to: &str) -> Vec<Way> {
    let to: SocketAddr = to.parse().unwrap();
    ways(mesh, workload(mesh, "demo/caller"), to)
}

#[rstest]
#[case::a_workload_beside_it("10.0.0.2:8080", "", "direct to demo/near 10.0.0.2:8080")]
#[case::under_strict("10.0.0.2:8080", STRICT, "direct to demo/near 10.0.0.2:8080")]
#[case::on_another_node("10.0.1.2:8080", "", "it runs on another node")]
#[case::outside_of_the_mesh("192.0.2.1:80", "", "no workload of the mesh is reached")]
#[case::a_port_of_the_agent("10.0.0.2:15008", "", "no workload of the mesh is reached")]
#[case::itself("10.0.0.1:80", "", "it is the caller itself")]
#[case::not_captured("10.0.0.2:9999", "", "its port 9999 is not captured")]
#[case::it_wants_mtls(
    "10.0.0.3:80",
    "",
    "demo/private wants mutual TLS on its node (same-node: mtls)"
)]
#[case::denied(
    "10.0.0.2:8080",
    ALLOW_OTHERS,
    "no ALLOW policy matched; nearest: demo/others rule 0 failed at \
     from[0].source.principals: cluster.local/ns/demo/sa/caller is not in \
     [cluster.local/ns/demo/sa/other]"
)]
#[case::by_address(
    "10.0.0.2:8080",
    ALLOW_ADDRESSES,
    "demo/addresses rule 0 looks at the caller's address"
)]
#[case::audited("10.0.0.2:8080", AUDIT, "demo/watch reports each connection")]
#[case::by_request("10.0.0.2:8080", BY_REQUEST, "demo/readers rule 1 looks at requests")]
#[case::by_request_at_another_port(
    "10.0.0.2:9090",
    BY_REQUEST,
    "direct to demo/near 10.0.0.2:9090"
)]
#[case::denied_by_request(
    "10.0.0.2:8080",
    DENY_BY_REQUEST,
    "denied by policy demo/writers rule 0: to[0].operation.ports matched \"8080\"; \
     widened, because L4 cannot see to[0].operation.paths"
)]
#[case::denied_by_request_at_another_port(
    "10.0.0.2:9090",
    DENY_BY_REQUEST,
    "direct to demo/near 10.0.0.2:9090"
)]
fn a_connection_goes_past_the_agent_or_there_is_a_reason(
    #[case] to: &str,
    #[case] policy: &str,
    #[case] expected: &str,
) {
    // That L4 cannot see requests is warned of.
    let (mesh, _warnings) = any_mesh(&format!("{DEMO}{policy}"));
    let ways = from_the_caller(&mesh, to);
    let told: Vec<_> = (ways.iter())
        .map(|way| match &way.direct {
            Ok(direct) => format!("direct to {} {}", direct.destination.id, direct.to),
            Err(why) => why.to_string(),
        })
        .collect();
    assert_eq!(told, [expected]);
}

#[test]
fn either_end_may_want_mutual_tls() {
    let mesh = good_mesh(DEMO);
    let private = workload(&mesh, "demo/private");
    let ways = ways(&mesh, private, "10.0.0.2:8080".parse().unwrap());
    let wants = NotDirect::Mtls(private.id.clone(), SaidBy::Workload);
    assert_eq!(ways[0].direct, Err(wants));
}

const MTLS_OF_THE_MESH: &str = "the mesh wants mutual TLS inside of nodes (sameNode: mtls in the \
     configuration), and neither demo/caller nor its namespace says anything else";
const MTLS_OF_THE_NAMESPACE: &str = "the namespace demo wants mutual TLS inside of nodes \
     (same-node: mtls), and demo/caller says nothing else";

#[rstest]
#[case::the_mesh(SameNode::Mtls(SaidBy::Mesh), "", ["", ""], Some(MTLS_OF_THE_MESH))]
#[case::the_namespace_relaxes_the_mesh(SameNode::Mtls(SaidBy::Mesh), "kernel", ["", ""], None)]
#[case::the_namespace(SameNode::Kernel, "mtls", ["", ""], Some(MTLS_OF_THE_NAMESPACE))]
#[case::one_end_relaxes_the_namespace(
    SameNode::Kernel,
    "mtls",
    ["", "kernel"],
    Some(MTLS_OF_THE_NAMESPACE)
)]
#[case::both_ends_relax_the_namespace(SameNode::Kernel, "mtls", ["kernel", "kernel"], None)]
#[case::the_caller(
    SameNode::Kernel,
    "kernel",
    ["mtls", ""],
    Some("demo/caller wants mutual TLS on its node (same-node: mtls)")
)]
#[case::the_destination(
    SameNode::Kernel,
    "",
    ["kernel", "mtls"],
    Some("demo/near wants mutual TLS on its node (same-node: mtls)")
)]
fn who_said_that_it_is_mutual_tls_is_named(
    #[case] of_the_mesh: SameNode,
    #[case] of_the_namespace: &str,
    #[case] ends: [&str; 2],
    #[case] expected: Option<&str>,
) {
    let say = |how: &str| format!("interceptor.dev/same-node: {how}");
    let mut manifests = DEMO.to_owned();
    let said = [of_the_namespace, ends[0], ends[1]];
    let places = [
        (
            "{name: demo, labels",
            "{name: demo, annotations: {SAY}, labels",
        ),
        ("space: caller}", "space: caller, SAY}"),
        ("space: near\n", "space: near\n    SAY\n"),
    ];
    for (how, (place, with)) in said.into_iter().zip(places) {
        if !how.is_empty() {
            manifests = manifests.replace(place, &with.replace("SAY", &say(how)));
        }
    }
    let settings = MeshSettings {
        same_node: of_the_mesh,
        ..MeshSettings::for_node("one")
    };
    let (mesh, mistakes) = mesh_with(&manifests, &settings);
    assert_eq!(shown(&mistakes), Vec::<String>::new());
    let ways = from_the_caller(&mesh, "10.0.0.2:8080");
    let why = (ways[0].direct.as_ref().err()).map(ToString::to_string);
    assert_eq!(why.as_deref(), expected);
}

#[test]
fn a_service_leads_past_the_agent_where_its_endpoint_is_here() {
    let mesh = good_mesh(DEMO);
    let ways = from_the_caller(&mesh, "10.96.0.1:80");
    let near: SocketAddr = "10.0.0.2:8080".parse().unwrap();
    let mut targets: Vec<_> = slots(&ways, 7);
    targets.sort();
    assert_eq!(targets, [None, Some(near)]);

    // What drew the agent's path goes to the endpoint that is not here, whatever was drawn.
    for choice in 0..10 {
        let choice = beside_the_kernel(&ways, choice);
        let original = "10.96.0.1:80".parse().unwrap();
        let way = outbound(&mesh, workload(&mesh, "demo/caller"), original, choice);
        let Outbound::Tunnel(route) = way else {
            panic!("{way:?}")
        };
        assert_eq!(&*route.destination.id.name, "far");
    }
}

#[test]
fn a_way_leads_where_its_choice_leads() {
    let mesh = good_mesh(DEMO);
    let caller = workload(&mesh, "demo/caller");
    for original in ["10.96.0.1:80", "10.0.0.2:8080"] {
        let original = original.parse().unwrap();
        let mut direct = 0;
        for way in ways(&mesh, caller, original) {
            let Outbound::Tunnel(route) = outbound(&mesh, caller, original, way.choice) else {
                panic!("nowhere")
            };
            match way.direct {
                Ok(found) => {
                    direct += 1;
                    assert_eq!(found.to, route.authority);
                    assert_eq!(found.destination, route.destination);
                }
                Err(why) => assert_ne!(route.destination.node, caller.node, "{why}"),
            }
        }
        assert_eq!(direct, 1);
    }
}

#[test]
fn an_address_is_not_rewritten_to_another_family() {
    let mesh = good_mesh(DEMO);
    let ways = from_the_caller(&mesh, "[fd96::1]:80");
    let fates: Vec<_> = ways
        .into_iter()
        .map(|way| way.direct.unwrap_err())
        .collect();
    assert!(fates.contains(&NotDirect::OtherFamily), "{fates:?}");
}

#[test]
fn without_a_direct_way_there_are_no_slots() {
    let mesh = good_mesh(DEMO);
    assert_eq!(slots(&from_the_caller(&mesh, "10.0.1.2:80"), 0), []);
    assert_eq!(slots(&[], 3), []);
}

/// Ways with these weights, direct where it says so, each to a port of its own.
fn some_ways(weights: &[(u16, bool)]) -> Vec<Way> {
    let mesh = good_mesh(DEMO);
    let near = workload(&mesh, "demo/near");
    let mut choice = 0;
    (1_u16..)
        .zip(weights)
        .map(|(port, (weight, direct))| {
            let way = Way {
                choice,
                weight: u64::from(*weight),
                direct: match direct {
                    true => Ok(super::Direct {
                        destination: std::sync::Arc::clone(near),
                        to: SocketAddr::new([10, 0, 0, 2].into(), port),
                    }),
                    false => Err(NotDirect::OtherNode),
                },
            };
            choice += way.weight;
            way
        })
        .collect()
}

proptest! {
    #[test]
    fn over_all_turns_everybody_gets_its_share(
        weights in prop::collection::vec((1_u16..9, any::<bool>()), 1..24),
    ) {
        let ways = some_ways(&weights);
        let total: u64 = ways.iter().map(|way| way.weight).sum();
        let mut drawn = std::collections::BTreeMap::<Option<SocketAddr>, f64>::new();
        for turn in 0..total {
            let slots = slots(&ways, turn);
            prop_assert!(slots.len() <= 16);
            let all = f64::from(u32::try_from(slots.len()).unwrap());
            for slot in &slots {
                *drawn.entry(*slot).or_default() += 1.0 / all;
            }
            if slots.is_empty() {
                *drawn.entry(None).or_default() += 1.0;
            }
        }
        for way in &ways {
            if let Ok(direct) = &way.direct {
                let share = drawn.get(&Some(direct.to)).copied().unwrap_or_default();
                let fair = f64::from(u32::try_from(way.weight).unwrap());
                prop_assert!((share - fair).abs() < 1e-6, "{share} instead of {fair}");
            }
        }
    }

    #[test]
    fn what_drew_the_agents_path_never_goes_where_the_kernel_leads(
        weights in prop::collection::vec((1_u16..9, any::<bool>()), 1..24),
        choice in any::<u64>(),
    ) {
        let ways = some_ways(&weights);
        let chosen = beside_the_kernel(&ways, choice);
        let way = ways.iter().find(|way| way.choice == chosen);
        match way {
            Some(way) if ways.iter().any(|way| way.direct.is_err()) => {
                prop_assert!(way.direct.is_err());
            }
            _ => prop_assert!(ways.iter().all(|way| way.direct.is_ok())),
        }
    }
}
