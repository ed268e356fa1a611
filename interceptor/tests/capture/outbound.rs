//! Connections that workloads make.

use std::io;
use std::net::SocketAddr;

use interceptor::capture::Counter;
use interceptor::net::{Namespace, Purpose};
use interceptor::workload::{CaptureRules, OutboundPort};
use rstest::rstest;

use crate::support::{
    Netns, Node, V4, V6, accept, connected, given_to_the_agent, may_run, ping, reconnect, workload,
};

#[rstest]
#[case::ipv4("192.0.2.1:443", V4)]
#[case::ipv6("[2001:db8::1]:443", V6)]
#[case::ipv4_mapped("[::ffff:192.0.2.1]:8443", V4)]
#[tokio::test]
async fn a_connection_reaches_the_agent_with_its_destination(#[case] to: &str, #[case] own: &str) {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();

    let app = pod.dial(to).unwrap();
    assert_eq!(app.peer_addr().unwrap(), to.parse().unwrap());
    let local = app.local_addr().unwrap().ip().to_canonical();
    assert_eq!(local.to_string(), own);

    let (stream, from) = accept(&enrolled.listeners.outbound).await;
    let destination = enrolled.origin.outbound(&stream).unwrap();
    let expected: SocketAddr = to.parse().unwrap();
    assert_eq!(destination.port(), expected.port());
    assert_eq!(destination.ip(), expected.ip().to_canonical());
    assert_eq!(from.ip().to_canonical().to_string(), own);
    ping(app, stream).await;
    assert_eq!(capture.counters().of(Counter::Captured), 1);
    assert_eq!(capture.counters().of(Counter::AssignedOutbound), 1);
    assert_eq!(capture.counters().of(Counter::DestinationHandedOver), 1);
}

#[rstest]
#[case::port(CaptureRules {
    excluded_outbound_ports: vec![OutboundPort::Number(9_000)],
    ..CaptureRules::default()
})]
#[case::range(CaptureRules {
    excluded_outbound_ranges: vec!["10.77.0.0/24".parse().unwrap()],
    ..CaptureRules::default()
})]
#[case::not_included(CaptureRules {
    included_outbound_ranges: Some(vec!["192.0.2.0/24".parse().unwrap()]),
    ..CaptureRules::default()
})]
#[tokio::test]
async fn what_a_rule_excludes_goes_straight_to_its_destination(#[case] rules: CaptureRules) {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&pod, &[V4]);
    workload.capture = rules;
    let _enrolled = capture.enrol(&workload).unwrap();

    let app = pod.dial("10.77.0.1:9000").unwrap();
    let (_stream, from) = server.accept().unwrap();
    assert_eq!(from, app.local_addr().unwrap());
    assert_eq!(given_to_the_agent(&capture), 0);
    assert_eq!(capture.counters().of(Counter::PassedByRule), 1);
}

#[tokio::test]
async fn a_changed_rule_applies_to_the_next_connection() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&pod, &[V4]);
    let enrolled = capture.enrol(&workload).unwrap();
    let captured = pod.dial("10.77.0.1:9000").unwrap();
    accept(&enrolled.listeners.outbound).await;

    workload.capture.excluded_outbound_ports = vec![OutboundPort::Number(9_000)];
    capture.update(&workload).unwrap();
    let _direct = pod.dial("10.77.0.1:9000").unwrap();
    server.accept().unwrap();

    workload.capture.excluded_outbound_ports.clear();
    capture.update(&workload).unwrap();
    let _captured_again = pod.dial("10.77.0.1:9000").unwrap();
    accept(&enrolled.listeners.outbound).await;
    drop(captured);
}

#[rstest]
#[case::ipv4("127.0.0.1:9000")]
#[case::ipv6("[::1]:9000")]
#[case::unspecified("0.0.0.0:9000")]
#[tokio::test]
async fn loopback_is_left_alone(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let server = pod.listen("[::]:9000");
    let node = Node::new();
    let mut capture = node.start();
    let _enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
    let _app = pod.dial(to).unwrap();
    server.accept().unwrap();
    assert_eq!(given_to_the_agent(&capture), 0);
    assert_eq!(capture.counters().of(Counter::Loopback), 1);
}

#[rstest]
#[case::ipv4("10.77.0.2:9000")]
#[case::ipv6("[fd77::2]:9000")]
#[tokio::test]
async fn a_workload_talks_to_itself_without_the_agent(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let server = pod.listen("[::]:9000");
    let node = Node::new();
    let mut capture = node.start();
    let _enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
    let app = pod.dial(to).unwrap();
    let (_stream, from) = server.accept().unwrap();
    let local = app.local_addr().unwrap();
    assert_eq!(
        (from.ip().to_canonical(), from.port()),
        (local.ip(), local.port())
    );
    assert_eq!(given_to_the_agent(&capture), 0);
    assert_eq!(capture.counters().of(Counter::OwnAddress), 1);
}

