//! Ways around capture, tried from inside of an enrolled workload: each is captured or refused,
//! and counted. `docs/threats.md` lists all of them with their tests.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use interceptor::capture::{Capture, Counter, Enrolled};
use interceptor::net::Namespace;
use io_uring::{IoUring, opcode, squeue, types};
use rstest::rstest;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::support::{
    Netns, Node, V4, V6, accept, close, connected, given_to_the_agent, is_refused, is_required,
    may_run, ping, workload,
};

/// Where the evaders want to go.
pub(crate) const TARGET: &str = "192.0.2.1:443";

/// A workload that is enrolled, its neighbour, and what enrolled it.
pub(crate) struct Cell {
    pub(crate) enrolled: Enrolled,
    pub(crate) capture: Capture,
    // Last, so that they outlive the capture.
    _node: Node,
    pub(crate) pod: Netns,
    pub(crate) peer: Netns,
}

impl Cell {
    pub(crate) fn new() -> Self {
        Self::after(|_pod, _peer| {}).0
    }

    /// What `before` does happens before the workload is enrolled.
    fn after<T>(before: impl FnOnce(&Netns, &Netns) -> T) -> (Self, T) {
        let (pod, peer) = connected();
        let made = before(&pod, &peer);
        let node = Node::new();
        let mut capture = node.start();
        let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
        let cell = Self {
            enrolled,
            capture,
            _node: node,
            pod,
            peer,
        };
        (cell, made)
    }

    /// The connection that `app` made to `to` is the agent's, and was counted once.
    pub(crate) async fn has_captured(&self, app: impl Into<TcpStream>, to: &str) {
        let (stream, _) = accept(&self.enrolled.listeners.outbound).await;
        let destination = self.enrolled.origin.outbound(&stream).unwrap();
        assert_eq!(destination, to.parse().unwrap());
        assert_eq!(self.count(Counter::Captured), 1);
        ping(app.into(), stream).await;
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.capture.counters().of(counter)
    }

    /// How many flows the kernel remembers.
    fn flows(&self) -> usize {
        let status = self.capture.status();
        let flows = status.maps.iter().find(|map| map.name == "FLOWS");
        flows.unwrap().entries
    }
}

/// A TCP socket of a namespace, not connected.
pub(crate) fn tcp(namespace: &Namespace, to: &str) -> Socket {
    let domain = Domain::for_address(to.parse().unwrap());
    let open = || Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
    namespace.enter(open).unwrap()
}

pub(crate) fn address(to: &str) -> SockAddr {
    to.parse::<SocketAddr>().unwrap().into()
}

#[rstest]
#[case::ipv4(TARGET)]
#[case::ipv6("[2001:db8::1]:443")]
#[tokio::test]
async fn fast_open_by_sendto_is_captured(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let socket = tcp(&cell.pod.namespace, to);
    // Data instead of a connect(2).
    let sent = socket.send_to_with_flags(b"a", &address(to), libc::MSG_FASTOPEN);
    sent.unwrap();
    cell.has_captured(socket, to).await;
}

#[tokio::test]
async fn fast_open_by_socket_option_is_captured() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let mut socket = tcp(&cell.pod.namespace, TARGET);
    let option = nix::sys::socket::sockopt::TcpFastOpenConnect;
    nix::sys::socket::setsockopt(&socket, option, &true).unwrap();
    socket.connect(&address(TARGET)).unwrap();
    // Without a cookie the SYN goes out at once, with one it waits for the first data.
    socket.write_all(b"a").unwrap();
    cell.has_captured(socket, TARGET).await;
}

#[rstest]
#[case::ipv4(TARGET)]
#[case::ipv6("[2001:db8::1]:443")]
#[tokio::test]
async fn multipath_tcp_is_captured_or_refused(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let domain = Domain::for_address(to.parse().unwrap());
    let open = || Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP));
    let socket = match cell.pod.namespace.enter(open) {
        Ok(socket) => socket,
        // A kernel without it refuses by itself.
        Err(error) => {
            must_be_here("Multipath TCP", &error);
            return;
        }
    };
    match socket.connect(&address(to)) {
        Ok(()) => cell.has_captured(socket, to).await,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT));
            assert_eq!(cell.count(Counter::RefusedProtocol), 1);
        }
    }
}

/// Who looks at what a ring is given.
#[derive(Clone, Copy)]
enum Ring {
    /// The task that submits it.
    Inline,
    /// A worker of the kernel's.
    Worker,
    /// A thread of the kernel's that looks by itself.
    Poller,
}

