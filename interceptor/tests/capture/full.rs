//! Maps that are full: what does not fit is refused by name, and what is in force stays in force.
//!
//! Grants: `direct::grants`. Workloads and listeners: `lifecycle`.

use interceptor::capture::{Capture, Counter, EnrolError, Enrolled};
use interceptor::workload::{OnAgentDown, OutboundPort, PortSelection, Workload};
use rstest::rstest;

use crate::support::{
    Netns, Node, PEER_V4, V4, V6, accept, close, connected, is_refused, may_run, ping, workload,
};

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

pub(crate) async fn is_captured(pod: &Netns, enrolled: &Enrolled) {
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
    capture.enrol(&crowded).unwrap_err();
    assert_eq!(fill(&capture, holds).0, before, "at every attempt");
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
    const TO: &str = "192.0.2.1:443";
    if !may_run() {
        return;
    }
    let node = small();
    let (pod, _peer) = connected();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        match pod.dial(TO) {
            Ok(app) => {
                let (stream, _) = accept(&enrolled.listeners.outbound).await;
                let destination = enrolled.origin.outbound(&stream).unwrap();
                assert_eq!(destination, TO.parse().unwrap());
                held.push((app, stream));
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                refused += 1;
            }
        }
    }
    // More than ten times as many as are remembered, each made in peace: they go on, the first as the last.
    assert!(held.len() > 190, "{refused} were refused");
    for (app, stream) in held {
        assert_eq!(app.peer_addr().unwrap(), TO.parse().unwrap());
        ping(app, stream).await;
    }
    let counters = capture.counters();
    assert_eq!(counters.of(Counter::RefusedLostFlow), refused);
    assert_eq!(counters.of(Counter::FlowNotPublished), 0);
    assert_eq!(counters.of(Counter::DirectPass), 0);
    assert_eq!(counters.of(Counter::InboundPassedByRule), 0);
}

/// A node with room for a single workload, which it has.
fn crowded() -> (Node, Netns, Workload) {
    let mut node = Node::new();
    node.config.sizes.workloads = 1;
    let first = Netns::new("first");
    let workload = workload(&first, &["10.77.8.2"]);
    (node, first, workload)
}

/// A connection out of the workload and one to it, which nobody stops.
pub(crate) fn is_open(pod: &Netns, peer: &Netns) {
    let (server, app) = (
        peer.listen(&format!("{PEER_V4}:9000")),
        pod.listen("[::]:9000"),
    );
    let _out = pod.dial(&format!("{PEER_V4}:9000")).unwrap();
    server.accept().unwrap();
    let _in = peer.dial(&format!("{V4}:9000")).unwrap();
    app.accept().unwrap();
}

fn is_shut(pod: &Netns, peer: &Netns) {
    let (_server, _app) = (
        peer.listen(&format!("{PEER_V4}:9000")),
        pod.listen("[::]:9000"),
    );
    assert!(is_refused(pod.dial(&format!("{PEER_V4}:9000"))));
    assert!(is_refused(pod.dial("[fd77::1]:9000")));
    assert!(is_refused(peer.dial(&format!("{V4}:9000"))));
    assert!(is_refused(peer.dial(&format!("[{V6}]:9000"))));
    assert!(is_refused(peer.dial(&format!("{V4}:15008"))));
}

/// Whoever has no room is not left in plaintext.
#[tokio::test]
async fn a_workload_that_does_not_fit_is_refused_until_it_does() {
    if !may_run() {
        return;
    }
    let (node, _first, first) = crowded();
    let (pod, peer) = connected();
    let mut late = workload(&pod, &[V4, V6]);
    // What is excluded is not known either.
    late.capture.excluded_outbound_ports = vec![OutboundPort::Number(9000)];
    let mut capture = node.start_in(&peer);
    let occupant = capture.enrol(&first).unwrap();
    is_open(&pod, &peer);
    let error = capture.enrol(&late).unwrap_err();
    assert_eq!(error.reason(), "map_full", "{error}");
    assert!(capture.keep_closed(&late));
    is_shut(&pod, &peer);
    // Trying again opens nothing, nor does settling or the agent's end.
    capture.enrol(&late).unwrap_err();
    assert_eq!(capture.retire_unclaimed().unwrap(), 0);
    is_shut(&pod, &peer);
    close((capture, occupant));
    is_shut(&pod, &peer);

    let mut capture = node.start_in(&peer);
    is_shut(&pod, &peer);
    late.capture.excluded_outbound_ports.clear();
    let enrolled = capture.enrol(&late).unwrap();
    capture.retire_unclaimed().unwrap();
    is_captured(&pod, &enrolled).await;
    capture.unenrol(&late.id).unwrap();
    close(enrolled);
    is_open(&pod, &peer);
}

