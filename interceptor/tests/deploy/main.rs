//! The files of `deploy/`, as far as a machine without a cluster can judge them: every document
//! parses, every field is one that its kind has, names that refer to each other agree, and what is
//! said about privileges is what the `DaemonSet` and the systemd unit ask for.

mod configuration;
mod examples;
mod schema;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use interceptor::yaml::{self, Document, Limits, Node, Report, Value};
use rstest::rstest;

const KUBERNETES: [&str; 5] = [
    "kubernetes/kustomization.yaml",
    "kubernetes/namespace.yaml",
    "kubernetes/rbac.yaml",
    "kubernetes/config.yaml",
    "kubernetes/daemonset.yaml",
];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(deploy(path));
    assert!(text.is_ok(), "{path}: {text:?}");
    text.unwrap_or_default()
}

fn documents(path: &str) -> Vec<Document> {
    let report = Report::default();
    let documents = yaml::parse(&Arc::from(path), &read(path), &Limits::default(), &report);
    assert_eq!(report.into_mistakes(), [], "{path}");
    documents
}

/// All documents of `deploy/kubernetes` of one kind.
fn of_kind(kind: &str) -> Vec<Document> {
    let all = KUBERNETES.iter().flat_map(|path| documents(path));
    all.filter(|document| texts(&document.root, "kind") == [kind])
        .collect()
}

fn daemon_set() -> Document {
    of_kind("DaemonSet").remove(0)
}

/// Every scalar under `path`, such as `spec.ports[].name`. A `~` stands for a dot inside of a key.
fn texts(node: &Node, path: &str) -> Vec<String> {
    let mut nodes = vec![node];
    for step in path.split('.') {
        let step = step.replace('~', ".");
        let (key, list) = step
            .strip_suffix("[]")
            .map_or((&*step, false), |key| (key, true));
        nodes = nodes
            .into_iter()
            .filter_map(|node| node.get(key).map(|entry| &entry.value))
            .flat_map(|node| match &node.value {
                Value::List(items) if list => items.iter().collect(),
                _ => vec![node],
            })
            .collect();
    }
    nodes
        .into_iter()
        .filter_map(|node| match &node.value {
            Value::Scalar(scalar) => Some(scalar.as_str().to_owned()),
            _ => None,
        })
        .collect()
}

fn set<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    texts.into_iter().map(Into::into).collect()
}

#[rstest]
fn kubernetes_documents_have_only_fields_of_their_kinds(#[values(0, 1, 2, 3, 4)] file: usize) {
    for document in documents(KUBERNETES[file]) {
        assert_eq!(schema::mistakes(&document), Vec::<String>::new());
    }
}

#[test]
fn a_misspelt_field_would_be_found() {
    let report = Report::default();
    let text = "kind: DaemonSet\nspec:\n  template:\n    spec:\n      hostNetwork: 'yes'\n      contaners: []\n";
    let document = yaml::parse(&Arc::from("x"), text, &Limits::default(), &report).remove(0);
    assert_eq!(
        schema::mistakes(&document),
        [
            "x: line 5: .spec.template.spec.hostNetwork is not of type bool",
            "x: .spec.template.spec.contaners is not a field of PodSpec",
        ]
    );
}

#[test]
fn kustomize_takes_every_file_there_is() {
    let listed = set(texts(&documents(KUBERNETES[0])[0].root, "resources[]"));
    let present = std::fs::read_dir(deploy("kubernetes")).unwrap();
    let present = present.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let yaml = present.filter(|name| name != "kustomization.yaml" && name != "README.md");
    assert_eq!(listed, set(yaml));
}

