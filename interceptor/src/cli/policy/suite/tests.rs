//! What `interceptor policy test` says of good, failing and wrong tests.

use std::fs;
use std::path::Path;

use super::*;
use crate::workload::MeshSettings;

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: demo, labels: {app: caller}}
spec: {nodeName: one, serviceAccountName: caller}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: server-a, namespace: demo, labels: {app: server, tier: gold}}
spec:
  nodeName: one
  containers: [{name: s, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: server-b, namespace: demo, labels: {app: server}}
spec:
  nodeName: two
  containers: [{name: s, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: demo}
spec:
  clusterIP: 10.96.0.1
  selector: {app: server}
  ports: [{name: web, port: 80, targetPort: http}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: gold, namespace: demo}
spec:
  selector: {matchLabels: {tier: gold}}
  rules:
    - from: [{source: {principals: [cluster.local/ns/demo/sa/caller]}}]
    - from: [{source: {namespaces: [nobody]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watch, namespace: demo}
spec:
  action: AUDIT
  rules: [{to: [{operation: {ports: [http]}}]}]
";

const HEAD: &str = "apiVersion: interceptor.dev/v1alpha1
kind: PolicyTest
metadata: {name: demo}
spec:
  manifests: [mesh.yaml]
  cases:
";

/// Runs `cases` in a folder of their own, whose name is left out of what is said.
fn test(cases: &str) -> Result<Results, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.yaml");
    fs::write(folder.path().join("mesh.yaml"), MANIFESTS).unwrap();
    fs::write(&file, format!("{HEAD}{cases}")).unwrap();
    let place = format!("{}/", folder.path().display());
    let suites = read::suites(&[file], &MeshSettings::for_node(""))
        .map_err(|mistakes| world::wrong(&mistakes).to_string().replace(&place, ""))?;
    let mut results = Results::of(&suites);
    for case in &mut results.cases {
        case.place = case.place.replace(&place, "");
    }
    Ok(results)
}

#[test]
fn results_are_golden() {
    let results = test(
        "  - {name: proven, from: {workload: demo/caller}, to: {workload: demo/server-a, port: http}, expect: allow, policy: demo/gold}
  - {name: wrong policy, from: {workload: demo/caller}, to: {workload: demo/server-b, port: 8080}, expect: allow, policy: demo/gold}
  - {name: everybody, from: {plaintext: true}, to: {service: demo/server, port: web}, expect: deny}
  - {name: seen, from: {ip: 10.0.0.1}, to: {ip: 10.96.0.1, port: 80}, expect: audit, policy: demo/watch}
  - {name: outside, from: {workload: demo/caller}, to: {ip: 192.0.2.1, port: 443}, expect: allow}
",
    )
    .unwrap();
    assert_eq!(results.exit(), Exit::No);
    insta::assert_snapshot!(results.text(Style::Plain));
}

#[test]
fn plaintext_and_ports_may_be_written_shortly() {
    let results = test(
        "  - {name: a, from: plaintext, to: {workload: demo/server-a, port: '8080'}, expect: deny}
  - {name: b, from: {plaintext: true}, to: {workload: demo/server-a, port: 8080}, expect: deny}
",
    )
    .unwrap();
    assert_eq!(results.exit(), Exit::Yes, "{}", results.text(Style::Plain));
}

#[test]
fn every_mistake_is_shown_with_its_place() {
    let said = test(
        "  - {name: a, from: {workload: demo/calller}, to: {service: demo/server, port: webb}, expect: alow}
  - {name: a, from: {}, to: {workload: demo/server-a, service: demo/server, port: 80}, expect: deny}
  - {name: b, from: {identity: nobody}, to: {service: demo/server, port: 81}, expect: deny, polcy: x}
  - {name: c, from: {workload: demo/caller, ip: 10.0.0.1}, to: {ip: 10.0.0.300, port: 0}, expect: deny, policy: demo/golf}
  - {name: d, from: {plaintext: yes}, to: {port: 1}, expect: deny}
",
    )
    .unwrap_err();
    insta::assert_snapshot!(said);
}

#[test]
fn manifests_with_mistakes_are_no_basis_for_a_test() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.yaml");
    fs::write(&file, format!("{HEAD}    []\n")).unwrap();
    let settings = MeshSettings::for_node("");
    let missing = read::suites(std::slice::from_ref(&file), &settings).unwrap_err();
    assert!(missing[0].message.contains("cannot be read"), "{missing:?}");
    fs::write(folder.path().join("mesh.yaml"), "kind: [\n").unwrap();
    assert!(read::suites(&[file], &settings).is_err());
}

#[test]
fn what_is_no_policy_test_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, other) = (folder.path().join("e.yaml"), folder.path().join("o.yaml"));
    fs::write(&empty, "# nothing\n").unwrap();
    fs::write(&other, "apiVersion: v1\nkind: Pod\n").unwrap();
    let settings = MeshSettings::for_node("");
    let said = |path: &Path| {
        let mistakes = read::suites(&[path.to_owned()], &settings).unwrap_err();
        mistakes.iter().map(ToString::to_string).collect::<String>()
    };
    assert!(said(&empty).ends_with("holds no PolicyTest"));
    assert!(
        said(&other).contains("must be PolicyTest"),
        "{}",
        said(&other)
    );
    assert!(said(&folder.path().join("none.yaml")).contains("cannot be read"));
}

#[test]
fn the_example_mesh_keeps_its_promises_and_every_rule_is_exercised() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/tests/examples.yaml");
    let suites = read::suites(&[file], &MeshSettings::for_node("")).unwrap();
    let mut results = Results::of(&suites);
    results.require_coverage = true;
    assert_eq!(results.exit(), Exit::Yes, "{}", results.text(Style::Plain));
    assert_eq!(
        results.text(Style::Plain).lines().next(),
        Some("6 cases, all as expected; 2 of 2 rules exercised")
    );
}
