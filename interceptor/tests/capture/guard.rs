//! Packets that no socket connected for: stopped on the other side of the workload's interface.
//!
//! The agent runs in the peer's namespace here, for it is there that a host would have the other
//! side of the workload's interface.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use interceptor::capture::{Capture, Counter, Enrolled};
use interceptor::net::Purpose;
use interceptor::workload::OutboundPort;
use rstest::rstest;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::frames::{ACK, SYN, Wire, tcp, v4, v6};
use crate::support::{Netns, Node, PEER_V4, V4, V6, accept, connected, may_run, ping, workload};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const DCCP: u8 = 33;

/// The port to which a rule lets the workload connect without the agent.
const OPEN: u16 = 9_001;

const ENDS_V4: (&str, &str) = (V4, PEER_V4);
const ENDS_V6: (&str, &str) = (V6, "fd77::1");

/// An enrolled workload whose interface has a guard.
struct Cell {
    enrolled: Enrolled,
    capture: Capture,
    _node: Node,
    pod: Netns,
    host: Netns,
}

impl Cell {
    fn new() -> Self {
        let (pod, host) = connected();
        let node = Node::new();
        let mut capture = node.start_in(&host);
        let mut workload = workload(&pod, &[V4, V6]);
        workload.capture.excluded_outbound_ports = vec![OutboundPort::Number(OPEN)];
        let enrolled = capture.enrol(&workload).unwrap();
        Self {
            enrolled,
            capture,
            _node: node,
            pod,
            host,
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.capture.counters().of(counter)
    }

    /// Waits until an outcome was counted so often, and not more often.
    fn has_counted(&self, counter: Counter, times: u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.count(counter) < times {
            assert!(Instant::now() < deadline, "{} is missing", counter.name());
            std::thread::yield_now();
        }
        assert_eq!(self.count(counter), times, "{}", counter.name());
    }

    /// Listens to every TCP packet that reaches the host.
    fn tap(&self) -> Socket {
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP));
        let tap = self.host.namespace.enter(open).unwrap();
        tap.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        tap
    }
}

/// The port to which the next packet is headed that arrives at `tap`.
fn next_port(mut tap: &Socket) -> u16 {
    let mut packet = [0; 128];
    let length = std::io::Read::read(&mut tap, &mut packet).unwrap();
    assert!(length >= 24);
    u16::from_be_bytes([packet[22], packet[23]])
}

#[tokio::test]
async fn every_interface_of_a_workload_has_a_guard() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let status = cell.capture.status();
    let guards = status.programs.iter().filter(|it| it.name == "ic_guard");
    assert_eq!(guards.count(), 1);
    assert_eq!(status.workloads[0].unguarded, []);
}

#[tokio::test]
async fn an_interface_that_ends_elsewhere_is_listed_as_unguarded() {
    if !may_run() {
        return;
    }
    let (pod, _elsewhere) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let _enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let status = capture.status();
    let [unguarded] = &*status.workloads[0].unguarded else {
        panic!("{status:?}");
    };
    assert_eq!(unguarded.interface, pod.interface());
    assert!(
        unguarded
            .why
            .contains("not in the agent's network namespace")
    );
}

#[tokio::test]
async fn connections_of_every_kind_pass_the_guard() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    // Left alone by a rule.
    let server = cell.host.listen("[::]:9001");
    for to in ["10.77.0.1:9001", "[fd77::1]:9001"] {
        let _app = cell.pod.dial(to).unwrap();
        server.accept().unwrap();
    }
    // The agent's own.
    let peer = cell.host.listen("10.77.0.1:15008");
    let to = "10.77.0.1:15008".parse().unwrap();
    let _leg = cell
        .enrolled
        .dialer
        .connect(to, Purpose::Peer)
        .await
        .unwrap();
    peer.accept().unwrap();
    // To the workload: what leaves is its answer.
    let client = cell.host.dial("10.77.0.2:9000").unwrap();
    let (stream, _) = accept(&cell.enrolled.listeners.inbound).await;
    ping(client, stream).await;
    for refused in [
        Counter::RefusedUnknownSyn,
        Counter::RefusedHiddenPacket,
        Counter::RefusedProtocolPacket,
    ] {
        cell.has_counted(refused, 0);
    }
}

#[tokio::test]
async fn a_syn_of_a_packet_socket_does_not_leave() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let (tap, wire) = (cell.tap(), Wire::new(&cell.pod, &cell.host));
    // The port is one that rules leave alone: it is the missing connection that counts.
    let syn = tcp((4_321, OPEN), SYN);
    wire.send(IPV4, &[&v4(ENDS_V4, TCP, 0, &[]), &syn]);
    cell.has_counted(Counter::RefusedUnknownSyn, 1);
    wire.send(IPV6, &[&v6(ENDS_V6, TCP, 20), &syn]);
    cell.has_counted(Counter::RefusedUnknownSyn, 2);
    // What begins no connection is not worth the trouble, and tells that packets arrive at all.
    wire.send(
        IPV4,
        &[&v4(ENDS_V4, TCP, 0, &[]), &tcp((4_321, 4_444), ACK)],
    );
    assert_eq!(next_port(&tap), 4_444);
}

