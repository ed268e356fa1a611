//! Same-node connections that the agent granted: straight from socket to socket.
//!
//! Two workloads behind a host that routes between them, as on a node; the agent runs in the
//! host's namespace, so both have guards. The tests play the agent that publishes grants.

mod calls;
mod cost;
mod doors;
mod ends;
mod grants;
mod life;
mod pass;
mod table;

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData};
use interceptor::capture::{
    Capture, Config, Counter, Direct, DirectFlow, End, Enrolled, Event, Events, Grant, Totals,
};
use interceptor::workload::Workload;
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::{Netns, Node, close, given_to_the_agent, workload};

/// The source.
const A: &str = "10.78.0.2";
const A6: &str = "fd78::2";
/// The destination.
const B: &str = "10.79.0.2";
const B6: &str = "fd79::2";
/// Where the destination's application listens.
const APP: &str = "10.79.0.2:9000";
const APP6: &str = "[fd79::2]:9000";
/// A Service in front of it.
const VIP: &str = "10.96.0.80:80";
const VIP6: &str = "[fd96::80]:80";

const PATIENCE: Duration = Duration::from_secs(20);

/// Two enrolled workloads of a node.
struct Cell {
    events: Events,
    direct: Direct,
    app: TcpListener,
    source: Enrolled,
    destination: Enrolled,
    workloads: (Workload, Workload),
    capture: Capture,
    // Last, so that they outlive the capture.
    node: Node,
    a: Netns,
    b: Netns,
    host: Netns,
    /// What [`Cell::opened`] has told of.
    known: HashSet<DirectFlow>,
}

/// How a connection ended.
struct Ended {
    flow: DirectFlow,
    totals: Totals,
    established: bool,
    end: End,
}

impl Cell {
    fn new() -> Self {
        Self::with(Node::new())
    }

    /// On a node that is configured so.
    fn with(node: Node) -> Self {
        let (a, b, host) = (Netns::new("a"), Netns::new("b"), Netns::new("host"));
        host.route_between();
        for (pod, ours, theirs) in [
            (&a, [A, A6], ["10.78.0.1", "fd78::1"]),
            (&b, [B, B6], ["10.79.0.1", "fd79::1"]),
        ] {
            let with_prefix = |all: [&str; 2]| [format!("{}/24", all[0]), format!("{}/64", all[1])];
            let (mine, his) = (with_prefix(ours), with_prefix(theirs));
            pod.connect(&[&mine[0], &mine[1]], &host, &[&his[0], &his[1]]);
            for via in theirs {
                pod.default_route(via);
            }
        }
        let app = b.listen("[::]:9000");
        let mut capture = node.start_in(&host);
        let workloads = (workload(&a, &[A, A6]), workload(&b, &[B, B6]));
        let source = capture.enrol(&workloads.0).unwrap();
        let destination = capture.enrol(&workloads.1).unwrap();
        let direct = capture.direct();
        Self {
            events: direct.events().unwrap().expect("nobody has them yet"),
            direct,
            app,
            source,
            destination,
            workloads,
            capture,
            node,
            a,
            b,
            host,
            known: HashSet::new(),
        }
    }

    /// A grant for the source by the current generation.
    fn grant(&self, address: &str, targets: &[Option<&str>]) -> Grant {
        Grant {
            source: self.source.key,
            address: address.parse().unwrap(),
            targets: targets
                .iter()
                .map(|it| it.map(|it| it.parse().unwrap()))
                .collect(),
            generation: self.direct.generation(),
            tag: 7,
        }
    }

    /// Lets the source connect to the application, at both of its addresses.
    fn allow(&self) {
        for to in [APP, APP6] {
            self.direct.publish(&self.grant(to, &[Some(to)])).unwrap();
        }
    }

    /// Lets the source connect to `address`, which is the application's.
    fn allow_at(&self, address: &str) {
        let target = if address.starts_with('[') { APP6 } else { APP };
        let grant = self.grant(address, &[Some(target)]);
        self.direct.publish(&grant).unwrap();
    }

