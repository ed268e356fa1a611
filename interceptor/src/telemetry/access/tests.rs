//! What a line looks like, when it is written, and what a hostile field cannot do to it.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::telemetry::record::fixtures;

fn at() -> Timestamp {
    "2025-03-01T12:00:00.123456Z".parse().unwrap()
}

fn line(record: &Record, format: Format) -> String {
    String::from_utf8(render(record, at(), format)).unwrap()
}

#[rstest]
#[case::allowed(fixtures::allowed())]
#[case::allowed_at_the_destination(fixtures::allowed_inbound())]
#[case::denied(fixtures::denied())]
#[case::failed(fixtures::failed())]
#[case::cut(fixtures::cut())]
#[case::passthrough(fixtures::passthrough())]
#[case::direct(fixtures::direct())]
fn lines_are_golden(#[case] record: Record) {
    let name = std::thread::current()
        .name()
        .unwrap()
        .rsplit("::")
        .next()
        .unwrap()
        .to_owned();
    let both = line(&record, Format::Text) + &line(&record, Format::Json);
    insta::assert_snapshot!(name, both);
}

#[test]
fn a_line_costs_few_allocations_worth_of_memory() {
    assert!(render(&fixtures::denied(), at(), Format::Text).len() < 1024);
}

#[test]
fn a_log_that_is_off_loses_nothing() {
    let log = AccessLog::disabled();
    log.write(&fixtures::denied());
    log.flush(Duration::from_secs(1));
    assert_eq!(log.lost(), 0);
}

#[test]
fn the_level_of_target_access_decides_which_lines_are_written() {
    use tracing_subscriber::layer::SubscriberExt as _;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::open(&Config {
        destination: Destination::File(path.clone()),
        format: Format::Text,
    })
    .unwrap();
    let filter: tracing_subscriber::EnvFilter = "info,access=warn".parse().unwrap();
    let subscriber = tracing_subscriber::registry().with(filter);
    tracing::subscriber::with_default(subscriber, || {
        log.write(&fixtures::allowed());
        log.write(&fixtures::denied());
        log.write(&fixtures::failed());
    });
    log.flush(Duration::from_secs(10));
    let written = std::fs::read_to_string(path).unwrap();
    assert_eq!(written.lines().count(), 2, "{written}");
    assert!(!written.contains("decision=\"allowed\""));
}

proptest! {
    #[test]
    fn a_hostile_reason_stays_inside_its_field(detail in ".{0,1000}") {
        let mut record = fixtures::denied();
        record.reason.detail = Some(detail.into());
        let text = line(&record, Format::Text);
        prop_assert_eq!(text.matches('\n').count(), 1);
        prop_assert!(text.ends_with('\n'));
        let json: serde_json::Value = serde_json::from_str(&line(&record, Format::Json)).unwrap();
        prop_assert_eq!(json["decision"].as_str(), Some("denied"));
    }
}