#[tokio::test]
async fn a_syn_of_a_raw_icmp_socket_does_not_leave() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let tap = cell.tap();
    // Raw ICMP is allowed, for ping, and then told to send whole packets.
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let socket = cell.pod.namespace.enter(open).unwrap();
    socket.set_header_included_v4(true).unwrap();
    let to = SockAddr::from("10.77.0.1:0".parse::<SocketAddr>().unwrap());
    let send = |port, flags| {
        let packet = [v4(ENDS_V4, TCP, 0, &[]), tcp((4_321, port), flags)].concat();
        socket.send_to(&packet, &to).unwrap();
    };
    send(OPEN, SYN);
    cell.has_counted(Counter::RefusedUnknownSyn, 1);
    send(4_444, ACK);
    assert_eq!(next_port(&tap), 4_444);
}

#[tokio::test]
async fn the_tuple_of_a_connection_is_no_use_to_another_workload() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let server = cell.host.listen("10.77.0.1:9001");
    let app = cell.pod.dial("10.77.0.1:9001").unwrap();
    server.accept().unwrap();
    let port = app.local_addr().unwrap().port();

    let third = Netns::new("third");
    third.connect(&["10.78.0.2/24"], &cell.host, &["10.78.0.1/24"]);
    third.default_route("10.78.0.1");
    let _enrolled = cell
        .capture
        .enrol(&workload(&third, &["10.78.0.2"]))
        .unwrap();
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let socket = third.namespace.enter(open).unwrap();
    socket.set_header_included_v4(true).unwrap();
    let to = SockAddr::from("10.77.0.1:0".parse::<SocketAddr>().unwrap());
    let spoofed = [v4(ENDS_V4, TCP, 0, &[]), tcp((port, OPEN), SYN)].concat();
    socket.send_to(&spoofed, &to).unwrap();
    cell.has_counted(Counter::RefusedUnknownSyn, 1);

    // The owner of the tuple may repeat its SYN.
    let tap = cell.tap();
    Wire::new(&cell.pod, &cell.host).send(IPV4, &[&spoofed]);
    assert_eq!(next_port(&tap), OPEN);
    drop((app, server));
    cell.has_counted(Counter::RefusedUnknownSyn, 1);
}

/// Each is sent through a packet socket.
#[rstest]
#[case::after_ip_options(IPV4, [v4(ENDS_V4, TCP, 0, &[1, 1, 1, 1]), tcp((1, OPEN), SYN)].concat(), Counter::RefusedUnknownSyn)]
#[case::first_fragment(IPV4, [v4(ENDS_V4, TCP, 0x2000, &[]), tcp((1, OPEN), SYN)].concat(), Counter::RefusedHiddenPacket)]
#[case::later_fragment(IPV4, [v4(ENDS_V4, TCP, 1, &[]), vec![0; 20]].concat(), Counter::RefusedHiddenPacket)]
#[case::cut_short(IPV4, [v4(ENDS_V4, TCP, 0, &[]), vec![0; 4]].concat(), Counter::RefusedHiddenPacket)]
#[case::sctp(IPV4, [v4(ENDS_V4, SCTP, 0, &[]), vec![0; 20]].concat(), Counter::RefusedProtocolPacket)]
#[case::dccp(IPV4, [v4(ENDS_V4, DCCP, 0, &[]), vec![0; 20]].concat(), Counter::RefusedProtocolPacket)]
#[case::behind_hop_by_hop_options(IPV6, [v6(ENDS_V6, 0, 28), vec![TCP, 0, 1, 4, 0, 0, 0, 0], tcp((1, OPEN), SYN)].concat(), Counter::RefusedHiddenPacket)]
#[case::behind_two_headers(IPV6, [v6(ENDS_V6, 0, 36), vec![60, 0, 1, 4, 0, 0, 0, 0], vec![TCP, 0, 1, 4, 0, 0, 0, 0], tcp((1, OPEN), SYN)].concat(), Counter::RefusedHiddenPacket)]
#[case::first_fragment_of_ipv6(IPV6, [v6(ENDS_V6, 44, 28), vec![TCP, 0, 0, 1, 0, 0, 0, 1], tcp((1, OPEN), SYN)].concat(), Counter::RefusedHiddenPacket)]
#[case::later_fragment_of_options(IPV6, [v6(ENDS_V6, 44, 28), vec![60, 0, 0, 8, 0, 0, 0, 1], vec![0; 20]].concat(), Counter::RefusedHiddenPacket)]
#[case::headers_without_end(IPV6, [v6(ENDS_V6, 60, 76), [60, 0, 1, 4, 0, 0, 0, 0].repeat(7), tcp((1, OPEN), SYN)].concat(), Counter::RefusedHiddenPacket)]
#[case::sctp_behind_options(IPV6, [v6(ENDS_V6, 60, 28), vec![SCTP, 0, 1, 4, 0, 0, 0, 0], vec![0; 20]].concat(), Counter::RefusedProtocolPacket)]
#[case::tags_within_tags(VLAN, [vec![0, 1, 0x81, 0, 0, 2, 8, 0], v4(ENDS_V4, TCP, 0, &[]), tcp((1, OPEN), SYN)].concat(), Counter::RefusedHiddenPacket)]
#[case::in_a_vlan(VLAN, [vec![0, 1, 8, 0], v4(ENDS_V4, TCP, 0, &[]), tcp((1, OPEN), SYN)].concat(), Counter::RefusedUnknownSyn)]
#[tokio::test]
async fn hidden_beginnings_do_not_leave(
    #[case] ethertype: u16,
    #[case] packet: Vec<u8>,
    #[case] outcome: Counter,
) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    Wire::new(&cell.pod, &cell.host).send(ethertype, &[&packet]);
    cell.has_counted(outcome, 1);
}

