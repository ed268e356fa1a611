//! Many connections that stand still, in a process of their own because the bound is the process's:
//! what all of them keep stays below it, others go on, and nothing is lost.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "fuzz/carriers/route.rs"]
mod route;
#[path = "../src/transport/testing/sockets.rs"]
mod sockets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use interceptor::drain::Tasks;
use interceptor::identity::{Ca, Identities};
use interceptor::net::Dialer;
use interceptor::transport::hbone::{Incoming, Server};
use interceptor::transport::{
    Client, Config, ConnectHeaders, bound_buffers, buffered, let_go_of_buffers, splice,
};
use interceptor_policy::SpiffeId;
use route::route;
use sockets::{app, dial, sockets};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const MIB: usize = 1 << 20;
/// What all of them may keep.
const BOUND: usize = MIB;
/// Connections that stand still.
const MANY: usize = 24;
/// What a connection says that does not stand still.
const MUCH: usize = 12 * MIB;
/// The smallest buffer, of which each agent may need two for a connection, and keeps some for what
/// comes next.
const LEAST: usize = 18 << 10;
const SPARE: usize = 40;

/// How connections are carried.
#[derive(Clone, Copy, Debug)]
enum Way {
    Plain,
    Exclusive,
    Mux,
    Http2,
}

fn id(name: &str) -> SpiffeId {
    let id = format!("spiffe://mesh.test/ns/demo/sa/{name}");
    id.parse().unwrap()
}

/// Both agents, and the application behind them.
struct Agents {
    way: Way,
    tasks: Tasks,
    client: Client,
    gateway: SocketAddr,
    application: (TcpListener, SocketAddr),
}

impl Agents {
    async fn start(way: Way) -> Self {
        let default = Config::default();
        let config = match way {
            Way::Plain | Way::Exclusive => default,
            Way::Mux => Config {
                max_carriers: 0,
                ..default
            },
            Way::Http2 => Config {
                max_exclusive: 0,
                ..default
            },
        };
        let (config, tasks) = (Arc::new(config), Tasks::new());
        let ca = Ca::generate(&"mesh.test".parse().unwrap(), SystemTime::now()).unwrap();
        let identities = Arc::new(Identities::new(Arc::new(ca), Duration::from_hours(1)));
        let svid = identities.ensure(&id("server")).await.unwrap();
        identities.ensure(&id("caller")).await.unwrap();
        let (listener, gateway) = app();
        let server = Server::new(Arc::clone(&config), &identities);
        let accepting = tasks.clone();
        tasks.spawn("server", async move {
            loop {
                let (tcp, _) = tokio::select! {
                    () = accepting.stopping() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                let inbound = server.accept(tcp, &svid).await.unwrap();
                let tasks = accepting.clone();
                accepting.spawn("inbound", async move {
                    drop(inbound.serve(&tasks, deliver).await);
                });
            }
        });
        let client = Client::new(config, identities, Dialer::host(), tasks.clone());
        Self {
            way,
            tasks,
            client,
            gateway,
            application: app(),
        }
    }

    /// A connection through both, as both applications see it.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let (near, captured) = sockets().await;
        let (listener, address) = &self.application;
        if matches!(self.way, Way::Plain) {
            let (peer, accepted) = tokio::join!(dial(*address), listener.accept());
            let peer = peer.unwrap();
            self.tasks.spawn("plain", async move {
                splice::plain(&captured, &peer, Arc::default()).await;
            });
            return (near, accepted.unwrap().0);
        }
        let route = route(self.gateway, *address, id("server"));
        let (caller, headers) = (id("caller"), ConnectHeaders::default());
        let opening = self.client.open(&caller, &route, &headers, None);
        let (tunnel, accepted) = tokio::join!(opening, listener.accept());
        let stream = tunnel.unwrap().stream;
        self.tasks.spawn("outbound", async move {
            splice::tunnel(&Arc::new(captured), stream, Arc::default()).await;
        });
        (near, accepted.unwrap().0)
    }
}

async fn deliver(incoming: Incoming) {
    if let Incoming::Connect(request) = incoming {
        let app = dial(request.destination).await.unwrap();
        let stream = request.answer.accept(&ConnectHeaders::default()).unwrap();
        splice::tunnel(&Arc::new(app), stream, Arc::default()).await;
    }
}

/// What a connection has said so far.
type Said = Arc<AtomicUsize>;

/// Says something until told to end, however much the kernel keeps of it.
async fn say(mut socket: TcpStream, said: Said, mut end: watch::Receiver<bool>) {
    let bytes = vec![7; 1 << 18];
    loop {
        let count = tokio::select! {
            written = socket.write(&bytes) => written.unwrap(),
            _ = end.wait_for(|end| *end) => break,
        };
        said.fetch_add(count, Ordering::Relaxed);
    }
    socket.shutdown().await.unwrap();
    drop(socket.read(&mut [0]).await);
}

/// Waits until nobody gets any further.
async fn standstill(said: &[Said]) {
    let (mut before, mut quiet) = (0, 0);
    while quiet < 5000 {
        tokio::task::yield_now().await;
        let now = said.iter().map(|said| said.load(Ordering::Relaxed)).sum();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

async fn hear(mut socket: TcpStream) -> usize {
    let (mut heard, mut bytes) = (0, vec![0; 1 << 18]);
    while let count @ 1.. = socket.read(&mut bytes).await.unwrap() {
        heard += count;
    }
    heard
}

async fn try_out(way: Way) {
    let agents = Agents::start(way).await;
    let (end, ended) = watch::channel(false);
    let (mut said, mut deaf) = (Vec::new(), Vec::new());
    for turn in 0..MANY {
        // In both directions: each has its own buffers.
        let (mut saying, mut hearing) = agents.connect().await;
        if turn % 2 == 1 {
            (saying, hearing) = (hearing, saying);
        }
        said.push(Said::default());
        let saying = say(saying, Arc::clone(&said[turn]), ended.clone());
        agents.tasks.spawn("saying", saying);
        deaf.push(hearing);
    }
    standstill(&said).await;
    let most = BOUND + (4 * MANY + SPARE) * LEAST;
    assert!(buffered() <= most, "{way:?}: {} of {most}", buffered());

    let (mut saying, hearing) = agents.connect().await;
    let another = async {
        saying.write_all(&vec![7; MUCH]).await.unwrap();
        saying.shutdown().await.unwrap();
    };
    let (heard, ()) = tokio::join!(hear(hearing), another);
    assert_eq!(heard, MUCH, "{way:?}: others go on");

    end.send_replace(true);
    for (said, hearing) in said.iter().zip(deaf) {
        let heard = hear(hearing).await;
        let said = said.load(Ordering::Relaxed);
        assert_eq!(heard, said, "{way:?}: and nothing is lost");
    }
    drop(agents.client);
    agents.tasks.stop();
    agents.tasks.finish(Duration::from_secs(10)).await;
    let_go_of_buffers();
    assert_eq!(buffered(), 0, "{way:?}: all of it comes back");
}

/// One after the other: the bound is for all of them.
#[test]
fn connections_that_stand_still_keep_no_more_than_the_bound_and_the_least_of_each() {
    bound_buffers(BOUND);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for way in [Way::Plain, Way::Exclusive, Way::Mux, Way::Http2] {
            try_out(way).await;
        }
    });
}
