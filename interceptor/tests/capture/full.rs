//! Maps that are full: what does not fit is refused by name, and what is in force stays in force.
//!
//! Grants: `direct::grants`. Workloads and listeners: `lifecycle`.

use interceptor::capture::{Capture, Counter, EnrolError, Enrolled};
use interceptor::workload::{OutboundPort, PortSelection, Workload};
use rstest::rstest;

use crate::support::{Netns, Node, V4, accept, connected, may_run, workload};

/// Sizes so small that a few entries fill them.
fn small() -> Node {
    let mut node = Node::new();
    node.config.sizes.rules = 16;
    node.config.sizes.inbound_ports = 16;
    node.config.sizes.flows = 16;
    node
}

/// A workload with so many rules of a kind.
type Crowd = fn(&mut Workload, u16);

fn outbound(workload: &mut Workload, count: u16) {
    let ports = 1..=count;
    workload.capture.excluded_outbound_ports = ports.map(OutboundPort::Number).collect();
}

fn inbound(workload: &mut Workload, count: u16) {
    workload.capture.inbound = PortSelection::AllExcept((1..=count).collect());
}

async fn is_captured(pod: &Netns, enrolled: &Enrolled) {
    let _app = pod.dial("192.0.2.1:443").unwrap();
    accept(&enrolled.listeners.outbound).await;
}

fn fill(capture: &Capture, holds: &str) -> (usize, u32) {
    let maps = capture.status().maps;
    let map = maps.into_iter().find(|it| it.holds == holds).unwrap();
    (map.entries, map.capacity)
}

#[rstest]
#[case::outbound_rules(outbound, "outbound rules")]
#[case::inbound_ports(inbound, "inbound ports")]
#[tokio::test]
async fn an_enrolment_that_does_not_fit_is_refused_and_named(
    #[case] crowd: Crowd,
    #[case] holds: &str,
) {
    if !may_run() {
        return;
    }
    let node = small();
    let (pod, _peer) = connected();
    let mut first = workload(&pod, &[V4]);
    crowd(&mut first, 4);
    let mut capture = node.start();
    let enrolled = capture.enrol(&first).unwrap();
    let (before, capacity) = fill(&capture, holds);
    assert_eq!(capacity, 16);

    let second = Netns::new("second");
    let mut crowded = workload(&second, &["10.77.0.3"]);
    crowd(&mut crowded, 40);
    let error = capture.enrol(&crowded).unwrap_err();
    assert!(
        matches!(&error, EnrolError::Full { what } if *what == holds),
        "{error}"
    );
    assert_eq!(fill(&capture, holds).0, before, "all of it was taken back");
    is_captured(&pod, &enrolled).await;

    // Growing an enrolled workload beyond the map is refused just so, and it stays captured.
    crowd(&mut first, 40);
    let error = capture.update(&first).unwrap_err();
    assert_eq!(error.reason(), "map_full", "{error}");
    is_captured(&pod, &enrolled).await;
    crowd(&mut first, 4);
    capture.update(&first).unwrap();
    assert_eq!(fill(&capture, holds).0, before);
    is_captured(&pod, &enrolled).await;
}

/// Flows are the one map that gives entries up. A flow is asked for during its handshake; after
/// that a lost one harms nobody, and before that it costs its own connection, which is refused.
#[tokio::test]
async fn a_flow_that_was_displaced_never_opens_a_door() {
    if !may_run() {
        return;
    }
    let node = small();
    let (pod, _peer) = connected();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let mut held = Vec::new();
    for _ in 0..200 {
        let Ok(app) = pod.dial("192.0.2.1:443") else {
            continue;
        };
        let (stream, _) = accept(&enrolled.listeners.outbound).await;
        let destination = enrolled.origin.outbound(&stream);
        // Known for certain or refused; never somebody else's.
        if let Ok(destination) = destination {
            assert_eq!(destination, "192.0.2.1:443".parse().unwrap());
        }
        held.push((app, stream));
    }
    assert!(!held.is_empty());
    let counters = capture.counters();
    assert_eq!(counters.of(Counter::DirectPass), 0);
    assert_eq!(counters.of(Counter::InboundPassedByRule), 0);
}
