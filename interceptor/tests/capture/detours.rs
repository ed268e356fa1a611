//! More ways around capture: those that bend where packets go, and those that come in from
//! outside. Each is captured or refused, and counted. `docs/threats.md` lists all of them.
//!
//! The agent runs in the peer's namespace, so that the workload's interface has a guard.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use interceptor::capture::{Capture, Counter, Enrolled};
use interceptor::net::Purpose;
use rstest::rstest;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::frames::{SYN, Wire, tcp, tcp_for, tcp6_for, v4, v6};
use crate::support::{
    Netns, Node, PEER_V4, V4, V6, accept, close, connected, is_refused, may_run, ping, workload,
};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
/// Options that `libc` has no name for: `IPV6_RTHDR`, `TCP_REPAIR`, `PACKET_QDISC_BYPASS`.
const ROUTING_HEADER: i32 = 57;
const REPAIR: i32 = 19;
const QUEUE_BYPASS: i32 = 20;

/// Where the evaders want to go.
const TARGET: &str = "192.0.2.1:443";

/// An enrolled workload whose interface has a guard, and the host.
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
        let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
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

    /// Waits until an outcome was counted.
    fn has_counted(&self, counter: Counter) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.count(counter) == 0 {
            assert!(Instant::now() < deadline, "{} is missing", counter.name());
            std::thread::yield_now();
        }
    }

    /// A TCP socket of the workload, not connected.
    fn tcp(&self, domain: Domain) -> Socket {
        let open = || Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
        self.pod.namespace.enter(open).unwrap()
    }

    /// Writes a setting of the workload's namespace.
    fn set(&self, setting: &str, value: &str) {
        let write = || std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value);
        self.pod.namespace.enter(write).unwrap();
    }
}

/// Sets an option that no safe wrapper has.
fn set_option(socket: &Socket, level: i32, option: i32, value: &[u8]) {
    let length = libc::socklen_t::try_from(value.len()).unwrap();
    let pointer = value.as_ptr().cast();
    // SAFETY: the descriptor is open, and the value is as long as it is said to be.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn address(to: &str) -> socket2::SockAddr {
    to.parse::<SocketAddr>().unwrap().into()
}

/// Connects without waiting for an answer that will not come.
fn try_connect(socket: &Socket, to: &str) {
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&address(to)).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
}

#[rstest]
#[case::outbound("10.77.0.1:15001")]
#[case::inbound("10.77.0.1:15006")]
#[case::hbone("10.77.0.1:15008")]
#[case::hbone_of_ipv6("[fd77::1]:15008")]
#[tokio::test]
async fn the_agents_ports_of_another_pod_are_captured_like_any_other(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let app = cell.pod.dial(to).unwrap();
    let (stream, _) = accept(&cell.enrolled.listeners.outbound).await;
    let destination = cell.enrolled.origin.outbound(&stream).unwrap();
    assert_eq!(destination, to.parse().unwrap());
    assert_eq!(cell.count(Counter::Captured), 1);
    ping(app, stream).await;
}

#[tokio::test]
async fn an_application_gains_nothing_by_the_agents_ports() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    for port in [15_001, 15_006, 15_008] {
        // Beside the agent's own listener nobody gets in, not even a namesake.
        let taken = cell.tcp(Domain::IPV4);
        taken.set_reuse_address(true).unwrap();
        taken.set_reuse_port(true).unwrap();
        let beside: SocketAddr = ([127, 0, 0, 1], port).into();
        taken.bind(&beside.into()).unwrap_err();
        // At the workload's address the port is free, and the agent's all the same.
        let app = cell.pod.listen(&format!("{V4}:{port}"));
        let client = cell.host.dial(&format!("{V4}:{port}")).unwrap();
        let listeners = match port {
            15_008 => &cell.enrolled.listeners.hbone,
            _ => &cell.enrolled.listeners.inbound,
        };
        let (stream, _) = accept(listeners).await;
        ping(client, stream).await;
        app.set_nonblocking(true).unwrap();
        assert!(app.accept().is_err());
    }
    assert_eq!(cell.count(Counter::SteeredInbound), 2);
    assert_eq!(cell.count(Counter::SteeredHbone), 1);
    assert_eq!(cell.count(Counter::DirectPass), 0);
}