impl Ring {
    /// A ring of this kind; `None` where the kernel has none.
    fn open(self) -> Option<IoUring> {
        let opened = match self {
            Self::Poller => IoUring::builder().setup_sqpoll(1_000).build(2),
            Self::Inline | Self::Worker => IoUring::new(2),
        };
        match opened {
            Ok(ring) => Some(ring),
            // Where it is switched off, nobody gets around by it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                must_be_here("io_uring", &error);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Connects a socket and returns what the ring says of it.
    fn connect(self, ring: &mut IoUring, socket: &Socket, to: &str) -> i32 {
        let to = address(to);
        let fd = types::Fd(socket.as_raw_fd());
        let connect = opcode::Connect::new(fd, to.as_ptr().cast(), to.len());
        let flags = match self {
            Self::Worker => squeue::Flags::ASYNC,
            Self::Inline | Self::Poller => squeue::Flags::empty(),
        };
        let entry = connect.build().flags(flags);
        // SAFETY: socket and address outlive the completion, which is waited for below.
        unsafe { ring.submission().push(&entry) }.unwrap();
        // A wait that is interrupted after the submission says nothing about it.
        loop {
            ring.submit_and_wait(1).unwrap();
            if let Some(completed) = ring.completion().next() {
                return completed.result();
            }
        }
    }
}

#[rstest]
#[case::inline(Ring::Inline)]
#[case::on_a_worker_of_the_kernel(Ring::Worker)]
#[case::on_a_thread_of_the_kernel(Ring::Poller)]
#[tokio::test]
async fn a_connect_of_io_uring_is_captured(#[case] kind: Ring) {
    if !may_run() {
        return;
    }
    let Some(mut ring) = kind.open() else {
        return;
    };
    let cell = Cell::new();
    let socket = tcp(&cell.pod.namespace, TARGET);
    assert_eq!(kind.connect(&mut ring, &socket, TARGET), 0);
    cell.has_captured(socket, TARGET).await;
}

/// Workers and threads of a ring are in the namespace of whoever made it.
#[rstest]
#[case::inline(Ring::Inline)]
#[case::on_a_worker_of_the_kernel(Ring::Worker)]
#[case::on_a_thread_of_the_kernel(Ring::Poller)]
#[tokio::test]
async fn a_ring_of_the_workload_does_not_connect_what_was_handed_in(#[case] kind: Ring) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let to = "10.77.0.1:9000";
    let _server = cell.peer.listen(to);
    let socket = tcp(&cell.peer.namespace, to);
    let connect = || {
        Ok(kind
            .open()
            .map(|mut ring| kind.connect(&mut ring, &socket, to)))
    };
    let Some(result) = cell.pod.namespace.enter(connect).unwrap() else {
        return;
    };
    assert_eq!(result, -libc::EPERM);
    assert_eq!(cell.count(Counter::RefusedLentSocket), 1);
}

/// Says that something was not tried because this kernel does not have it.
pub(crate) fn not_here(what: &str) {
    #[expect(clippy::print_stderr, reason = "a test that tries nothing must say so")]
    {
        eprintln!("NOT EXERCISED: this kernel has no {what}");
    }
}

/// The same for something that has to be there where tests have to run.
pub(crate) fn must_be_here(what: &str, error: &std::io::Error) {
    assert!(!is_required(), "this kernel has no {what}: {error}");
    not_here(what);
}

#[tokio::test]
async fn a_connect_that_does_not_wait_is_captured() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let socket = tcp(&cell.pod.namespace, TARGET);
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&address(TARGET));
    assert!(begun.is_ok() || begun.unwrap_err().raw_os_error() == Some(libc::EINPROGRESS));
    cell.has_captured(socket, TARGET).await;
}

#[tokio::test]
async fn a_socket_older_than_the_enrolment_is_captured() {
    if !may_run() {
        return;
    }
    let (cell, socket) = Cell::after(|pod, _peer| tcp(&pod.namespace, TARGET));
    socket.connect(&address(TARGET)).unwrap();
    cell.has_captured(socket, TARGET).await;
}

#[tokio::test]
async fn a_socket_that_is_bound_to_a_device_is_captured() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let socket = tcp(&cell.pod.namespace, TARGET);
    let device = cell.pod.interface();
    socket.bind_device(Some(device.as_bytes())).unwrap();
    socket.connect(&address(TARGET)).unwrap();
    cell.has_captured(socket, TARGET).await;
}

#[tokio::test]
async fn a_tuple_that_is_used_again_carries_nothing_of_its_past() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let source = format!("{V4}:7777");
    let dial = |to: &str| {
        let socket = tcp(&cell.pod.namespace, to);
        socket.set_reuse_address(true).unwrap();
        // Closes with a reset, so that the tuple is free at once.
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        socket.bind(&address(&source)).unwrap();
        socket.connect(&address(to)).unwrap();
        socket
    };
    for to in [TARGET, "192.0.2.2:80", TARGET] {
        let app = dial(to);
        let (stream, from) = accept(&cell.enrolled.listeners.outbound).await;
        assert_eq!(from, source.parse().unwrap());
        let destination = cell.enrolled.origin.outbound(&stream).unwrap();
        assert_eq!(destination, to.parse().unwrap());
        close(app);
        assert_eq!(cell.flows(), 0, "a flow ends with its connection");
    }
    // The tuple that let the workload talk to itself opens no door once it is closed.
    let server = cell.pod.listen("10.77.0.2:9000");
    close(dial("10.77.0.2:9000"));
    drop(server.accept().unwrap());
    assert_eq!(cell.flows(), 0, "a flow ends with its connection");
}

