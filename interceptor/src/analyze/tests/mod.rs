//! What is found in manifests that are broken in every way we know, and that nothing is wrong with
//! manifests that work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rstest::rstest;

use super::{Analysis, CATALOGUE, Severity, Suppression, analyze};
use crate::workload::MeshSettings;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/analyze/tests")
        .join(name)
}

fn settings() -> MeshSettings {
    MeshSettings::for_node("none")
}

fn of_text(text: &str) -> Analysis {
    of_bytes(text.as_bytes())
}

fn of_bytes(bytes: &[u8]) -> Analysis {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), bytes).unwrap();
    analyze(&[folder.path().to_owned()], &settings(), &[])
}

/// `CODE Kind namespace/name:line`.
fn short(analysis: &Analysis) -> Vec<String> {
    let findings = analysis.findings.iter();
    findings
        .map(|f| format!("{} {}:{}", f.code, f.object, f.line))
        .collect()
}

#[rstest]
#[case::a_shop("samples/bookshop.yaml", &["INT0002 Gateway default/shop-gateway:116", "INT0002 VirtualService default/shop:125"])]
#[case::policies_without_workloads("samples/shop-policies.yaml", &[
    "INT0110 AuthorizationPolicy default/productpage-viewer:15",
    "INT0004 AuthorizationPolicy default/allow-nothing:4",
    "INT0002 RequestAuthentication default/jwt:48",
])]
#[case::an_echo_server("samples/echo-and-client.yaml", &["INT0109 AuthorizationPolicy foo/deny-method:114"])]
#[case::a_guestbook("samples/guestbook.yaml", &["IST0118 Service default/nginx:52"])]
fn manifests_that_work_have_no_errors(#[case] file: &str, #[case] expected: &[&str]) {
    let analysis = analyze(&[folder(file)], &settings(), &[]);
    assert!(!analysis.has(Severity::Error));
    let mut found = short(&analysis);
    // That a host is not known by address is said where ServiceEntries are read.
    found.retain(|line| !line.contains("ServiceEntry"));
    assert_eq!(found, expected);
}

#[test]
fn samples_together_and_our_own_examples_have_no_errors() {
    for path in [folder("samples"), folder("../../../../deploy/examples")] {
        let analysis = analyze(&[path], &settings(), &[]);
        assert!(!analysis.has(Severity::Error), "{:?}", short(&analysis));
    }
}

#[test]
fn a_policy_next_to_its_workloads_is_silent() {
    let paths = [
        folder("samples/bookshop.yaml"),
        folder("samples/shop-policies.yaml"),
    ];
    let analysis = analyze(&paths, &settings(), &[]);
    let warnings = analysis
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Warning);
    let codes: Vec<_> = warnings.map(|f| f.code).collect();
    assert_eq!(codes, ["INT0110"], "only what L4 cannot decide");
}

#[test]
fn every_finding_is_found_somewhere() {
    let broken = analyze(&[folder("broken")], &settings(), &[]);
    let mut found: BTreeSet<_> = broken.findings.iter().map(|f| f.code).collect();
    let alone = analyze(&[folder("samples/shop-policies.yaml")], &settings(), &[]);
    found.extend(alone.findings.iter().map(|f| f.code));
    let all: BTreeSet<_> = CATALOGUE.iter().map(|check| check.code).collect();
    let missing: Vec<_> = all.difference(&found).collect();
    // Only with thousands of objects: what_is_not_looked_at_is_told.
    assert_eq!(missing, [&"INT0003"]);
}

#[test]
fn what_is_suppressed_is_counted() {
    let accepted = |text: &str| [text.parse::<Suppression>().unwrap()];
    let path = [folder("samples/guestbook.yaml")];
    let all = analyze(&path, &settings(), &[]);
    let without = analyze(&path, &settings(), &accepted("IST0118"));
    assert_eq!(
        (without.suppressed, without.findings.len() + 1),
        (1, all.findings.len())
    );
    let elsewhere = analyze(&path, &settings(), &accepted("IST0118=Service other/*"));
    assert_eq!(elsewhere, all);
}

#[test]
fn paths_that_are_not_there_are_errors() {
    let analysis = analyze(&[folder("nowhere")], &settings(), &[]);
    assert!(analysis.has(Severity::Error));
}

#[test]
fn a_folder_without_manifests_is_no_clean_bill() {
    let folder = tempfile::tempdir().unwrap();
    let analysis = analyze(&[folder.path().to_owned()], &settings(), &[]);
    assert!(analysis.has(Severity::Warning));
}