#[tokio::test]
async fn a_source_route_of_ipv4_does_not_leave() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let socket = cell.tcp(Domain::IPV4);
    // Loose source routing by way of the host: anybody may ask for it.
    let [a, b, c, d] = [10, 77, 0, 1];
    let option = [131, 7, 4, a, b, c, d, 0];
    set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option);
    try_connect(&socket, TARGET);
    // It is captured, and yet sent to the first stop, where nobody knows of such a connection.
    assert_eq!(cell.count(Counter::Captured), 1);
    cell.has_counted(Counter::RefusedUnknownSyn);
}

#[tokio::test]
async fn a_segment_route_of_ipv6_does_not_leave() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let socket = cell.tcp(Domain::IPV6);
    let stop: std::net::Ipv6Addr = "fd77::1".parse().unwrap();
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(stop.octets());
    set_option(&socket, libc::IPPROTO_IPV6, ROUTING_HEADER, &header);
    try_connect(&socket, "[2001:db8::1]:443");
    assert_eq!(cell.count(Counter::Captured), 1);
    cell.has_counted(Counter::RefusedHiddenPacket);
}

#[tokio::test]
async fn a_connection_that_claims_to_exist_leads_to_the_agent_only() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let mut socket = cell.tcp(Domain::IPV4);
    // As a checkpoint is restored: connected without a handshake.
    set_option(&socket, libc::IPPROTO_TCP, REPAIR, &1_i32.to_ne_bytes());
    socket.connect(&address(TARGET)).unwrap();
    set_option(&socket, libc::IPPROTO_TCP, REPAIR, &0_i32.to_ne_bytes());
    assert_eq!(cell.count(Counter::Captured), 1);
    // Its packets find no connection at the workload's own address: whatever is asked next
    // is told so.
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let told = std::io::Write::write(&mut socket, b"x").and_then(|_| {
        let mut byte = [0];
        std::io::Read::read(&mut socket, &mut byte)
    });
    assert_eq!(
        told.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_foreign_source_address_leads_nowhere() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let socket = cell.tcp(Domain::IPV4);
    socket.set_freebind_v4(true).unwrap();
    socket.bind(&address("10.77.0.99:7777")).unwrap();
    let server = cell.host.listen("10.77.0.1:9000");
    socket.set_nonblocking(true).unwrap();
    // The kernel may know already that there is no way back.
    socket.connect(&address("10.77.0.1:9000")).unwrap_err();
    assert_eq!(cell.count(Counter::Captured), 1);
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err());
}

#[rstest]
#[case::ip_in_ip(4)]
#[case::ipv6_in_ip(41)]
#[case::gre(47)]
#[case::mpls(137)]
#[tokio::test]
async fn packets_in_packets_do_not_leave(#[case] protocol: u8) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let ends = (V4, PEER_V4);
    let inner = [v4(ends, TCP, 0, &[]), tcp((1, 443), SYN)].concat();
    let wire = Wire::new(&cell.pod, &cell.host);
    wire.send(IPV4, &[&v4(ends, protocol, 0, &[]), &inner]);
    cell.has_counted(Counter::RefusedHiddenPacket);
    let ends = (V6, "fd77::1");
    wire.send(IPV6, &[&v6(ends, protocol, inner.len()), &inner]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while cell.count(Counter::RefusedHiddenPacket) < 2 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn nobody_outside_gets_to_a_workloads_loopback() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    // As some network plugins and proxies leave it: then loopback can be routed to.
    cell.set("conf/all/route_localnet", "1");
    let server = cell.pod.listen("127.0.0.1:9000");
    let ends = (PEER_V4, "127.0.0.1");
    let syn = tcp_for(ends, (4_321, 9000), SYN);
    let wire = Wire::new(&cell.host, &cell.pod);
    wire.send(IPV4, &[&v4(ends, TCP, 0, &[]), &syn]);
    cell.has_counted(Counter::RefusedUnknownAddress);
    // From within it is reached from any address of the workload's.
    let _usual = cell.pod.dial("127.0.0.1:9000").unwrap();
    server.accept().unwrap();
    let bound = cell.tcp(Domain::IPV4);
    bound.bind(&address("10.77.0.2:0")).unwrap();
    bound.connect(&address("127.0.0.1:9000")).unwrap();
    server.accept().unwrap();
    assert_eq!(cell.count(Counter::RefusedUnknownAddress), 1);
}

/// A neighbour that talks to its own loopback has a flow with the very addresses and ports.
#[tokio::test]
async fn a_neighbours_flow_to_its_own_loopback_opens_nothing_elsewhere() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.set("conf/all/route_localnet", "1");
    let server = cell.pod.listen("127.0.0.1:9000");
    let neighbour = Netns::new("neighbour");
    neighbour.connect(&["10.77.8.2/24"], &cell.host, &["10.77.8.1/24"]);
    let enrolling = workload(&neighbour, &["10.77.8.2"]);
    let _enrolled = cell.capture.enrol(&enrolling).unwrap();
    // Its own loopback does not answer, so the flow stays.
    let deaf = neighbour.listen("127.0.0.1:9000");
    SockRef::from(&deaf).listen(0).unwrap();
    let dial = || {
        let socket = neighbour.namespace.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&address("10.77.8.2:0"))?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        try_connect(&socket, "127.0.0.1:9000");
        socket
    };
    let sockets: Vec<_> = (0..4).map(|_| dial()).collect();
    for socket in &sockets {
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let ends = ("10.77.8.2", "127.0.0.1");
        let syn = tcp_for(ends, (port, 9000), SYN);
        // As if it came from the neighbour.
        let wire = Wire::new(&cell.host, &cell.pod);
        wire.send(IPV4, &[&v4(ends, TCP, 0, &[]), &syn]);
        let wire = Wire::newest(&neighbour, &cell.host);
        wire.send(IPV4, &[&v4(ends, TCP, 0, &[]), &syn]);
    }
    cell.has_counted(Counter::RefusedUnknownSyn);
    cell.has_counted(Counter::RefusedUnknownAddress);
    let refused = || cell.count(Counter::RefusedUnknownAddress);
    let deadline = Instant::now() + Duration::from_secs(10);
    while refused() < 4 {
        assert!(Instant::now() < deadline, "{} of 4 were refused", refused());
        std::thread::yield_now();
    }
    assert_eq!(cell.count(Counter::RefusedUnknownSyn), 4);
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err());
}

