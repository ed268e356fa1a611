//! The binary as people and scripts use it: exit codes, standard output and standard error.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn interceptor(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    interceptor(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn without_an_agent_the_answer_is_2_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("interceptor.sock");
    for command in ["status", "connections", "certificates", "ports"] {
        let output = run(&[command, "--socket", path(&socket)]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert!(output.stdout.is_empty(), "{command}");
        let error = text(&output.stderr);
        assert!(
            error.starts_with("interceptor: no agent answers on"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 2, "{error}");
    }
}

#[test]
fn a_wrong_command_is_2_and_suggests_the_right_one() {
    let output = run(&["statsu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'status'"));
}

#[test]
fn help_and_version_are_answers() {
    for arguments in [
        &["--help"][..],
        &["help", "status"],
        &["--version"],
        &["version"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    let version: Value = serde_json::from_slice(&run(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn doctor_says_the_same_in_text_and_json_and_never_colours_a_pipe() {
    let plain = run(&["doctor"]);
    assert!(matches!(plain.status.code(), Some(0 | 1)));
    let said = text(&plain.stdout);
    assert!(said.starts_with("this machine can"), "{said}");
    assert!(!said.contains('\x1b'));
    let json: Value = serde_json::from_slice(&run(&["doctor", "-o", "json"]).stdout).unwrap();
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "cgroup2"));
}

#[test]
fn a_reader_that_leaves_early_is_no_error_message() {
    let mut child = interceptor(&["help", "connections"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut doctor = interceptor(&["doctor"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(doctor.stdout.take());
    for child in [&mut child, &mut doctor] {
        child.wait().unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "");
    }
}

#[test]
fn a_ca_is_made_shown_and_issues_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, out) = (folder.path().join("ca"), folder.path().join("out"));
    let ca = ["--dir", path(&ca), "--trust-domain", "example.org"];
    let created = run(&[&["ca", "init"][..], &ca].concat());
    assert_eq!(created.status.code(), Some(0), "{}", text(&created.stderr));
    let again = run(&[&["ca", "init"][..], &ca].concat());
    assert_eq!(again.status.code(), Some(2), "a CA is never replaced");
    let shown = run(&[&["ca", "show", "-o", "json"][..], &ca].concat());
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["trustDomain"], "example.org");
    let id = "spiffe://example.org/ns/demo/sa/tester";
    let issued = run(&[&["ca", "issue", id, "--out", path(&out)][..], &ca].concat());
    assert_eq!(issued.status.code(), Some(0), "{}", text(&issued.stderr));
    let key = std::fs::read_to_string(out.join("svid.key")).unwrap();
    assert!(key.contains("PRIVATE KEY"));
    assert!(!text(&issued.stdout).contains("PRIVATE KEY"));
    let other = "spiffe://cluster.local/ns/demo/sa/tester";
    let refused = run(&[&["ca", "issue", other, "--out", path(&out)][..], &ca].concat());
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn manifests_are_judged_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, "kind: [\n").unwrap();
    let wrong = run(&["validate", "-f", path(folder.path())]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stdout).starts_with("NOT valid: 1 error"));
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n",
    )
    .unwrap();
    let right = run(&["validate", "-f", path(&file)]);
    assert_eq!(right.status.code(), Some(0), "{}", text(&right.stdout));
}

fn examples() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    path(&folder).to_owned()
}

#[test]
fn explain_answers_with_its_exit_code() {
    for (from, to, code, first) in [
        ("demo/caller", "demo/server:80", 0, "ALLOWED  "),
        ("demo/intruder", "demo/server:80", 1, "DENIED  "),
        ("demo/caler", "demo/server:80", 2, "UNCLEAR  "),
    ] {
        let said = run(&["explain", "-f", &examples(), "--from", from, "--to", to]);
        assert_eq!(said.status.code(), Some(code), "{from} {to}");
        assert!(
            text(&said.stdout).starts_with(first),
            "{}",
            text(&said.stdout)
        );
    }
    let nothing = run(&["explain", "-f", &examples()]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("say --from WHO --to WHAT"));
}

#[test]
fn explain_answers_batches_line_by_line() {
    use std::io::Write as _;

    let mut child = interceptor(&["explain", "-f", &examples(), "--batch", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut questions = child.stdin.take().unwrap();
    for from in ["demo/caller", "demo/intruder"] {
        writeln!(questions, r#"{{"from": "{from}", "to": "demo/server:80"}}"#).unwrap();
    }
    drop(questions);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "one of them is denied");
    let answers: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let outcomes: Vec<_> = answers
        .iter()
        .map(|answer| answer["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, [Some("allowed"), Some("denied")]);
}

#[test]
fn ports_are_shown_from_manifests() {
    let said = run(&["ports", "-f", &examples(), "demo/server:tcp-echo"]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stderr));
    assert!(text(&said.stdout).starts_with("plaintext does not get through"));
    let none = run(&["ports", "-f", &examples(), "demo/sever"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("did you mean demo/server?"));
}

#[test]
fn an_agent_that_cannot_start_says_one_thing_and_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.yaml");
    std::fs::write(&config, "nod: one\nports: {admin: 70000}\n").unwrap();
    let output = run(&["run", "--config", path(&config)]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("agent.yaml:1:1"), "{said}");
    assert!(said.contains("did you mean `node`"), "{said}");
    assert!(
        said.contains("agent.yaml:2:"),
        "all mistakes together: {said}"
    );

    let missing = run(&["run", "--config", path(&folder.path().join("none.yaml"))]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("none.yaml"));
}