#[rstest]
#[case("is not TCP; did you mean TCP?", "did you mean TCP?")]
#[case("is there twice; delete one", "delete one")]
#[case(
    "is not an IP address; names are not resolved, so nothing is sent there",
    ""
)]
#[case("must be a number", "")]
fn only_an_instruction_is_a_fix(#[case] message: &str, #[case] fix: &str) {
    let (effect, told) = super::told(message);
    assert_eq!(told, fix);
    assert!(message.starts_with(effect));
}

#[test]
fn a_finding_about_an_object_without_a_name_is_not_told_of_the_one_before() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n---\n\
                apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {profile: ambient}\n";
    assert_eq!(short(&of_text(text)), ["INT0002 IstioOperator:6"]);
}

#[rstest]
#[case::a_list_of_nothing("apiVersion: v1\nkind: List\nitems: 5\n")]
#[case::numbers_as_names(
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: 5}\nspec: {template: 7}\n"
)]
#[case::an_empty_template(
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {containers: {}}}}\n"
)]
#[case::a_policy_of_everything_wrong(
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: [], ingress: {a: b}, egress: [[]]}\n"
)]
fn strange_objects_of_other_kinds_are_not_complained_about_twice(#[case] text: &str) {
    assert!(of_text(text).findings.len() <= 1);
}

/// Objects that are right by themselves, with names, labels and ports that may or may not fit.
fn manifests() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a",
        "b",
        "web",
        "http",
        "htpp",
        "80",
        "8080",
        "*",
        "",
        "x-y",
        "9000-9001",
    ]);
    let document = (0..9_usize, prop::collection::vec(word, 8)).prop_map(|(kind, w)| {
        let [one, two, three, four, five, six, seven, eight] = <[&str; 8]>::try_from(w).unwrap();
        match kind {
            0 => format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: '{one}', namespace: '{two}'}}\nspec: {{template: {{metadata: {{labels: {{app: '{three}'}}, annotations: {{traffic.sidecar.istio.io/excludeInboundPorts: '{four}', traffic.sidecar.istio.io/includeOutboundPorts: '{five}'}}}}, spec: {{serviceAccountName: '{six}', containers: [{{name: x, ports: [{{name: '{seven}', containerPort: {eight}}}]}}]}}}}}}\n"),
            1 => format!("apiVersion: v1\nkind: Service\nmetadata: {{name: '{one}', namespace: '{two}'}}\nspec: {{selector: {{app: '{three}'}}, ports: [{{name: '{four}', port: 80, targetPort: {five}, appProtocol: '{six}'}}]}}\n"),
            2 => format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: '{one}', namespace: '{two}'}}\nspec: {{selector: {{matchLabels: {{app: '{three}'}}}}, action: DENY, rules: [{{from: [{{source: {{principals: ['cluster.local/ns/{four}/sa/{five}'], notNamespaces: ['{six}']}}}}], to: [{{operation: {{ports: ['{seven}'], notPorts: ['{eight}']}}}}]}}]}}\n"),
            3 => format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: '{one}', namespace: istio-system}}\nspec: {{rules: [{{from: [{{source: {{namespaces: ['{two}', '{three}']}}}}, {{source: {{ipBlocks: ['{four}']}}}}], when: [{{key: source.namespace, values: ['{five}']}}]}}, {{to: [{{operation: {{paths: ['{six}']}}}}]}}]}}\n"),
            4 => format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: '{one}', namespace: '{two}'}}\nspec: {{selector: {{matchLabels: {{app: '{three}'}}}}, mtls: {{mode: STRICT}}, portLevelMtls: {{'{four}': {{mode: DISABLE}}}}}}\n"),
            5 => format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: '{one}', namespace: '{two}'}}\nspec: {{podSelector: {{matchLabels: {{app: '{three}'}}}}, ingress: [{{ports: [{{port: {four}}}, {{protocol: '{five}', port: '{six}'}}]}}]}}\n"),
            6 => format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: '{one}', namespace: '{two}'}}\nspec: {{hosts: ['{three}', '{four}'], addresses: ['{five}'], ports: [{{number: {six}, name: '{seven}', protocol: TCP}}]}}\n"),
            7 => format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: '{one}', labels: {{istio.io/dataplane-mode: ambient}}}}\n"),
            _ => format!("apiVersion: v1\nkind: {one}\nmetadata: {{name: [{two}], labels: {{'{three}': {four}}}}}\n{five}: {six}\n"),
        }
    });
    prop::collection::vec(document, 0..12).prop_map(|documents| documents.join("---\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_objects_give_findings_and_each_has_a_place(text in manifests()) {
        for finding in of_text(&text).findings {
            prop_assert!(!finding.effect.is_empty() && !finding.file.is_empty());
            let lines = u32::try_from(text.lines().count()).unwrap();
            // The end of the file counts as a line of its own.
            prop_assert!(finding.line <= lines + 1);
        }
    }

    #[test]
    fn any_bytes_give_findings_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        of_bytes(&bytes);
    }

    #[test]
    fn any_damage_to_a_manifest_is_survived(at in 0.0..1.0_f64, with in "[\\PC\n]{0,6}") {
        let text = include_str!("broken/policies.yaml");
        #[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss,
            clippy::cast_precision_loss, reason = "a place somewhere in the text")]
        let near = (text.len() as f64 * at) as usize;
        let place = (near..=text.len()).find(|place| text.is_char_boundary(*place)).unwrap();
        let (before, after) = text.split_at(place);
        let after = after.get(3.min(after.len())..).unwrap_or_default();
        of_text(&format!("{before}{with}{after}"));
    }
}

