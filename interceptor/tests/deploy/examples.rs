//! The example mesh does what its comments say: it loads without a single finding, and the agent's
//! own functions decide about its connections as a reader would expect.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use interceptor::decide::{self, Outbound};
use interceptor::workload::objects::Objects;
use interceptor::workload::{Binding, Mesh, MeshSettings, Workload};
use interceptor::yaml::{self, Limits, Report};
use interceptor_policy::{Attempt, Decision, Verdict};
use rstest::rstest;

use super::{deploy, of_kind, texts};

/// The mesh of these files, as the agent of `node` sees it. No finding is tolerated.
fn mesh(node: &str, files: &[(String, String)]) -> Mesh {
    let report = Report::default();
    let mut objects = Objects::default();
    for (name, text) in files {
        let file = Arc::from(name.as_str());
        for document in yaml::parse(&file, text, &Limits::default(), &report) {
            objects.read(&document, &report);
        }
    }
    assert_eq!(report.into_mistakes(), []);
    let (mesh, mistakes) = Mesh::build(&objects, &MeshSettings::for_node(node));
    assert_eq!(mistakes, []);
    mesh
}

fn examples() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(deploy("examples")).into_iter().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            let yaml = path
                .extension()
                .is_some_and(|extension| extension == "yaml");
            yaml.then(|| Some((name, std::fs::read_to_string(path).ok()?)))?
        })
        .collect();
    files.sort();
    assert_eq!(files.len(), 5);
    files
}

fn workload(mesh: &Mesh, name: &str) -> Option<Arc<Workload>> {
    let mut workloads = mesh.workloads();
    workloads
        .find(|workload| &*workload.id.name == name)
        .cloned()
}

fn socket(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

#[rstest]
#[case::first_node("one", &["caller", "intruder"])]
#[case::second_node("two", &["server"])]
fn each_node_enrols_its_own_workloads(#[case] node: &str, #[case] expected: &[&str]) {
    let mesh = mesh(node, &examples());
    let mut local: Vec<_> = mesh.local().collect();
    local.sort_by(|a, b| a.id.cmp(&b.id));
    let names: Vec<&str> = local.iter().map(|workload| &*workload.id.name).collect();
    assert_eq!(names, expected);
    for workload in local {
        let namespace = format!("/run/netns/{}", workload.id.name).into();
        assert_eq!(workload.binding, Some(Binding::NetworkNamespace(namespace)));
    }
    assert_eq!(mesh.unprotected().count(), 0);
}

#[rstest]
#[case::by_service("10.96.0.80:80", "10.244.2.10:9090")]
#[case::by_service_ipv6("[fd00:10:96::80]:80", "[fd00:10:244:2::10]:9090")]
#[case::admin_port("10.96.0.80:81", "10.244.2.10:9191")]
#[case::by_address("10.244.2.10:9090", "10.244.2.10:9090")]
fn the_caller_reaches_the_server_through_a_tunnel(#[case] called: &str, #[case] reached: &str) {
    let mesh = mesh("one", &examples());
    let caller = workload(&mesh, "caller").unwrap();
    let Outbound::Tunnel(route) = decide::outbound(&mesh, &caller, socket(called).unwrap(), 0)
    else {
        panic!("not a tunnel");
    };
    assert_eq!(Some(route.authority), socket(reached));
    assert_eq!(route.gateway, SocketAddr::new(route.authority.ip(), 15008));
    assert_eq!(
        route.peer.as_str(),
        "spiffe://cluster.local/ns/demo/sa/server"
    );
}

#[test]
fn an_address_outside_of_the_mesh_is_passed_on() {
    let mesh = mesh("one", &examples());
    let caller = workload(&mesh, "caller").unwrap();
    let outside = decide::outbound(&mesh, &caller, socket("192.0.2.1:443").unwrap(), 0);
    assert!(matches!(outside, Outbound::Passthrough { .. }));
}

/// What the server's agent says to a caller with this name, if it proves one.
fn verdict(caller: Option<&str>, port: u16) -> Option<Verdict> {
    let mesh = mesh("two", &examples());
    let server = workload(&mesh, "server")?;
    let caller = match caller {
        Some(name) => Some(workload(&mesh, name)?.identity.clone()),
        None => None,
    };
    let attempt = Attempt {
        source: caller.as_ref(),
        source_ip: IpAddr::from([10, 244, 1, 10]),
        destination_ip: *server.addresses.first()?,
        destination_port: port,
    };
    Some(decide::inbound(&mesh, &server, attempt))
}

#[rstest]
#[case::the_caller(Some("caller"), 9090, "allowed by policy demo/allow-caller rule 0")]
#[case::the_intruder(
    Some("intruder"),
    9090,
    "no ALLOW policy matched; nearest: demo/allow-caller rule 0 failed at from[0].source.principals: \
     cluster.local/ns/demo/sa/intruder is not in [cluster.local/ns/demo/sa/caller]"
)]
#[case::the_admin_port(
    Some("caller"),
    9191,
    "denied by policy demo/deny-admin rule 0: from[0].source.notPrincipals does not exclude \
     \"cluster.local/ns/demo/sa/caller\" and to[0].operation.ports matched \"9191\""
)]
#[case::plaintext(
    None,
    9090,
    "plaintext refused: port 9090 requires mutual TLS (PeerAuthentication demo/default, namespace \
     level)"
)]
fn the_server_answers_whom_its_policies_let_it(
    #[case] caller: Option<&str>,
    #[case] port: u16,
    #[case] said: &str,
) {
    let verdict = verdict(caller, port).unwrap();
    assert_eq!(verdict.to_string(), said);
    let allowed = verdict.decision == Decision::Allow;
    assert_eq!(allowed, said.starts_with("allowed"));
}

#[test]
fn the_config_map_has_a_mesh_that_loads() {
    let maps = of_kind("ConfigMap");
    let mut meshes = maps
        .iter()
        .flat_map(|map| texts(&map.root, "data.mesh~yaml"));
    let text = meshes.next().unwrap();
    mesh("any", &[("mesh.yaml".to_owned(), text)]);
}
