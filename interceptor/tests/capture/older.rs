//! Connections that a workload had before it was enrolled.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use interceptor::capture::{Capture, Counter};
use interceptor::workload::{ExistingConnections, PortSelection};
use rstest::rstest;

use crate::support::{Netns, Node, PATIENCE, V4, V6, connected, may_run, workload};

/// A workload with a connection that it made and one that it took, the peer's ends first.
struct Cell {
    pod: Netns,
    _peer: Netns,
    made: (TcpStream, TcpStream),
    taken: (TcpStream, TcpStream),
    _listeners: (TcpListener, TcpListener),
}

impl Cell {
    fn new(own: &str, other: &str) -> Self {
        let (pod, peer) = connected();
        let (there, here) = (peer.listen(other), pod.listen(own));
        let app = pod.dial(other).unwrap();
        let made = (there.accept().unwrap().0, app);
        let client = peer.dial(own).unwrap();
        let taken = (client, here.accept().unwrap().0);
        Self {
            pod,
            _peer: peer,
            made,
            taken,
            _listeners: (there, here),
        }
    }

    /// The ends of its connections, its own first.
    fn ends(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let ends = |it: &TcpStream| (it.local_addr().unwrap(), it.peer_addr().unwrap());
        let mut all = vec![ends(&self.made.1), ends(&self.taken.1)];
        all.sort_unstable();
        all
    }
}

/// What `status` lists.
fn listed(capture: &Capture) -> Vec<(SocketAddr, SocketAddr)> {
    let mut all = capture.status().workloads[0].older.clone();
    all.sort_unstable();
    all
}

#[rstest]
#[case::ipv4("10.77.0.2:9000", "10.77.0.1:9000")]
#[case::ipv6("[fd77::2]:9000", "[fd77::1]:9000")]
#[tokio::test]
async fn older_connections_go_on_and_are_listed_while_they_live(
    #[case] own: &str,
    #[case] other: &str,
) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new(own, other);
    let node = Node::new();
    let mut capture = node.start();
    let _enrolled = capture.enrol(&workload(&cell.pod, &[V4, V6])).unwrap();
    assert_eq!(listed(&capture), cell.ends());
    let mut byte = [0];
    cell.made.1.write_all(b"x").unwrap();
    cell.made.0.read_exact(&mut byte).unwrap();
    assert_eq!(capture.counters().of(Counter::ResetOlder), 0);

    // Closed by a reset, a connection is gone at once.
    socket2::SockRef::from(&cell.made.1)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    let left = cell.taken.1.local_addr().unwrap();
    drop(cell.made);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listed: Vec<_> = listed(&capture).iter().map(|(local, _)| *local).collect();
        // The reset passes a cable, on which it may be delayed.
        if listed == [left] || Instant::now() >= deadline {
            break assert_eq!(listed, [left]);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn older_connections_are_reset_where_the_owner_wants_it() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new("10.77.0.2:9000", "10.77.0.1:9000");
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&cell.pod, &[V4]);
    workload.capture.existing = ExistingConnections::Reset;
    let _enrolled = capture.enrol(&workload).unwrap();
    assert_eq!(listed(&capture), []);
    assert_eq!(capture.counters().of(Counter::ResetOlder), 2);
    for stream in [&mut cell.made.0, &mut cell.taken.0] {
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn what_is_no_way_around_is_not_listed() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let (local, open) = (pod.listen("127.0.0.1:9000"), pod.listen("10.77.0.2:9001"));
    let _within = (pod.dial("127.0.0.1:9000").unwrap(), local.accept().unwrap());
    let _excluded = (peer.dial("10.77.0.2:9001").unwrap(), open.accept().unwrap());
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&pod, &[V4]);
    workload.capture.inbound = PortSelection::AllExcept(vec![9_001]);
    workload.capture.existing = ExistingConnections::Reset;
    let enrolled = capture.enrol(&workload).unwrap();
    assert_eq!(capture.counters().of(Counter::ResetOlder), 0);
    // An agent that comes back leaves alone what it finds.
    let captured = pod.dial("192.0.2.1:443").unwrap();
    drop((capture, enrolled));
    let mut capture = node.start();
    let _enrolled = capture.enrol(&workload).unwrap();
    assert_eq!(capture.counters().of(Counter::ResetOlder), 0);
    assert_eq!(listed(&capture), []);
    drop(captured);
}
