//! What is captured of a workload, by its annotations.

use rstest::rstest;

use super::pod;
use crate::workload::fixtures::{mesh, shown, workload};
use crate::workload::{CaptureRules, OutboundPort, PortSelection, Workload};

/// A Pod with `annotations` beside a Service whose ports have names.
fn captured(annotations: &str) -> (Workload, Vec<String>) {
    let (mesh, mistakes) = mesh(&format!(
        "{}{}---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: demo}}
spec:
  clusterIP: 10.96.0.1
  selector: {{app: db}}
  ports: [{{name: mysql, port: 3306, targetPort: sql}}]
",
        pod(
            "a",
            &format!("annotations: {{{annotations}}}"),
            "containers: [{name: a, ports: [{name: http, containerPort: 8080}]}]",
            ""
        ),
        pod(
            "db",
            "labels: {app: db}",
            "containers: [{name: a, ports: [{name: sql, containerPort: 33060}]}]",
            "podIP: 10.0.0.9"
        ),
    ));
    (Workload::clone(workload(&mesh, "demo/a")), shown(&mistakes))
}

/// What is captured of a workload without annotations.
fn everything() -> CaptureRules {
    CaptureRules {
        inbound: PortSelection::AllExcept(vec![15020, 15021, 15090]),
        ..CaptureRules::default()
    }
}

const T: &str = "traffic.sidecar.istio.io/";

#[rstest]
#[case::nothing_said("", everything())]
#[case::excluded_inbound_by_number_and_name(
    "excludeInboundPorts: '9090, http'",
    CaptureRules {
        inbound: PortSelection::AllExcept(vec![8080, 9090, 15020, 15021, 15090]),
        ..everything()
    }
)]
#[case::included_inbound_beats_excluded(
    "includeInboundPorts: 'http,9090'",
    CaptureRules { inbound: PortSelection::Only(vec![8080, 9090]), ..everything() }
)]
#[case::included_inbound_star_is_all("includeInboundPorts: '*'", everything())]
#[case::included_inbound_empty_is_none(
    "includeInboundPorts: ''",
    CaptureRules { inbound: PortSelection::Only(vec![]), ..everything() }
)]
#[case::excluded_outbound_by_number_and_name(
    "excludeOutboundPorts: '443,mysql'",
    CaptureRules {
        excluded_outbound_ports: vec![
            OutboundPort::Number(443),
            OutboundPort::Named {
                name: "mysql".to_owned(),
                endpoints: vec![
                    "10.0.0.9:33060".parse().unwrap(),
                    "10.96.0.1:3306".parse().unwrap(),
                ],
            },
        ],
        ..everything()
    }
)]
#[case::excluded_ranges_in_canonical_form(
    "excludeOutboundIPRanges: '10.1.2.3/8, ::1, 192.0.2.1'",
    CaptureRules {
        excluded_outbound_ranges: vec![
            "10.0.0.0/8".parse().unwrap(),
            "::1/128".parse().unwrap(),
            "192.0.2.1/32".parse().unwrap(),
        ],
        ..everything()
    }
)]
#[case::included_ranges(
    "includeOutboundIPRanges: 10.0.0.0/8",
    CaptureRules {
        included_outbound_ranges: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        ..everything()
    }
)]
#[case::included_ranges_empty_leave_the_included_ports(
    "includeOutboundPorts: '80', T-includeOutboundIPRanges: ''",
    CaptureRules {
        included_outbound_ports: vec![OutboundPort::Number(80)],
        included_outbound_ranges: Some(vec![]),
        ..everything()
    }
)]
#[case::included_ports_star_beat_the_ranges(
    "includeOutboundPorts: '*', T-includeOutboundIPRanges: ''",
    everything()
)]
fn capture_annotations_mean_what_they_mean_to_istio(
    #[case] annotations: &str,
    #[case] expected: CaptureRules,
) {
    let annotations = match annotations {
        "" => String::new(),
        some => format!("{T}{}", some.replace("T-", T)),
    };
    let (workload, mistakes) = captured(&annotations);
    assert_eq!(mistakes, Vec::<String>::new());
    assert_eq!(workload.capture, expected);
}