#[rstest]
#[case::udp(IPV4, [v4(ENDS_V4, UDP, 0, &[]), vec![0; 20]].concat())]
#[case::a_fragment_of_udp(IPV4, [v4(ENDS_V4, UDP, 0x2000, &[]), vec![0; 20]].concat())]
#[case::multicast_reports(IPV6, [v6(ENDS_V6, 0, 28), vec![58, 0, 5, 2, 0, 0, 1, 0], vec![0; 20]].concat())]
#[case::a_later_fragment_of_udp(IPV6, [v6(ENDS_V6, 44, 28), vec![UDP, 0, 0, 8, 0, 0, 0, 1], vec![0; 20]].concat())]
#[case::arp(0x0806, vec![0; 28])]
#[tokio::test]
async fn what_carries_no_connection_leaves(#[case] ethertype: u16, #[case] packet: Vec<u8>) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let (tap, wire) = (cell.tap(), Wire::new(&cell.pod, &cell.host));
    wire.send(ethertype, &[&packet]);
    wire.send(
        IPV4,
        &[&v4(ENDS_V4, TCP, 0, &[]), &tcp((4_321, 4_444), ACK)],
    );
    assert_eq!(next_port(&tap), 4_444, "packets arrive in order");
    for refused in [
        Counter::RefusedUnknownSyn,
        Counter::RefusedHiddenPacket,
        Counter::RefusedProtocolPacket,
    ] {
        cell.has_counted(refused, 0);
    }
}

#[tokio::test]
async fn a_workload_that_is_let_go_loses_its_guard_first() {
    if !may_run() {
        return;
    }
    let (pod, host) = connected();
    let node = Node::new();
    let mut capture = node.start_in(&host);
    let workload = workload(&pod, &[V4]);
    let enrolled = capture.enrol(&workload).unwrap();
    capture.unenrol(&workload.id).unwrap();
    drop(enrolled);
    let status = capture.status();
    assert!(!status.programs.iter().any(|it| it.name == "ic_guard"));
    let guarded = status.maps.iter().find(|it| it.name == "GUARDED").unwrap();
    assert_eq!(guarded.entries, 0);
    let server = host.listen("10.77.0.1:9000");
    let _app = pod.dial("10.77.0.1:9000").unwrap();
    server.accept().unwrap();
}

#[tokio::test]
async fn a_guard_outlives_its_agent_and_is_taken_over() {
    if !may_run() {
        return;
    }
    let (pod, host) = connected();
    let node = Node::new();
    let mut capture = node.start_in(&host);
    let workload = workload(&pod, &[V4]);
    let enrolled = capture.enrol(&workload).unwrap();
    let guard = |capture: &Capture| {
        let programs = capture.status().programs;
        let guard = programs.iter().find(|it| it.name == "ic_guard").unwrap();
        guard.link
    };
    let before = guard(&capture);
    drop((capture, enrolled));

    let mut capture = node.start_in(&host);
    assert_eq!(guard(&capture), before, "it has stood all the time");
    let _enrolled = capture.enrol(&workload).unwrap();
    assert_eq!(
        guard(&capture),
        before,
        "the program behind it was replaced"
    );
    Wire::new(&pod, &host).send(IPV4, &[&v4(ENDS_V4, TCP, 0, &[]), &tcp((1, OPEN), SYN)]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while capture.counters().of(Counter::RefusedUnknownSyn) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}
