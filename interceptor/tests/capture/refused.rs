//! Workloads that cannot be enrolled: whatever the reason, they are refused and not left in plaintext.
//!
//! For the want of room: `full`.

use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

use interceptor::capture::{Capture, Counter};
use interceptor::workload::{Binding, ExistingConnections, OnAgentDown, Workload};
use rstest::rstest;

use crate::full::{is_captured, is_open};
use crate::support::{Netns, Node, PEER_V4, V4, connected, is_refused, may_run, workload};

/// The address of a workload that is enrolled.
const ANOTHERS: &str = "10.77.9.9";

/// No connection out of the workload, and none to it.
fn is_shut(pod: &Netns, peer: &Netns) {
    let (server, _app) = (
        peer.listen(&format!("{PEER_V4}:9000")),
        pod.listen("[::]:9000"),
    );
    server.set_nonblocking(true).unwrap();
    pod.dial(&format!("{PEER_V4}:9000")).unwrap_err();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(is_refused(peer.dial(&format!("{V4}:9000"))));
    assert!(is_refused(peer.dial(&format!("{V4}:15008"))));
}

/// What is wrong with a workload.
#[derive(Clone, Copy)]
enum Flaw {
    Address,
    Loopback,
    Ports,
}

/// Tries to enrol a workload that has the flaw. Returns why it failed.
fn fail(capture: &mut Capture, pod: &Netns, sound: &Workload, flaw: Flaw) -> &'static str {
    let mut flawed = sound.clone();
    let taken = match flaw {
        Flaw::Address => {
            flawed.addresses.push(ANOTHERS.parse().unwrap());
            None
        }
        Flaw::Loopback => {
            pod.set_loopback("down");
            None
        }
        Flaw::Ports => Some((pod.listen("127.0.0.1:15006"), pod.take_ports())),
    };
    let error = capture.enrol(&flawed).unwrap_err();
    assert!(capture.keep_closed(&flawed));
    if let Some((_own, ports)) = taken {
        pod.free_ports(ports);
    }
    error.reason()
}

#[rstest]
#[case::an_address_of_its_is_anothers(Flaw::Address, "address_taken")]
#[case::it_has_no_loopback(Flaw::Loopback, "loopback_down")]
#[case::no_port_is_free(Flaw::Ports, "port_taken")]
#[tokio::test]
async fn a_workload_that_cannot_be_enrolled_is_refused_until_it_can(
    #[case] flaw: Flaw,
    #[case] reason: &str,
) {
    if !may_run() {
        return;
    }
    let (node, other) = (Node::new(), Netns::new("other"));
    let (pod, peer) = connected();
    let mut capture = node.start_in(&peer);
    let _other = capture.enrol(&workload(&other, &[ANOTHERS])).unwrap();
    let sound = workload(&pod, &[V4]);
    is_open(&pod, &peer);
    for _ in 0..2 {
        assert_eq!(fail(&mut capture, &pod, &sound, flaw), reason);
        is_shut(&pod, &peer);
    }
    assert_eq!(capture.retire_unclaimed().unwrap(), 0);
    is_shut(&pod, &peer);

    pod.set_loopback("up");
    let enrolled = capture.enrol(&sound).unwrap();
    is_captured(&pod, &enrolled).await;
    capture.unenrol(&sound.id).unwrap();
    is_open(&pod, &peer);
}

/// The agent finds that out before it asks for anything to be enrolled.
#[rstest]
#[case::it_is_refused(OnAgentDown::Refuse, true)]
#[case::its_owner_prefers_plaintext(OnAgentDown::AllowPlaintext, false)]
#[tokio::test]
async fn a_workload_without_a_certificate_is_refused_unless_its_owner_prefers_plaintext(
    #[case] on_agent_down: OnAgentDown,
    #[case] refused: bool,
) {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let (pod, peer) = connected();
    let mut capture = node.start_in(&peer);
    let mut workload = workload(&pod, &[V4]);
    workload.capture.on_agent_down = on_agent_down;
    assert_eq!(capture.keep_closed(&workload), refused);
    if refused {
        is_shut(&pod, &peer);
        capture.open_closed(&workload.id).unwrap();
    }
    is_open(&pod, &peer);
    assert_eq!(capture.status().programs.len(), 10, "the cgroup's own");
}

/// There is nothing to be shut, or it is somebody else's.
#[tokio::test]
async fn what_cannot_be_refused_is_said_and_harms_nobody() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let (pod, peer) = connected();
    let mut capture = node.start_in(&peer);
    let first = workload(&pod, &[V4]);
    let enrolled = capture.enrol(&first).unwrap();
    let nowhere = Binding::NetworkNamespace(PathBuf::from("/run/netns/nobody-has-this-name"));
    let cases = [
        (nowhere, "binding"),
        (Binding::NetworkNamespace(peer.path()), "host_namespace"),
        (Binding::NetworkNamespace(pod.path()), "binding_taken"),
        (Binding::Cgroup(PathBuf::from("/")), "cgroup"),
    ];
    for (binding, reason) in cases {
        let flawed = Workload {
            binding: Some(binding),
            ..workload(&pod, &["10.77.9.8"])
        };
        let error = capture.enrol(&flawed).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(!capture.keep_closed(&flawed), "{reason}");
        capture.open_closed(&flawed.id).unwrap();
    }
    is_captured(&pod, &enrolled).await;
}

#[tokio::test]
async fn a_place_is_shut_until_the_last_who_is_refused_there_has_gone() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let (pod, peer) = connected();
    let mut capture = node.start_in(&peer);
    let both = [V4, V4].map(|it| workload(&pod, &[it]));
    for workload in &both {
        assert!(capture.keep_closed(workload));
    }
    capture.open_closed(&both[0].id).unwrap();
    is_shut(&pod, &peer);
    capture.open_closed(&both[1].id).unwrap();
    is_open(&pod, &peer);
    // Who is enrolled there takes it from those that were not.
    assert!(capture.keep_closed(&both[0]));
    let enrolled = capture.enrol(&both[1]).unwrap();
    capture.open_closed(&both[0].id).unwrap();
    is_captured(&pod, &enrolled).await;
}

/// They were there before it was enrolled, refused or not.
#[tokio::test]
async fn older_connections_of_a_workload_that_was_refused_are_settled_when_it_is_enrolled() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let (pod, peer) = connected();
    let mut capture = node.start_in(&peer);
    let server = peer.listen(&format!("{PEER_V4}:9000"));
    let mut older = pod.dial(&format!("{PEER_V4}:9000")).unwrap();
    let (_end, _) = server.accept().unwrap();
    let mut workload = workload(&pod, &[V4]);
    workload.capture.existing = ExistingConnections::Reset;
    assert!(capture.keep_closed(&workload));
    assert_eq!(capture.counters().of(Counter::ResetOlder), 0);
    let _enrolled = capture.enrol(&workload).unwrap();
    assert_eq!(capture.counters().of(Counter::ResetOlder), 1);
    older.read(&mut [0]).unwrap_err();
}
