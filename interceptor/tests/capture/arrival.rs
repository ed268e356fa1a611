//! Datagrams that arrive at workloads: left alone, counted or refused.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use interceptor::capture::{Capture, Counter};
use interceptor::workload::{UdpRule, Workload};
use rstest::rstest;
use socket2::{Domain, Protocol, Socket, Type};

use crate::evasion::not_here;
use crate::frames::{Wire, udp6_for, v6};
use crate::support::{Netns, Node, V4, V6, close, connected, may_run, workload};

const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;

/// A workload enrolled with a rule, and its neighbour.
struct Cell {
    capture: Capture,
    workload: Workload,
    _node: Node,
    pod: Netns,
    peer: Netns,
}

impl Cell {
    fn new(rule: UdpRule) -> Self {
        Self::at(Node::new(), rule)
    }

    fn at(node: Node, rule: UdpRule) -> Self {
        let (pod, peer) = connected();
        let mut capture = node.start();
        let mut workload = workload(&pod, &[V4, V6]);
        workload.capture.udp = rule;
        let _enrolled = capture.enrol(&workload).unwrap();
        Self {
            capture,
            workload,
            _node: node,
            pod,
            peer,
        }
    }

    fn counts(&self) -> [u64; 4] {
        [
            Counter::UdpInboundObserved,
            Counter::UdpQuicInboundObserved,
            Counter::RefusedUdpInbound,
            Counter::RefusedQuicInbound,
        ]
        .map(|it| self.capture.counters().of(it))
    }

    fn refusals(&self) -> u64 {
        let [_, _, udp, quic] = self.counts();
        udp + quic
    }

    /// Whether what `send` sends gets to `app`; if not, it was counted as refused.
    fn arrives(&self, app: &UdpSocket, send: impl FnOnce()) -> bool {
        let refused = self.refusals();
        app.set_nonblocking(true).unwrap();
        send();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if app.recv_from(&mut [0; 16]).is_ok() {
                return true;
            }
            if self.refusals() > refused {
                return false;
            }
            assert!(Instant::now() < deadline, "neither received nor refused");
            std::thread::yield_now();
        }
    }
}

/// A socket of a namespace that is not connected.
fn socket(netns: &Netns, port: u16) -> UdpSocket {
    let bind = || UdpSocket::bind(("::", port));
    netns.namespace.enter(bind).unwrap()
}

/// The workload's address and a port, as a dual-stack socket says it.
fn at(address: &str, port: u16) -> SocketAddr {
    let to: SocketAddr = format!("{address}:{port}").parse().unwrap();
    to
}

const MAPPED: &str = "[::ffff:10.77.0.2]";
const NATIVE: &str = "[fd77::2]";

#[rstest]
#[case::allow(UdpRule::Allow, [true; 4], [0, 0, 0, 0])]
#[case::observe(UdpRule::Observe, [true; 4], [2, 2, 0, 0])]
#[case::deny_quic(UdpRule::DenyQuic, [false, false, true, true], [2, 0, 0, 2])]
#[case::deny_except_dns(UdpRule::DenyExceptDns, [false; 4], [0, 0, 2, 2])]
#[case::deny(UdpRule::Deny, [false; 4], [0, 0, 2, 2])]
#[tokio::test]
async fn the_owner_says_what_arrives(
    #[case] rule: UdpRule,
    #[case] arrive: [bool; 4],
    #[case] counts: [u64; 4],
    #[values(MAPPED, NATIVE)] address: &str,
) {
    if !may_run() {
        return;
    }
    let cell = Cell::new(rule);
    // From port and to port: a QUIC server's, a QUIC client's, an answer that nobody asked for,
    // anything.
    let ports = [(6_000, 443), (443, 6_000), (53, 6_000), (6_000, 6_000)];
    for ((from, to), arrive) in ports.into_iter().zip(arrive) {
        let (sender, app) = (socket(&cell.peer, from), socket(&cell.pod, to));
        let send = || {
            sender.send_to(b"x", at(address, to)).unwrap();
        };
        assert_eq!(cell.arrives(&app, send), arrive, "{from} to {to}");
        // The next ones want the ports.
        close((sender, app));
    }
    assert_eq!(cell.counts(), counts);
}