/// The application takes the agent's leg, or the workload's own connection, and goes; the other
/// end stays.
async fn left_alone(cell: &Cell, server: &TcpListener, agents: bool) -> (TcpStream, SocketAddr) {
    let to: SocketAddr = format!("[{V6}]:9000").parse().unwrap();
    let leg = if agents {
        let client = "[2001:db8::7]:4321".parse().unwrap();
        let leg = cell
            .enrolled
            .dialer
            .connect(to, Purpose::Application { client });
        leg.await.unwrap().into_std().unwrap()
    } else {
        cell.pod.dial(&to.to_string()).unwrap()
    };
    close(server.accept().unwrap());
    let from = leg.local_addr().unwrap();
    (leg, from)
}

#[rstest]
#[case::of_the_agent(true)]
#[case::of_the_workload_with_itself(false)]
#[tokio::test]
async fn a_door_that_was_opened_is_closed_behind_the_guest(#[case] agents: bool) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    // The kernel forgets the application's end of a connection soon, the other end does not.
    cell.set("tcp_fin_timeout", "1");
    let server = cell.pod.listen(&format!("[{V6}]:9000"));
    let (_leg, from) = left_alone(&cell, &server, agents).await;
    let passed = cell.count(Counter::DirectPass);
    let steered = cell.count(Counter::SteeredInbound);
    // Somebody outside claims to be the workload, with its very ports. IPv6 has no objection.
    let ends = (V6, V6);
    let syn = tcp6_for(ends, (from.port(), 9000), SYN);
    let wire = Wire::new(&cell.host, &cell.pod);
    let deadline = Instant::now() + Duration::from_secs(20);
    while cell.count(Counter::SteeredInbound) == steered {
        assert!(Instant::now() < deadline, "never looked up");
        wire.send(IPV6, &[&v6(ends, TCP, syn.len()), &syn]);
        std::thread::yield_now();
    }
    assert_eq!(cell.count(Counter::DirectPass), passed);
    // A tuple that never was is not even steered.
    let syn = tcp6_for(ends, (7_777, 9000), SYN);
    wire.send(IPV6, &[&v6(ends, TCP, syn.len()), &syn]);
    cell.has_counted(Counter::RefusedLostFlow);
}

#[tokio::test]
async fn a_bypass_of_the_queues_is_no_bypass_of_the_guard() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let wire = Wire::new(&cell.pod, &cell.host);
    set_option(
        wire.socket(),
        libc::SOL_PACKET,
        QUEUE_BYPASS,
        &1_i32.to_ne_bytes(),
    );
    let ends = (V4, PEER_V4);
    wire.send(IPV4, &[&v4(ends, TCP, 0, &[]), &tcp((1, 443), SYN)]);
    cell.has_counted(Counter::RefusedUnknownSyn);
    assert!(is_refused(cell.pod.dial("127.0.0.1:1")));
}
