//! Datagrams of workloads: left alone, counted or refused.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use interceptor::capture::{Capture, Counter};
use interceptor::workload::UdpRule;
use rstest::rstest;

use crate::support::{Netns, Node, V4, V6, connected, may_run, workload};

const QUIC: &str = "10.77.0.1:443";
const DNS: &str = "10.77.0.1:53";
const OTHER: &str = "10.77.0.1:5000";

/// What a workload enrolled with this rule may do.
struct Cell {
    capture: Capture,
    _node: Node,
    pod: Netns,
    peer: Netns,
}

impl Cell {
    fn new(rule: UdpRule) -> Self {
        let (pod, peer) = connected();
        let node = Node::new();
        let mut capture = node.start();
        let mut workload = workload(&pod, &[V4, V6]);
        workload.capture.udp = rule;
        let _enrolled = capture.enrol(&workload).unwrap();
        Self {
            capture,
            _node: node,
            pod,
            peer,
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.capture.counters().of(counter)
    }

    fn counts(&self) -> [u64; 4] {
        [
            Counter::UdpObserved,
            Counter::UdpQuicObserved,
            Counter::RefusedUdp,
            Counter::RefusedQuic,
        ]
        .map(|it| self.count(it))
    }
}

/// An IPv6 socket, which reaches IPv4 as well, of a namespace.
fn socket(netns: &Netns) -> UdpSocket {
    netns.namespace.enter(|| UdpSocket::bind("[::]:0")).unwrap()
}

/// Sends to a destination that the call names; then connects to it.
fn name(netns: &Netns, to: &str) -> [io::Result<()>; 2] {
    let to: SocketAddr = to.parse().unwrap();
    let at = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = netns.namespace.enter(|| UdpSocket::bind(at)).unwrap();
    [socket.send_to(b"x", to).map(|_| ()), socket.connect(to)]
}

#[rstest]
#[case::allow(UdpRule::Allow, [true, true, true], [0, 0, 0, 0])]
#[case::observe(UdpRule::Observe, [true, true, true], [4, 2, 0, 0])]
#[case::deny_quic(UdpRule::DenyQuic, [false, true, true], [4, 0, 0, 2])]
#[case::deny_except_dns(UdpRule::DenyExceptDns, [false, true, false], [2, 0, 2, 2])]
#[case::deny(UdpRule::Deny, [false, false, false], [0, 0, 4, 2])]
#[tokio::test]
async fn the_owner_says_what_leaves(
    #[case] rule: UdpRule,
    #[case] leaves: [bool; 3],
    #[case] counts: [u64; 4],
) {
    if !may_run() {
        return;
    }
    let cell = Cell::new(rule);
    for (to, leaves) in [QUIC, DNS, OTHER].into_iter().zip(leaves) {
        for result in name(&cell.pod, to) {
            match result {
                Ok(()) => assert!(leaves, "{to}"),
                Err(error) => {
                    assert!(!leaves, "{to}: {error}");
                    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                }
            }
        }
    }
    assert_eq!(cell.counts(), counts);
    // Nobody else is concerned.
    for result in name(&cell.peer, "10.77.0.2:443") {
        result.unwrap();
    }
    assert_eq!(cell.counts(), counts);
}

#[rstest]
#[case::ipv6("[fd77::1]:443")]
#[case::ipv4_mapped("[::ffff:10.77.0.1]:443")]
#[tokio::test]
async fn every_way_to_name_a_destination_is_refused(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new(UdpRule::DenyQuic);
    let to: SocketAddr = to.parse().unwrap();
    let socket = socket(&cell.pod);
    for error in [
        socket.send_to(b"x", to).unwrap_err(),
        socket.connect(to).unwrap_err(),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
    assert_eq!(cell.count(Counter::RefusedQuic), 2);
    // A socket that is connected elsewhere names another destination for one datagram.
    socket.connect("[fd77::1]:5000").unwrap();
    assert!(
        socket2::SockRef::from(&socket)
            .send_to(b"x", &to.into())
            .is_err()
    );
    assert_eq!(cell.count(Counter::RefusedQuic), 3);
}

#[rstest]
#[case::loopback("127.0.0.1:443")]
#[case::loopback_of_ipv6("[::1]:443")]
#[case::its_own_address("10.77.0.2:443")]
#[tokio::test]
async fn a_workload_may_send_to_itself(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new(UdpRule::Deny);
    let _server = cell
        .pod
        .namespace
        .enter(|| UdpSocket::bind("[::]:443"))
        .unwrap();
    for result in name(&cell.pod, to) {
        result.unwrap();
    }
    assert_eq!(cell.counts(), [0; 4]);
}

#[tokio::test]
async fn a_changed_rule_applies_to_the_next_datagram() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&pod, &[V4]);
    let _enrolled = capture.enrol(&workload).unwrap();
    let socket = pod
        .namespace
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    socket.send_to(b"x", QUIC).unwrap();
    workload.capture.udp = UdpRule::Deny;
    capture.update(&workload).unwrap();
    socket.send_to(b"x", QUIC).unwrap_err();
    assert_eq!(capture.counters().of(Counter::RefusedQuic), 1);
}

/// A socket that is connected has named its peer, and was asked then.
#[rstest]
#[case::observed(UdpRule::Observe)]
#[case::refused(UdpRule::Deny)]
#[tokio::test]
async fn a_socket_that_was_connected_before_the_rule_is_not_asked_again(#[case] rule: UdpRule) {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&pod, &[V4]);
    let _enrolled = capture.enrol(&workload).unwrap();
    let server = || UdpSocket::bind(OTHER);
    let server = peer.namespace.enter(server).unwrap();
    server
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    let open = || UdpSocket::bind("0.0.0.0:0");
    let (before, after) = (
        pod.namespace.enter(open).unwrap(),
        pod.namespace.enter(open).unwrap(),
    );
    before.connect(OTHER).unwrap();
    workload.capture.udp = rule;
    capture.update(&workload).unwrap();
    // What `status` says of it: `Unprotected::by_udp_beside_its_rule`.
    before.send(b"x").unwrap();
    assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
    assert_eq!(capture.counters().of(Counter::UdpObserved), 0);
    assert_eq!(capture.counters().of(Counter::RefusedUdp), 0);
    let is_let_out = after.connect(OTHER).is_ok();
    assert_eq!(is_let_out, rule == UdpRule::Observe);
    // To name its peer once more is to be asked.
    assert_eq!(before.connect(OTHER).is_ok(), is_let_out);
}