    /// A connection from the source to the application, its two ends.
    fn pair(&self, to: &str) -> (TcpStream, TcpStream) {
        let client = self.a.dial(to).unwrap();
        let (server, _) = self.app.accept().unwrap();
        (client, server)
    }

    /// The next event.
    async fn event(&mut self) -> Event {
        let next = tokio::time::timeout(PATIENCE, self.events.next());
        next.await.expect("an event")
    }

    /// The oldest connection in the kernel's table that was not told before, when it is accepted.
    async fn opened(&mut self) -> DirectFlow {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let table = self.direct.table().unwrap().into_iter();
            let open = table.filter(|it| it.established).map(|it| it.flow);
            let new = open.filter(|it| !self.known.contains(it));
            if let Some(flow) = new.min_by_key(|it| it.since_ns) {
                self.known.insert(flow);
                return flow;
            }
            assert!(Instant::now() < deadline, "nothing was opened");
            tokio::task::yield_now().await;
        }
    }

    /// The next end of a connection.
    async fn ended(&mut self) -> Ended {
        loop {
            if let Event::Closed {
                flow,
                totals,
                established,
                end,
            } = self.event().await
            {
                return Ended {
                    flow,
                    totals,
                    established,
                    end,
                };
            }
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.capture.counters().of(counter)
    }

    /// How many flows the kernel remembers.
    fn flows(&self) -> usize {
        let status = self.capture.status();
        let flows = status.maps.iter();
        let flows = flows.filter(|map| ["FLOWS", "OPEN"].contains(&map.name));
        flows.map(|map| map.entries).sum()
    }

    /// Waits until every flow has ended with its connection, and sees that nothing is left to say.
    async fn leaves_nothing(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.flows() > 0 {
            assert!(Instant::now() < deadline, "{} flows are left", self.flows());
            tokio::task::yield_now().await;
        }
        let more: Vec<_> = std::iter::from_fn(|| self.events.try_next()).collect();
        assert_eq!(more, []);
        assert_eq!(self.direct.open().unwrap(), []);
        assert_eq!(self.direct.lost(), 0);
    }

    /// A map of the node, to be changed.
    fn map(&self, name: &str) -> Map {
        let config = &self.node.config;
        let folder = config.bpffs.join("interceptor");
        let folder = folder.join(config.node.replace('.', ":"));
        let pin = folder.join(Config::layout()).join("maps").join(name);
        Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
    }

    /// Nothing got to the agent.
    fn bypassed_the_agent(&self) {
        assert_eq!(given_to_the_agent(&self.capture), 0);
    }

    /// A connection of the source to `to` takes the agent's path.
    async fn is_the_agents(&self, to: &str) {
        let before = self.count(Counter::AssignedOutbound);
        let client = self.a.dial(to).unwrap();
        let (stream, _) = crate::support::accept(&self.source.listeners.outbound).await;
        assert_eq!(
            self.source.origin.outbound(&stream).unwrap(),
            to.parse().unwrap()
        );
        assert_eq!(self.count(Counter::AssignedOutbound), before + 1);
        close((client, stream));
    }
}

/// What the table has now.
fn table(cell: &Cell) -> Vec<DirectFlow> {
    let table = cell.direct.table().unwrap().into_iter();
    table.map(|it| it.flow).collect()
}

/// A TCP socket of a namespace for this destination, not connected.
fn tcp(netns: &Netns, to: &str) -> Socket {
    let to: SocketAddr = to.parse().unwrap();
    let open = || Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP));
    netns.namespace.enter(open).unwrap()
}

/// One of the source that has this port, which may have been another's just now.
fn bound(cell: &Cell, port: u16) -> Socket {
    let socket = tcp(&cell.a, APP);
    socket.set_reuse_address(true).unwrap();
    let source: SocketAddr = format!("{A}:{port}").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket
}

/// Has a stream reset its connection when it is closed.
fn resetting(stream: TcpStream) -> TcpStream {
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    stream
}

/// Reads everything up to the end.
fn drain(mut stream: &TcpStream) -> io::Result<u64> {
    io::copy(&mut stream, &mut io::sink())
}
