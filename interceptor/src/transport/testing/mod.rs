//! Two nodes on loopback for the transport's tests: real sockets, real TLS, no privilege.

mod sockets;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use interceptor_policy::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::hbone::{Client, ConnectHeaders, Inbound, Incoming, Refusal, Served, Server, Tunnel};
use super::splice::{self, Closed};
use super::{Config, HandshakeError, TunnelError};
use crate::drain::Tasks;
use crate::identity::{Ca, Identities, Svid};
use crate::lanes::{Lane, Lanes};
use crate::net::{Dialer, Traffic};
use crate::workload::{
    CaptureRules, Enrolment, Route, SameNode, TunnelProtocol, UnknownDestinations, Workload,
    WorkloadId,
};

pub(super) use sockets::{app, closed, dial, sockets};
pub(super) use wire::Wire;

/// Longest that a test waits for what must happen.
pub(super) const SOON: Duration = Duration::from_mins(1);

pub(super) fn id(name: &str) -> SpiffeId {
    format!("spiffe://mesh.test/ns/demo/sa/{name}")
        .parse()
        .unwrap()
}

/// Resolves to what `future` gives, or fails the test.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

/// Lets time stand still but for [`tokio::time::advance`]. Paused time goes on as soon as nothing is
/// to do, whatever is on its way through the kernel; here something always is.
pub(super) fn stop_time(tasks: &Tasks) {
    tokio::time::pause();
    tasks.spawn("never idle", async {
        loop {
            tokio::task::yield_now().await;
        }
    });
}

/// Opens a tunnel as the workload `caller`, with nothing to say.
pub(super) async fn open(client: &Client, route: &Route) -> Result<Tunnel, TunnelError> {
    soon(client.open(&id("caller"), route, &ConnectHeaders::default(), None)).await
}

/// The carriers that a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carriers {
    /// Each stream has one to itself.
    Exclusive,
    /// Streams share them, as our agents do.
    Mux,
    /// Streams share them, as with other implementations.
    Shared,
}

impl Carriers {
    /// The defaults otherwise.
    pub(super) fn config(self) -> Config {
        let default = Config::default();
        Config {
            max_carriers: match self {
                // All of them are beyond the first few.
                Self::Mux => 0,
                Self::Exclusive | Self::Shared => default.max_carriers,
            },
            max_exclusive: match self {
                Self::Exclusive | Self::Mux => default.max_exclusive,
                Self::Shared => 0,
            },
            ..default
        }
    }
}

impl Carriers {
    /// As few as they can do with.
    pub(super) fn single(self) -> Config {
        let config = self.config();
        Config {
            max_carriers: config.max_carriers.min(1),
            ..config
        }
    }
}

/// One CA, and what all nodes of a test share.
pub(super) struct World {
    pub(super) identities: Arc<Identities>,
    pub(super) config: Arc<Config>,
    pub(super) tasks: Tasks,
    /// On which its nodes serve.
    pub(super) lanes: Lanes,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    /// A world whose agents use these carriers.
    pub(super) fn on(carriers: Carriers) -> Self {
        Self::with(carriers.config())
    }

    pub(super) fn with(config: Config) -> Self {
        Self::of(config, Duration::from_hours(1))
    }

    /// A world whose certificates live this long.
    pub(super) fn of(config: Config, lifetime: Duration) -> Self {
        let ca = Ca::generate(&"mesh.test".parse().unwrap(), SystemTime::now()).unwrap();
        let identities = Identities::new(Arc::new(ca), lifetime);
        Self {
            identities: Arc::new(identities),
            config: Arc::new(config),
            tasks: Tasks::new(),
            lanes: Lanes::default(),
        }
    }

    pub(super) async fn svid(&self, name: &str) -> Arc<Svid> {
        self.identities.ensure(&id(name)).await.unwrap()
    }

    /// The client of the workload `caller`.
    pub(super) async fn client(&self) -> Client {
        self.svid("caller").await;
        Client::new(
            Arc::clone(&self.config),
            Arc::clone(&self.identities),
            Dialer::host(),
            self.tasks.clone(),
        )
    }

    /// A node that serves the workload `server` by `handler`.
    pub(super) async fn serve<H, F>(&self, handler: H) -> Gateway
    where
        H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (listener, address) = app();
        let server = Server::new(Arc::clone(&self.config), &self.identities);
        let svid = self.svid("server").await;
        let (failed, failures) = mpsc::channel(100);
        let tasks = self.tasks.child();
        let accepting = tasks.clone();
        let lanes = self.lanes.clone();
        let first = lanes.turn(0).cloned();
        let _there = first.as_deref().map(Lane::enter);
        tasks.spawn("accept", async move {
            loop {
                let (tcp, _) = tokio::select! {
                    biased;
                    () = accepting.stopping() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                let (server, svid, failed) = (server.clone(), Arc::clone(&svid), failed.clone());
                let (handler, tasks) = (handler.clone(), accepting.clone());
                let lanes = lanes.clone();
                accepting.spawn("inbound", async move {
                    match server.accept(tcp, &svid).await {
                        Ok(inbound) => serve(inbound.among(lanes), tasks, handler).await,
                        Err(error) => failed.send(error).await.unwrap(),
                    }
                });
            }
        });
        Gateway {
            address,
            failures,
            tasks,
            cut: CancellationToken::new(),
        }
    }

