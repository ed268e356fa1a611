//! What is suggested for a recording, and that it allows exactly what was recorded.

use std::fs;

use rstest::rstest;

use super::*;
use crate::telemetry::access::{Format, render};
use crate::telemetry::record::{Outcome, Record, Security, fixtures};

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: demo, labels: {app: server, pod-template-hash: x}}
spec: {nodeName: two, serviceAccountName: server}
status: {podIP: 10.2.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: server-2, namespace: demo, labels: {app: server}}
spec: {nodeName: two, serviceAccountName: server}
status: {podIP: 10.2.0.3}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everybody, namespace: demo}
spec: {rules: [{}]}
";

fn at(minute: u8) -> Timestamp {
    format!("2025-03-01T12:{minute:02}:00Z").parse().unwrap()
}

fn port(record: Record, port: u16) -> Record {
    let mut record = record;
    record.hbone_address.as_mut().unwrap().set_port(port);
    record
}

/// A log of both nodes: two calls that went through, one of them recorded twice, one refusal, one
/// call in plaintext, one failure, one to a Pod that is gone.
fn log() -> String {
    let mut plain = fixtures::allowed_inbound();
    plain.source.identity = None;
    plain.security = Security::None;
    let mut gone = fixtures::allowed_inbound();
    gone.destination.workload = Some(fixtures::workload("old", "10.2.0.9"));
    let mut failed = fixtures::allowed_inbound();
    failed.outcome = Outcome::Failed;
    let records = [
        fixtures::allowed(),
        fixtures::allowed_inbound(),
        port(fixtures::allowed_inbound(), 9090),
        fixtures::denied(),
        plain,
        failed,
        gone,
    ];
    let lines = (0..).zip(&records).map(|(minute, record)| {
        String::from_utf8(render(record, at(minute), Format::Json)).unwrap()
    });
    lines.collect::<String>() + "\nnot json\n"
}

struct World {
    _folder: tempfile::TempDir,
    manifests: PathBuf,
    suggested: PathBuf,
    recording: Recording,
    settings: MeshSettings,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("mesh.yaml"), MANIFESTS).unwrap();
    fs::write(path("access.json"), log()).unwrap();
    let mut recording = Recording::default();
    recording.read_log(&path("access.json")).unwrap();
    World {
        manifests: path("mesh.yaml"),
        suggested: path("suggested.yaml"),
        recording,
        settings: MeshSettings::for_node(""),
        _folder: folder,
    }
}

impl World {
    fn draft(&self, refused: Refused) -> Draft {
        let mesh = mesh(&self.manifests, None, &self.settings).unwrap();
        Draft::of(&mesh, &self.recording, refused, at(30))
    }

    fn replay(&self, policies: &str) -> Replay {
        fs::write(&self.suggested, policies).unwrap();
        let mesh = mesh(&self.manifests, Some(&self.suggested), &self.settings).unwrap();
        Replay::of(&mesh, &self.recording)
    }
}

#[test]
fn a_suggestion_is_golden() {
    insta::assert_snapshot!(world().draft(Refused::LeaveOut).yaml());
}

#[test]
fn what_is_suggested_allows_what_was_recorded_and_nothing_more() {
    let world = world();
    let replay = world.replay(&world.draft(Refused::LeaveOut).yaml());
    assert_eq!(replay.exit(), Exit::Yes);
    assert_eq!(
        replay.text(Style::Plain).lines().next(),
        Some("of 4 recorded connections 0 would have been refused, 0 newly allowed")
    );
}

#[test]
fn what_was_refused_is_allowed_on_request_and_its_replay_is_golden() {
    let world = world();
    let replay = world.replay(&world.draft(Refused::Include).yaml());
    insta::assert_snapshot!(replay.text(Style::Plain));
}

#[test]
fn policies_that_would_refuse_what_went_through_are_a_no() {
    let world = world();
    let nobody = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: nobody, namespace: demo}\n";
    let replay = world.replay(nobody);
    assert_eq!(replay.exit(), Exit::No);
    let said = replay.text(Style::Plain);
    assert!(
        said.starts_with("of 4 recorded connections 3 would have been refused"),
        "{said}"
    );
}

#[test]
fn a_log_in_text_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let line = render(&fixtures::allowed(), at(0), Format::Text);
    fs::write(&path, line).unwrap();
    let failure = Recording::default().read_log(&path).unwrap_err();
    assert!(failure.to_string().contains("format: json"), "{failure}");
}

#[rstest]
#[case::nothing_limits_it("", Exit::Yes)]
#[case::only_what_is_registered(
    "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: demo}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
",
    Exit::No
)]
#[case::it_is_registered(
    "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: demo}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: world, namespace: demo}
spec: {hosts: [world.example.org], addresses: [192.0.2.7], ports: [{number: 443, name: tls, protocol: TLS}], resolution: NONE}
",
    Exit::Yes
)]
fn what_left_the_mesh_is_judged_by_the_egress_rules(#[case] rules: &str, #[case] exit: Exit) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let caller = "
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: demo, labels: {app: caller}}
spec: {nodeName: one, serviceAccountName: caller}
status: {podIP: 10.1.0.2}
";
    fs::write(path("mesh.yaml"), format!("{MANIFESTS}---{caller}")).unwrap();
    fs::write(path("rules.yaml"), rules).unwrap();
    let log = render(&fixtures::passthrough(), at(1), Format::Json);
    fs::write(path("access.json"), log).unwrap();
    let mut recording = Recording::default();
    recording.read_log(&path("access.json")).unwrap();
    let settings = MeshSettings::for_node("");
    let mesh = mesh(&path("mesh.yaml"), Some(&path("rules.yaml")), &settings).unwrap();
    let replay = Replay::of(&mesh, &recording);
    let said = replay.text(Style::Plain);
    assert_eq!(replay.exit(), exit, "{said}");
    assert!(said.starts_with("of 1 recorded connections"), "{said}");
}

#[test]
fn what_an_agent_has_counted_is_the_same_recording_as_its_log() {
    let calls = crate::telemetry::Calls::default();
    let records = [
        fixtures::allowed_inbound(),
        fixtures::allowed_inbound(),
        fixtures::denied(),
        fixtures::passthrough(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.json");
    let mut lines = Vec::new();
    for record in &records {
        calls.note(record);
        lines.extend(render(record, at(1), Format::Json));
    }
    fs::write(&log, lines).unwrap();
    let (mut live, mut logged) = (Recording::default(), Recording::default());
    live.read_report(calls.report());
    logged.read_log(&log).unwrap();
    let counts = |recording: &Recording| {
        let calls = recording
            .calls
            .iter()
            .map(|(call, seen)| (call.clone(), seen.count()));
        let left = recording.departures.iter();
        let left = left.map(|(left, seen)| (left.clone(), seen.count()));
        (calls.collect::<Vec<_>>(), left.collect::<Vec<_>>())
    };
    assert_eq!(counts(&live), counts(&logged));
}
