//! Large files of every kind that we know to be nasty, under the same limit of memory as everything
//! else here.
//!
//! A file of the largest size that is read (10 MiB) takes five times as much as these do.

use interceptor::analyze::analyze;
use interceptor::workload::MeshSettings;
use rstest::rstest;

/// Bytes of a file.
const SIZE: usize = 2 << 20;

/// A text again and again, with a number of its own each time.
fn repeated(text: &str) -> String {
    let mut whole = String::with_capacity(SIZE + text.len());
    let mut number = 0_u32;
    while whole.len() < SIZE {
        whole.push_str(&text.replace("{n}", &number.to_string()));
        number += 1;
    }
    whole
}

#[rstest]
#[case::lists_in_lists(repeated("["))]
#[case::list_entries(repeated("-\n"))]
#[case::documents(repeated("---\n"))]
#[case::one_scalar(format!("apiVersion: v1\nkind: {}", repeated("x")))]
#[case::aliases_of_aliases(repeated(
    "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n---\n"
))]
#[case::labels(format!(
    "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{{}}}}}",
    repeated("k{n}: v,")
))]
#[case::containers(format!(
    "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{}]}}",
    repeated("{},")
))]
#[case::pods(repeated("apiVersion: v1\nkind: Pod\nmetadata: {name: p{n}}\n---\n"))]
#[case::services(repeated(
    "apiVersion: v1\nkind: Service\nmetadata: {name: s{n}}\nspec: {selector: {a: b}, ports: [{port: 80}]}\n---\n"
))]
#[case::principals(format!(
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\n\
     spec: {{rules: [{{from: [{{source: {{principals: [{}]}}}}]}}]}}",
    repeated("'*p{n}',")
))]
#[case::control_characters(repeated("\u{1}\u{202e}\u{1f980}"))]
fn a_large_file_of_anything_is_answered_in_bounded_memory(#[case] text: String) {
    crate::engine::limit_memory();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), text).unwrap();
    let analysis = analyze(
        &[folder.path().to_owned()],
        &MeshSettings::for_node("one"),
        &[],
    );
    assert!(analysis.findings.len() <= 1000);
}
