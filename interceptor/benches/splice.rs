//! What it costs to carry bytes: between two sockets, and between two applications through both ends
//! of a tunnel, records and frames included: `cargo bench -p interceptor --bench splice`.
//!
//! Everything, the applications too, runs on one thread, so that what is measured is work and not
//! waiting; between two nodes the ends work side by side. Loopback sockets, no capture. The raw
//! figures are what the sockets cost alone.
#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up must fail loudly"
)]

#[path = "../tests/fuzz/carriers/route.rs"]
mod route;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use divan::Bencher;
use divan::counter::BytesCount;
use interceptor::drain::Tasks;
use interceptor::identity::{Ca, Identities};
use interceptor::net::Dialer;
use interceptor::transport::hbone::Incoming;
use interceptor::transport::{Client, Config, ConnectHeaders, Server, splice};
use interceptor_policy::SpiffeId;
use route::route;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

/// How the bytes go.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One connection.
    Raw,
    /// Two, and the splice for plaintext in between.
    Plain,
    /// Through an exclusive carrier.
    Exclusive,
    /// Through a carrier that others may share.
    Shared,
}

const WAYS: [Way; 4] = [Way::Raw, Way::Plain, Way::Exclusive, Way::Shared];
/// What one sample of bulk data carries.
const BULK: usize = 8 << 20;
const MESSAGE: usize = 64;

fn id(name: &str) -> SpiffeId {
    let id = format!("spiffe://mesh.test/ns/demo/sa/{name}");
    id.parse().expect("an identity")
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a listener")
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = listener().await;
    let address = listener.local_addr().expect("an address");
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (one, other) = (one.expect("a connection"), other.expect("a connection").0);
    one.set_nodelay(true).expect("no delay");
    other.set_nodelay(true).expect("no delay");
    (one, other)
}

impl Way {
    /// The sockets of both applications.
    async fn open(self, tasks: &Tasks) -> (TcpStream, TcpStream) {
        match self {
            Self::Raw => pair().await,
            Self::Plain => {
                let ((near, app), (peer, far)) = (pair().await, pair().await);
                tasks.spawn("plain", async move {
                    splice::plain(&app, &peer, Arc::default()).await;
                });
                (near, far)
            }
            Self::Exclusive => tunnel(tasks, Config::default()).await,
            Self::Shared => {
                let config = Config {
                    max_exclusive: 0,
                    ..Config::default()
                };
                tunnel(tasks, config).await
            }
        }
    }
}

/// Both ends of a tunnel, with an application at each.
async fn tunnel(tasks: &Tasks, config: Config) -> (TcpStream, TcpStream) {
    let config = Arc::new(config);
    let domain = "mesh.test".parse().expect("a trust domain");
    let ca = Ca::generate(&domain, SystemTime::now()).expect("a CA");
    let identities = Arc::new(Identities::new(Arc::new(ca), Duration::from_hours(1)));
    let svid = identities.ensure(&id("server")).await.expect("an SVID");
    identities.ensure(&id("caller")).await.expect("an SVID");
    let (gateway, application) = (listener().await, listener().await);
    let at = |listener: &TcpListener| listener.local_addr().expect("an address");
    let route = route(at(&gateway), at(&application), id("server"));
    let server = Server::new(Arc::clone(&config), &identities);
    let serving = tasks.clone();
    tasks.spawn("server", async move {
        let (tcp, _) = gateway.accept().await.expect("a carrier");
        let inbound = server.accept(tcp, &svid).await.expect("a session");
        drop(inbound.serve(&serving, deliver).await);
    });
    let client = Client::new(config, identities, Dialer::host(), tasks.clone());
    let (caller, headers) = (id("caller"), ConnectHeaders::default());
    let opening = client.open(&caller, &route, &headers, None);
    let (tunnel, accepted) = tokio::join!(opening, application.accept());
    let (tunnel, far) = (tunnel.expect("a tunnel"), accepted.expect("a connection").0);
    far.set_nodelay(true).expect("no delay");
    let (near, app) = pair().await;
    let app = Arc::new(app);
    tasks.spawn("outbound", async move {
        splice::tunnel(&app, tunnel.stream, Arc::default()).await;
        drop(client);
    });
    (near, far)
}

async fn deliver(incoming: Incoming) {
    if let Incoming::Connect(request) = incoming {
        let app = TcpStream::connect(request.destination).await;
        let app = app.expect("the application");
        app.set_nodelay(true).expect("no delay");
        let app = Arc::new(app);
        let stream = request.answer.accept(&ConnectHeaders::default());
        splice::tunnel(&app, stream.expect("a stream"), Arc::default()).await;
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// Bytes in one direction, as many as there are.
#[divan::bench(args = WAYS, sample_count = 30, sample_size = 1)]
fn bulk(bencher: Bencher<'_, '_>, way: Way) {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let (mut near, mut far) = runtime.block_on(way.open(&tasks));
    let (said, mut heard) = (vec![7; 256 << 10], vec![0; 256 << 10]);
    bencher.counter(BytesCount::new(BULK)).bench_local(|| {
        runtime.block_on(async {
            let saying = async {
                for _ in 0..BULK / said.len() {
                    near.write_all(&said).await.expect("said");
                }
            };
            let hearing = async {
                let mut left = BULK;
                while left > 0 {
                    left -= far.read(&mut heard).await.expect("heard");
                }
            };
            tokio::join!(saying, hearing)
        })
    });
}

/// A small message there and back.
#[divan::bench(args = WAYS, sample_count = 200, sample_size = 20)]
fn message(bencher: Bencher<'_, '_>, way: Way) {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let (mut near, mut far) = runtime.block_on(way.open(&tasks));
    let mut message = [7; MESSAGE];
    let mut answer = [0; MESSAGE];
    bencher.bench_local(|| {
        runtime.block_on(async {
            near.write_all(&message).await.expect("said");
            far.read_exact(&mut answer).await.expect("heard");
            far.write_all(&answer).await.expect("said");
            near.read_exact(&mut message).await.expect("heard");
        });
    });
}
