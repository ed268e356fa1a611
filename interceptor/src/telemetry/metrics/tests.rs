//! What scrapers read, and that the catalogue, the code and the documentation agree.

use std::collections::BTreeSet;
use std::path::Path;

use super::catalogue::{CATALOGUE, Kind, markdown};
use super::*;
use crate::telemetry::record::fixtures;
use crate::telemetry::status::fixtures as status;

fn value(text: &str, name: &str, labels: &[&str]) -> Option<u64> {
    let line = text.lines().find(|line| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The exposition without what differs from run to run.
fn stable(text: &str) -> String {
    let lines = text.lines();
    let stable: Vec<_> = lines
        .filter(|line| !line.starts_with("process_") || line.starts_with("process_start"))
        .collect();
    stable.join("\n")
}

#[test]
fn the_exposition_is_golden() {
    let metrics = Metrics::new();
    metrics.observe(Arc::new(status::healthy));
    let traffic = Arc::new(Traffic::default());
    traffic.add_sent(84);
    traffic.add_received(175);
    let open = metrics.open(&fixtures::allowed(), traffic);
    open.close(&fixtures::allowed());
    metrics.refused(&fixtures::denied());
    metrics.refused(&fixtures::failed());
    metrics
        .open(&fixtures::cut(), Arc::default())
        .close(&fixtures::cut());
    metrics
        .open(&fixtures::passthrough(), Arc::default())
        .close(&fixtures::passthrough());
    metrics.handshake_failed(Label::Expired);
    metrics
        .open(&fixtures::allowed_inbound(), Arc::default())
        .close(&fixtures::allowed_inbound());
    insta::assert_snapshot!(stable(&metrics.render().unwrap()));
}

#[test]
fn both_ends_of_one_connection_on_one_node_are_two() {
    let metrics = Metrics::new();
    let near = metrics.open(&fixtures::allowed(), Arc::default());
    let far = metrics.open(&fixtures::allowed_inbound(), Arc::default());
    assert_eq!(metrics.open_connections(), 2);
    far.close(&fixtures::allowed_inbound());
    assert_eq!(metrics.open_connections(), 1);
    near.close(&fixtures::allowed());
    assert_eq!(metrics.open_connections(), 0);
}

#[test]
fn bytes_of_live_connections_are_in_every_scrape_and_counted_once() {
    let metrics = Metrics::new();
    let traffic = Arc::new(Traffic::default());
    let open = metrics.open(&fixtures::allowed(), Arc::clone(&traffic));
    let received = |text: &str| value(text, "istio_tcp_received_bytes_total", &["=\"source\""]);
    let sent = |text: &str| value(text, "istio_tcp_sent_bytes_total", &["=\"source\""]);
    traffic.add_sent(100);
    traffic.add_received(7);
    let text = metrics.render().unwrap();
    assert_eq!((received(&text), sent(&text)), (Some(100), Some(7)));
    traffic.add_sent(1);
    let text = metrics.render().unwrap();
    assert_eq!((received(&text), sent(&text)), (Some(101), Some(7)));
    traffic.add_sent(1);
    open.close(&fixtures::allowed());
    let text = metrics.render().unwrap();
    assert_eq!((received(&text), sent(&text)), (Some(102), Some(7)));
}

#[test]
fn both_reporters_call_the_response_sent() {
    let metrics = Metrics::new();
    for (record, by_client, by_server) in [
        (fixtures::allowed(), 1, 2),
        (fixtures::allowed_inbound(), 1, 2),
    ] {
        let traffic = Arc::new(Traffic::default());
        match record.reporter {
            Reporter::Source => {
                traffic.add_sent(by_client);
                traffic.add_received(by_server);
            }
            Reporter::Destination => {
                traffic.add_sent(by_server);
                traffic.add_received(by_client);
            }
        }
        metrics.open(&record, traffic).close(&record);
    }
    let text = metrics.render().unwrap();
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        assert_eq!(
            value(&text, "istio_tcp_sent_bytes_total", &[reporter]),
            Some(2)
        );
        assert_eq!(
            value(&text, "istio_tcp_received_bytes_total", &[reporter]),
            Some(1)
        );
    }
}

#[test]
fn a_refusal_counts_as_opened_closed_and_failed() {
    let metrics = Metrics::new();
    metrics.refused(&fixtures::denied());
    let text = metrics.render().unwrap();
    let plain = ["response_flags=\"-\""];
    let deny = ["response_flags=\"DENY\""];
    assert_eq!(
        value(&text, "istio_tcp_connections_opened_total", &plain),
        Some(1)
    );
    assert_eq!(
        value(&text, "istio_tcp_connections_closed_total", &deny),
        Some(1)
    );
    assert_eq!(
        value(&text, "istio_tcp_connections_failed_total", &deny),
        Some(1)
    );
    assert_eq!(
        value(
            &text,
            "interceptor_connections_denied_total",
            &["policy=\"demo/allow-caller\""]
        ),
        Some(1)
    );
}

#[test]
fn a_policy_that_a_peer_names_is_not_a_label() {
    let metrics = Metrics::new();
    let mut record = fixtures::denied();
    record.reporter = Reporter::Source;
    metrics.refused(&record);
    let text = metrics.render().unwrap();
    assert_eq!(
        value(
            &text,
            "interceptor_connections_denied_total",
            &["policy=\"none\"", "reporter=\"source\""]
        ),
        Some(1)
    );
    assert!(!text.contains("policy=\"demo"));
}

#[test]
fn a_connection_whose_task_was_cancelled_is_closed_with_its_bytes() {
    let metrics = Metrics::new();
    let traffic = Arc::new(Traffic::default());
    let open = metrics.open(&fixtures::allowed(), Arc::clone(&traffic));
    assert_eq!(metrics.open_connections(), 1);
    traffic.add_sent(5);
    drop(open);
    assert_eq!(metrics.open_connections(), 0);
    let text = metrics.render().unwrap();
    assert_eq!(
        value(&text, "istio_tcp_connections_closed_total", &[]),
        Some(1)
    );
    assert_eq!(value(&text, "istio_tcp_received_bytes_total", &[]), Some(5));
}

#[test]
fn every_metric_is_in_the_catalogue_and_the_other_way_round() {
    let metrics = Metrics::new();
    metrics.observe(Arc::new(status::healthy));
    let text = metrics.render().unwrap();
    let exposed: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let defined: BTreeSet<_> = CATALOGUE.iter().map(|d| d.name).collect();
    assert_eq!(exposed, defined);
    assert!(
        CATALOGUE
            .iter()
            .all(|d| d.kind == Kind::Gauge || !d.name.ends_with("_total"))
    );
}

#[test]
fn docs_list_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's switch, not configuration"
    )]
    if std::env::var("INTERCEPTOR_GEN").is_ok() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, markdown()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        markdown(),
        "run: INTERCEPTOR_GEN=1 cargo test -p interceptor docs_list_every_metric"
    );
}

#[test]
fn policies_that_only_report_are_counted_by_caller_and_effect() {
    let metrics = Metrics::new();
    let record = fixtures::allowed_inbound();
    drop(metrics.open(&record, Arc::default()));
    let mut plaintext = record;
    plaintext.source.identity = None;
    metrics.refused(&plaintext);
    metrics.refused(&plaintext);
    let (counts, overflowed) = metrics.shadows();
    let counts: Vec<_> = (counts.iter())
        .map(|count| (count.policy.as_str(), count.effect, count.connections))
        .collect();
    let expected = [
        ("demo/only-operator", Effect::WouldRefuse, 1),
        ("demo/only-operator", Effect::WouldRefuse, 2),
        ("demo/watch", Effect::Audited, 1),
        ("demo/watch", Effect::Audited, 2),
    ];
    assert_eq!((counts.as_slice(), overflowed), (&expected[..], 0));
}