#[tokio::test]
async fn a_sender_is_told_that_nobody_listens() {
    if !may_run() {
        return;
    }
    let cell = Cell::new(UdpRule::Deny);
    let _app = socket(&cell.pod, 6_000);
    let sender = socket(&cell.peer, 0);
    sender.connect(at(MAPPED, 6_000)).unwrap();
    sender
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    sender.send(b"x").unwrap();
    let error = sender.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn answers_to_dns_arrive_and_nothing_that_looks_like_them() {
    if !may_run() {
        return;
    }
    let cell = Cell::new(UdpRule::DenyExceptDns);
    let (app, other) = (socket(&cell.pod, 6_000), socket(&cell.pod, 6_001));
    let server = socket(&cell.peer, 53);
    app.send_to(b"?", "[fd77::1]:53").unwrap();
    let (_, asker) = server.recv_from(&mut [0; 16]).unwrap();
    let to = |port| {
        let mut to = asker;
        to.set_port(port);
        server.send_to(b"!", to).unwrap();
    };
    assert!(cell.arrives(&app, || to(6_000)));
    // From the server, but to a socket that did not ask.
    assert!(!cell.arrives(&other, || to(6_001)));
    // To the socket that asked, but by another one.
    let stranger = Netns::new("other");
    stranger.connect(&["fd78::1/64"], &cell.peer, &["fd78::2/64"]);
    stranger.default_route("fd78::2");
    let forward = || std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
    cell.peer.namespace.enter(forward).unwrap();
    let sender = socket(&stranger, 53);
    let send = || {
        sender.send_to(b"!", at(NATIVE, 6_000)).unwrap();
    };
    assert!(!cell.arrives(&app, send));
    // A socket that is connected has named its server.
    let connected = socket(&cell.pod, 6_002);
    connected.connect("[fd77::1]:53").unwrap();
    connected.send(b"?").unwrap();
    assert!(cell.arrives(&connected, || to(6_002)));
}

/// A workload's questions displace its own answers, never those to others.
#[tokio::test]
async fn a_workload_that_asks_and_asks_is_heard_at_its_own_cost() {
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    // Room for 512 answers.
    node.config.sizes.workloads = 16;
    let mut cell = Cell::at(node, UdpRule::DenyExceptDns);
    let noisy = Netns::new("noisy");
    noisy.connect(&["fd79::2/64"], &cell.peer, &["fd79::1/64"]);
    let mut other = workload(&noisy, &["fd79::2"]);
    other.capture.udp = UdpRule::DenyExceptDns;
    let _enrolled = cell.capture.enrol(&other).unwrap();

    let (server, app) = (socket(&cell.peer, 53), socket(&cell.pod, 6_000));
    app.send_to(b"?", "[fd77::1]:53").unwrap();
    let asked = socket(&noisy, 6_000);
    for number in 0..4_000_u32 {
        let unheard = format!("[fd79::1:{number:x}]:53");
        // Nobody answers, and the queue for unknown neighbours may be full.
        let _unsent = asked.send_to(b"?", unheard);
    }
    asked.send_to(b"?", "[fd79::1]:53").unwrap();
    let answer = |to: &'static str| {
        let server = &server;
        move || {
            server.send_to(b"!", to).unwrap();
        }
    };
    assert!(
        cell.arrives(&app, answer("[fd77::2]:6000")),
        "the quiet one's"
    );
    assert!(cell.arrives(&asked, answer("[fd79::2]:6000")), "the newest");
}

/// A place that is another's by now takes nothing along that was asked again since.
#[tokio::test]
async fn a_question_that_is_asked_again_is_not_forgotten_with_its_first_time() {
    if !may_run() {
        return;
    }
    let cell = Cell::new(UdpRule::DenyExceptDns);
    let (server, app) = (socket(&cell.peer, 53), socket(&cell.pod, 6_000));
    let others = socket(&cell.pod, 6_001);
    let mut number = 0_u32;
    let mut ask_others = |count| {
        for _ in 0..count {
            number += 1;
            let unheard = format!("[fd77::1:{number:x}]:53");
            // Nobody answers, and the queue for unknown neighbours may be full.
            let _unsent = others.send_to(b"?", unheard);
        }
    };
    // Each round has less questions of others than there are places, all of them together more.
    for _ in 0..4 {
        app.send_to(b"?", "[fd77::1]:53").unwrap();
        ask_others(120);
        let answer = || {
            server.send_to(b"!", "[fd77::2]:6000").unwrap();
        };
        assert!(cell.arrives(&app, answer), "after {number}");
    }
    // Not for ever.
    ask_others(300);
    let answer = || {
        server.send_to(b"!", "[fd77::2]:6000").unwrap();
    };
    assert!(!cell.arrives(&app, answer));
}