#[rstest]
#[case::a_port_that_is_none(
    "excludeInboundPorts: '80,0'",
    "\"0\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::an_empty_element(
    "excludeOutboundPorts: '80,,81'",
    "\"\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::a_star_among_ports(
    "excludeOutboundPorts: '*'",
    "\"*\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::a_range_of_ports(
    "excludeOutboundPorts: '80-90'",
    "\"80-90\" is not a port: write numbers from 1 to 65535 or port names, with commas"
)]
#[case::a_name_that_the_workload_does_not_have(
    "excludeInboundPorts: grpc",
    "the workload has no port named \"grpc\" (it has: http)"
)]
#[case::a_name_that_no_service_has(
    "excludeOutboundPorts: redis",
    "warning: no Service of the mesh has a port named \"redis\""
)]
#[case::a_range_that_is_none(
    "includeOutboundIPRanges: '10.0.0.0/33'",
    "\"10.0.0.0/33\" is not an address or a range such as 10.0.0.0/8"
)]
#[case::excluding_everything(
    "excludeOutboundIPRanges: '*'",
    "cannot be *; to capture nothing, write \
     traffic.sidecar.istio.io/includeOutboundIPRanges: \"\""
)]
#[case::a_typo(
    "excludeInboundPort: '80'",
    "unknown annotation; did you mean traffic.sidecar.istio.io/excludeInboundPorts?"
)]
#[case::what_has_no_meaning_here(
    "excludeInterfaces: eth1",
    "warning: has no effect: sockets are captured, not interfaces"
)]
fn wrong_capture_annotations_are_reported(#[case] annotation: &str, #[case] message: &str) {
    let (_, mistakes) = captured(&format!("{T}{annotation}"));
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    let (warning, message) = match message.strip_prefix("warning: ") {
        Some(message) => ("warning: ", message),
        None => ("", message),
    };
    assert!(
        mistakes[0].contains(&format!(": {warning}metadata.annotations")),
        "{mistakes:?}"
    );
    assert!(
        mistakes[0].ends_with(&format!("\"]: {message}")),
        "{mistakes:?}"
    );
}

/// So many ports or addresses, with commas.
fn list(count: u32, prefix: &str) -> String {
    let entries = (1..=count).map(|number| match prefix {
        "" => number.to_string(),
        _ => format!("{prefix}.{}.{}", number >> 8, number & 255),
    });
    entries.collect::<Vec<_>>().join(",")
}

#[rstest]
#[case::inbound_ports(&[("excludeInboundPorts", list(1025, ""))], "has 1025 entries; a workload may have 1024 at most")]
#[case::a_port_again_and_again(&[("excludeOutboundPorts", "443,".repeat(100_000) + "443")], "has 100001 entries")]
#[case::outbound_ports(&[("excludeOutboundPorts", list(10_000, ""))], "more than 16384 rules")]
#[case::ranges(&[("excludeOutboundIPRanges", list(16_385, "10.0"))], "has 16385 entries")]
#[case::ports_by_ranges(
    &[("includeOutboundPorts", list(100, "")), ("excludeOutboundIPRanges", list(100, "10.0"))],
    "an included port needs one for each excluded range"
)]
fn a_workload_that_asks_for_too_much_is_a_mistake(
    #[case] annotations: &[(&str, String)],
    #[case] said: &str,
) {
    let lists: Vec<_> = (annotations.iter())
        .map(|(key, value)| format!("{T}{key}: '{value}'"))
        .collect();
    let (_, mistakes) = captured(&lists.join(", "));
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(mistakes.iter().all(|it| it.contains(said)), "{mistakes:#?}");
}

#[test]
fn as_much_as_a_workload_may_ask_for_is_no_mistake() {
    let (ports, ranges) = (list(1024, ""), list(14_000, "10.0"));
    let (workload, mistakes) = captured(&format!(
        "{T}excludeInboundPorts: '{ports}', {T}excludeOutboundPorts: '{ports}', {T}excludeOutboundIPRanges: '{ranges}'"
    ));
    assert_eq!(mistakes, Vec::<String>::new());
    assert_eq!(workload.capture.excluded_outbound_ranges.len(), 14_000);
}