#[rstest]
#[case::deep("[".repeat(100_000))]
#[case::laughs("a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n".repeat(2000))]
#[case::a_huge_scalar(format!("apiVersion: v1\nkind: {}\n", "x".repeat(5_000_000)))]
#[case::many_documents("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n".repeat(20_000))]
#[case::many_kinds(repeated(20_000, "apiVersion: a.istio.io/v1\nkind: K{n}\n---\n"))]
#[case::many_policies_and_pods(repeated(
    400,
    "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p{n}}
spec: {rules: [{from: [{source: {namespaces: [n{n}]}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p{n}, labels: {l{n}: v{n}}}
spec: {containers: [{name: x}]}
---
"
))]
fn hostile_files_give_findings_in_bounded_time(#[case] text: String) {
    let analysis = of_text(&text);
    assert!(analysis.findings.len() <= 1001);
}

#[rstest]
#[case::network_policies(
    repeated(
        2300,
        "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p{n}}
spec: {podSelector: {matchLabels: {app: a{n}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: p{n}, labels: {app: a{n}}}
spec: {containers: [{name: x}]}
---
"
    ) + "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}\n",
    "NetworkPolicies were not looked at for"
)]
#[case::service_entries(
    repeated(
        3300,
        "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: s{n}}
spec: {hosts: [a.example.org], ports: [{number: 1{n}, name: tls, protocol: TLS}]}
---
"
    ),
    "443350 pairs of ServiceEntries were not compared"
)]
#[case::policies_and_ports(
    repeated(
        150,
        "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p{n}}
spec: {rules: [{from: [{source: {namespaces: [n{n}]}}]}]}
---
"
    ) + &repeated(
        50,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{{n}}}}\nspec: {{containers: [{{name: x, ports: [{}]}}]}}\n---\n",
            repeated(300, "{containerPort: 1{n}},")
        )
    ),
    "1667 ports of workloads were not looked at"
)]
fn what_is_not_looked_at_is_told(#[case] text: String, #[case] expected: &str) {
    let findings = of_text(&text).findings;
    let mut told = findings.iter().filter(|finding| finding.code == "INT0003");
    let told = told.next().expect("a finding that says so");
    assert!(told.effect.starts_with(expected), "{}", told.effect);
    assert_eq!(told.severity, Severity::Warning);
}

/// A text again and again, with a number of its own each time.
fn repeated(times: usize, text: &str) -> String {
    let copies: Vec<String> = (0..times)
        .map(|n| text.replace("{n}", &n.to_string()))
        .collect();
    copies.concat()
}

#[test]
fn a_selector_of_the_root_namespace_is_looked_for_everywhere() {
    let found = of_text(
        "\
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {containers: []}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: found, namespace: istio-system}
spec: {action: DENY, selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: ['1']}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: lost, namespace: istio-system}
spec: {action: DENY, selector: {matchLabels: {app: nowhere}}, rules: [{to: [{operation: {ports: ['1']}}]}]}
",
    );
    let empty: Vec<_> = found
        .findings
        .iter()
        .filter(|f| f.code == "IST0127")
        .collect();
    let [empty] = empty.as_slice() else {
        panic!("{:?}", short(&found));
    };
    assert_eq!(empty.object, "AuthorizationPolicy istio-system/lost");
    assert_eq!(
        empty.effect,
        "holds for nothing: no workload has app=nowhere"
    );
}

#[test]
fn a_mistake_is_told_of_the_object_that_it_stands_in_also_if_that_has_no_name() {
    let found = of_text(
        "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: x, namespace: demo}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: demo}
",
    );
    let first = short(&found).into_iter().next();
    assert_eq!(first.as_deref(), Some("IST0106 AuthorizationPolicy:8"));
}
