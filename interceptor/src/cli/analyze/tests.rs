//! What `interceptor analyze` prints.

use std::path::Path;

use super::*;
use crate::workload::MeshSettings;

fn answer(path: &str, fail_on: FailOn) -> Answer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/analyze/tests")
        .join(path);
    Answer {
        analysis: analyze(&[path], &MeshSettings::for_node("none"), &[]),
        fail_on,
    }
}

/// The text with paths as they are in the repository.
fn text(answer: &Answer) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/analyze/tests/");
    answer.text(Style::Plain).replace(folder, "")
}

#[test]
fn broken_manifests_are_golden() {
    let answer = answer("broken", FailOn::Error);
    assert_eq!(answer.exit(), Exit::No);
    insta::assert_snapshot!(text(&answer));
}

#[test]
fn sample_manifests_are_golden() {
    let answer = answer("samples/echo-and-client.yaml", FailOn::Error);
    assert_eq!(answer.exit(), Exit::Yes);
    insta::assert_snapshot!(text(&answer));
}

#[test]
fn fail_on_says_what_exits_1() {
    assert_eq!(
        answer("samples/echo-and-client.yaml", FailOn::Warning).exit(),
        Exit::No
    );
    assert_eq!(
        answer("samples/bookshop.yaml", FailOn::Warning).exit(),
        Exit::Yes
    );
    assert_eq!(
        answer("samples/bookshop.yaml", FailOn::Note).exit(),
        Exit::No
    );
}

#[test]
fn nothing_found_is_said_first() {
    let answer = answer("../../../../deploy/examples/service.yaml", FailOn::Error);
    let none = Answer {
        analysis: Analysis {
            findings: Vec::new(),
            suppressed: 2,
            ..answer.analysis
        },
        fail_on: FailOn::Note,
    };
    assert_eq!(
        none.text(Style::Plain).trim_end(),
        "nothing found in 1 object of 1 file, 2 suppressed"
    );
}

#[test]
fn json_has_the_findings_at_the_top() {
    let answer = answer("samples/bookshop.yaml", FailOn::Error);
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["findings"][0]["code"], "INT0002");
    assert_eq!(json["findings"][0]["severity"], "note");
}

#[test]
fn the_configuration_of_the_agent_is_read_back() {
    let config = Config::for_node("one");
    let text = config.to_json().to_string();
    let again = Config::parse("the agent", text.as_bytes(), None).unwrap();
    assert_eq!(
        (again.mesh, again.manifests),
        (config.mesh, config.manifests)
    );
}