#[tokio::test]
async fn processes_that_are_not_enrolled_are_left_alone() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let _capture = node.start();
    let app = pod.dial("10.77.0.1:9000").unwrap();
    let (_stream, from) = server.accept().unwrap();
    assert_eq!(from, app.local_addr().unwrap());
}

#[tokio::test]
async fn a_socket_that_is_used_again_forgets_its_old_destination() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let server = pod.listen("127.0.0.1:9000");
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();

    let app = pod.dial("192.0.2.1:443").unwrap();
    accept(&enrolled.listeners.outbound).await;
    reconnect(&app, "127.0.0.1:9000".parse().unwrap()).unwrap();
    server.accept().unwrap();
    assert_eq!(app.peer_addr().unwrap(), "127.0.0.1:9000".parse().unwrap());

    reconnect(&app, "192.0.2.2:80".parse().unwrap()).unwrap();
    let (stream, _) = accept(&enrolled.listeners.outbound).await;
    let destination = enrolled.origin.outbound(&stream).unwrap();
    assert_eq!(destination, "192.0.2.2:80".parse().unwrap());
}

#[tokio::test]
async fn syn_cookies_change_nothing() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    pod.force_syn_cookies();
    let server = pod.listen("10.77.0.2:9000");
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();

    let app = pod.dial("192.0.2.1:443").unwrap();
    let (stream, _) = accept(&enrolled.listeners.outbound).await;
    let destination = enrolled.origin.outbound(&stream).unwrap();
    assert_eq!(destination, "192.0.2.1:443".parse().unwrap());
    ping(app, stream).await;

    let client = peer.dial("10.77.0.2:9000").unwrap();
    let (stream, _) = accept(&enrolled.listeners.inbound).await;
    ping(client, stream).await;

    let purpose = Purpose::Application {
        client: "192.0.2.7:4321".parse().unwrap(),
    };
    let to = "10.77.0.2:9000".parse().unwrap();
    let leg = enrolled.dialer.connect(to, purpose).await.unwrap();
    let (app, from) = server.accept().unwrap();
    assert_eq!(from, "192.0.2.7:4321".parse().unwrap());
    ping(app, leg).await;
}

#[tokio::test]
async fn dialling_the_listener_tells_the_agent_nothing() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let _app = pod.dial("127.0.0.1:15001").unwrap();
    let (stream, _) = accept(&enrolled.listeners.outbound).await;
    let refused = enrolled.origin.outbound(&stream).unwrap_err();
    assert_eq!(refused.reason(), "not_captured");
    assert_eq!(capture.counters().of(Counter::Loopback), 1);
    assert_eq!(given_to_the_agent(&capture), 0);
}

#[tokio::test]
async fn a_namespace_without_the_family_refuses_it_as_it_would_without_us() {
    if !may_run() {
        return;
    }
    let (pod, peer) = (Netns::new("pod"), Netns::new("peer"));
    pod.connect(&["10.77.0.2/24"], &peer, &["10.77.0.1/24"]);
    let node = Node::new();
    let mut capture = node.start();
    let _enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let error = pod.dial("[2001:db8::1]:443").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
    assert_eq!(capture.counters().of(Counter::RefusedNoAddress), 1);
}

#[tokio::test]
async fn a_bound_source_address_and_port_are_kept() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    // Every low port: the one that equals the source port would make TCP connect to itself.
    for port in [80, 443, 1_023, 7_777] {
        let from: SocketAddr = format!("{V4}:{port}").parse().unwrap();
        let app = dial_from(&pod.namespace, from, "192.0.2.1:443").unwrap();
        assert_eq!(app.local_addr().unwrap(), from);
        let (stream, seen) = accept(&enrolled.listeners.outbound).await;
        assert_eq!(seen, from);
        let destination = enrolled.origin.outbound(&stream).unwrap();
        assert_eq!(destination, "192.0.2.1:443".parse().unwrap());
    }
    let loopback = "127.0.0.1:0".parse().unwrap();
    let refused = dial_from(&pod.namespace, loopback, "192.0.2.1:443").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let counters = capture.counters();
    assert_eq!(counters.of(Counter::Captured), 4);
    assert_eq!(counters.of(Counter::RefusedLoopbackSource), 1);
}

/// Connects from a source address.
fn dial_from(namespace: &Namespace, from: SocketAddr, to: &str) -> io::Result<std::net::TcpStream> {
    use socket2::{Domain, Socket, Type};
    let to: SocketAddr = to.parse().unwrap();
    let socket = namespace.enter(|| Socket::new(Domain::IPV4, Type::STREAM, None))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}