#[rstest]
#[case::outbound(15_001, Counter::SteeredInbound)]
#[case::inbound(15_006, Counter::SteeredInbound)]
#[case::hbone(15_008, Counter::SteeredHbone)]
#[tokio::test]
async fn a_listener_of_the_agent_cannot_be_reached_by_its_port(
    #[case] port: u16,
    #[case] steered: Counter,
) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let to = format!("{V4}:{port}");
    // From outside it is a port like any other, or HBONE's: the agent decides.
    let client = cell.peer.dial(&to).unwrap();
    let listeners = &cell.enrolled.listeners;
    let (stream, _) = match steered {
        Counter::SteeredHbone => accept(&listeners.hbone).await,
        _ => accept(&listeners.inbound).await,
    };
    let origin = &cell.enrolled.origin;
    assert_eq!(origin.inbound(&stream).unwrap(), to.parse().unwrap());
    ping(client, stream).await;
    assert_eq!(cell.count(steered), 1);
    // From inside nobody listens at the workload's address.
    assert!(is_refused(cell.pod.dial(&to)));
    assert_eq!(cell.count(Counter::OwnAddress), 1);
    assert_eq!(given_to_the_agent(&cell.capture), 1);
}

#[tokio::test]
async fn a_listener_that_is_dialled_over_loopback_learns_no_destination() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let (listeners, origin) = (&cell.enrolled.listeners, &cell.enrolled.origin);
    for (port, listeners) in [(15_006, &listeners.inbound), (15_008, &listeners.hbone)] {
        let _app = cell.pod.dial(&format!("127.0.0.1:{port}")).unwrap();
        let (stream, _) = accept(listeners).await;
        let refused = origin.inbound(&stream).unwrap_err();
        assert_eq!(refused.reason(), "not_captured");
    }
    // What the agent makes of it: `e2e::ways`.
    assert_eq!(cell.count(Counter::Loopback), 2);
    assert_eq!(given_to_the_agent(&cell.capture), 0);
}

#[rstest]
#[case::tcp(Domain::IPV4, 6)]
#[case::whole_packets(Domain::IPV4, 255)]
#[case::udp(Domain::IPV4, 17)]
#[case::tcp_over_ipv6(Domain::IPV6, 6)]
#[case::whole_packets_over_ipv6(Domain::IPV6, 255)]
#[tokio::test]
async fn raw_sockets_are_not_created_in_a_workload(#[case] domain: Domain, #[case] protocol: i32) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let open = || Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)));
    let refused = cell.pod.namespace.enter(open).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert_eq!(cell.count(Counter::RefusedRawSocket), 1);
    // Nobody else is concerned.
    cell.peer.namespace.enter(open).unwrap();
    assert_eq!(cell.count(Counter::RefusedRawSocket), 1);
}

#[rstest]
#[case::ping(Domain::IPV4, Type::RAW, Protocol::ICMPV4)]
#[case::ping_over_ipv6(Domain::IPV6, Type::RAW, Protocol::ICMPV6)]
#[case::udp(Domain::IPV4, Type::DGRAM, Protocol::UDP)]
#[tokio::test]
async fn sockets_that_carry_no_connection_are_created(
    #[case] domain: Domain,
    #[case] kind: Type,
    #[case] protocol: Protocol,
) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let open = || Socket::new(domain, kind, Some(protocol));
    cell.pod.namespace.enter(open).unwrap();
    assert_eq!(cell.count(Counter::RefusedRawSocket), 0);
}

/// Raw sockets reach the hook on every kernel.
#[rstest]
#[case::sctp(Type::STREAM, 132)]
#[case::sctp_messages(Type::SEQPACKET, 132)]
#[case::sctp_by_hand(Type::RAW, 132)]
#[case::dccp(Type::from(6), 33)]
#[case::dccp_by_hand(Type::RAW, 33)]
#[tokio::test]
async fn other_protocols_with_connections_are_not_created(
    #[case] kind: Type,
    #[case] protocol: i32,
    #[values(Domain::IPV4, Domain::IPV6)] domain: Domain,
) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let open = || Socket::new(domain, kind, Some(Protocol::from(protocol)));
    let errno = cell.pod.namespace.enter(open).unwrap_err().raw_os_error();
    if errno == Some(libc::EPERM) {
        assert_eq!(cell.count(Counter::RefusedProtocol), 1);
    } else {
        let absent = [libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT];
        assert!(
            kind != Type::RAW && absent.map(Some).contains(&errno),
            "{errno:?}"
        );
        not_here("SCTP or DCCP");
    }
    // Nobody else is concerned.
    let others = cell.peer.namespace.enter(open);
    assert!(others.is_ok() || kind != Type::RAW);
    assert!(cell.count(Counter::RefusedProtocol) <= 1);
}