    /// A node that carries every connection to its destination on loopback, and reports ends.
    pub(super) async fn node(&self) -> (Gateway, mpsc::Receiver<Closed>) {
        let (ended, ends) = mpsc::channel(1000);
        let cut = CancellationToken::new();
        let cuts = cut.clone();
        let handler = move |incoming| {
            let (ended, cuts) = (ended.clone(), cuts.clone());
            async move {
                if let Incoming::Connect(request) = incoming {
                    carry(request, ended, cuts).await;
                }
            }
        };
        let gateway = Gateway {
            cut,
            ..self.serve(handler).await
        };
        (gateway, ends)
    }
}

/// Serves a session wherever it goes.
fn serve<H, F>(
    inbound: Inbound,
    tasks: Tasks,
    handler: H,
) -> Pin<Box<dyn Future<Output = ()> + Send>>
where
    H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    Box::pin(async move {
        let served = inbound.serve(&tasks, handler.clone()).await;
        if let Ok(Served::Elsewhere(lane, inbound)) = served {
            let _there = lane.enter();
            tasks.spawn("inbound", serve(*inbound, tasks.clone(), handler));
        }
    })
}

pub(super) async fn carry(
    request: Box<super::hbone::Request>,
    ended: mpsc::Sender<Closed>,
    cut: CancellationToken,
) {
    match dial(request.destination).await {
        Ok(app) => {
            app.set_nodelay(true).unwrap();
            let Ok(stream) = request.answer.accept(&ConnectHeaders::default()) else {
                return;
            };
            let app = Arc::new(app);
            let carried = splice::tunnel(&app, stream, Arc::default());
            let closed = cut.run_until_cancelled(carried).await;
            drop(app);
            if let Some(closed) = closed {
                drop(ended.send(closed).await);
            }
        }
        Err(error) => request
            .answer
            .refuse(&Refusal::unavailable(error.to_string())),
    }
}

/// A served workload.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    pub(super) failures: mpsc::Receiver<HandshakeError>,
    /// Stops this node alone.
    pub(super) tasks: Tasks,
    /// Cuts what a [`World::node`] carries.
    pub(super) cut: CancellationToken,
}

impl Gateway {
    /// The way to `authority` behind this node.
    pub(super) fn route(&self, authority: SocketAddr) -> Route {
        route(self.address, authority)
    }
}

pub(super) fn route(gateway: SocketAddr, authority: SocketAddr) -> Route {
    Route {
        gateway,
        authority,
        peer: id("server"),
        destination: Arc::new(workload()),
        service: None,
    }
}

fn workload() -> Workload {
    Workload {
        id: WorkloadId {
            namespace: "demo".into(),
            name: "server".into(),
        },
        identity: id("server"),
        addresses: Vec::new(),
        labels: Arc::default(),
        node: None,
        ports: Arc::default(),
        protocol: TunnelProtocol::Hbone,
        enrolment: Enrolment::Enrolled,
        healthy: true,
        capture: CaptureRules::default(),
        binding: None,
        unknown_destinations: UnknownDestinations::Passthrough,
        same_node: SameNode::Kernel,
        canonical: Arc::default(),
    }
}

/// A whole connection: the client's and the server's socket, and both agents in between.
pub(super) struct Path {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
    /// How the connection ended for the client's agent.
    pub(super) outbound: oneshot::Receiver<Closed>,
    pub(super) traffic: Arc<Traffic>,
}

impl Path {
    pub(super) async fn open(world: &World, client: &Client, gateway: &Gateway) -> Self {
        let (listener, destination) = app();
        let route = gateway.route(destination);
        let (tunnel, accepted) = tokio::join!(open(client, &route), listener.accept());
        Self::splice(world, tunnel.unwrap(), accepted.unwrap().0).await
    }

    /// A byte of the client's reaches the server.
    pub(super) async fn carries(&mut self) {
        self.client.write_all(b"x").await.unwrap();
        soon(self.server.read_exact(&mut [0])).await.unwrap();
    }

    async fn splice(world: &World, tunnel: Tunnel, server: TcpStream) -> Self {
        let (client, captured) = sockets().await;
        let (ended, outbound) = oneshot::channel();
        let traffic = Arc::new(Traffic::default());
        let counted = Arc::clone(&traffic);
        let captured = Arc::new(captured);
        world.tasks.spawn("outbound", async move {
            let closed = splice::tunnel(&captured, tunnel.stream, counted).await;
            drop(captured);
            drop(ended.send(closed));
        });
        Self {
            client,
            server,
            outbound,
            traffic,
        }
    }
}