#[test]
fn what_the_daemonset_refers_to_exists() {
    let daemon_set = daemon_set();
    let pod = "spec.template.spec";
    let of = |path: &str| set(texts(&daemon_set.root, &format!("{pod}.{path}")));

    assert_eq!(of("containers[].volumeMounts[].name"), of("volumes[].name"));
    let maps = of_kind("ConfigMap");
    let maps = maps
        .iter()
        .flat_map(|map| texts(&map.root, "metadata.name"));
    assert_eq!(of("volumes[].configMap.name"), set(maps));
    let accounts = of_kind("ServiceAccount");
    let accounts = accounts
        .iter()
        .flat_map(|account| texts(&account.root, "metadata.name"));
    assert_eq!(of("serviceAccountName"), set(accounts));
    for document in KUBERNETES.iter().skip(1).flat_map(|path| documents(path)) {
        let namespaced = texts(&document.root, "kind") != ["Namespace"];
        let expected: &[&str] = if namespaced {
            &["interceptor-system"]
        } else {
            &[]
        };
        assert_eq!(texts(&document.root, "metadata.namespace"), expected);
    }
}

#[test]
fn the_editors_role_covers_exactly_the_config_maps() {
    let role = of_kind("Role").remove(0);
    let maps = of_kind("ConfigMap");
    let maps = maps
        .iter()
        .flat_map(|map| texts(&map.root, "metadata.name"));
    assert_eq!(set(texts(&role.root, "rules[].resourceNames[]")), set(maps));
}

#[test]
fn the_daemonset_is_not_privileged_and_drops_what_it_does_not_need() {
    let container = |path: &str| {
        let path = format!("spec.template.spec.containers[].securityContext.{path}");
        texts(&daemon_set().root, &path)
    };
    assert_eq!(container("privileged"), Vec::<String>::new());
    assert_eq!(container("readOnlyRootFilesystem"), ["true"]);
    assert_eq!(container("capabilities.drop[]"), ["ALL"]);
    let token = texts(
        &daemon_set().root,
        "spec.template.spec.automountServiceAccountToken",
    );
    assert_eq!(token, ["false"]);
}

/// The first column of the table in a section of `deploy/kubernetes/README.md`.
fn documented(section: &str) -> BTreeSet<String> {
    let text = read("kubernetes/README.md");
    let mut sections = text.split("## ");
    let section = sections.find(|text| text.starts_with(section));
    let lines = section.unwrap_or_default().lines();
    let rows = lines.filter_map(|line| line.strip_prefix("| `"));
    set(rows.filter_map(|row| row.split('`').next()))
}

#[test]
fn capabilities_are_the_same_in_the_daemonset_the_unit_and_the_document() {
    let path = "spec.template.spec.containers[].securityContext.capabilities.add[]";
    let asked = set(texts(&daemon_set().root, path));
    assert_eq!(asked, documented("Privileges"));
    let unit = directive("CapabilityBoundingSet");
    let unit = unit
        .split_whitespace()
        .map(|name| name.trim_start_matches("CAP_"));
    assert_eq!(asked, set(unit));
}

#[test]
fn folders_of_the_host_are_documented() {
    let path = "spec.template.spec.volumes[].hostPath.path";
    let mounted = texts(&daemon_set().root, path);
    assert_eq!(set(mounted), documented("Folders of the host"));
}

/// The value of a directive of the systemd unit; empty if it is not there.
fn directive(name: &str) -> String {
    let unit = read("systemd/interceptor.service");
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next().unwrap_or_default().to_owned()
}

#[test]
fn the_unit_verifies() {
    let verify = |unit: &Path| {
        Command::new("systemd-analyze")
            .arg("verify")
            .arg(unit)
            .output()
    };
    // The binary is not installed where tests run; anything executable stands for it.
    let unit = read("systemd/interceptor.service");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("interceptor.service");
    std::fs::write(
        &path,
        unit.replace("/usr/local/bin/interceptor", "/bin/true"),
    )
    .unwrap();
    let Ok(output) = verify(&path) else {
        return; // No systemd on this machine.
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_image_has_the_binary_that_the_daemonset_runs() {
    let file = read("container/Containerfile");
    let stages = file
        .lines()
        .filter(|line| line.starts_with("FROM "))
        .count();
    assert_eq!(stages, 2);
    assert!(file.contains("ENTRYPOINT [\"/usr/local/bin/interceptor\"]"));
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        file.contains(&format!("rust:{rust}")),
        "the workspace needs Rust {rust}"
    );
    let image = texts(&daemon_set().root, "spec.template.spec.containers[].image");
    assert_eq!(
        image,
        [format!("interceptor:{}", env!("CARGO_PKG_VERSION"))]
    );
}