#[tokio::test]
async fn a_workload_that_did_not_fit_and_goes_leaves_no_trace() {
    if !may_run() {
        return;
    }
    let (node, _first, first) = crowded();
    let (pod, peer) = connected();
    let late = workload(&pod, &[V4, V6]);
    let mut capture = node.start_in(&peer);
    let _enrolled = capture.enrol(&first).unwrap();
    let before = (
        fill(&capture, "workloads"),
        fill(&capture, "guarded interfaces"),
    );
    let programs = capture.status().programs.len();
    capture.enrol(&late).unwrap_err();
    is_shut(&pod, &peer);
    capture.open_closed(&late.id).unwrap();
    is_open(&pod, &peer);
    let after = (
        fill(&capture, "workloads"),
        fill(&capture, "guarded interfaces"),
    );
    assert_eq!(after, before);
    assert_eq!(capture.status().programs.len(), programs);
}

/// Its predecessor being refused refuses nobody else.
#[tokio::test]
async fn a_workload_that_did_not_fit_and_is_recreated_is_refused_where_it_is_now() {
    if !may_run() {
        return;
    }
    let (node, _first, first) = crowded();
    let (pod, peer) = connected();
    let before = Netns::new("before");
    let late = workload(&pod, &[V4, V6]);
    let predecessor = Workload {
        binding: workload(&before, &[]).binding,
        ..late.clone()
    };
    for keep in [false, true] {
        let mut capture = node.start_in(&peer);
        let occupant = capture.enrol(&first).unwrap();
        let programs = capture.status().programs.len();
        capture.enrol(&predecessor).unwrap_err();
        let with_one = (fill(&capture, "workloads"), capture.status().programs.len());
        assert!(with_one.1 > programs);
        is_open(&pod, &peer);
        if keep {
            assert!(capture.keep_closed(&late), "where it is now");
        }
        let error = capture.enrol(&late).unwrap_err();
        assert_eq!(error.reason(), "map_full", "{error}");
        assert!(capture.keep_closed(&late));
        is_shut(&pod, &peer);
        assert_eq!(
            fill(&capture, "workloads"),
            with_one.0,
            "the place was given up"
        );
        capture.open_closed(&late.id).unwrap();
        is_open(&pod, &peer);
        assert_eq!(capture.status().programs.len(), programs);
        capture.unenrol(&first.id).unwrap();
        close((capture, occupant));
    }
}

/// Programs need no room.
#[tokio::test]
async fn many_workloads_that_do_not_fit_are_refused_all() {
    if !may_run() {
        return;
    }
    let (node, _first, first) = crowded();
    let (pod, peer) = connected();
    let mut capture = node.start_in(&peer);
    let _enrolled = capture.enrol(&first).unwrap();
    let others: Vec<_> = (0..24).map(|_| Netns::new("other")).collect();
    for other in &others {
        let error = capture.enrol(&workload(other, &[])).unwrap_err();
        assert_eq!(error.reason(), "map_full", "{error}");
    }
    let (used, capacity) = fill(&capture, "workloads");
    assert_eq!(u32::try_from(used).unwrap(), capacity);
    capture.enrol(&workload(&pod, &[V4, V6])).unwrap_err();
    let server = peer.listen(&format!("{PEER_V4}:9000"));
    let blocked = pod.namespace.enter(|| {
        let to = format!("{PEER_V4}:9000").parse().unwrap();
        std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_millis(300))
    });
    assert!(blocked.is_err(), "its SYN does not leave");
    let _app = pod.listen("[::]:9000");
    assert!(is_refused(peer.dial(&format!("{V4}:9000"))));
    drop(server);
}

#[tokio::test]
async fn an_owner_who_prefers_plaintext_keeps_it() {
    if !may_run() {
        return;
    }
    let (node, _first, first) = crowded();
    let (pod, peer) = connected();
    let mut late = workload(&pod, &[V4, V6]);
    late.capture.on_agent_down = OnAgentDown::AllowPlaintext;
    let mut capture = node.start_in(&peer);
    let _enrolled = capture.enrol(&first).unwrap();
    capture.enrol(&late).unwrap_err();
    assert!(!capture.keep_closed(&late));
    is_open(&pod, &peer);
}
