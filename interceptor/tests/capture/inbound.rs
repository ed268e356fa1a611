//! Connections to workloads.

use std::net::SocketAddr;

use interceptor::capture::Counter;
use interceptor::net::Purpose;
use interceptor::workload::PortSelection;
use rstest::rstest;

use crate::support::{
    Node, PEER_V4, V4, V6, accept, connected, given_to_the_agent, may_run, ping, workload,
};

#[rstest]
#[case::ipv4("10.77.0.2:9000", PEER_V4)]
#[case::ipv6("[fd77::2]:9000", "fd77::1")]
#[tokio::test]
async fn plaintext_to_a_workload_is_steered_to_the_agent(#[case] to: &str, #[case] from: &str) {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();

    let client = peer.dial(to).unwrap();
    let (stream, seen) = accept(&enrolled.listeners.inbound).await;
    assert_eq!(
        enrolled.origin.inbound(&stream).unwrap(),
        to.parse().unwrap()
    );
    assert_eq!(seen.ip().to_string(), from);
    ping(client, stream).await;
    assert_eq!(capture.counters().of(Counter::SteeredInbound), 1);
}

#[rstest]
#[case::ipv4("10.77.0.2:15008")]
#[case::ipv6("[fd77::2]:15008")]
#[tokio::test]
async fn hbone_to_a_workload_has_a_listener_of_its_own(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
    let client = peer.dial(to).unwrap();
    let (stream, _) = accept(&enrolled.listeners.hbone).await;
    assert_eq!(
        enrolled.origin.inbound(&stream).unwrap(),
        to.parse().unwrap()
    );
    ping(client, stream).await;
    assert_eq!(capture.counters().of(Counter::SteeredHbone), 1);
}

#[rstest]
#[case::excluded(PortSelection::AllExcept(vec![9_000]))]
#[case::not_included(PortSelection::Only(vec![80]))]
#[tokio::test]
async fn a_port_that_is_not_captured_goes_to_the_application(#[case] inbound: PortSelection) {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = pod.listen("10.77.0.2:9000");
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&pod, &[V4]);
    workload.capture.inbound = inbound;
    let _enrolled = capture.enrol(&workload).unwrap();
    let client = peer.dial("10.77.0.2:9000").unwrap();
    let (_stream, from) = server.accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    assert_eq!(given_to_the_agent(&capture), 0);
    assert_eq!(capture.counters().of(Counter::InboundPassedByRule), 1);
}

#[tokio::test]
async fn an_address_that_the_mesh_does_not_know_is_steered_as_well() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let _client = peer.dial("[fd77::2]:9000").unwrap();
    accept(&enrolled.listeners.inbound).await;
}

#[rstest]
#[case::ipv4("10.77.0.2:9000", "10.77.0.2:9000", "192.0.2.7:4321")]
#[case::ipv4_to_a_dual_stack_application("10.77.0.2:9000", "[::]:9000", "192.0.2.7:4321")]
#[case::ipv6("[fd77::2]:9000", "[::]:9000", "[2001:db8::7]:4321")]
#[tokio::test]
async fn the_application_sees_the_true_client(
    #[case] to: &str,
    #[case] at: &str,
    #[case] client: &str,
) {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let server = pod.listen(at);
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();

    let client: SocketAddr = client.parse().unwrap();
    let purpose = Purpose::Application { client };
    let leg = enrolled.dialer.connect(to.parse().unwrap(), purpose);
    let leg = leg.await.unwrap();
    let (app, from) = server.accept().unwrap();
    assert_eq!(
        (from.ip().to_canonical(), from.port()),
        (client.ip(), client.port())
    );
    assert_eq!(app.peer_addr().unwrap(), from);
    let local = app.local_addr().unwrap();
    let expected: SocketAddr = to.parse().unwrap();
    assert_eq!(
        (local.ip().to_canonical(), local.port()),
        (expected.ip(), expected.port())
    );
    ping(app, leg).await;
    assert_eq!(capture.counters().of(Counter::ClientHandedOver), 1);
    assert_eq!(capture.counters().of(Counter::DirectPass), 1);
}

#[tokio::test]
async fn the_agents_leg_to_a_peer_does_not_open_a_local_door() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let server = pod.listen("10.77.0.2:9000");
    server.set_nonblocking(true).unwrap();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let to = "10.77.0.2:9000".parse().unwrap();
    let _leg = enrolled.dialer.connect(to, Purpose::Peer).await.unwrap();
    accept(&enrolled.listeners.inbound).await;
    assert!(server.accept().is_err());
    assert_eq!(
        capture.counters().of(Counter::AgentOwn),
        2,
        "this leg and the proof at start"
    );
}

#[tokio::test]
async fn a_refused_port_of_the_application_is_refused_to_the_agent() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let client = "192.0.2.7:4321".parse().unwrap();
    let to = "10.77.0.2:9000".parse().unwrap();
    let leg = enrolled.dialer.connect(to, Purpose::Application { client });
    let error = leg.await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
