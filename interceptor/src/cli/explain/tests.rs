//! What `interceptor explain` prints about the example mesh.

use std::path::Path;

use super::*;
use crate::telemetry::record::fixtures as records;
use crate::telemetry::view::State;
use crate::workload::MeshSettings;
use crate::workload::source::directory::load_mesh;

fn explained(from: &str, to: &str) -> Explained {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let (mesh, _) = load_mesh(&examples, &MeshSettings::for_node("none")).unwrap();
    let question = Question {
        from: from.to_owned(),
        to: to.to_owned(),
        source_ip: None,
    };
    Explained {
        answer: explain::explain(&mesh, &question),
        recorded: None,
        now: "2025-03-01T12:05:00Z".parse().unwrap(),
    }
}

#[test]
fn an_allowed_call_is_golden() {
    let explained = explained("demo/caller", "server.demo:tcp-echo");
    assert_eq!(explained.exit(), Exit::Yes);
    insta::assert_snapshot!(explained.text(Style::Plain));
}

#[test]
fn a_denied_call_is_golden() {
    let explained = explained("demo/intruder", "demo/server:80");
    assert_eq!(explained.exit(), Exit::No);
    insta::assert_snapshot!(explained.text(Style::Plain));
}

#[test]
fn plaintext_is_golden() {
    let explained = explained("192.0.2.1", "10.96.0.80:80");
    assert_eq!(explained.exit(), Exit::No);
    insta::assert_snapshot!(explained.text(Style::Plain));
}

#[test]
fn a_name_that_is_not_there_is_unclear_and_one_line() {
    let explained = explained("demo/caler", "demo/server:80");
    assert_eq!(explained.exit(), Exit::Unclear);
    assert_eq!(
        explained.text(Style::Plain),
        "UNCLEAR  demo/caler -> demo/server:80: there is no workload demo/caler; did you mean \
         demo/caller?\n"
    );
}

#[test]
fn a_recorded_refusal_is_asked_about_as_it_was() {
    let view = ConnectionView {
        at: "2025-03-01T12:04:00Z".parse().unwrap(),
        ..ConnectionView::new(&records::denied(), State::Refused)
    };
    let question = question_of(&view).unwrap();
    let asked = explained(&question.from, &question.to);
    let shown = Explained {
        recorded: Some(view),
        ..asked
    };
    let text = shown.text(Style::Plain);
    assert!(
        text.contains("recorded     1m ago, denied at the destination: "),
        "{text}"
    );
    assert!(question.source_ip.is_some(), "{question:?}");
}

#[test]
fn the_same_in_json_is_read_back() {
    let explained = explained("demo/intruder", "demo/server:80");
    let json = serde_json::to_value(&explained).unwrap();
    assert_eq!(json["outcome"], "denied");
    assert_eq!(json["changes"][0]["changes"][0]["change"], "add_value");
    let answer: Answer = serde_json::from_value(json).unwrap();
    assert_eq!(answer, explained.answer);
}