#[rstest]
#[case::ipv4(MAPPED)]
#[case::ipv6(NATIVE)]
#[tokio::test]
async fn a_workload_that_wants_no_udp_still_talks_to_itself(#[case] address: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new(UdpRule::Deny);
    let (one, two) = (socket(&cell.pod, 6_000), socket(&cell.pod, 6_001));
    for (from, to, port) in [(&one, &two, 6_001), (&two, &one, 6_000)] {
        let send = || {
            from.send_to(b"x", at(address, port)).unwrap();
        };
        assert!(cell.arrives(to, send));
    }
    assert_eq!(cell.counts(), [0; 4]);
}

#[tokio::test]
async fn nobody_can_claim_to_be_the_workload_itself() {
    if !may_run() {
        return;
    }
    let cell = Cell::new(UdpRule::Deny);
    let app = socket(&cell.pod, 6_000);
    // IPv4 has routers refuse such a source, IPv6 has not.
    let wire = Wire::new(&cell.peer, &cell.pod);
    let ends = (V6, V6);
    let datagram = udp6_for(ends, (6_000, 6_000));
    let send = || wire.send(IPV6, &[&v6(ends, UDP, datagram.len()), &datagram]);
    assert!(!cell.arrives(&app, send));
}

#[rstest]
#[case::counted(UdpRule::Observe, true)]
#[case::refused(UdpRule::Deny, false)]
#[tokio::test]
async fn an_address_that_nobody_knows_is_no_way_in(#[case] rule: UdpRule, #[case] arrives: bool) {
    if !may_run() {
        return;
    }
    let cell = Cell::new(rule);
    // A second interface that appeared after the enrolment.
    cell.pod
        .connect(&["10.77.1.2/24"], &cell.peer, &["10.77.1.1/24"]);
    let (sender, app) = (socket(&cell.peer, 0), socket(&cell.pod, 6_000));
    let send = || {
        sender.send_to(b"x", "[::ffff:10.77.1.2]:6000").unwrap();
    };
    assert_eq!(cell.arrives(&app, send), arrives);
}

#[tokio::test]
async fn a_changed_rule_applies_to_the_next_datagram_of_an_open_socket() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new(UdpRule::Allow);
    let (sender, app) = (socket(&cell.peer, 0), socket(&cell.pod, 6_000));
    for (rule, arrives) in [
        (UdpRule::Allow, true),
        (UdpRule::Deny, false),
        (UdpRule::Observe, true),
        (UdpRule::Allow, true),
    ] {
        cell.workload.capture.udp = rule;
        cell.capture.update(&cell.workload).unwrap();
        let send = || {
            sender.send_to(b"x", at(MAPPED, 6_000)).unwrap();
        };
        assert_eq!(cell.arrives(&app, send), arrives, "{rule}");
    }
    assert_eq!(cell.counts(), [1, 0, 1, 0]);
}

#[rstest]
#[case::refused(UdpRule::Deny, true)]
#[case::not_asked_about(UdpRule::DenyQuic, false)]
#[tokio::test]
async fn udp_lite_is_refused_where_udp_is(
    #[case] rule: UdpRule,
    #[case] refused: bool,
    #[values(Domain::IPV4, Domain::IPV6)] domain: Domain,
) {
    if !may_run() {
        return;
    }
    let cell = Cell::new(rule);
    let open = || Socket::new(domain, Type::DGRAM, Some(Protocol::from(136)));
    // Nobody else is concerned, and so it can be seen whether this kernel has it.
    if let Err(error) = cell.peer.namespace.enter(open) {
        assert_eq!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT));
        not_here("UDP-Lite");
        return;
    }
    let opened = cell.pod.namespace.enter(open);
    let errno = opened.err().and_then(|error| error.raw_os_error());
    assert_eq!(errno, refused.then_some(libc::EPERM));
    let counted = cell.capture.counters().of(Counter::RefusedUdp);
    assert_eq!(counted, u64::from(refused));
}
