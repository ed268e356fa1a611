//! A namespace that a workload makes behind itself and routes for: no hook knows its sockets, and what
//! they send leaves by the workload's interface.

use std::time::Instant;

use interceptor::capture::{Capture, Counter, Enrolled};
use interceptor::workload::WorkloadId;
use rstest::rstest;
use socket2::{Domain, Protocol, Socket, Type};

use crate::evasion::{address, not_here, tcp};
use crate::support::{
    Netns, Node, PATIENCE, V4, V6, accept, connected, given_to_the_agent, may_run, ping, workload,
};

/// Where a neighbour listens, in both families.
const SERVER: &str = "10.77.0.1:9000";
const SERVER6: &str = "[fd77::1]:9000";

/// A workload whose interface has a guard, a host that would answer, and a namespace that the workload
/// has made since.
struct Cell {
    enrolled: Enrolled,
    workload: WorkloadId,
    capture: Capture,
    _node: Node,
    pod: Netns,
    host: Netns,
    inner: Netns,
}

impl Cell {
    fn new() -> Self {
        let (pod, host) = connected();
        let node = Node::new();
        let mut capture = node.start_in(&host);
        let workload = workload(&pod, &[V4, V6]);
        let enrolled = capture.enrol(&workload).unwrap();
        let inner = Netns::new("inner");
        inner.connect(
            &["10.77.9.2/24", "fd77:9::2/64"],
            &pod,
            &["10.77.9.1/24", "fd77:9::1/64"],
        );
        pod.route_between();
        for (via, back, through) in [
            ("10.77.9.1", "10.77.9.0/24", V4),
            ("fd77:9::1", "fd77:9::/64", V6),
        ] {
            inner.default_route(via);
            host.route(back, through);
        }
        Self {
            enrolled,
            workload: workload.id,
            capture,
            _node: node,
            pod,
            host,
            inner,
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.capture.counters().of(counter)
    }
}

/// How the workload lets out what comes from behind it.
#[derive(Clone, Copy)]
enum Way {
    /// As it is.
    Forwarded,
    /// Under the workload's own address.
    Translated,
}

#[rstest]
#[case::forwarded(SERVER, Way::Forwarded)]
#[case::forwarded_over_ipv6(SERVER6, Way::Forwarded)]
#[case::translated(SERVER, Way::Translated)]
#[tokio::test]
async fn a_socket_of_a_namespace_behind_the_workload_does_not_get_out(
    #[case] to: &str,
    #[case] way: Way,
) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let server = cell.host.listen("[::]:9000");
    if matches!(way, Way::Translated) && !masquerade(&cell.pod) {
        not_here("nf_tables with masquerading");
        return;
    }
    let socket = tcp(&cell.inner.namespace, to);
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&address(to)).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
    let deadline = Instant::now() + PATIENCE;
    while cell.count(Counter::RefusedUnknownSyn) == 0 {
        assert!(Instant::now() < deadline, "it was not refused");
        std::thread::yield_now();
    }
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err());
    assert!(socket.peer_addr().is_err());
    assert_eq!(given_to_the_agent(&cell.capture), 0);
    // There is a way, and nothing else that holds it up.
    cell.capture.unenrol(&cell.workload).unwrap();
    server.set_nonblocking(false).unwrap();
    cell.inner.dial(to).unwrap();
    let (_stream, from) = server.accept().unwrap();
    let is_the_workloads = from.ip().to_canonical().to_string() == V4;
    assert_eq!(is_the_workloads, matches!(way, Way::Translated), "{from}");
}

/// For the workload it is a stranger like any other, whose connections the agent judges.
#[rstest]
#[case::ipv4("10.77.0.2:9000")]
#[case::ipv6("[fd77::2]:9000")]
#[tokio::test]
async fn a_socket_of_a_namespace_behind_the_workload_gets_to_the_agent(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let app = cell.pod.listen("[::]:9000");
    let client = cell.inner.dial(to).unwrap();
    let (stream, _) = accept(&cell.enrolled.listeners.inbound).await;
    let destination = cell.enrolled.origin.inbound(&stream).unwrap();
    assert_eq!(destination, to.parse().unwrap());
    assert_eq!(cell.count(Counter::SteeredInbound), 1);
    ping(client, stream).await;
    app.set_nonblocking(true).unwrap();
    assert!(app.accept().is_err());
}

/// Has everything that leaves a namespace bear its own address, as `nft add rule ip nat out masquerade`
/// would; false if the kernel cannot.
fn masquerade(netns: &Netns) -> bool {
    let open = || {
        let kind = Domain::from(libc::AF_NETLINK);
        let protocol = Protocol::from(libc::NETLINK_NETFILTER);
        Socket::new(kind, Type::RAW, Some(protocol))
    };
    let Ok(socket) = netns.namespace.enter(open) else {
        return false;
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (table, out) = (|kind| text(kind, "nat"), |kind| text(kind, "out"));
    let number = |kind, value: u32| attribute(kind, &value.to_be_bytes());
    // After routing, where sources are translated.
    let hook = nested(4, &[number(1, 4), number(2, 100)]);
    let rule = nested(4, &[nested(1, &[text(1, "masq")])]);
    let changes = [
        (0, table(1)),
        (3, [table(1), out(3), hook, text(7, "nat")].concat()),
        (6, [table(1), out(2), rule].concat()),
    ];
    let count = changes.len();
    let mut batch = message(0x10, 0, SUBSYSTEM, &[]);
    for (kind, attributes) in changes {
        // To be created, appended, and confirmed.
        let kind = SUBSYSTEM << 8 | kind;
        batch.extend(message(kind, 0xc04, 0, &attributes));
    }
    batch.extend(message(0x11, 0, SUBSYSTEM, &[]));
    assert_eq!(socket.send(&batch).unwrap(), batch.len());
    (0..count).all(|_| {
        let mut answer = [0; 4096];
        std::io::Read::read(&mut &socket, &mut answer).unwrap();
        // The error of a confirmation is zero.
        answer[16..20] == [0; 4]
    })
}

/// That of `nf_tables` among netfilter's.
const SUBSYSTEM: u16 = 10;

/// A message to netfilter about IPv4.
fn message(kind: u16, flags: u16, resource: u16, attributes: &[u8]) -> Vec<u8> {
    const REQUEST: u16 = 1;
    const IPV4: u8 = 2;
    let length = u32::try_from(20 + attributes.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | REQUEST).to_ne_bytes());
    // Neither a sequence nor a sender.
    bytes.extend([0; 8]);
    bytes.extend([IPV4, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(0x8000 | kind, &attributes.concat())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}
